"""Whether speech and its text are one thing to a model: how alike their representations are, and whether one finds the
other.

Of a text and of its speech each layer's outputs are averaged over tokens. Their cosine is compared with that of the
speech and other texts (CSLM, table of speech-text similarity): a high one alone says little, as vectors of one model
are all alike; the gap between parallel and random pairs is what counts. Retrieval asks how often the text of an
utterance is nearest to it among all.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cslm.config import Section, setting
from cslm.evaluate import figures
from cslm.evaluate.figures import Score
from cslm.evaluate.network import Network
from cslm.speech.transcript import normalise

Float32 = NDArray[np.float32]
VECTORS = pa.schema(
    [
        pa.field("task", pa.string()),
        pa.field("id", pa.string()),
        pa.field("num_layers", pa.int32()),
        pa.field("speech", pa.list_(pa.float32())),
        pa.field("text", pa.list_(pa.float32())),
    ]
)
Case = dict[str, Any]


class SimilaritySection(Section):
    """Speech and text in the model."""

    max_pairs: int = setting(100, "utterances of each language, each with its own text, at most; 0: none", ge=0)
    layer: int | None = setting(
        None, "layer whose similarity is the figure, 1 is the first; the middle one when not given", ge=1
    )


def cases(utterances: pa.Table, section: SimilaritySection) -> list[Case]:
    """Utterances whose texts are all different, evenly over each language."""
    by_language: dict[str, dict[str, Case]] = {}
    for row in utterances.select(["id", "language", "text", "units"]).to_pylist():
        by_language.setdefault(row["language"], {}).setdefault(normalise(row["text"]), row)
    found = []
    for language in sorted(by_language):
        rows = list(by_language[language].values())
        wanted = min(section.max_pairs, len(rows))
        found += [{"task": f"alignment/{language}", **rows[place * len(rows) // wanted]} for place in range(wanted)]
    return found


def vectors(network: Network, batch: Sequence[Case]) -> pa.Table:
    """Averages of all layers over speech and over text of cases, as rows of VECTORS."""
    speech = [network.speech_ids(case["units"]) for case in batch]
    texts = [network.text_ids(case["text"]) for case in batch]
    heard = network.vectors(speech, [len(ids) - len(case["units"]) for ids, case in zip(speech, batch, strict=True)])
    begin = len(network.text_ids(""))
    read = network.vectors(texts, [begin] * len(texts))
    rows = [
        {
            "task": case["task"],
            "id": case["id"],
            "num_layers": len(one),
            "speech": one.reshape(-1),
            "text": other.reshape(-1),
        }
        for case, one, other in zip(batch, heard, read, strict=True)
    ]
    return pa.Table.from_pylist(rows, VECTORS)


def scores(table: pa.Table, section: SimilaritySection) -> tuple[list[Score], dict[str, dict[str, list[float]]]]:
    """Scores of rows of VECTORS by the chosen layer, and curves over all layers: task -> measure -> value a layer.

    A language with fewer than two utterances has none: there are no random pairs.
    """
    found: list[Score] = []
    curves: dict[str, dict[str, list[float]]] = {}
    table = table.sort_by([("task", "ascending"), ("id", "ascending")])
    for task in dict.fromkeys(table.column("task").to_pylist()):
        rows = [row for row in table.to_pylist() if row["task"] == task]
        if len(rows) < 2:
            continue
        num_layers = rows[0]["num_layers"]
        layer = min(section.layer or (num_layers + 1) // 2, num_layers) - 1
        speech_NLH, text_NLH = (
            np.array([row[name] for row in rows], np.float32).reshape(len(rows), num_layers, -1)
            for name in ("speech", "text")
        )
        of_task: dict[str, list[float]] = {"parallel": [], "random": [], "retrieval": []}
        for number in range(num_layers):
            measures = of_layer(speech_NLH[:, number], text_NLH[:, number])
            for name in of_task:
                of_task[name].append(round(float(measures[name].mean()), 5))
            if number == layer:
                for name, values_N in measures.items():
                    found += [
                        figures.score(task, name, row["id"], [value, 1])
                        for row, value in zip(rows, values_N.tolist(), strict=True)
                    ]
        curves[task] = of_task
    return found, curves


def of_layer(speech_NH: Float32, text_NH: Float32) -> dict[str, NDArray[np.float64]]:
    """Of each utterance: cosine to its text, mean cosine to the other texts, their gap, and whether it finds its text.

    Of texts that are equally near, each is found with an equal share.
    """
    cosine_NN = _unit(speech_NH) @ _unit(text_NH).T
    own_N = np.diag(cosine_NN)
    others_N = (cosine_NN.sum(1) - own_N) / (len(own_N) - 1)
    # Rounded, so that vectors which are the same but for the order of sums are equally near.
    near_NN = cosine_NN.round(9)
    nearest_NN = near_NN == near_NN.max(1, keepdims=True)
    retrieval_N = np.diag(nearest_NN) / nearest_NN.sum(1)
    return {"parallel": own_N, "random": others_N, "gap": own_N - others_N, "retrieval": retrieval_N}


def _unit(vectors_NH: Float32) -> NDArray[np.float64]:
    wide_NH = vectors_NH.astype(np.float64)
    lengths_N1 = np.linalg.norm(wide_NH, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = wide_NH / np.maximum(lengths_N1, 1e-12)
    return scaled
