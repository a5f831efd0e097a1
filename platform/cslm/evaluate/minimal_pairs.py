"""Pairs of recordings of which one is right and the other all but the same: does a model find the right one likelier?

Read as they are published: a `gold.csv` of ZeroSpeech 2021 beside its recordings (sWUGGY `lexical`, words against
made-up words; sBLIMP `syntactic`, sentences against ungrammatical ones; Nguyen et al. 2020, arXiv:2011.11588), folders
whose files are named by number and `correct` or `incorrect` (as spoken StoryCloze is laid out; Hassid et al. 2023,
arXiv:2305.13009), or a table `pairs.csv`, `pairs.tsv` or `pairs.jsonl` with the columns id, correct, incorrect.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cslm import storage
from cslm.config import Section, setting
from cslm.errors import ConfigError
from cslm.evaluate import figures
from cslm.evaluate.figures import Score
from cslm.evaluate.network import Measured, Network

Pair = dict[str, Any]
_AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".opus")
_OWN = ("pairs.csv", "pairs.tsv", "pairs.jsonl")
_STEM = re.compile(r"(?P<id>\d+)[_+\-. ].*?(?P<which>incorrect|correct|wrong|right|neg|pos)\b", re.IGNORECASE)
_RIGHT = ("correct", "right", "pos")


class PairsSection(Section):
    """Spoken minimal pairs."""

    folders: dict[str, str] = setting(
        {}, "folder of each set of pairs by name, as --pairs.folders.swuggy lexical/dev: see docs/evaluate.md"
    )
    languages: dict[str, str] = setting({}, "language of a set (BCP-47), en when not given")
    max_pairs: int = setting(2000, "pairs of each set, at most", ge=1)


def read(name: str, folder: str, language: str, max_pairs: int) -> list[Pair]:
    """The pairs of a set: id, `correct` and `incorrect` (addresses of recordings), and the item they belong to.

    Raises ConfigError when a folder holds none of the known layouts.
    """
    files = {storage.name(path): path for path in storage.list_files(folder)}
    own = next((file for file in _OWN if file in files), None)
    if own is not None:
        pairs = _of_own(files[own], folder)
    elif "gold.csv" in files:
        pairs = _of_gold(files["gold.csv"], folder)
    else:
        pairs = _of_names(path for path in files.values() if path.lower().endswith(_AUDIO))
    if not pairs:
        raise ConfigError(
            f"pairs.folders.{name}: must hold a gold.csv of ZeroSpeech 2021, recordings named <number>_..correct and "
            f"<number>_..incorrect, or one of {', '.join(_OWN)}; found none in {folder}"
        )
    pairs = sorted(pairs, key=lambda pair: pair["id"])
    wanted = min(max_pairs, len(pairs))
    task = f"{name}/{language}"
    return [{"task": task, **pairs[place * len(pairs) // wanted]} for place in range(wanted)]


def scores(network: Network, batch: Sequence[tuple[Pair, Sequence[int], Sequence[int]]]) -> list[Score]:
    """Scores of pairs with the units of their right and wrong recording.

    `accuracy` compares log-likelihoods a unit, `accuracy_sum` those of the whole, which favours the shorter. Equal ones
    count half.
    """
    sequences = []
    for _, right, wrong in batch:
        for units in (right, wrong):
            ids = network.speech_ids(units)
            sequences.append(Measured(ids, [0] * (len(ids) - len(units)) + [1] * len(units)))
    costs = network.costs(sequences)
    found: list[Score] = []
    for place, (pair, _, _) in enumerate(batch):
        right_N, wrong_N = costs[2 * place], costs[2 * place + 1]
        found.append(_score(pair, "accuracy", float(right_N.mean()), float(wrong_N.mean())))
        found.append(_score(pair, "accuracy_sum", float(right_N.sum()), float(wrong_N.sum())))
    return found


def _score(pair: Pair, metric: str, right: float, wrong: float) -> Score:
    # To five digits: what differs by less does by the order of sums.
    right, wrong = float(f"{right:.5g}"), float(f"{wrong:.5g}")
    return figures.score(pair["task"], metric, pair["id"], [0.5 if right == wrong else float(right < wrong), 1])


def _of_own(file: str, folder: str) -> list[Pair]:
    text = storage.read_text(file)
    rows: Iterable[Mapping[str, Any]]
    if file.endswith(".jsonl"):
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    else:
        rows = csv.DictReader(io.StringIO(text), delimiter="\t" if file.endswith(".tsv") else ",")
    found = []
    for number, row in enumerate(rows, 1):
        missing = [column for column in ("id", "correct", "incorrect") if not row.get(column)]
        if missing:
            raise ConfigError(f"{file}: row {number} must have {', '.join(missing)}, found none")
        found.append({"id": str(row["id"]), **{name: _at(folder, row[name]) for name in ("correct", "incorrect")}})
    return found


def _of_gold(file: str, folder: str) -> list[Pair]:
    """Rows of one id and voice (of sBLIMP also of one type) are a pair."""
    rows = list(csv.DictReader(io.StringIO(storage.read_text(file))))
    missing = {"id", "filename", "correct"} - set(rows[0] if rows else ())
    if missing:
        raise ConfigError(f"{file}: must have the columns id, filename, correct; {', '.join(sorted(missing))} missing")
    by_pair: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        key = tuple(row.get(column) or "" for column in ("type", "subtype", "id", "voice"))
        which = "correct" if row["correct"].strip() in ("1", "1.0", "True", "true") else "incorrect"
        name = row["filename"] if row["filename"].lower().endswith(_AUDIO) else f"{row['filename']}.wav"
        by_pair.setdefault(key, {})[which] = _at(folder, name)
    return [{"id": "/".join(filter(None, key)), **pair} for key, pair in by_pair.items() if len(pair) == 2]


def _of_names(paths: Iterable[str]) -> list[Pair]:
    by_pair: dict[str, dict[str, str]] = {}
    for path in sorted(paths):
        match = _STEM.match(storage.name(path))
        if match:
            which = "correct" if match["which"].lower() in _RIGHT else "incorrect"
            by_pair.setdefault(match["id"], {})[which] = path
    return [{"id": name, **pair} for name, pair in by_pair.items() if len(pair) == 2]


def _at(folder: str, name: str) -> str:
    return name if storage.is_uri(name) or name.startswith("/") else storage.join(folder, name)
