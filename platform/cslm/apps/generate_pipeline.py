"""What the generate job does to a shard of prompts: decode its audio, ask the model, speak, write."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from cslm import contracts, storage
from cslm.apps import shard_pipeline
from cslm.apps.shard_pipeline import ActorsSection, Compute, Steps
from cslm.data import fetch, prompts
from cslm.data.ledger import Entry
from cslm.errors import AudioError, CheckpointError, ConfigError
from cslm.lm.generate import Generator, Prompt, Response, Sampling
from cslm.speech import decoder as speech_decoder
from cslm.speech import tokenizer as speech
from cslm.speech.audio import AudioSection, Recording, Waveform
from cslm.speech.playing import wav

TABLES = ("responses", "rejects")


@dataclass(frozen=True)
class Work:
    """What workers need to know; paths are absolute."""

    prompts: str
    output: str
    model: str
    tokenizer: Mapping[str, Any] | None  # kind, path, sample_rate_hz
    decoder: str | None
    speaker: str | None
    sampling: Sampling
    limits: AudioSection
    batch_size: int


def run(pending: Sequence[Entry], work: Work, section: ActorsSection) -> Iterator[dict[str, Any]]:
    """Ask what is in shards; yields {shard, piece, last, counts} once the tables of a shard are written."""
    rate_hz = work.tokenizer["sample_rate_hz"] if work.tokenizer else 0
    most_s = max(shard["rows"] for shard in pending) * 10.0
    steps = Steps(
        partial(_decode, work=work),
        partial(_load, work=work),
        partial(_write, output=work.output),
        most_s * rate_hz * 4,
    )
    return shard_pipeline.run(pending, steps, section, apart=None, decode_cpus=1.0)


def _decode(shard: Entry, work: Work) -> Iterator[tuple[pa.Table, bool]]:
    """The rows of a shard with the samples of their audio, and the reason beside those that have none."""
    rows = prompts.read_shard(work.output, shard["name"])
    waveforms: list[Waveform] = []
    for row in rows:
        samples, row["error"], row["message"] = np.empty(0, np.float32), None, None
        if row["audio"] is not None:
            assert work.tokenizer is not None
            try:
                recording = Recording(fetch.fetch(row["audio"]).data)
                samples = recording.clip(
                    work.tokenizer["sample_rate_hz"], start_s=row["start_s"], end_s=row["end_s"], limits=work.limits
                ).samples
            except AudioError as error:
                row["error"], row["message"] = error.reason, str(error)
        waveforms.append(samples)
    contract = contracts.load("prompts").schema
    fields = [*contract, pa.field("error", pa.string()), pa.field("message", pa.string())]
    offsets = np.cumsum([0, *(len(waveform) for waveform in waveforms)])
    samples_column = pa.LargeListArray.from_arrays(offsets, np.concatenate(waveforms))
    columns = [pa.array([row[field.name] for row in rows], field.type) for field in fields]
    schema = pa.schema([*fields, pa.field("samples", samples_column.type)])
    yield pa.table([*columns, samples_column], schema=schema), True


def _load(device: str, work: Work) -> Compute:
    # What is one thread's share is settled before anything is computed.
    shard_pipeline.one_thread_a_cpu()
    generator = Generator.load(work.model, device)
    tokenizer = None
    if work.tokenizer is not None:
        tokenizer = speech.load(work.tokenizer["kind"], work.tokenizer["path"], device)
    speaking = None if work.decoder is None else speech_decoder.load(work.decoder, device)
    shard_pipeline.one_thread_a_cpu()

    def compute(piece: pa.Table) -> tuple[Mapping[str, pa.Table], Entry]:
        return answer_piece(piece, work, generator, tokenizer, speaking)

    return compute


def answer_piece(
    piece: pa.Table,
    work: Work,
    generator: Generator,
    tokenizer: speech.SpeechTokenizer | None,
    speaking: speech_decoder.SpeechDecoder | None,
) -> tuple[Mapping[str, pa.Table], Entry]:
    """Responses, rejects and wav files of a piece, and counts."""
    rows = piece.drop_columns(["samples"]).to_pylist()
    _tokenize(rows, piece, tokenizer)
    asked: list[Prompt] = []
    taken: list[dict[str, Any]] = []
    rejects = []
    for row in rows:
        prompt = prompts.prompt_of(row)
        if row["error"] is None:
            row["stage"] = "generate"
            _check(row, prompt, generator, work.sampling)
        if row["error"] is not None:
            stage = row.get("stage") or "audio"
            rejects.append(prompts.reject(row, work.prompts, stage, row["error"], row["message"]))
            continue
        asked.append(prompt)
        taken.append(row)
    responses = generator.generate(asked, work.sampling, batch_size=work.batch_size)
    made, files = [], []
    audio_s = 0.0
    for row, response in zip(taken, responses, strict=True):
        told = _told(row, response)
        if speaking is not None and response.units:
            samples = speaking.speak(response.units, speaker=work.speaker)
            told["audio"] = storage.join(work.output, "audio", f"{quote(row['id'], safe='')}.wav")
            told["audio_s"] = len(samples) / speaking.sample_rate_hz
            audio_s += told["audio_s"]
            files.append({"path": told["audio"], "data": wav(samples, speaking.sample_rate_hz)})
        made.append(told)
    counts = {
        "rows": len(rows),
        "accepted": len(made),
        "rejected": len(rejects),
        "reasons": dict(Counter(one["error"] for one in rejects)),
        "tasks": dict(Counter(row["task"] for row in taken)),
        "cut": sum(response.stop == "length" for response in responses),
        "tokens": sum(len(response.ids) for response in responses),
        "units": sum(len(response.units) for response in responses),
        "audio_s": audio_s,
    }
    tables = {
        "responses": contracts.load("responses").table(made),
        "rejects": contracts.load("rejects").table(rejects),
        "files": pa.table(
            {
                "path": pa.array([one["path"] for one in files], pa.string()),
                "data": pa.array([one["data"] for one in files], pa.large_binary()),
            }
        ),
    }
    return tables, counts


def _tokenize(rows: Sequence[dict[str, Any]], piece: pa.Table, tokenizer: speech.SpeechTokenizer | None) -> None:
    """Give the rows with audio their units."""
    heard = [place for place, row in enumerate(rows) if row["audio"] is not None and row["error"] is None]
    if not heard:
        return
    assert tokenizer is not None
    column = piece.column("samples").combine_chunks()
    offsets, values = column.offsets.to_numpy(), column.values.to_numpy()
    waveforms = [values[offsets[place] : offsets[place + 1]] for place in heard]
    for place, found in zip(heard, speech.encode_all(tokenizer, waveforms), strict=True):
        rows[place]["units"] = found.units.tolist()


def _check(row: dict[str, Any], prompt: Prompt, generator: Generator, sampling: Sampling) -> None:
    """Note in a row why its prompt cannot be asked."""
    try:
        if row["tokenizer"] is not None:
            generator.layout.require_units_of([row["tokenizer"]], "column tokenizer")
        generator.prompt_ids(prompt, sampling)
    except ConfigError as error:
        row["error"], row["message"] = "bad_prompt", str(error)
    except CheckpointError as error:
        row["error"], row["message"] = "wrong_units", str(error)


def _told(row: Mapping[str, Any], response: Response) -> dict[str, Any]:
    spans = [
        {"text": content if kind == "text" else None, "num_units": len(content) if kind == "speech" else 0}
        for kind, content in response.spans
    ]
    return {
        "id": row["id"],
        "task": row["task"],
        "language": row["language"],
        "answer_language": row["answer_language"] or row["language"],
        "question": response.question,
        "text": response.text,
        "units": response.units,
        "spans": spans,
        "stop": response.stop,
        "num_tokens": len(response.ids),
        "first_text_s": response.times.first_text_s,
        "first_speech_s": response.times.first_speech_s,
        "end_s": response.times.end_s,
        "ids": response.ids,
    }


def _write(shard: Entry, piece: int, tables: Mapping[str, pa.Table], output: str) -> None:
    for row in tables["files"].to_pylist():
        storage.write_bytes(row["path"], row["data"])
    for name in TABLES:
        if tables[name].num_rows:
            path = storage.join(output, name, f"{shard['name']}.parquet")
            storage.write_table(contracts.load(name).check(tables[name], path), path)
