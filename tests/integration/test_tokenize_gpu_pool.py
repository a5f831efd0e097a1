"""The pipeline as it is laid out for GPUs: decoding, a pool of actors that hold a GPU each, writing.

The GPUs are numbers that Ray counts and the tokenizer waits instead of computing; the plan and the pool are Ray's own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cslm import storage
from tests.data import sounds

ROOT = Path(__file__).parents[2]
JOB = """
import sys
import ray
from cslm import cluster
from cslm.apps import tokenize

ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, runtime_env=cluster.runtime_env())
sys.exit(tokenize.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_actors_that_hold_gpus_take_what_is_decoded_beside_them(home):
    rows = []
    for number in range(24):
        sounds.write(home / f"{number}.wav", number, 0.5)
        rows.append({"id": f"c{number}", "audio": f"{number}.wav", "language": "en"})
    (home / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "corpus.manifest": "corpus.jsonl",
        "corpus.rows_per_shard": 4,
        "output.path": "out",
        "tokenizer.kind": "tests.benchmarks._waiting:WaitingTokenizer",
        "tokenizer.options.wait_s": 0.01,
        "tokenizer.initial_actors": 2,
    }
    arguments = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    # Workers of a cluster of one's own find the class by the path that they inherit.
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}"}
    environment.pop("RAY_ADDRESS", None)
    ended = subprocess.run(
        [sys.executable, "-c", JOB, *arguments], env=environment, text=True, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = storage.read_json(str(home / "out" / "summary.json"))
    assert told["rows"] == {"manifest": 24, "accepted": 24, "rejected": 0, "reasons": {}}
    assert storage.read_table(str(home / "out" / "units")).num_rows == 24
