"""What rank 0 tells while it trains: a line with time left for the terminal, metrics for the tracking run.

Metrics are written by a thread of their own: a slow tracking server must not hold up every GPU of the group.
"""

import queue
import statistics
import threading
import time
from collections.abc import Mapping

import torch.distributed as dist

from cslm.tracking import Run

_FLUSH_EVERY_S = 5.0
Row = tuple[int, Mapping[str, float]]


class Reporter:
    """Call it with (step, metrics) on every rank; only rank 0 writes. `close` waits until all is written."""

    def __init__(
        self,
        handle: Mapping[str, str],
        num_steps: int,
        first_step: int,
        *,
        rate: tuple[str, str] = ("throughput/tokens_per_s", "tokens/s"),
        fraction: str | None = None,
    ) -> None:
        """`rate`: metric and unit of what the line shows; `fraction`: metric of the work done, steps by default."""
        self._num_steps, self._first_step = num_steps, first_step
        self._rate, self._fraction = rate, fraction
        self._first_fraction: float | None = None
        self._started_s = time.perf_counter()
        self._rows: queue.Queue[Row | threading.Event | None] = queue.Queue()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        if dist.get_rank() == 0:
            self._thread = threading.Thread(target=self._write, args=(dict(handle),), daemon=True)
            self._thread.start()

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the figures of a step. Raises what the tracking store raised since the last call."""
        if self._thread is None:
            return
        if self._error is not None:
            raise self._error
        self._rows.put((step, dict(metrics)))
        elapsed_s = time.perf_counter() - self._started_s
        done = metrics[self._fraction] if self._fraction else step / self._num_steps
        if self._first_fraction is None:
            self._first_fraction = done if self._fraction else self._first_step / self._num_steps
        left_s = elapsed_s / max(done - self._first_fraction, 1 / self._num_steps) * (1 - done)
        left = f"{round(left_s) // 60}:{round(left_s) % 60:02d} left"
        print(f"step {step}/{self._num_steps}  {line_of(metrics, self._rate)}  {left}", flush=True)

    def flush(self) -> None:
        """Wait until what was told so far is in the tracking store; raises what the store raised.

        A checkpoint that counts before its figures are recorded would leave a gap in them when the run is killed.
        """
        if self._thread is None:
            return
        written = threading.Event()
        self._rows.put(written)
        while not written.wait(timeout=1):
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """Wait until every figure is written; raises what the tracking store raised."""
        if self._thread is not None:
            self._rows.put(None)
            self._thread.join()
            if self._error is not None:
                raise self._error

    def _write(self, handle: Mapping[str, str]) -> None:
        try:
            run = Run.attach(handle)
            # A run that was resumed or went back repeats the steps since its checkpoint; they are recorded once.
            known = max(run.last_step("loss/total"), run.last_step("eval/loss/total"))
            with run.system_metrics():
                ended = False
                while not ended:
                    rows, waiting, ended = self._collect()
                    run.log_metric_rows([row for row in rows if row[0] > known])
                    known = max([known, *(step for step, _ in rows)])
                    if waiting is not None:
                        waiting.set()
        except BaseException as error:
            self._error = error

    def _collect(self) -> tuple[list[Row], threading.Event | None, bool]:
        """The rows of the next few seconds or until somebody waits for them, who that is, and whether it is the end."""
        rows: list[Row] = []
        deadline_s = time.monotonic() + _FLUSH_EVERY_S
        while (wait_s := deadline_s - time.monotonic()) > 0:
            try:
                row = self._rows.get(timeout=wait_s)
            except queue.Empty:
                break
            if row is None:
                return rows, None, True
            if isinstance(row, threading.Event):
                return rows, row, False
            rows.append(row)
        return rows, None, False


def line_of(metrics: Mapping[str, float], rate: tuple[str, str]) -> str:
    """The figures of a line on the terminal: of those that are told, the ones that people watch."""
    told = []
    for name, form in (
        ("loss/total", "loss {:.3f}"),
        ("eval/loss/total", "held out {:.3f}"),
        ("optimizer/learning_rate", "rate {:.2e}"),
        ("optimizer/grad_norm", "norm {:.3g}"),
        (rate[0], "{:,.0f} " + rate[1]),
        ("throughput/mfu", "MFU {:.1%}"),
        ("time/data_wait_fraction", "waiting {:.1%}"),
    ):
        if name in metrics:
            told.append(form.format(metrics[name]))
        if name == "loss/total" and (tasks := _losses_of_tasks(metrics)):
            told[-1:] = [f"{told[-1]} ({', '.join(f'{task} {loss:.3f}' for task, loss in tasks.items())})"]
    memory = metrics.get("memory/device_peak_bytes", metrics.get("memory/process_bytes"))
    if memory is not None:
        told.append(f"{memory / 2**30:.1f} GiB")
    for name, word in (("guard/skipped_steps", "skipped"), ("guard/roll_backs", "went back")):
        if metrics.get(name):
            told.append(f"{word} {metrics[name]:.0f}")
    errors = " ".join(f"{name.split('/')[2]} {value:.1%}" for name, value in metrics.items() if _is_error(name))
    return "  ".join([*told, f"error {errors}"] if errors else told)


def _losses_of_tasks(metrics: Mapping[str, float]) -> dict[str, float]:
    """The loss of each task, the mean over its languages: all of them would not fit a line; the run has each."""
    found: dict[str, list[float]] = {}
    for name, value in metrics.items():
        kind, _, group = name.partition("/")
        if kind == "loss" and "/" in group:
            found.setdefault(group.partition("/")[0], []).append(value)
    return {task: statistics.mean(losses) for task, losses in sorted(found.items())}


def _is_error(metric: str) -> bool:
    return metric.startswith("eval/") and metric.endswith("/cer")
