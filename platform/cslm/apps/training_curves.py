"""The picture of a training: losses, held-out loss, learning rates and the gradient's norm over its steps."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cslm import storage
from cslm.apps.job import Job

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILE = "curves.png"
History = Sequence[tuple[int, float]]
_RATES = ("learning_rate", "embedding_learning_rate", "muon_learning_rate")


def draw(job: Job, groups: Sequence[str]) -> None:
    """Draw what the run recorded into `output.path/curves.png`, and keep it with the run."""
    names = [f"{kind}/{group}" for kind in ("loss", "eval/loss") for group in groups]
    names += [f"optimizer/{name}" for name in (*_RATES, "grad_norm")]
    figure = picture({name: job.run.history(name) for name in names})
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    storage.write_bytes(storage.join(job.output, FILE), content.getvalue())
    job.run.log_figure(figure, FILE)


def picture(histories: Mapping[str, History]) -> "Figure":
    """A panel each for losses, held-out losses, learning rates and gradient norm, of those that were recorded."""
    from matplotlib.figure import Figure

    optimizer = _of(histories, "optimizer/")
    panels = {
        "loss": _of(histories, "loss/"),
        "held-out loss": _of(histories, "eval/loss/"),
        "learning rate": {name: points for name, points in optimizer.items() if name in _RATES},
        "gradient norm": {name: points for name, points in optimizer.items() if name == "grad_norm"},
    }
    told = {title: lines for title, lines in panels.items() if lines}
    figure = Figure(figsize=(12, 3 * max(len(told), 1)), layout="constrained")
    for place, (title, lines) in enumerate(told.items(), 1):
        _panel(figure.add_subplot(len(told), 1, place), title, lines)
    return figure


def _of(histories: Mapping[str, History], prefix: str) -> dict[str, History]:
    found = {name: points for name, points in histories.items() if name.startswith(prefix) and points}
    return {name.removeprefix(prefix): points for name, points in found.items()}


def _panel(axes: "Axes", title: str, lines: Mapping[str, History]) -> None:
    for name, points in lines.items():
        steps, values = zip(*points, strict=True)
        is_total = name == "total"
        axes.plot(steps, values, label=name, linewidth=2.0 if is_total else 1.0, color="black" if is_total else None)
    axes.set_ylabel(title)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if title == "gradient norm":
        axes.set_yscale("log")
    else:
        axes.legend(loc="upper right", fontsize="small", ncols=2)
