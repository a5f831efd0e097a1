"""Makes the demo corpus on disk: Ray speaks and writes one shard a task, and finished shards are never made again.

A shard is a pure function of the settings and its number, so its bytes do not depend on workers, order or earlier
attempts. Its own small report is written last and marks it as finished.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ray
import soundfile

from cslm import contracts, storage
from cslm.demo.grammar import load_language
from cslm.demo.plan import CorpusSection, Plan, plan_of
from cslm.demo.tables import dialogues, translations
from cslm.demo.voices import SAMPLE_RATE_HZ, Speaker, Speech, synthesise
from cslm.errors import ConfigError

REPORT = "corpus.json"


def make(root: str, section: CorpusSection, on_shard: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Make the corpus below `root` on the Ray cluster this process is connected to, and return its report.

    `on_shard` is told the number of utterances of every shard that is ready, earlier runs' shards included. Raises
    ConfigError when `root` holds shards of a corpus with other settings or of another version of the grammar.
    """
    plan = plan_of(section)
    done = _finished_shards(root, plan)
    for index in done:
        if on_shard:
            on_shard(len(plan.shard(index)))
    task = ray.remote(num_cpus=1)(make_shard)
    pending = {task.remote(root, section, index): index for index in range(plan.num_shards) if index not in done}
    while pending:
        for reference in ray.wait(list(pending), num_returns=1)[0]:
            ray.get(reference)
            index = pending.pop(reference)
            if on_shard:
                on_shard(len(plan.shard(index)))
    report = _corpus_report(plan, [storage.read_json(_report_uri(root, index)) for index in range(plan.num_shards)])
    storage.write_json(storage.join(root, REPORT), report)
    return report


def make_shard(root: str, section: CorpusSection, index: int) -> None:
    """Speak and write one shard: audio first, then its tables, then the report that says it is whole."""
    plan = plan_of(section)
    tables: dict[str, list[dict[str, Any]]] = {"utterances": [], "parallel_text": [], "dialogues": []}
    seconds: dict[str, float] = {}
    counts: Counter[str] = Counter()
    for number in plan.shard(index):
        utterance = plan.utterance(number)
        speech = speak(utterance.language, utterance.text, utterance.speaker)
        audio = f"audio/{utterance.language}/part-{index:05d}/{utterance.id}.wav"
        storage.write_bytes(storage.join(root, audio), _wav(speech))
        row = {"id": utterance.id, "text": utterance.text, "language": utterance.language, "split": utterance.split}
        # The path is relative to the folder of the manifest, so that the corpus can be moved.
        tables["utterances"].append(row | {"audio": f"../{audio}", "speaker": utterance.speaker.name})
        key = f"{utterance.language}/{utterance.split}/{utterance.part}"
        seconds[key] = seconds.get(key, 0.0) + speech.duration_s
        counts[key] += 1
        tables["parallel_text"] += translations(plan, number)
        tables["dialogues"] += dialogues(plan, number)
    for name, rows in tables.items():
        storage.write_table(contracts.load(name).table(rows), storage.join(root, name, f"part-{index:05d}.parquet"))
    report = {
        "fingerprint": plan.fingerprint,
        "seconds": {key: round(value, 3) for key, value in sorted(seconds.items())},
        "utterances": dict(sorted(counts.items())),
        "parallel_text": _count(row["split"] for row in tables["parallel_text"]),
        "dialogues": _count(_dialogue_key(row) for row in tables["dialogues"]),
    }
    storage.write_json(_report_uri(root, index), report)


def speak(language: str, text: str, speaker: Speaker) -> Speech:
    """The speech of a text with the times of its words: for a row of the corpus exactly what its audio file holds."""
    grammar = load_language(language)
    return synthesise(text, grammar.voice, speaker, rate_factor=grammar.rate, spoken=grammar.spoken(text))


def _wav(speech: Speech) -> bytes:
    # Plain wav: written fourteen and read five times as fast as flac, for less than twice the bytes.
    buffer = io.BytesIO()
    soundfile.write(buffer, speech.samples_T, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _report_uri(root: str, index: int) -> str:
    return storage.join(root, "shards", f"part-{index:05d}.json")


def _finished_shards(root: str, plan: Plan) -> set[int]:
    done = set()
    for uri in storage.list_files(storage.join(root, "shards"), ".json"):
        found = storage.read_json(uri)["fingerprint"]
        if found != plan.fingerprint:
            raise ConfigError(
                f"output.path: {root} must be empty or hold an unfinished corpus of the same settings, found {uri} of "
                f"another corpus ({found}, these settings give {plan.fingerprint}); choose another folder or delete it"
            )
        done.add(int(storage.name(uri).removeprefix("part-").removesuffix(".json")))
    return done


def _corpus_report(plan: Plan, shards: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = _sum(shard["seconds"] for shard in shards)
    counts = _sum(shard["utterances"] for shard in shards)
    talk_s = sum(value for key, value in seconds.items() if not key.endswith("/statement"))
    total_s = sum(seconds.values())
    return {
        "fingerprint": plan.fingerprint,
        "settings": plan.section.model_dump(mode="json"),
        "num_utterances": sum(counts.values()),
        "num_facts": plan.num_facts,
        "hours": round(total_s / 3600, 3),
        "dialogue_share": round(talk_s / total_s, 3),
        "hours_by_language_and_split": {key: round(value / 3600, 3) for key, value in _by_prefix(seconds).items()},
        "utterances_by_language_and_split": _by_prefix(counts),
        "utterances": counts,
        "parallel_text": _sum(shard["parallel_text"] for shard in shards),
        "dialogues": _sum(shard["dialogues"] for shard in shards),
    }


def _dialogue_key(row: Mapping[str, Any]) -> str:
    user, assistant = row["turns"]
    return f"{'spoken' if user['audio'] else 'text'}/{user['language']}-{assistant['language']}/{row['split']}"


def _count(keys: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(keys).items()))


def _sum(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(sorted(total.items()))


def _by_prefix(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sums over the last part of `language/split/part`."""
    return _sum({key.rpartition("/")[0]: value} for key, value in values.items())
