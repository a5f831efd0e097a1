"""One run of retraining from data to a candidate, step by step; each can be killed and is finished by the next run.

What is made of a language's data lies in `data/<code>` and serves every later run, also as what is replayed; what
belongs to a run lies in `runs/<run>`. Whether a step is done is told by what it left, never by what is remembered here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cslm import contracts, storage
from cslm.apps import retrain_commands
from cslm.apps.job import Job
from cslm.apps.retrain_commands import Commands
from cslm.apps.retrain_settings import Config, Recipe
from cslm.config import fingerprint
from cslm.data import alignments, assembled
from cslm.errors import Refused
from cslm.languages import gate
from cslm.languages.card import Card, TextSource
from cslm.languages.drops import Drop
from cslm.languages.gate import Verdict
from cslm.languages.planning import Planned
from cslm.languages.state import Champion, Known

_TEXTS = ("parallel_text", "dialogues")


@dataclass(frozen=True)
class Made:
    """What a run has made: the model with all that belongs to it, and both evaluations."""

    model: str
    tables: dict[str, str | None]
    languages: dict[str, Known]
    evaluation: str
    before: str | None


class Chain:
    """The steps of one planned run."""

    def __init__(
        self,
        planned: Planned,
        cards: Mapping[str, Card],
        drops: Mapping[str, Drop],
        champion: Champion | None,
        config: Config,
        recipe: Recipe,
        job: Job,
        commands: Commands,
        parent_run: str,
    ) -> None:
        self._planned, self._cards, self._drops, self._champion = planned, cards, drops, champion
        self._config, self._recipe, self._job, self._commands = config, recipe, job, commands
        self._tracking = {"experiment": config.tracking.experiment, "parent_run": parent_run}
        self.folder = run_folder(job.output, planned)
        # Of steps, and of tables that are taken as they lie.
        self.summaries: dict[str, dict[str, Any]] = {}

    def make(self) -> Made:
        """From data to a candidate and its evaluation. Raises Refused when the ceiling test says no-go."""
        languages = {code: self._data(code) for code in self._planned.languages}
        if self._champion is not None:
            languages |= {code: self._champion.languages[code] for code in self._planned.replayed}
        self._ceiling(languages)
        tables = self._together(languages)
        model = self._train(tables)
        evaluation = self._evaluate("evaluate", model, tables, self._recipe.decoder)
        return Made(model, tables, languages, evaluation, self._before(tables))

    def judge(self, made: Made) -> Verdict:
        """What the gate says of the candidate."""
        candidate = scores_of(made.evaluation)
        champion = None if made.before is None else scores_of(made.before)
        known = tuple(self._champion.languages) if self._champion else ()
        targets = {name: bound for code in self._planned.languages for name, bound in self._cards[code].targets.items()}
        return gate.judge(candidate, champion, targets=targets, known=known, section=self._config.gate)

    def _step(self, name: str, job: str, document: dict[str, Any], output: str) -> dict[str, Any]:
        program = (
            retrain_commands.python("-m", "cslm.apps.ceiling") if job == "ceiling" else retrain_commands.launcher(job)
        )
        whole = {
            **document,
            "output": {"path": output},
            "tracking": {**self._tracking, "run_name": name},
            "cluster": {},
        }
        self.summaries[name] = self._commands.run(name, program, whole, output)
        return self.summaries[name]

    def _data(self, code: str) -> Known:
        """The tables of a language, made of its sources."""
        card, drop = self._cards[code], self._drops[code]
        home = storage.join(
            self._job.output, "data", code, fingerprint([card.taught, drop.digest, self._recipe.made.tokenizer])
        )
        tables: dict[str, list[str]] = {"units": []}
        for place, source in enumerate(card.sources.speech):
            document = self._recipe.of("tokenize")
            corpus = {
                **source.model_dump(mode="json", exclude_unset=True),
                "manifest": storage.absolute(source.manifest),
            }
            if source.root:
                corpus["root"] = storage.absolute(source.root)
            document["corpus"] = {"language": code, **corpus}
            document["filters"] = {
                **document.get("filters", {}),
                **card.filters.model_dump(mode="json", exclude_unset=True),
            }
            document["tokenizer"] = {
                **document.get("tokenizer", {}),
                "kind": self._recipe.described["kind"],
                "path": self._recipe.tokenizer,
            }
            output = storage.join(home, f"tokenize-{place}")
            self._step(f"tokenize {code} {place}", "tokenize", document, output)
            tables["units"].append(output)
        for table in _TEXTS:
            folder = self._texts(code, table, getattr(card.sources, table), home)
            tables[table] = [folder] if folder else []
        return Known(card.fingerprint, drop.digest, drop.num_bytes, tables)

    def _texts(self, code: str, table: str, sources: Sequence[TextSource], home: str) -> str | None:
        """One table of several sources, checked by its contract; None when there is none."""
        if not sources:
            return None
        folders = []
        for place, source in enumerate(sources):
            if source.format == "table":
                folders.append(storage.absolute(source.uri))
                continue
            languages = {"source": source.source_language, "target": source.target_language}
            document = {
                "source": {
                    "path": storage.absolute(source.uri),
                    "format": source.format,
                    "name": f"{code}-{table}-{place}",
                },
                "languages": {**languages, "both_directions": source.both_directions},
            }
            output = storage.join(home, f"ingest-{table}-{place}")
            self._step(f"ingest {code} {table} {place}", "ingest", document, output)
            folders.append(storage.join(output, table))
        target = storage.join(home, table)
        record = storage.join(home, f"{table}.json")
        key = [storage.listing_digest(folder, ".parquet") for folder in folders]
        if not storage.exists(record) or storage.read_json(record) != key:
            storage.remove(target)
            for place, folder in enumerate(folders):
                files = storage.list_files(folder, ".parquet") if storage.is_folder(folder) else [folder]
                for number, file in enumerate(files):
                    checked = contracts.load(table).check(storage.read_table(file), file)
                    storage.write_table(checked, storage.join(target, f"source-{place}-{number:05d}.parquet"))
            storage.write_json(record, key)
        for place, source in enumerate(sources):
            if source.format == "table":
                taken = [uri for uri in storage.list_files(target, ".parquet") if f"/source-{place}-" in uri]
                num_rows = sum(storage.parquet_schema(uri)[1] for uri in taken)
                counts = {"accepted": num_rows, "rejected": 0}
                self.summaries[f"take {code} {table} {place}"] = {"table": table, "rows": counts}
        return target

    def _ceiling(self, languages: Mapping[str, Known]) -> None:
        known = self._champion.languages if self._champion else {}
        new = [code for code in self._planned.languages if code not in known]
        if not new:
            return
        look = self._config.look.model_dump(mode="json")
        look["decoder"] = look["decoder"] or self._recipe.decoder
        look["recogniser"] = look["recogniser"] or self._recipe.recogniser
        document = {
            "data": {
                "units": {code: one.tables["units"] for code, one in sorted(languages.items())},
                "new": new,
                "scripts": {code: self._cards[code].script for code in sorted(languages) if code in self._cards},
            },
            "look": look,
            "ceiling": self._config.ceiling.model_dump(mode="json"),
        }
        summary = self._step("ceiling", "ceiling", document, storage.join(self.folder, "ceiling"))
        stopped = [code for code, opinion in summary["opinions"].items() if opinion["grade"] == "no-go"]
        if stopped:
            reasons = [f"{code}: {reason}" for code in stopped for reason in summary["opinions"][code]["reasons"]]
            raise NoGo(
                "the tokenizer does not carry the language, or its data is not what it says:\n" + "\n".join(reasons)
            )

    def _together(self, languages: Mapping[str, Known]) -> dict[str, str | None]:
        """All tables as one set, by the settings `data.*` that jobs read them by.

        Words are aligned here and not with each language: an answer of one may be asked for by another's dialogues.
        """
        folder = storage.join(self.folder, "assembled")
        counts = assembled.assemble({code: known.tables for code, known in sorted(languages.items())}, folder)
        self._job.say(f"assembled: {', '.join(f'{count:,} files of {table}' for table, count in counts.items())}")
        tables: dict[str, str | None] = {"units": folder, "alignments": None}
        tables |= {name: storage.join(folder, name) if counts[name] else None for name in _TEXTS}
        dialogues = tables["dialogues"]
        if self._recipe.aligns and dialogues and alignments.answers(dialogues):
            document = self._recipe.of("align")
            document["data"] = {**document.get("data", {}), "units": folder, "dialogues": dialogues}
            output = storage.join(self.folder, "align")
            self._step("align", "align", document, output)
            tables["alignments"] = output
        return tables

    def _train(self, tables: Mapping[str, str | None]) -> str:
        planned, champion = self._planned, self._champion
        continues = planned.continues and champion is not None
        replay = self._config.replay.of(planned.replayed) if planned.replayed else None
        base = self._recipe.section.base_model
        start = champion.model if continues and champion else base and storage.absolute(base)
        for job in ("pretrain", "sft"):
            document = self._recipe.of(job, continues=continues)
            data = {**document.get("data", {}), **tables}
            if replay is not None:
                data["mixture"] = {**data.get("mixture", {}), "replay": replay.model_dump(mode="json")}
            document["data"] = data
            if start is not None:
                document["model"] = {**document.get("model", {}), "path": start}
            output = storage.join(self.folder, job)
            self._step(job, job, document, output)
            start = storage.join(output, "model")
        assert start is not None
        return start

    def _before(self, tables: Mapping[str, str | None]) -> str | None:
        """The champion on the same items; where its units are another tokenizer's, on its own tables."""
        champion = self._champion
        if champion is None:
            return None
        if champion.tokenizer == self._recipe.made.tokenizer:
            return self._evaluate("evaluate champion", champion.model, tables, self._recipe.decoder)
        return self._evaluate("evaluate champion", champion.model, champion.tables, champion.decoder)

    def _evaluate(self, name: str, model: str, tables: Mapping[str, str | None], decoder: str | None) -> str:
        document = self._recipe.of("evaluate")
        document["data"] = {**document.get("data", {}), **tables}
        document["model"] = {"path": model}
        # Heard by the same listener before and after.
        recogniser = self._config.recipe.recogniser and self._recipe.recogniser
        document["speech"] = {"decoder": decoder, **({"recogniser": recogniser} if recogniser else {})}
        output = storage.join(self.folder, name.replace(" ", "_"))
        self._step(name, "evaluate", document, output)
        return output


class NoGo(Refused):
    """The ceiling test did not let a language through."""


def run_folder(home: str, planned: Planned) -> str:
    """Where a run lies."""
    return storage.join(home, "runs", planned.run)


def outline(planned: Planned, cards: Mapping[str, Card], champion: Champion | None, recipe: Recipe) -> list[str]:
    """The steps of a run in words, for people to look at before anything is done."""
    found = []
    for code in planned.languages:
        card = cards[code]
        found += [f"tokenize {code}: {storage.absolute(source.manifest)}" for source in card.sources.speech]
        for table in _TEXTS:
            for source in getattr(card.sources, table):
                how = "take" if source.format == "table" else f"ingest ({source.format})"
                found.append(f"{how} {table} of {code}: {storage.absolute(source.uri)}")
    new = [code for code in planned.languages if champion is None or code not in champion.languages]
    if new:
        found.append(f"ceiling: does the tokenizer {recipe.made.tokenizer} carry {', '.join(new)}? no-go ends the run")
    if recipe.aligns and any(cards[code].sources.dialogues for code in planned.languages):
        found.append("align: when each word of the answers is spoken, in all tables together")
    replayed = f" with replay of {', '.join(planned.replayed)}" if planned.replayed else ""
    start = f"the champion ({champion.model})" if champion and planned.continues else "the recipe's base model"
    found.append(f"pretrain: from {start} on {', '.join(planned.languages)}{replayed}")
    found.append("sft: behind it, on the same tables")
    found.append("evaluate: the candidate" + (", and the champion on the same items" if champion else ""))
    targets = [f"{name} {bound:g}" for code in planned.languages for name, bound in cards[code].targets.items()]
    kept = f"; nothing of {', '.join(champion.languages)} falls beyond its margin" if champion else ""
    found.append(f"gate: {', '.join(targets)}{kept}; refused: the champion stays")
    found.append("promote: a new version, and the alias `champion` last; report.html either way")
    return found


def scores_of(folder: str) -> pa.Table:
    """The scores of an evaluation."""
    return contracts.load("scores").check(storage.read_table(storage.join(folder, "scores")), folder)
