"""From the start of the processes to the first step after a resume: shallow at step 10, deep at step 10,000.

Both checkpoints are the loop's own, of one epoch of more than 10,000 steps: steps 1 to 10 are trained and saved, then
steps 9,991 to 10,000. Each resume is two new processes, which import, join, open the table, build the engine, restore
and train a step.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from cslm import contracts, storage
from cslm.data.packed_rows import VOCABULARY_KEY
from cslm.train import checkpoint
from cslm.train.loop import Progress, TrainSection, train
from tests.benchmarks._train_data import VOCABULARY, VOCABULARY_HASH, Mix, world
from tests.data import ranks

SHALLOW, DEEP = 10, 10_000
_MIX = Mix(row_length=64, rows=2, micro_rows=1, examples=0)
_FILES, _ROWS_A_FILE = 12, 2_000
_IDENTITY = {"vocabulary": VOCABULARY_HASH, "packed": "resume"}


def measure(folder: Path, port: int, quick: bool) -> float:
    """Print the table and return deep over shallow."""
    _write(folder / "packed")
    _both_ranks(folder, "save", port)
    taken: dict[int, list[dict[str, float]]] = {SHALLOW: [], DEEP: []}
    for turn in range(1 if quick else 4):
        # The one that comes first finds other caches than the second.
        for step in sorted(taken, reverse=turn % 2 == 1):
            started_s = time.time()
            ended = _both_ranks(folder, str(step), ranks.free_port())
            taken[step].append({"all": ended["ended_s"] - started_s, "after": ended["ended_s"] - ended["imported_s"]})
    medians = {step: {k: statistics.median(run[k] for run in runs) for k in runs[0]} for step, runs in taken.items()}
    for step, found in medians.items():
        print(
            f"resume at step {step:>6,}: {found['all']:6.2f} s from process start to the end of the first step, "
            f"{found['after']:.2f} s of it after the imports"
        )
    return medians[DEEP]["all"] / medians[SHALLOW]["all"]


def _write(folder: Path) -> None:
    """Rows of one segment that fills them, for more than 10,000 steps."""
    draw = np.random.default_rng(0)
    schema = contracts.load("packed").schema.with_metadata({VOCABULARY_KEY: VOCABULARY_HASH.encode()})
    tokens = _ROWS_A_FILE * _MIX.row_length
    whole, single = (
        pa.array(np.arange(0, size + 1, step, np.int32)) for size, step in ((tokens, 64), (_ROWS_A_FILE, 1))
    )
    for file in range(_FILES):
        columns = [
            pa.ListArray.from_arrays(whole, pa.array(draw.integers(0, VOCABULARY, tokens, np.int32))),
            pa.ListArray.from_arrays(whole, pa.array(np.ones(tokens, np.uint8))),
            pa.ListArray.from_arrays(single, pa.array(np.full(_ROWS_A_FILE, _MIX.row_length, np.int32))),
            pa.ListArray.from_arrays(single, pa.array(["asr/en"] * _ROWS_A_FILE)),
            pa.ListArray.from_arrays(single, pa.array([str(row) for row in range(_ROWS_A_FILE)])),
        ]
        storage.write_table(pa.table(columns, schema=schema), str(folder / f"{file:05d}.parquet"))


def _both_ranks(folder: Path, what: str, port: int) -> dict[str, float]:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.benchmarks._train_resume", str(folder), what],
            env={**os.environ, **world(rank, port)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [rank.communicate()[0] for rank in ranks]
    assert not any(rank.returncode for rank in ranks), f"resuming must work, found {told}"
    return dict(json.loads(told[0].splitlines()[-1]))


def _rank_main(folder: Path, what: str) -> None:
    from tests.benchmarks._train_ours import engine_of, feed_of, quiet

    quiet()
    imported_s = time.time()
    dist.init_process_group("gloo")
    section = TrainSection(rows_per_step=_MIX.rows, micro_batch_rows=_MIX.micro_rows, log_every_steps=1)
    feed = feed_of(str(folder / "packed"), _MIX)
    engine = engine_of(str(folder / "micro"), section, len(feed.groups), 3)

    def go_on(progress: Progress, end: int) -> Progress:
        return train(engine, feed, section, end, progress, report=lambda *_: None, checkpoint=lambda _: None)

    if what == "save":
        progress = Progress()
        for end in (SHALLOW, DEEP):
            progress.step = end - SHALLOW
            progress = go_on(progress, end)
            saver = checkpoint.Saver(str(folder / f"at-{end}"), engine.state, _IDENTITY, keep_last=1)
            saver(progress)
            saver.wait()
    else:
        progress = checkpoint.restore(str(folder / f"at-{what}"), engine.state, _IDENTITY)
        assert progress.step == int(what), f"the checkpoint must be of step {what}, found {progress.step}"
        go_on(progress, progress.step + 1)
    print(json.dumps({"imported_s": imported_s, "ended_s": time.time()}), flush=True)
    feed.close()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    _rank_main(Path(sys.argv[1]), sys.argv[2])
