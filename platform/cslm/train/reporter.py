"""What rank 0 tells while it trains: a line with time left for the terminal, metrics for the tracking run.

Metrics are written by a thread of their own: a slow tracking server must not hold up every GPU of the group.
"""

import queue
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
        metric, unit = self._rate
        if self._rate[0] not in metrics:
            held_out = metrics.get("eval/loss/total")
            if held_out is not None:
                print(f"step {step}/{self._num_steps}  held-out loss {held_out:.3f}", flush=True)
            return
        errors = " ".join(f"{name.split('/')[2]} {value:.1%}" for name, value in metrics.items() if _is_error(name))
        print(
            f"step {step}/{self._num_steps}  loss {metrics['loss/total']:.3f}  {metrics[metric]:,.0f} {unit}  "
            f"{round(left_s) // 60}:{round(left_s) % 60:02d} left" + (f"  error {errors}" if errors else ""),
            flush=True,
        )

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
            # A resumed run repeats the steps since its checkpoint; they are recorded once.
            known = max(run.last_step("loss/total"), run.last_step("eval/loss/total"))
            ended = False
            while not ended:
                rows, waiting, ended = self._collect()
                run.log_metric_rows([row for row in rows if row[0] > known])
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


def _is_error(metric: str) -> bool:
    return metric.startswith("eval/") and metric.endswith("/cer")
