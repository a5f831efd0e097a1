"""The same training however it is cut up: packed or not, one rank or more, small micro batches or large ones.

What all are compared with is plain PyTorch, written out here: every example by itself, in no row with others, under
transformers' own attention, one process, AdamW. All in fp32.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from cslm import contracts, storage
from cslm.data.feed import PackedFeed
from cslm.train.build import Recipe
from tests.data import ranks

STEPS, ROW_LENGTH, EMBEDDING_RATE = 4, 48, 3e-3
FEED = {"row_length": ROW_LENGTH, "rows_per_step": ranks.ROWS, "seed": 5, "pad_id": 0, "vocabulary": "v"}


def write_rows(folder):
    """Rows whose numbers of examples and of targets differ widely, so that a mean of means is another number."""
    draw = np.random.default_rng(0)
    rows = []
    for number in range(ranks.ROWS * STEPS // 2):
        lengths = [int(draw.integers(4, 14)) for _ in range(1 + number % 4)]
        targets = [1 + int(draw.integers(0, length - 1)) for length in lengths]
        rows.append(
            {
                "input_ids": draw.integers(0, 300, sum(lengths)).tolist(),
                "loss_mask": [
                    int(place >= length - last)
                    for length, last in zip(lengths, targets, strict=True)
                    for place in range(length)
                ],
                "segment_lengths": lengths,
                "segment_tasks": [("asr/en", "mt/en-es")[place % 2] for place in range(len(lengths))],
                "segment_sources": [f"{number}-{place}" for place in range(len(lengths))],
            }
        )
    table = contracts.load("packed").table(rows)
    storage.write_table(table.replace_schema_metadata({"cslm.vocabulary": "v"}), f"{folder}/bucket-00000.parquet")
    return rows


def feed_of(folder, micro_batch_rows):
    rank, size = dist.get_rank(), dist.get_world_size()
    return PackedFeed(folder, micro_batch_rows=micro_batch_rows, rank=rank, world_size=size, **FEED)


def trained(start, folder, stage, micro_batch_rows):
    """Losses of each step for each group and over all, by the engine."""
    feed = feed_of(folder, micro_batch_rows)
    recipe = Recipe(embedding_learning_rate=EMBEDDING_RATE)
    engine = ranks.engine(start, stage, micro_batch_rows=micro_batch_rows, num_groups=2, recipe=recipe)
    losses = []
    for step in range(STEPS):
        batches = feed.batches(step)
        targets = torch.tensor(sum(batch.num_targets for batch in batches))
        dist.all_reduce(targets)
        sums = sum(engine.accumulate(batch, int(targets)) for batch in batches)
        dist.all_reduce(sums)
        norm = engine.step(1.0).norm
        losses.append([*(sums[0] / sums[1]).tolist(), (sums[0].sum() / targets).item(), norm])
    feed.close()
    return losses


def plain(start, folder, rows):
    """The same by plain PyTorch."""
    lm = AutoModelForCausalLM.from_pretrained(start, attn_implementation="sdpa", dtype=torch.float32)
    embedding = lm.get_input_embeddings().weight
    others = [weight for weight in lm.parameters() if weight is not embedding]
    groups = [{"params": [embedding], "lr": EMBEDDING_RATE}, {"params": others}]
    optimizer = torch.optim.AdamW(groups, lr=ranks.RATE, betas=ranks.BETAS, weight_decay=ranks.DECAY)
    feed = feed_of(folder, ranks.ROWS)
    losses = []
    for step in range(STEPS):
        sums = {"asr/en": [torch.zeros(()), 0], "mt/en-es": [torch.zeros(()), 0]}
        for number in feed.rows_of_step(step):
            row, start_at = rows[number], 0
            for length, task in zip(row["segment_lengths"], row["segment_tasks"], strict=True):
                ids = torch.tensor([row["input_ids"][start_at : start_at + length]])
                mask = torch.tensor(row["loss_mask"][start_at + 1 : start_at + length]).bool()
                found = F.cross_entropy(lm(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none")[mask]
                sums[task] = [sums[task][0] + found.sum(), sums[task][1] + len(found)]
                start_at += length
        total, targets = sum(one for one, _ in sums.values()), sum(count for _, count in sums.values())
        (total / targets).backward()
        norm = torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append([*((one / count).item() for one, count in sums.values()), (total / targets).item(), norm.item()])
    feed.close()
    return losses


def work(start, folder, cases, rows):
    found = {f"{stage}/{micro}": trained(start, folder, stage, micro) for stage, micro in cases}
    if rows is not None:
        found["plain"] = plain(start, folder, rows)
    if dist.get_rank() == 0:
        (Path(folder) / f"{dist.get_world_size()}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Start model and rows; what one rank finds, and plain PyTorch."""
    root = tmp_path_factory.mktemp("equal")
    start, rows = ranks.write_model(root / "start"), write_rows(root)
    ranks.run(1, work, start, str(root), [(0, 1), (0, 4), (3, 2)], rows)
    found = json.loads((root / "1.json").read_text())
    # Every row is seen twice, and is known better the second time.
    first, second = np.array_split([total for *_, total, _ in found["plain"]], 2)
    assert second.mean() < first.mean()
    return start, root, found


def assert_equal(losses, expected):
    np.testing.assert_allclose(losses, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", ["0/1", "0/4", "3/2"])
def test_packed_rows_on_one_rank_train_as_examples_in_plain_pytorch(reference, case):
    """Stage 0 in four micro batches, in one large one, and ZeRO-3 in two."""
    assert_equal(reference[2][case], reference[2]["plain"])


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_train_as_plain_pytorch(reference, size):
    """With three ranks two of four rows a step are dealt to one of them, and the others compute a blank one."""
    start, root, found = reference
    cases = [(3, 1), (2, 2)]
    ranks.run(size, work, start, str(root), cases, None)
    for case, losses in json.loads((root / f"{size}.json").read_text()).items():
        assert_equal(losses, found["plain"]), case
