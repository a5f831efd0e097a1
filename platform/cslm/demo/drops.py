"""A corpus of several languages as the owners of single languages would bring it: tables for each.

A translation pair or a dialogue between two languages comes with the one that stands later in the order, as it can only
be there once both are. What one language brings therefore never changes what another brought before.
"""

import random
from collections.abc import Sequence

import pyarrow as pa

from cslm import contracts, storage
from cslm.errors import ConfigError

TABLES = ("utterances", "parallel_text", "dialogues")


def bring(corpus: str, target: str, order: Sequence[str], language: str, *, shuffle_seed: int | None = None) -> None:
    """Write `target`/<table>/<language>/part-00000.parquet: what `language` adds to those before it in `order`.

    Audio stays where it lies and is named by absolute paths. With a `shuffle_seed` the transcripts of the utterances
    are given to each other at random: data that looks right in every other way. Raises ConfigError when the corpus does
    not have the language.
    """
    for name in TABLES:
        contract = contracts.load(name)
        table = contract.check(storage.read_table(storage.join(corpus, name)), name)
        chosen = table.filter(pa.array([_owner(name, row, order) == language for row in table.to_pylist()], pa.bool_()))
        if not chosen.num_rows and name == "utterances":
            raise ConfigError(f"corpus.languages: must hold {language}, found no utterance of it in {corpus}")
        rows = chosen.sort_by("id").to_pylist()
        if name == "utterances":
            texts = [row["text"] for row in rows]
            if shuffle_seed is not None:
                random.Random(shuffle_seed).shuffle(texts)
            folder = storage.join(corpus, name)
            rows = [
                {**row, "text": text, "audio": _absolute(folder, row["audio"])}
                for row, text in zip(rows, texts, strict=True)
            ]
        storage.write_table(contract.table(rows), storage.join(target, name, language, "part-00000.parquet"))


def _owner(table: str, row: dict[str, object], order: Sequence[str]) -> str | None:
    """The language that brings a row; None when it speaks one that is not in the order."""
    if table == "utterances":
        spoken = {str(row["language"])}
    elif table == "parallel_text":
        spoken = {str(row["source_language"]), str(row["target_language"])}
    else:
        turns = row["turns"]
        assert isinstance(turns, list)
        spoken = {str(turn["language"]) for turn in turns}
    return max(spoken, key=order.index) if spoken <= set(order) else None


def _absolute(folder: str, path: str) -> str:
    """`../audio/x.wav` below `folder` as a path of its own."""
    while path.startswith("../"):
        folder, path = storage.parent(folder), path.removeprefix("../")
    return storage.join(folder, path)
