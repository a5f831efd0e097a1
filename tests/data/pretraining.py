"""The pre-training job as a user's own process, on tables that are small: to be killed, drained and looked at."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from cslm import storage
from cslm.tracking import Run

ROOT = Path(__file__).resolve().parents[2]
# Over the tables of `tests.data.tables`; fp32, so that equality can be asked for to the last bit.
SETTINGS = {
    "data.units": "units",
    "data.parallel_text": "parallel_text",
    "data.row_length": 128,
    "model.shape": "micro",
    "model.text_vocab_size": 320,
    "train.rows_per_step": 4,
    "train.micro_batch_rows": 2,
    "train.log_every_steps": 1,
    "train.device": "cpu",
    "deepspeed.precision": "fp32",
}


class Process:
    """`jobs/pretrain.py` with SETTINGS and others over them; `lines` are what it has said."""

    def __init__(self, home: Path, output: str, settings: dict[str, Any], **environment: str) -> None:
        whole = {"output.path": output, **SETTINGS, **settings}
        command = [part for key, value in whole.items() for part in (f"--{key}", str(value))]
        variables = {**os.environ, "CSLM_HOME": str(home), "PYTHONUNBUFFERED": "1", **environment}
        variables.pop("MLFLOW_TRACKING_URI", None)
        self.output = str(home / output)
        self.lines: list[str] = []
        # A group of its own, with its Ray: what is killed is it and nothing else.
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / "pretrain.py"), *command],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=variables,
        )
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def num_steps(self) -> int:
        """Steps that it has told of."""
        return sum(" loss " in line and "step " in line for line in self.lines)

    def end(self) -> dict[str, Any]:
        """Wait for it, and for a good end; its summary."""
        assert self.process.wait() == 0, "".join(self.lines[-60:])
        return dict(storage.read_json(f"{self.output}/summary.json"))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)


def tracked(home: Path, output: str) -> tuple[Any, list[tuple[int, float]]]:
    """The tracking run of an output, and step and loss of all that was recorded, in the order of recording."""
    record = storage.read_json(str(home / output / "mlflow_run.json"))
    run = Run.attach({"run_id": record["run_id"], "uri": f"sqlite:///{home}/mlflow.db"})
    points = run._client.get_metric_history(record["run_id"], "loss/total")
    return run._client.get_run(record["run_id"]), [(point.step, point.value) for point in points]
