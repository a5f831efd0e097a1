"""Work of an evaluation by Ray Data: batches of items -> files of results, each kept as soon as it is there.

A batch is of one kind of work. What a kind's results depend on is its key; files lie below `kept/<kind>/<key>/`, so
results of other settings, another model or other tables are never mixed, and items that are there are not asked again.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray.data
import transformers

from cslm import cluster, contracts, storage
from cslm.apps import shard_pipeline
from cslm.config import fingerprint
from cslm.evaluate import asking, hearing, latency, likelihood, minimal_pairs, similarity
from cslm.evaluate.asking import Examiner
from cslm.evaluate.figures import Score
from cslm.evaluate.items import Item
from cslm.evaluate.latency import LatencySection
from cslm.evaluate.network import Network
from cslm.lm.chain import ChainSection
from cslm.lm.generate import Generator, Sampling
from cslm.speech import decoder
from cslm.speech import tokenizer as speech

KEPT = "kept"
Case = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What workers need to know."""

    model: str
    output: str
    device: str
    decoder: str | None
    recogniser: str | None
    # That turns the recordings of minimal pairs into units.
    tokenizer: str | None
    sampling: Sampling
    chain: ChainSection
    latency: LatencySection


@dataclass(frozen=True)
class Batch:
    """Cases of one kind that are computed together; `size` orders batches, the largest first."""

    kind: str
    key: str
    cases: Sequence[Case]
    size: int

    @property
    def file(self) -> str:
        """Where its results lie, below the output folder."""
        names = [f"{case.get('task') or case.get('group')}|{id_of(case)}" for case in self.cases]
        return f"{KEPT}/{self.kind}/{self.key}/{fingerprint(names)}.parquet"


def kept(output: str, kind: str, key: str) -> pa.Table | None:
    """The results of a kind of work that are there, None when there are none."""
    files = storage.list_files(storage.join(output, KEPT, kind, key), ".parquet")
    return pa.concat_tables([storage.read_table(file) for file in files]) if files else None


def drop_others(output: str, keys: Mapping[str, str]) -> None:
    """Delete results of other keys than those of each kind."""
    for kind, key in keys.items():
        folder = storage.join(output, KEPT, kind)
        for file in storage.list_files(folder):
            if not file.removeprefix(folder).strip("/").startswith(key):
                storage.remove(file)


def batches(kind: str, key: str, cases: Sequence[Case], batch_size: int, num_workers: int) -> list[Batch]:
    """Cases of like kind and length together, in batches that give every worker some."""
    order = sorted(range(len(cases)), key=lambda place: _order(cases[place]))
    size = max(1, min(batch_size, -(-len(cases) // num_workers)))
    found = []
    for start in range(0, len(order), size):
        members = [cases[place] for place in order[start : start + size]]
        found.append(Batch(kind, key, members, sum(_length(case) for case in members)))
    return found


def run(work: Work, todo: Sequence[Batch], num_workers: int, use_gpu: bool) -> Iterator[int]:
    """Do batches; yields the number of cases of each as its results are written."""
    if not todo:
        return
    # What fails is told by `cluster.workers_faults`; Ray would print its own traceback before.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # What is timed comes last, when other workers have nothing to do any more, or soon will not.
    ordered = sorted(todo, key=lambda batch: (batch.kind == "latency", -batch.size))
    rows = [{"kind": one.kind, "file": one.file, "cases": json.dumps(list(one.cases))} for one in ordered]
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Step,
        fn_constructor_args=(work,),
        batch_size=1,
        batch_format="pyarrow",
        num_gpus=1 if use_gpu else 0,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=min(num_workers, len(rows)), initial_size=min(num_workers, len(rows))
        ),
    )
    with cluster.workers_faults():
        for row in results.iter_rows():
            yield int(row["num_cases"])


class _Step:
    """A worker: a model, and what else a kind of work needs, each loaded when it is first needed."""

    def __init__(self, work: Work) -> None:
        self._work = work
        transformers.utils.logging.disable_progress_bar()
        self._network = Network.load(work.model, work.device)
        with storage.local_folder(work.model) as folder:
            self._generator = Generator(self._network.model, folder)
        self._decoder: Any = None
        self._examiner: Examiner | None = None
        self._tokenizer: Any = None
        shard_pipeline.one_thread_a_cpu()

    def __call__(self, batch: pa.Table) -> pa.Table:
        counts = []
        for row in batch.to_pylist():
            cases = json.loads(row["cases"])
            result = getattr(self, f"_{row['kind']}")(cases)
            storage.write_table(result, storage.join(self._work.output, row["file"]))
            counts.append(len(cases))
        return pa.table({"num_cases": counts})

    def _ask(self, cases: Sequence[Case]) -> pa.Table:
        if self._examiner is None:
            work = self._work
            listener = hearing.load(work.recogniser, work.device) if work.recogniser else None
            speak = self._speak if work.decoder else None
            self._examiner = Examiner(self._generator, work.sampling, speak, listener, work.output)
            shard_pipeline.one_thread_a_cpu()
        return contracts.load("predictions").table(self._examiner([Item.of(case) for case in cases]))

    def _perplexity(self, cases: Sequence[Case]) -> pa.Table:
        return contracts.load("scores").table(likelihood.scores(self._network, self._work.chain, cases))

    def _similarity(self, cases: Sequence[Case]) -> pa.Table:
        return similarity.vectors(self._network, cases)

    def _pairs(self, cases: Sequence[Case]) -> pa.Table:
        if self._tokenizer is None:
            assert self._work.tokenizer is not None
            described = speech.describe(self._work.tokenizer)
            assert described is not None
            self._tokenizer = speech.load(described["kind"], self._work.tokenizer, self._work.device)
            shard_pipeline.one_thread_a_cpu()
        clips = [
            asking.recorded(case[which], None, None, self._tokenizer.sample_rate_hz)
            for case in cases
            for which in ("correct", "incorrect")
        ]
        places = [place for place in range(len(cases)) if clips[2 * place] is not None]
        places = [place for place in places if clips[2 * place + 1] is not None]
        heard = [clip for place in places for clip in clips[2 * place : 2 * place + 2] if clip is not None]
        units = [sequence.units.tolist() for sequence in speech.encode_all(self._tokenizer, heard)]
        with_units = [(cases[place], units[2 * at], units[2 * at + 1]) for at, place in enumerate(places)]
        found = minimal_pairs.scores(self._network, with_units) if with_units else []
        return contracts.load("scores").table(found)

    def _latency(self, cases: Sequence[Case]) -> pa.Table:
        speak = self._speak if self._work.decoder else None
        section = self._work.latency
        told = []
        for case in cases:
            item = Item.of(case["item"])
            prompt = asking.prompt(item)
            told.append(
                {
                    "task": item.task,
                    "id": item.id,
                    "prompt": self._generator.prompt_ids(prompt),
                    "question": item.question,
                    "language": item.answer_language,
                    "answer": case["answer"],
                    "answer_speech": case["answer_speech"],
                }
            )
        found = latency.scores(self._network, speak, told, section)
        for case in cases:
            found += self._streamed(Item.of(case["item"]))
        return contracts.load("scores").table(found)

    def _streamed(self, item: Item) -> list[Score]:
        """As generated: the times of one answer as it streams, sound included."""
        speak = self._speak if self._work.decoder else None
        first_units = self._work.latency.first_units
        events = self._generator.stream(asking.prompt(item), self._work.sampling, units_an_event=first_units)
        return latency.streamed(item.task, item.id, events, speak, self._network.layout.frame_rate_hz)

    def _speak(self, units: Sequence[int]) -> tuple[asking.Float32, int]:
        if self._decoder is None:
            assert self._work.decoder is not None
            self._decoder = decoder.load(self._work.decoder, device=self._work.device)
            shard_pipeline.one_thread_a_cpu()
        return self._decoder.speak(list(units)), int(self._decoder.sample_rate_hz)


def id_of(case: Case) -> str:
    """The id of a case of any kind of work."""
    return str(case["row"]["id"] if "row" in case else case["item"]["id"] if "item" in case else case["id"])


def _order(case: Case) -> tuple[str, int]:
    name = case.get("task") or case.get("group") or ""
    return str(name).partition("/")[0], _length(case)


def _length(case: Case) -> int:
    """About how many tokens a case is."""
    row: Mapping[str, Any] = case.get("row") or case.get("item") or case
    spoken = sum(len(units) for units, _ in case.get("spoken", {}).values())
    return len(row.get("units") or ()) + len(row.get("text") or "") + spoken
