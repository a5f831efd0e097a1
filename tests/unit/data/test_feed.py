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


def test_rows_that_do_not_divide_are_refused(packed):
    with pytest.raises(ConfigError, match="multiple of the 3 workers"):
        feed(packed, 0, 3)


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
