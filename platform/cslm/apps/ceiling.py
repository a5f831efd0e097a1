"""The job that tells whether a speech tokenizer carries a language: settings, work and summary around
`cslm.languages.ceiling`.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pyarrow.dataset as pads
import ray
from pydantic import model_validator
from rich.table import Table

from cslm import cluster, storage
from cslm.apps.job import Job, JobConfig, run_job
from cslm.config import REQUIRED, Section, fingerprint, group, setting
from cslm.data import sources, unit_audio
from cslm.errors import AudioError, ConfigError
from cslm.evaluate import asking, hearing
from cslm.evaluate.metrics import edit_counts
from cslm.evaluate.units.probe import probe
from cslm.evaluate.units.rates import rates
from cslm.languages import ceiling, scripts
from cslm.languages.ceiling import Carried, CeilingSection, Opinion
from cslm.speech import decoder as speaking
from cslm.speech import tokenizer as speech
from cslm.speech.tokenizer import UnitSequence

# Of a table of any size so many files are looked into.
_MOST_FILES = 64
_COLUMNS = ["id", "text", "units", "durations", "duration_s"]
_AUDIO_COLUMNS = ["source", "source_sha256", "start_s", "end_s"]


class DataSection(Section):
    """The languages that are looked at."""

    units: dict[str, list[str]] = setting(
        REQUIRED, "by language the units tables of it, made by one tokenizer: outputs of jobs/tokenize.py", min_length=1
    )
    new: list[str] = setting(
        REQUIRED, "languages that are judged; the others are what they are measured by", min_length=1
    )
    scripts: dict[str, str] = setting({}, "by language the script of its texts (ISO 15924)")


class LookSection(Section):
    """How much is looked at, of every language alike."""

    listened: int = setting(40, "held-out utterances of each language that are listened to", ge=0)
    read: int = setting(1500, "utterances of each language that the small reader learns from", ge=0)
    reader_steps: int = setting(1000, "steps that it learns", ge=1)
    measured: int = setting(2000, "utterances of each language that rates and scripts are of", ge=1)
    held_out: int = setting(150, "utterances of each language that the small reader is measured on", ge=1)
    decoder: str | None = setting(None, "speech decoder of jobs/decoder.py; without it nothing is listened to")
    recogniser: str | None = setting(
        None, "who listens: a tokenizer of jobs/fit_tokenizer.py or a Whisper folder; without one nobody does"
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "where speech is made and heard")
    seed: int = setting(0, "seed of the choice of utterances")


class Config(JobConfig):
    """Settings of the ceiling test."""

    data: DataSection = group(DataSection, "the languages that are looked at")
    look: LookSection = group(LookSection, "how much is looked at")
    ceiling: CeilingSection = group(CeilingSection, "from where on a language is told with caution, or not at all")

    @model_validator(mode="after")
    def _new_ones_are_there(self) -> "Config":
        missing = [code for code in self.data.new if code not in self.data.units]
        if missing:
            raise ValueError(f"data.new: must be among data.units, found {', '.join(missing)}")
        return self


def body(config: Config, job: Job) -> None:
    """Tells whether the tokenizer carries new languages, beside known ones: go, caution or no-go, with the figures.

    Speech goes through units and back and is listened to; a small reader learns to read units; how much of the codebook
    is used, and what a second costs. Needs units tables, no language model.
    """
    units = {code: [storage.absolute(one) for one in folders] for code, folders in config.data.units.items()}
    missing = [one for folders in units.values() for one in folders if not storage.exists(storage.join(one, "units"))]
    if missing:
        raise ConfigError(
            [f"data.units: must be outputs of jobs/tokenize.py, found no units in {one}" for one in missing]
        )
    digests = {
        code: [storage.listing_digest(storage.join(one, "units")) for one in found] for code, found in units.items()
    }
    key = [digests, config.model_dump(mode="json", include={"data", "look", "ceiling"})]
    if job.finished(key):
        return
    cluster.connect(config.cluster)
    use_gpu = config.look.device == "cuda" or (config.look.device == "auto" and cluster.has_gpus())
    look = _located(config.look, "cuda" if use_gpu else "cpu")
    task = _look.options(num_cpus=1, num_gpus=1 if use_gpu else 0)
    pending = {task.remote(code, folders, look, config.data.scripts.get(code)): code for code, folders in units.items()}
    carried: dict[str, Carried] = {}
    with job.progress("ceiling", len(pending), "languages") as progress, cluster.workers_faults():
        while pending:
            for reference in ray.wait(list(pending), num_returns=1)[0]:
                carried[pending.pop(reference)] = ray.get(reference)
                progress.update(1)
    known = {code: one for code, one in carried.items() if code not in config.data.new}
    opinions = {code: ceiling.judge(carried[code], known, config.ceiling) for code in config.data.new}
    _show(job, carried, opinions)
    job.run.log_metrics(_metrics(carried))
    job.run.set_tags({f"ceiling.{code}": opinion.grade for code, opinion in opinions.items()})
    job.complete(
        key,
        {
            "listener": look.recogniser and look.decoder and hearing.describe(look.recogniser),
            "languages": {code: asdict(one) for code, one in sorted(carried.items())},
            "opinions": {code: asdict(one) for code, one in opinions.items()},
        },
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from a command line and return its exit code."""
    return run_job("ceiling", Config, body, argv)


def _located(look: LookSection, device: str) -> LookSection:
    paths = {name: getattr(look, name) for name in ("decoder", "recogniser")}
    found = {name: storage.absolute(path) if path else None for name, path in paths.items()}
    if found["decoder"] and speaking.describe(found["decoder"]) is None:
        raise ConfigError(f"look.decoder: must be a folder of jobs/decoder.py, found no decoder at {found['decoder']}")
    return look.model_copy(update={**found, "device": device})


@ray.remote
def _look(code: str, folders: Sequence[str], look: LookSection, script: str | None) -> Carried:
    from cslm.apps.shard_pipeline import one_thread_a_cpu

    one_thread_a_cpu()
    rows = _rows(code, folders, look)
    described = speech.describe(storage.join(folders[0], "tokenizer")) or {}
    audio_s = sum(row["duration_s"] for row in rows)
    price = rates([_sequence(row) for row in rows], int(described["codebook_size"]), audio_s)
    texts = [row["text"] for row in rows if row["text"]]
    held_out = [row for row in rows if row["split"] == "test"] or rows[:: max(2, len(rows) // look.held_out)]
    heard = _listen(code, folders, held_out[: look.listened], look)
    error, num_read = _read(rows, held_out, int(described["codebook_size"]), look)
    return Carried(
        original_error=heard and heard[0],
        resynthesis_error=heard and heard[1],
        reader_error=error,
        usage=price.usage,
        units_per_s=price.units_per_s,
        script_share=scripts.share(texts, script) if script and texts else None,
        num_listened=min(len(held_out), look.listened) if heard else 0,
        num_read=num_read,
    )


def _rows(code: str, folders: Sequence[str], look: LookSection) -> list[dict[str, Any]]:
    """Utterances of a language in a drawn order, as many of test and of the rest as the looks take.

    Of a large table some files are read, and of each no more than its part, so a look costs the same at any size.
    """
    most = {True: max(look.listened, look.held_out), False: max(look.measured, look.read)}
    chosen: list[dict[str, Any]] = []
    for is_test, number in most.items():
        files = [
            (file, split)
            for folder in folders
            for file in storage.list_files(storage.join(sources.units_folder(folder), f"language={code}"), ".parquet")
            for split in [file.rpartition("/split=")[2].partition("/")[0]]
            if (split == "test") == is_test
        ]
        files = sorted(files, key=lambda one: fingerprint([look.seed, one[0]]))[:_MOST_FILES]
        part = -(-number // max(len(files), 1))
        found = [
            {**row, "split": split}
            for file, split in files
            for row in storage.read_rows(file, _COLUMNS, 0, part).to_pylist()
        ]
        chosen += sorted(found, key=lambda row: fingerprint([look.seed, row["id"]]))[:number]
    if not chosen:
        raise ConfigError(f"data.units: must hold utterances of {code}, found none in {', '.join(folders)}")
    return chosen


def _sequence(row: Mapping[str, Any]) -> UnitSequence:
    units, durations = (np.array(row[name], np.uint16) for name in ("units", "durations"))
    return UnitSequence(units, durations)


def _listen(
    code: str, folders: Sequence[str], rows: Sequence[Mapping[str, Any]], look: LookSection
) -> tuple[float, float] | None:
    """Character error of recordings and of the same after units and back; None where nobody can tell."""
    wanted = {row["id"]: row for row in rows if row["text"]}
    if look.decoder is None or look.recogniser is None or not wanted:
        return None
    voice, listener = speaking.load(look.decoder), hearing.load(look.recogniser, look.device)
    errors, characters = [0, 0], 0
    for folder in folders:
        where = storage.dataset(sources.units_folder(folder)).to_table(
            columns=["id", *_AUDIO_COLUMNS], filter=pads.field("id").isin(sorted(wanted))
        )
        for place, samples in unit_audio.read(where.to_pylist(), hearing.SAMPLE_RATE_HZ):
            if isinstance(samples, AudioError):
                continue
            row = wanted[place["id"]]
            again = asking.resampled(voice.speak(np.array(row["units"], np.uint16)), voice.sample_rate_hz)
            for number, text in enumerate(listener.texts([np.asarray(samples, np.float32), again], code)):
                counts = edit_counts(row["text"], text)
                errors[number] += counts.character_errors
            characters += counts.characters
    return (errors[0] / characters, errors[1] / characters) if characters else None


def _read(
    rows: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]], codebook_size: int, look: LookSection
) -> tuple[float | None, int]:
    """Character error of a small reader on held-out utterances, and how many it learned from."""
    apart = {row["id"] for row in held_out}
    train = [row for row in rows if row["text"] and row["id"] not in apart][: look.read]
    test = [row for row in held_out if row["text"]][: look.held_out]
    if not train or not test:
        return None, 0
    spoken = [[(_sequence(row), row["text"]) for row in part] for part in (train, test)]
    found = probe(spoken[0], {"held out": spoken[1]}, codebook_size, num_steps=look.reader_steps, seed=look.seed)
    return found.mean_error, len(train)


def _show(job: Job, carried: Mapping[str, Carried], opinions: Mapping[str, Opinion]) -> None:
    table = Table(title="what units carry", title_justify="left")
    names = ("language", "recordings", "through units", "small reader", "codebook", "units/s", "script", "verdict")
    for name in names:
        table.add_column(name, justify="left" if name in ("language", "verdict") else "right")
    for code, one in sorted(carried.items()):
        shares = (one.original_error, one.resynthesis_error, one.reader_error, one.usage)
        told = ["-" if share is None else f"{share:.1%}" for share in shares]
        script = "-" if one.script_share is None else f"{one.script_share:.1%}"
        grade = opinions[code].grade if code in opinions else "known"
        table.add_row(code, *told, f"{one.units_per_s:.1f}", script, grade)
    job.console.print(table)
    for code, opinion in opinions.items():
        for reason in opinion.reasons:
            job.say(f"  {code}: {reason}")


def _metrics(carried: Mapping[str, Carried]) -> dict[str, float]:
    return {
        f"ceiling/{code}/{name}": float(value)
        for code, one in carried.items()
        for name, value in asdict(one).items()
        if value is not None
    }


if __name__ == "__main__":
    sys.exit(main())
