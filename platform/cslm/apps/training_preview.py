"""Examples as the model sees them, before anything is trained: some of every group, each token by what it is.

A few rows of the first files are read here, without a cluster, and only tokenizer and vocabulary are made, no model.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.text import Text

from cslm import storage
from cslm.data import joins, mixture, sources
from cslm.data.sources import DataSection, Piece
from cslm.errors import ConfigError
from cslm.lm.chunks import Spoken
from cslm.lm.examples import Example, ExampleBuilder, SetAside, groups_of, spoken_needed
from cslm.lm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Rows looked at in each file. Files of a table are taken turn by turn over its folders, so every language is met early.
_ROWS_A_FILE, _FILES_A_FOLDER = 200, 3
# Units shown of a long stretch, at its beginning and at its end.
_UNITS_SHOWN = 6
_COLOURS = {"text": "default", "units": "cyan", "special": "magenta"}
# Around what carries loss where there is no colour.
_LOSS_OPEN, _LOSS_CLOSE = "⟦", "⟧"


def show(
    console: Console,
    section: DataSection,
    tasks: Sequence[str],
    tokenizer: "PreTrainedTokenizerFast",
    layout: Vocabulary,
    number: int,
) -> None:
    """Print `number` examples spread over the groups of `tasks` that the mixture takes.

    Raises ConfigError when the first rows of the tables give none.
    """
    builder = ExampleBuilder(tokenizer, layout, section.chain, section.row_length)
    plain = not console.is_terminal or console.no_color
    examples, aside = sample(sources.resolved(section), tasks, builder, layout, number)
    if not examples:
        told = ", ".join(f"{group}: {reason}" for group, reason in sorted(aside.items())) or "no rows of these tasks"
        raise ConfigError(f"data: the tables must give examples of {', '.join(tasks)}, found none ({told})")
    console.print(legend(plain))
    for place, example in enumerate(examples, 1):
        task, _, languages = example.task.partition("/")
        targets = sum(example.loss_mask)
        console.print(
            Text(
                f"\n{place}. task {task}, language {languages}, row {example.source}: {len(example.input_ids)} of "
                f"{section.row_length} tokens, loss on {targets}",
                style="" if plain else "bold blue",
            )
        )
        console.print(render(example, tokenizer, layout, plain=plain))
    for group, reason in sorted(aside.items()):
        console.print(f"\n{group}: a row was set aside ({reason})", markup=False)


def sample(
    section: DataSection, tasks: Sequence[str], builder: ExampleBuilder, layout: Vocabulary, number: int
) -> tuple[list[Example], dict[str, str]]:
    """Examples from the first rows of a resolved section's tables, the groups by turns, and why rows gave none."""
    weights = section.weights.model_dump()
    candidates: dict[str, list[tuple[Piece, dict[str, Any]]]] = {}
    for table, uri in sources.tables_of(section).items():
        for piece in _first_pieces(table, uri, section.split):
            for row in sources.rows_of(sources.read(piece, section.split, sources.COLUMNS[table])):
                if table == "units":
                    layout.require_units_of([row["tokenizer"]], piece.file)
                for group in groups_of(table, row):
                    factor = weights.get(mixture.task_of(group), 0) * mixture.factor_of(group, section.mixture.groups)
                    if mixture.task_of(group) in tasks and factor > 0:
                        candidates.setdefault(group, []).append((piece, row))
    # The first rows of a table may be alike: some from everywhere among those that were read.
    spread = {group: members[:: max(1, len(members) // number)][:number] for group, members in candidates.items()}
    turns = _by_turns(tasks, spread, number)
    found: list[Example] = []
    aside: dict[str, str] = {}
    spoken = _spoken(section, turns)
    for group, _, row in turns:
        if len(found) >= number:
            break
        try:
            found += builder.build(group, row, spoken)[:1]
        except SetAside as reason:
            aside[group] = reason.reason
    return found, aside


def render(example: Example, tokenizer: "PreTrainedTokenizerFast", layout: Vocabulary, *, plain: bool) -> Text:
    """The tokens of an example as text: coloured by what they are, or in `plain` with brackets around what is learned.

    Units stand as `<3 17 9>`; of a long stretch the middle is left out and their number told.
    """
    text = Text()
    learning = False
    for kind, wanted, ids in _stretches(example, tokenizer, layout):
        if plain and wanted != learning:
            text.append(_LOSS_OPEN if wanted else _LOSS_CLOSE)
        learning = wanted
        style = _COLOURS[kind] + (" bold underline" if wanted else " dim")
        text.append(_spelt(kind, ids, tokenizer, layout), style="" if plain else style)
    if plain and learning:
        text.append(_LOSS_CLOSE)
    return text


def legend(plain: bool) -> Text:
    """What the marks mean."""
    if plain:
        return Text(
            f"text as it is, units <3 17 9>, special tokens by name; {_LOSS_OPEN}what the model learns to write"
            f"{_LOSS_CLOSE}, what stands outside is given"
        )
    text = Text()
    for kind, name in (("text", "text"), ("units", "<units>"), ("special", "special tokens")):
        text.append(name, style=_COLOURS[kind]).append("  ")
    return text.append("what the model learns to write", style="bold underline").append("  ").append("given", "dim")


def _stretches(
    example: Example, tokenizer: "PreTrainedTokenizerFast", layout: Vocabulary
) -> Iterator[tuple[str, bool, list[int]]]:
    """Tokens that follow each other and are alike: (text, units or special; whether they carry loss; ids)."""
    specials = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    units = range(layout.num_text, layout.num_text + layout.num_units)
    before: tuple[str, bool] | None = None
    ids: list[int] = []
    for token, mask in zip(example.input_ids, example.loss_mask, strict=True):
        kind = "units" if token in units else "special" if token in specials else "text"
        if before != (kind, bool(mask)) and before is not None:
            yield *before, ids
            ids = []
        before = kind, bool(mask)
        ids.append(token)
    if before is not None:
        yield *before, ids


def _spelt(kind: str, ids: Sequence[int], tokenizer: "PreTrainedTokenizerFast", layout: Vocabulary) -> str:
    if kind == "text":
        return str(tokenizer.decode(list(ids)))
    if kind == "special":
        return "".join(tokenizer.convert_ids_to_tokens(list(ids)))
    codes = [str(token - layout.num_text) for token in ids]
    if len(codes) > 2 * _UNITS_SHOWN + 1:
        left_out = f"... {len(codes)} units ..."
        codes = [*codes[:_UNITS_SHOWN], left_out, *codes[-_UNITS_SHOWN:]]
    return f"<{' '.join(codes)}>"


def _by_turns(
    tasks: Sequence[str], candidates: Mapping[str, Sequence[tuple[Piece, dict[str, Any]]]], number: int
) -> list[tuple[str, Piece, dict[str, Any]]]:
    """The rows of all groups so that any first few are of as many tasks, and then languages, as can be.

    A few more than `number`, should some give no example.
    """
    ranked = []
    for task in tasks:
        groups = sorted(group for group in candidates if mixture.task_of(group) == task)
        for rank, group in enumerate(groups):
            for turn, (piece, row) in enumerate(candidates[group]):
                # The next turn of a task's first language comes when all its languages had theirs.
                ranked.append((turn * len(groups) + rank, (group, piece, row)))
    ranked.sort(key=lambda pair: pair[0])
    return [row for _, row in ranked[: 2 * number + len(candidates)]]


def _first_pieces(table: str, uri: str, split: str) -> list[Piece]:
    folders: dict[str, list[str]] = {}
    for entry in sources.files_of(table, uri, split):
        folders.setdefault(storage.parent(entry.uri), []).append(entry.uri)
    chosen = [file for files in folders.values() for file in files[:_FILES_A_FOLDER]]
    return [Piece(table, uri, file, 0, _ROWS_A_FILE) for file in chosen]


def _spoken(section: DataSection, turns: Sequence[tuple[str, Piece, Mapping[str, Any]]]) -> dict[str, Spoken]:
    """The utterances of some rows: their own, and those of others by looking through the table until all are found."""
    found: dict[str, Spoken] = {}
    for _, piece, row in turns:
        if piece.table == "units" and row["id"] not in found:
            found |= _utterances(section, piece.file, [row["id"]])
    missing = {name for group, _, row in turns for name in spoken_needed(group, row, section.chain)} - found.keys()
    files = storage.list_files(section.units, ".parquet") if storage.is_folder(section.units) else [section.units]
    for file in files:
        if not missing:
            break
        known = missing & set(storage.read_rows(file, ["id"]).column("id").to_pylist())
        if known:
            found |= _utterances(section, file, sorted(known))
            missing -= known
    return found


def _utterances(section: DataSection, file: str, ids: Sequence[str]) -> dict[str, Spoken]:
    piece = Piece("units", section.units, file, 0, storage.parquet_schema(file)[1])
    table = sources.read(piece, section.split, ("id", "units", "durations", "tokenizer"))
    table = table.filter(pc.is_in(table.column("id"), value_set=pa.array(ids, pa.string())))
    words = joins.words_of(section, file, table.column("id"), pc.unique(table.column("tokenizer")).to_pylist())
    return joins.spoken_rows(table.select(["id", "units", "durations"]).append_column("words", words))
