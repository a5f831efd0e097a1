from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from cslm.errors import CheckpointError
from cslm.train import tensor_file
from cslm.train.checkpoint import outdated
from cslm.train.resharding import Piece, Reshard, overlaps


@st.composite
def cuts(draw):
    """A length, and two ways to cut it into pieces, some of them empty or overlapping."""
    length = draw(st.integers(1, 60))
    both = []
    for _ in range(2):
        ends = sorted(draw(st.lists(st.integers(0, length), max_size=6)))
        bounds = [0, *ends, length]
        reach = draw(st.integers(0, 3))
        both.append(
            [(max(0, first - reach), last) for first, last in pairwise(bounds)],
        )
    return length, *both


@given(cuts())
def test_any_cut_is_put_together_from_any_other(case):
    length, saved, wanted = case
    whole = torch.arange(length)
    pieces = sorted(Piece(first, last - first) for first, last in saved)
    for first, last in wanted:
        found = torch.full((last - first,), -1)
        for piece, begin, count, into in overlaps(pieces, first, last - first):
            assert begin + count <= piece.length
            found[into : into + count] = whole[piece.start :][begin : begin + count]
        assert torch.equal(found, whole[first:last])


@given(cuts(), st.integers(0, 59))
def test_a_missing_value_is_told(case, missing):
    length, saved, _ = case
    missing %= length
    pieces = sorted(Piece(first, last - first) for first, last in saved if not first <= missing < last)
    with pytest.raises(CheckpointError, match=f"none of value {missing}"):
        overlaps(pieces, missing, 1)


def test_files_are_what_the_library_reads_and_stretches_are_read_alone(tmp_path):
    tensors = {"a/x": torch.arange(12.0), "b/y": torch.arange(7).to(torch.bfloat16), "c": torch.zeros(0)}
    entries = [tensor_file.Entry(name, one.dtype, tuple(one.shape)) for name, one in tensors.items()]
    path = str(tmp_path / "x.safetensors")
    size = tensor_file.write(path, entries, tensors.values(), {"step": "3"})
    assert size == (tmp_path / "x.safetensors").stat().st_size
    read = load_file(path)
    assert all(torch.equal(read[name], one) for name, one in tensors.items())
    values = torch.zeros(3)
    place = tensor_file.offsets(entries, {"step": "3"})[1]
    tensor_file.Window(path, size).read_into(values, place + 2 * 2, torch.bfloat16)
    assert values.tolist() == [2, 3, 4]


def test_a_parameter_is_read_from_the_ranks_that_hold_it(tmp_path):
    markers = []
    for rank, (start, values) in enumerate([(0, [0.0, 1.0, 2.0]), (3, [3.0, 4.0])]):
        entries = [tensor_file.Entry("master/w", torch.float32, (len(values),))]
        file = f"rank-{rank}.safetensors"
        size = tensor_file.write(str(tmp_path / file), entries, [torch.tensor(values)], {})
        place = tensor_file.offsets(entries, {})[0]
        fragments = [["w", "master", start, len(values), "float32", place]]
        markers.append({"file": file, "bytes": size, "fragments": fragments, "scalars": {"w": {"step": 4.0}}})
    saved = Reshard(str(tmp_path), markers)
    values = torch.zeros(3)
    saved.read("w", "master", 1, values)
    assert values.tolist() == [1, 2, 3]
    assert (saved.states_of("w"), saved.scalars_of("w")) == ({"master"}, {"step": 4.0})
    with pytest.raises(CheckpointError, match="master of w"):
        saved.read("w", "master", 3, values)


def test_the_newest_and_the_best_are_kept():
    scores = {10: 3.0, 20: 1.0, 30: 2.0, 40: None, 50: 2.5}
    assert outdated(scores, 2, 0) == {10, 20, 30}
    assert outdated(scores, 1, 1) == {10, 30, 40}
    assert outdated(scores, 9, 0) == set()
