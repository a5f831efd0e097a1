"""How well a model foretells held-out data: perplexity of each task and language, of text and of units.

The examples are those of training, with its mask: perplexity is over what the model itself would write. `units/en` is
speech alone, without a task, as models of spoken language are measured.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cslm import contracts, storage
from cslm.config import Section, setting
from cslm.data import joins, sources
from cslm.evaluate import figures
from cslm.evaluate.figures import Score
from cslm.evaluate.network import Float64, Measured, Network
from cslm.lm import examples
from cslm.lm.chain import ChainSection
from cslm.lm.chunks import Spoken, Word
from cslm.lm.examples import SetAside
from cslm.lm.vocabulary import Vocabulary

# Tasks of the units table that are counted. `spans` are not asked of a model.
_OF_UNITS = ("asr", "tts", "units")
Case = dict[str, Any]


class PerplexitySection(Section):
    """Perplexity on held-out data."""

    max_examples: int = setting(200, "examples of each task and language or direction, at most; 0: none", ge=0)


def cases(
    tables: Mapping[str, str], alignments: str | None, split: str, chain: ChainSection, section: PerplexitySection
) -> list[Case]:
    """Examples to be made by workers, evenly over each task: group, table's row, and what its utterances say.

    `tables`: units, parallel_text and dialogues by name, as far as there are any.
    """
    found: list[Case] = []
    if not section.max_examples:
        return found
    chosen: dict[str, list[dict[str, Any]]] = {}
    for name, uri in tables.items():
        columns = list(sources.COLUMNS[name])
        table = storage.read_table(uri, columns, pc.field("split") == split)
        table = contracts.load(name).only(columns).check(table, uri).sort_by("id")
        for row in table.to_pylist():
            for group in _groups(name, row):
                chosen.setdefault(group, []).append(row)
    for group in sorted(chosen):
        rows = chosen[group]
        wanted = min(section.max_examples, len(rows))
        for place in range(wanted):
            found.append({"group": group, "row": rows[place * len(rows) // wanted]})
    needed = {name for case in found for name in _needed(case, chain)}
    known = spoken(tables["units"], alignments, sorted(needed)) if needed else {}
    for case in found:
        case["spoken"] = {name: told(known[name]) for name in _needed(case, chain) if name in known}
    return found


def spoken(units: str, alignments: str | None, ids: Sequence[str]) -> dict[str, Spoken]:
    """Utterances of any split by id, with their words where they are aligned."""
    table = storage.read_table(units, ["id", "units", "durations"], pc.field("id").isin(list(ids)))
    if alignments is None:
        words = pa.chunked_array([pa.nulls(table.num_rows, joins.WORDS)])
    else:
        aligned = storage.read_table(alignments, ["id", "words"], pc.field("id").isin(list(ids)))
        words = aligned.column("words").take(pc.index_in(table.column("id"), value_set=aligned.column("id")))
        words = words.cast(joins.WORDS)
    return joins.spoken_rows(table.append_column("words", words))


def spoken_of(told: Mapping[str, Any]) -> dict[str, Spoken]:
    """The utterances of a case, as examples are made of them."""
    return {
        name: Spoken(units, None if words is None else [Word(*word) for word in words])
        for name, (units, words) in told.items()
    }


def measured(network: Network, chain: ChainSection, case: Case) -> Measured | None:
    """The sequence of a case with what is to be foretold in it; None where no example can be made."""
    if case["group"].startswith("units/"):
        ids = network.speech_ids(case["row"]["units"])
        heard = len(case["row"]["units"])
        return Measured(ids, [0] * (len(ids) - heard) + [1] * heard)
    try:
        made = network.builder(chain).build(case["group"], case["row"], spoken_of(case["spoken"]))
    except SetAside:
        return None
    return Measured(made[0].input_ids, made[0].loss_mask)


def scores(network: Network, chain: ChainSection, batch: Sequence[Case]) -> list[Score]:
    """The scores of cases, which are computed side by side."""
    made = [(case, measured(network, chain, case)) for case in batch]
    known = [(case, one) for case, one in made if one is not None]
    if not known:
        return []
    found: list[Score] = []
    for (case, one), costs in zip(known, network.costs([one for _, one in known]), strict=True):
        found += _scores(case, one, costs, network.layout)
    return found


def _scores(case: Case, one: Measured, costs_N: Float64, layout: Vocabulary) -> list[Score]:
    targets = [token for token, counts in zip(one.ids[1:], one.targets[1:], strict=True) if counts]
    # Marks between them are neither.
    last_unit = layout.num_text + layout.num_units
    units = [
        cost for token, cost in zip(targets, costs_N.tolist(), strict=True) if layout.num_text <= token < last_unit
    ]
    texts = [cost for token, cost in zip(targets, costs_N.tolist(), strict=True) if token < layout.num_text]
    parts = {"perplexity": costs_N.tolist()}
    # The mark that ends a turn is text: one token of it does not make a task one of both.
    if len(units) > 1 and len(texts) > 1:
        parts |= {"text_perplexity": texts, "unit_perplexity": units}
    return [
        figures.score(case["group"], name, case["row"]["id"], [sum(part), len(part)], "perplexity")
        for name, part in parts.items()
        if part
    ]


def _groups(table: str, row: Mapping[str, Any]) -> list[str]:
    if table == "units":
        return [f"{task}/{row['language']}" for task in _OF_UNITS if row["text"] or task == "units"]
    return examples.groups_of(table, row)


def _needed(case: Case, chain: ChainSection) -> list[str]:
    if case["group"].startswith("units/"):
        return []
    return list(examples.spoken_needed(case["group"], case["row"], chain))


def told(known: Spoken) -> tuple[list[int], list[list[Any]] | None]:
    """An utterance as JSON; `spoken_of` reads it back."""
    return [int(unit) for unit in known.units], None if known.words is None else [list(word) for word in known.words]
