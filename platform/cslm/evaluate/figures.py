"""From scores of items to figures: value, confidence interval and number of items of each measure, and of two models.

A score is one item's part in one measure (table `scores`); a figure is the measure over all its items.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cslm import contracts
from cslm.evaluate import bootstrap, forms
from cslm.evaluate.bootstrap import BootstrapSection, Difference

Float64 = NDArray[np.float64]
Score = dict[str, Any]
_ORDER = [("task", "ascending"), ("metric", "ascending"), ("id", "ascending")]
# Of these measures less is better; of others more.
_LESS_IS_BETTER = (
    *("cer", "wer", "question_cer", "original_cer", "original_wer", "asr_er", "off_target", "speech_off_target"),
    *("silent", "perplexity", "text_perplexity", "unit_perplexity", "first_text_s", "first_speech_s"),
    *("real_time_factor", "interleaved_first_speech_s", "full_first_speech_s"),
)


@dataclass(frozen=True)
class Figure:
    """A measure over its items, with the bounds of its confidence interval (NaN without one)."""

    task: str
    metric: str
    value: float
    low: float
    high: float
    num_items: int

    @property
    def name(self) -> str:
        """Its name among metrics: `asr/en/cer`."""
        return f"{self.task}/{self.metric}"

    def told(self) -> dict[str, Any]:
        """As JSON, rounded."""
        rounded = {name: round(getattr(self, name), 5) for name in ("value", "low", "high")}
        return {name: None if value != value else value for name, value in {**asdict(self), **rounded}.items()}


def score(task: str, metric: str, item: str, statistics: Sequence[float], form: str = "ratio") -> Score:
    """A row of the table `scores`."""
    return {"task": task, "metric": metric, "id": item, "form": form, "statistics": [float(one) for one in statistics]}


def table(scores: Iterable[Score]) -> pa.Table:
    """Scores as their table, in order."""
    return contracts.load("scores").table(list(scores)).sort_by(_ORDER)


def figures(scores: pa.Table, section: BootstrapSection) -> list[Figure]:
    """All measures of a table of scores; one whose value cannot be told (nothing to divide by) is left out."""
    found = []
    for (task, metric), (form, _, statistics_NS) in _measures(scores).items():
        value = float(forms.value(form, statistics_NS.sum(0)))
        if np.isfinite(value):
            low, high = bootstrap.interval(f"{task}/{metric}", form, statistics_NS, section)
            found.append(Figure(task, metric, value, low, high, len(statistics_NS)))
    return found


def compared(a: pa.Table, b: pa.Table, section: BootstrapSection) -> list[tuple[str, str, Difference]]:
    """Task, metric and difference of every measure that both have, over the items that both have."""
    found = []
    of_b = _measures(b)
    for key, (form, ids_a, statistics_a) in _measures(a).items():
        if key not in of_b or of_b[key][0] != form:
            continue
        _, ids_b, statistics_b = of_b[key]
        _, places_a, places_b = np.intersect1d(ids_a, ids_b, return_indices=True)
        if len(places_a):
            name = "/".join(key)
            difference = bootstrap.compare(name, form, statistics_a[places_a], statistics_b[places_b], section)
            found.append((*key, difference))
    return found


def item_differences(a: pa.Table, b: pa.Table) -> pa.Table:
    """Each item's own figure by both models, where they differ: task, metric, id, a, b, difference; largest first."""
    of_b = _measures(b)
    rows: list[dict[str, Any]] = []
    for (task, metric), (form, ids_a, statistics_a) in _measures(a).items():
        if (task, metric) not in of_b:
            continue
        _, ids_b, statistics_b = of_b[(task, metric)]
        ids, places_a, places_b = np.intersect1d(ids_a, ids_b, return_indices=True)
        values_a, values_b = forms.value(form, statistics_a[places_a]), forms.value(form, statistics_b[places_b])
        for item, one, other in zip(ids.tolist(), values_a.tolist(), values_b.tolist(), strict=True):
            if np.isfinite(one) and np.isfinite(other) and one != other:
                rows.append(
                    {"task": task, "metric": metric, "id": item, "a": one, "b": other, "difference": other - one}
                )
    rows.sort(key=lambda row: (row["task"], row["metric"], -abs(row["difference"]), row["id"]))
    names = {"task": pa.string(), "metric": pa.string(), "id": pa.string()}
    return pa.Table.from_pylist(rows, pa.schema({**names, **dict.fromkeys(("a", "b", "difference"), pa.float64())}))


def is_better(metric: str, difference: float) -> bool:
    """Whether a difference of a measure is one for the better."""
    return difference < 0 if metric in _LESS_IS_BETTER else difference > 0


def metrics(found: Sequence[Figure]) -> dict[str, float]:
    """Values by name."""
    return {figure.name: figure.value for figure in found}


def counts(found: Sequence[Figure]) -> dict[str, int]:
    """Items of each task: those of its largest measure."""
    largest: dict[str, int] = {}
    for figure in found:
        largest[figure.task] = max(largest.get(figure.task, 0), figure.num_items)
    return largest


def _measures(scores: pa.Table) -> Mapping[tuple[str, str], tuple[str, NDArray[np.str_], Float64]]:
    """By task and metric: the form, ids and statistics (N, S), in order."""
    scores = scores.sort_by(_ORDER)
    keys = pc.binary_join_element_wise(scores.column("task"), scores.column("metric"), "\n").to_pylist()
    bounds = [place for place in range(len(keys)) if place == 0 or keys[place] != keys[place - 1]]
    found = {}
    for start, end in itertools.pairwise([*bounds, len(keys)]):
        task, metric = keys[start].split("\n")
        part = scores.slice(start, end - start)
        statistics = np.array(part.column("statistics").to_pylist(), np.float64)
        form = part.column("form")[0].as_py()
        found[(task, metric)] = (form, np.array(part.column("id").to_pylist(), dtype=np.str_), statistics)
    return found
