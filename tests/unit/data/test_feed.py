import numpy as np
import pytest

from cslm import contracts, storage
from cslm.data.feed import IGNORE, PackedFeed
from cslm.errors import CheckpointError, ConfigError

SETTINGS = {"row_length": 12, "rows_per_step": 4, "micro_batch_rows": 1, "seed": 3, "pad_id": 0, "vocabulary": "v"}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Ten rows of two segments of 3 to 5 tokens; the last two tokens of each segment are targets."""
    rows, token = [], 1
    for row in range(10):
        lengths = [3 + row % 3, 4]
        ids = list(range(token, token + sum(lengths)))
        token += sum(lengths)
        mask = [bit for length in lengths for bit in [0] * (length - 2) + [1, 1]]
        rows.append(
            {
                "input_ids": ids,
                "loss_mask": mask,
                "segment_lengths": lengths,
                "segment_tasks": ["asr/en", "mt/en-es"],
                "segment_sources": ["a", "b"],
            }
        )
    folder = str(tmp_path_factory.mktemp("packed"))
    table = contracts.load("packed").table(rows)
    storage.write_table(table.replace_schema_metadata({"cslm.vocabulary": "v"}), f"{folder}/bucket-00000.parquet")
    return folder


def feed(folder, rank=0, world_size=1, **changes):
    return PackedFeed(folder, rank=rank, world_size=world_size, **{**SETTINGS, **changes})


def test_an_epoch_holds_every_row_once_and_the_next_in_another_order(packed):
    one = feed(packed)
    places = np.concatenate([one.rows_of_step(step) for step in range(5)])
    assert sorted(places[:10]) == sorted(places[10:]) == list(range(10))
    assert places[:10].tolist() != places[10:].tolist()


def test_the_order_follows_from_the_seed_and_the_step_alone(packed):
    forward = [feed(packed).rows_of_step(step).tolist() for step in range(6)]
    one = feed(packed)
    backward = [one.rows_of_step(step).tolist() for step in reversed(range(6))][::-1]
    assert forward == backward
    assert feed(packed, seed=4).rows_of_step(0).tolist() != forward[0]


def test_two_ranks_together_see_what_one_sees(packed):
    alone = [b.input_ids[0].tolist() for b in feed(packed).batches(1)]
    ranks = [[b.input_ids[0].tolist() for b in feed(packed, rank, 2).batches(1)] for rank in (0, 1)]
    assert sorted(alone) == sorted(ranks[0] + ranks[1])


def test_labels_are_the_next_tokens_inside_a_segment(packed):
    for batch in feed(packed, micro_batch_rows=4).batches(0):
        wanted = batch.labels != IGNORE
        following = batch.input_ids.roll(-1, dims=1)
        assert (batch.labels[wanted] == following[wanted]).all()
        # A label never is the first token of a segment.
        assert not (wanted & (batch.position_ids.roll(-1, dims=1) == 0)).any()
        assert batch.num_targets == 4 * 4


def test_positions_restart_at_every_segment_and_padding_is_its_own(packed):
    batch = feed(packed, micro_batch_rows=4).batches(0)[0]
    starts = (batch.position_ids == 0).sum(dim=1)
    padded = (batch.group_ids == -1).any(dim=1)
    assert (starts == 2 + padded.long()).all()
    assert batch.num_tokens == int((batch.input_ids != 0).sum())


def test_three_ranks_have_as_many_batches_and_together_what_one_sees(packed):
    """Four rows for three ranks: two of them get a blank row."""
    alone = [b.input_ids[0].tolist() for b in feed(packed).batches(2)]
    ranks = [feed(packed, rank, 3).batches(2) for rank in range(3)]
    assert [len(batches) for batches in ranks] == [2, 2, 2]
    blank = [batch for batches in ranks for batch in batches if not batch.num_tokens]
    assert len(blank) == 2
    assert not any(batch.num_targets for batch in blank)
    rows = [b.input_ids[0].tolist() for batches in ranks for b in batches if b.num_tokens]
    assert sorted(rows) == sorted(alone)


def test_more_ranks_than_rows_a_step_are_refused(packed):
    with pytest.raises(ConfigError, match="at least the 5 workers"):
        feed(packed, 0, 5)


@pytest.fixture(scope="module")
def files(packed, tmp_path_factory):
    """The same rows in five files of two."""
    folder = str(tmp_path_factory.mktemp("files"))
    table = storage.read_table(f"{packed}/bucket-00000.parquet").replace_schema_metadata({"cslm.vocabulary": "v"})
    for number in range(5):
        storage.write_table(table.slice(2 * number, 2), f"{folder}/bucket-{number:05d}.parquet")
    return folder


def test_windows_of_files_hold_every_row_once_an_epoch(files):
    one = feed(files, window_tokens=4 * 12)
    rows = np.concatenate([one.rows_of_step(step) for step in range(5)])
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    # A window holds whole files: the first four rows are two of them.
    assert sorted(rows[:4] // 2)[::2] == sorted(rows[:4] // 2)[1::2]
    assert rows[:10].tolist() != rows[10:].tolist()


@pytest.mark.parametrize("window_tokens", [24, 48, 10**6])
def test_what_a_step_gives_does_not_depend_on_what_was_asked_before(files, window_tokens):
    one = feed(files, window_tokens=window_tokens)
    forward = {step: one.batches(step)[0].input_ids.tolist() for step in (0, 1, 2, 3, 4, 7, 2, 30)}
    for step, ids in forward.items():
        assert feed(files, window_tokens=window_tokens).batches(step)[0].input_ids.tolist() == ids


def test_a_row_is_named_by_its_file_and_its_sources(files):
    found = feed(files).sources_of(5)
    assert found == {"file": f"{files}/bucket-00002.parquet", "row": 1, "sources": ["asr/en a", "mt/en-es b"]}


def test_targets_and_segments_are_found_where_labels_and_positions_have_them(packed):
    batch = feed(packed, micro_batch_rows=4).batches(0)[0]
    located = batch.located(varlen=True)
    flat = batch.labels.flatten()
    assert flat[located.targets.places].tolist() == located.targets.ids.tolist() == flat[flat != IGNORE].tolist()
    assert located.targets.groups.tolist() == batch.group_ids.flatten()[located.targets.places].tolist()
    bounds = located.segments.bounds.tolist()
    assert bounds[:-1] == np.flatnonzero(batch.position_ids.flatten() == 0).tolist()
    assert bounds[-1] == batch.input_ids.numel()
    assert located.segments.longest == 8  # segments of 5 tokens at most


def test_a_batch_holds_the_rows_of_the_table(packed):
    """Against the table read row by row, as a person would lay it out."""
    one = feed(packed, micro_batch_rows=4)
    table = storage.read_table(packed).to_pylist()
    for number, row in enumerate(one.rows_of_step(1)):
        batch, written = one.batches(1)[0], table[row]
        size, first = len(written["input_ids"]), written["segment_lengths"][0]
        assert batch.input_ids[number, :size].tolist() == written["input_ids"]
        assert batch.position_ids[number].tolist() == [*range(first), *range(4), *range(12 - size)]
        assert batch.group_ids[number].tolist() == [0] * first + [1] * 4 + [-1] * (12 - size)


def test_rows_of_another_vocabulary_are_refused_with_both_hashes(packed):
    with pytest.raises(CheckpointError, match=r"vocabulary other, found v\b"):
        feed(packed, vocabulary="other")
