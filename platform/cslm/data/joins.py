"""Utterances to the rows that speak them: a join that reads every file of the units table once.

Rows of dialogues and parallel_text name utterances that may lie in any file of the units table. What each chunk of
such rows needs is collected first; each file of the units table then gives what it has of it to a side file whose row
groups are the chunks, so that a chunk reads its own row groups and nothing else.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cslm import contracts, storage
from cslm.data import sources
from cslm.data.mixture import Draw
from cslm.data.sources import DataSection, Piece
from cslm.errors import CheckpointError
from cslm.lm import examples
from cslm.lm.chain import ChainSection
from cslm.lm.chunks import Spoken, Word
from cslm.speech.alignment import unit_bounds

# An utterance that a chunk needs, and whether the times of its words are needed too.
NEEDED_SCHEMA = pa.schema({"id": pa.string(), "chunk": pa.int32(), "aligned": pa.bool_()})
WORDS = contracts.load("alignments").schema.field("words").type
_SPOKEN_COLUMNS = ("id", "units", "durations", "words")


def needed(chunk: int, pieces: Sequence[Piece], split: str, draw: Draw, chain: ChainSection) -> pa.Table:
    """What the rows of a chunk need of the units table, each utterance once; only for examples that are taken."""
    wanted: dict[str, bool] = {}
    for piece in pieces:
        for row in sources.read(piece, split, sources.COLUMNS[piece.table]).to_pylist():
            for group in examples.groups_of(piece.table, row):
                if draw.copies(group, row["id"]):
                    for name, aligned in examples.spoken_needed(group, row, chain).items():
                        wanted[name] = wanted.get(name, False) or aligned
    return pa.table([list(wanted), [chunk] * len(wanted), list(wanted.values())], schema=NEEDED_SCHEMA)


def spoken(section: DataSection, pieces: Sequence[Piece], wanted: pa.Table, num_chunks: int) -> list[pa.Table]:
    """What pieces of the units table have of what is wanted (NEEDED_SCHEMA): one table a chunk, empty ones too."""
    found = [_spoken_of(section, piece, wanted) for piece in pieces]
    table = pa.concat_tables(found).sort_by([("chunk", "ascending"), ("id", "ascending")])
    bounds = np.searchsorted(table.column("chunk").to_numpy(), np.arange(num_chunks + 1))
    table = table.select(_SPOKEN_COLUMNS)
    return [table.slice(start, end - start) for start, end in itertools.pairwise(bounds)]


def read_spoken(files: Iterable[str], chunk: int) -> dict[str, Spoken]:
    """The utterances of a chunk from the side files."""
    found: dict[str, Spoken] = {}
    for file in files:
        table = storage.read_row_groups(file, [chunk], _SPOKEN_COLUMNS)
        found |= spoken_rows(table)
    return found


def spoken_rows(table: pa.Table) -> dict[str, Spoken]:
    """Rows with id, units, durations and words (null where they are not aligned), by id."""
    names = table.column("id").to_pylist()
    units, durations = sources.number_lists(table.column("units")), sources.number_lists(table.column("durations"))
    words = _word_lists(table.column("words"))
    return {
        name: Spoken(codes, None if of is None else _in_units(lengths, of))
        for name, codes, lengths, of in zip(names, units, durations, words, strict=True)
    }


def words_of(section: DataSection, units_file: str, ids: pa.ChunkedArray, made_by: Sequence[str]) -> pa.ChunkedArray:
    """The words of the utterances `ids` of a units file, null where the alignments table has none.

    `made_by` are the tokenizers of the units; raises CheckpointError when the words are in frames of another.
    """
    file = sources.alignments_file(section, units_file)
    if file is None:
        return pa.chunked_array([pa.nulls(len(ids), WORDS)])
    table = storage.read_rows(file, ["id", "words", "tokenizer"])
    require_same_tokenizer(file, pc.unique(table.column("tokenizer")).to_pylist(), made_by)
    places = pc.index_in(ids, value_set=table.column("id"))
    return table.column("words").take(places).cast(WORDS)


def require_same_tokenizer(file: str, found: Sequence[str], made_by: Sequence[str]) -> None:
    """Raise CheckpointError unless the frames of alignments are those of the units."""
    if other := sorted(set(found) - set(made_by)):
        raise CheckpointError(
            f"data.alignments: {file} must be in the frames of the tokenizer {', '.join(made_by)} that made the units, "
            f"found {', '.join(other)}; align these units by jobs/align.py"
        )


def _spoken_of(section: DataSection, piece: Piece, wanted: pa.Table) -> pa.Table:
    ids = storage.read_rows(piece.file, ["id"], piece.start, piece.stop).column("id")
    mine = wanted.filter(pc.is_in(wanted.column("id"), value_set=ids))
    if not mine.num_rows:
        return _schema().empty_table()
    columns = ("id", "units", "durations", "tokenizer")
    table = sources.read(piece, section.split, columns)
    rows = table.take(pc.index_in(mine.column("id"), value_set=table.column("id")))
    if pc.any(mine.column("aligned")).as_py():
        words = words_of(section, piece.file, rows.column("id"), pc.unique(table.column("tokenizer")).to_pylist())
    else:
        words = pa.chunked_array([pa.nulls(rows.num_rows, WORDS)])
    columns_of = [mine.column("chunk"), *(rows.column(name) for name in ("id", "units", "durations")), words]
    return pa.table(columns_of, schema=_schema())


def _schema() -> pa.Schema:
    units = contracts.load("units").schema
    fields = [pa.field("chunk", pa.int32()), *(units.field(name) for name in ("id", "units", "durations"))]
    return pa.schema([*fields, pa.field("words", WORDS)])


def _in_units(durations: Any, words: Sequence[tuple[str, int, int]]) -> list[Word]:
    """Words with first and last frame -> with first and last unit."""
    bounds = unit_bounds(durations, [frame for _, start, end in words for frame in (start, end)]).tolist()
    return [Word(text, *bounds[2 * number : 2 * number + 2]) for number, (text, _, _) in enumerate(words)]


def _word_lists(column: pa.ChunkedArray) -> list[list[tuple[str, int, int]] | None]:
    found: list[list[tuple[str, int, int]] | None] = []
    for chunk in column.chunks:
        values: Mapping[str, Any] = {
            name: chunk.values.field(name).to_pylist() for name in ("text", "start_frame", "end_frame")
        }
        words = list(zip(values["text"], values["start_frame"], values["end_frame"], strict=True))
        offsets = chunk.offsets.to_pylist()
        known = chunk.is_valid().to_pylist()
        found += [
            words[start:end] if valid else None
            for start, end, valid in zip(offsets[:-1], offsets[1:], known, strict=True)
        ]
    return found
