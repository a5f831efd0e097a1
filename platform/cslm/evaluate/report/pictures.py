"""Pictures of an evaluation as SVG, to stand in a page."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cslm.evaluate.figures import Figure
from cslm.evaluate.report import wording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

Curves = Mapping[str, Mapping[str, Sequence[float]]]
# Pictures of so many measures, each over the tasks that have it: title, measures.
_BARS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("answers right", ("accuracy", "speech_accuracy")),
    ("error rates of hearing and speaking", ("wer", "original_wer")),
    ("answers in another language than asked for", ("off_target", "speech_off_target")),
    ("seconds to the first speech", ("interleaved_first_speech_s", "full_first_speech_s")),
)


def of(figures: Sequence[Figure], curves: Curves) -> list[str]:
    """All pictures that there are figures for, as SVG elements."""
    found = []
    for title, metrics in _BARS:
        chosen = [figure for figure in figures if figure.metric in metrics and "/" in figure.task]
        if title == "answers right":
            chosen = [figure for figure in chosen if figure.task.startswith("answer/")]
        if chosen:
            found.append(_svg(bars(title, metrics, chosen)))
    if curves:
        found.append(_svg(layers(curves)))
    return found


def bars(title: str, metrics: Sequence[str], figures: Sequence[Figure]) -> "Picture":
    """A group of bars for each task, one bar a measure, with confidence intervals."""
    tasks = list(dict.fromkeys(figure.task for figure in figures))
    picture, axes = _picture(max(5.0, 0.7 * len(tasks) + 2))
    shown = [metric for metric in metrics if any(figure.metric == metric for figure in figures)]
    width = 0.8 / len(shown)
    for number, metric in enumerate(shown):
        of_metric = {figure.task: figure for figure in figures if figure.metric == metric}
        places = [place for place, task in enumerate(tasks) if task in of_metric]
        values = np.array([of_metric[tasks[place]].value for place in places])
        lows, highs = (
            np.nan_to_num(np.array([getattr(of_metric[tasks[place]], end) for place in places]))
            for end in ("low", "high")
        )
        spread = np.stack([np.maximum(values - lows, 0), np.maximum(highs - values, 0)])
        at = np.array(places) + (number - (len(shown) - 1) / 2) * width
        axes.bar(at, values, width, label=wording.meaning(metric), yerr=spread, capsize=2)
    axes.set_xticks(range(len(tasks)), [task.removeprefix("answer/") for task in tasks], rotation=30, ha="right")
    axes.set_ylim(bottom=0)
    axes.set_title(title, loc="left")
    axes.legend(fontsize="small")
    axes.grid(axis="y", alpha=0.3)
    return picture


def layers(curves: Curves) -> "Picture":
    """Similarity to the own and to other texts over the layers of the model."""
    from matplotlib.ticker import MaxNLocator

    picture, axes = _picture(6.0)
    for number, (task, measures) in enumerate(sorted(curves.items())):
        language = task.partition("/")[2]
        for name, style in (("parallel", "-"), ("random", ":")):
            values = measures[name]
            places = range(1, len(values) + 1)
            axes.plot(
                places, values, style, color=f"C{number}", marker=".", label=f"{language}, {wording.meaning(name)}"
            )
    axes.set(xlabel="layer", ylabel="cosine")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("similarity of speech and text", loc="left")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    return picture


def _picture(width: float) -> "tuple[Picture, Axes]":
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(min(width, 14.0), 3.4), layout="constrained")
    return picture, picture.add_subplot()


def _svg(picture: "Picture") -> str:
    from matplotlib import rc_context

    content = io.StringIO()
    # Letters stay letters, and names within the picture follow from what is drawn.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "cslm"}):
        picture.savefig(content, format="svg", metadata={"Date": None})
    # What stands before the element belongs to a file of its own.
    return re.sub(r"^.*?(?=<svg)", "", content.getvalue(), count=1, flags=re.DOTALL)
