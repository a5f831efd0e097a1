"""Evaluation on held-out data, in the measures of the paper: what a model hears, says, translates and answers.

Whatever the model gives is kept, batch by batch, and only then scored: another look at the same outputs asks nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from cslm import cluster, contracts, storage
from cslm.apps import evaluate_compare, evaluate_grades, evaluate_pipeline, evaluate_report
from cslm.apps.evaluate_pipeline import Batch, Work
from cslm.apps.evaluate_settings import CompareConfig, Config
from cslm.apps.job import Job, run_job
from cslm.config import fingerprint
from cslm.data import sources
from cslm.errors import CheckpointError, ConfigError
from cslm.evaluate import asking, figures, hearing, items, latency, likelihood, minimal_pairs, scoring, similarity
from cslm.evaluate.figures import Score
from cslm.evaluate.items import Item
from cslm.evaluate.judge import Judge
from cslm.evaluate.language_id import Identifier
from cslm.lm import chain, vocabulary
from cslm.lm.chain import ChainSection
from cslm.speech import decoder
from cslm.speech.tokenizers import saved

# Goes up when the same items and settings give other results.
_VERSION = 1


@dataclass(frozen=True)
class Inputs:
    """What an evaluation reads, by absolute paths."""

    model: str | None
    units: str
    alignments: str | None
    parallel_text: str | None
    dialogues: str | None
    decoder: str | None
    recogniser: str | None
    tokenizer: str

    @property
    def tables(self) -> dict[str, str]:
        """The tables that items come from."""
        named = {"units": self.units, "parallel_text": self.parallel_text, "dialogues": self.dialogues}
        return {name: uri for name, uri in named.items() if uri}


def body(config: Config, job: Job) -> None:
    """Measures a trained model on held-out data; every output is kept in predictions/, every item's part in scores/.

    Recognition, speech as a recogniser hears it, translation of text and speech, answers to spoken questions in every
    pair of languages; perplexity, similarity of speech and text, time to first speech, spoken minimal pairs. Every
    figure has a confidence interval. report.html shows all and plays samples. What lacks its data or its model is left
    out. `jobs/evaluate.py --compare A B` compares the outputs of two evaluations item by item.
    """
    inputs = _inputs(config)
    made_of = _made_of(config, inputs)
    key = [made_of, config.model_dump(mode="json", exclude={"output", "cluster", "tracking"})]
    if job.finished(key):
        return
    utterances = items.utterances(inputs.units, config.data.split)
    if inputs.model is not None:
        items.require_same_units(utterances, vocabulary.load(inputs.model), "data.units")
    asked = _items(config, inputs, utterances)
    if not asked:
        raise ConfigError(f"data.split: must name a split with items, found none in {config.data.split}")
    _log_inputs(job, inputs)
    curves: dict[str, dict[str, list[float]]] = {}
    if inputs.model is None:
        answers = contracts.load("predictions").table(asking.references(asked))
        more: list[Score] = []
    else:
        answers, more, curves = _measure(config, job, inputs, asked, utterances, made_of)
    identifier = Identifier([item.answer_language for item in asked] + [item.language for item in asked])
    predictions = scoring.judged(answers, identifier)
    if config.judge.url is not None:
        predictions = evaluate_grades.graded(config.judge, job, predictions, made_of)
    predictions = predictions.sort_by([("task", "ascending"), ("id", "ascending")])
    scores = figures.table([*scoring.scores(predictions, identifier), *more])
    storage.write_table(predictions, storage.join(job.output, "predictions", "part-00000.parquet"))
    storage.write_table(scores, storage.join(job.output, "scores", "part-00000.parquet"))
    found = figures.figures(scores, config.bootstrap)
    about = _about(config, inputs, identifier)
    summary = evaluate_report.summarise(found, about, config.data.split, inputs.model, curves)
    evaluate_report.show(job, found)
    evaluate_report.write(job, summary, found, predictions, inputs.units, config.evaluate.samples)
    job.run.log_metrics(evaluate_report.metrics(found))
    job.complete(key, summary)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from a command line and return its exit code."""
    arguments = evaluate_compare.arguments(argv)
    if arguments is not None:
        return run_job("evaluate", CompareConfig, evaluate_compare.compare, arguments)
    return run_job("evaluate", Config, body, argv)


def _inputs(config: Config) -> Inputs:
    """All inputs, or all faults of them at once."""
    faults = []
    model = storage.absolute(config.model.path) if config.model.path else None
    if config.model.is_reference:
        model = None
    elif model is None:
        faults.append("model.path: required, not given (a trained model's folder, or model.is_reference true)")
    elif not vocabulary.has_vocabulary(model):
        faults.append(f"model.path: must be a trained model's folder, found no vocabulary at {model}")
    if config.data.units is None or not storage.exists(storage.absolute(config.data.units)):
        faults.append(f"data.units: must be a units table, found {config.data.units}")
    given = {name: getattr(config.data, name) for name in ("alignments", "parallel_text", "dialogues")}
    paths = {name: storage.absolute(path) if path else None for name, path in given.items()}
    faults += [
        f"data.{name}: must be a table, found nothing at {path}"
        for name, path in paths.items()
        if path and not storage.exists(path)
    ]
    units = sources.units_folder(config.data.units or "")
    tokenizer = storage.join(storage.parent(units), "tokenizer")
    voice = storage.absolute(config.speech.decoder) if config.speech.decoder else None
    recogniser = None
    if voice is not None and decoder.describe(voice) is None:
        faults.append(f"speech.decoder: must be a folder of jobs/decoder.py, found no decoder at {voice}")
    if voice is not None and model is not None:
        recogniser = storage.absolute(config.speech.recogniser or tokenizer)
        try:
            hearing.describe(recogniser)
        except CheckpointError as error:
            faults.append(f"speech.recogniser: {error}")
    if config.pairs.folders and saved.describe(tokenizer) is None:
        faults.append(f"pairs.folders: recordings need the tokenizer of the units, found none at {tokenizer}")
    if faults:
        raise ConfigError(faults)
    alignments = sources.alignments_folder(paths["alignments"]) if paths["alignments"] else None
    return Inputs(model, units, alignments, paths["parallel_text"], paths["dialogues"], voice, recogniser, tokenizer)


def _made_of(config: Config, inputs: Inputs) -> dict[str, Any]:
    """What decides every output: model, voice, listener, tables, sampling; not how many items are asked."""
    tables = {**inputs.tables, "alignments": inputs.alignments}
    return {
        "version": _VERSION,
        "model": inputs.model and storage.listing_digest(inputs.model),
        "decoder": inputs.decoder and storage.listing_digest(inputs.decoder),
        "recogniser": inputs.recogniser and hearing.describe(inputs.recogniser),
        "tables": {name: storage.listing_digest(uri, ".parquet") for name, uri in tables.items() if uri},
        "split": config.data.split,
        "sampling": config.sampling.model_dump(mode="json"),
    }


def _items(config: Config, inputs: Inputs, utterances: pa.Table) -> list[Item]:
    found = items.of_utterances(utterances, config.evaluate)
    if inputs.parallel_text:
        found += items.of_translations(inputs.parallel_text, inputs.units, config.data.split, config.evaluate)
    if inputs.dialogues:
        found += items.of_dialogues(inputs.dialogues, inputs.units, config.data.split, config.evaluate)
    return items.with_samples(found, config.evaluate.samples)


def _measure(
    config: Config, job: Job, inputs: Inputs, asked: Sequence[Item], utterances: pa.Table, made_of: dict[str, Any]
) -> tuple[pa.Table, list[Score], dict[str, dict[str, list[float]]]]:
    """What the model gives, the scores that do not follow from its outputs, and the curves over its layers."""
    assert inputs.model is not None
    form = _chain(inputs)
    if inputs.decoder is not None:
        described = decoder.describe(inputs.decoder) or {}
        vocabulary.load(inputs.model).require_units_of([described["tokenizer"]], "speech.decoder")
    cases = {
        "ask": [item.told() for item in asked],
        "perplexity": likelihood.cases(inputs.tables, inputs.alignments, config.data.split, form, config.perplexity),
        "similarity": similarity.cases(utterances, config.similarity),
        "pairs": _pairs(config),
        "latency": latency.cases(asked, inputs.units, inputs.alignments, config.latency),
    }
    keys = {name: fingerprint(made_of) for name in cases}
    keys["perplexity"] = fingerprint([made_of, form.model_dump(mode="json")])
    keys["pairs"] = fingerprint([made_of, saved.describe(inputs.tokenizer)])
    keys["latency"] = fingerprint([made_of, config.latency.model_dump(mode="json"), form.chunk_words])
    evaluate_pipeline.drop_others(job.output, keys)
    wanted = {name: {(_task(case), _id(case)) for case in of_kind} for name, of_kind in cases.items()}
    done = {name: _done(job.output, name, key) for name, key in keys.items()}
    timed = config.latency.model_copy(update={"chunk_words": config.latency.chunk_words or form.chunk_words})
    work = Work(
        *(inputs.model, job.output, "cpu", inputs.decoder, inputs.recogniser, inputs.tokenizer),
        *(config.sampling, form, timed),
    )
    _run(config, job, work, cases, keys, done)
    tables = {name: evaluate_pipeline.kept(job.output, name, key) for name, key in keys.items()}
    kept = {name: table for name, table in tables.items() if table is not None}
    chosen = {name: _only(table, wanted[name]) for name, table in kept.items()}
    scores = [row for name in ("perplexity", "pairs", "latency") if name in chosen for row in chosen[name].to_pylist()]
    curves: dict[str, dict[str, list[float]]] = {}
    if "similarity" in chosen:
        of_pairs, curves = similarity.scores(chosen["similarity"], config.similarity)
        scores += of_pairs
    return chosen["ask"], scores, curves


def _run(
    config: Config,
    job: Job,
    work: Work,
    cases: dict[str, list[dict[str, Any]]],
    keys: dict[str, str],
    done: dict[str, set[tuple[str, str]]],
) -> None:
    """Do what is not done."""
    section = config.evaluate
    todo: list[Batch] = []
    for name, of_kind in cases.items():
        left = [case for case in of_kind if (_task(case), _id(case)) not in done[name]]
        # What is timed is timed by one worker, one after the other.
        size, num_workers = (len(left), 1) if name == "latency" else (section.batch_size, section.num_workers)
        todo += evaluate_pipeline.batches(name, keys[name], left, size, num_workers)
    known = sum(map(len, done.values()))
    if known:
        job.say(f"{known:,} results of an earlier run are kept")
    if not todo:
        return
    cluster.connect(config.cluster)
    use_gpu = section.device == "cuda" or (section.device == "auto" and cluster.has_gpus())
    work = replace(work, device="cuda" if use_gpu else "cpu")
    with job.progress("evaluate", sum(len(batch.cases) for batch in todo), "items") as progress:
        for count in evaluate_pipeline.run(work, todo, section.num_workers, use_gpu):
            progress.update(count)


def _chain(inputs: Inputs) -> ChainSection:
    """The form of answers that is foretold: the model's own, as far as there are alignments to make it."""
    assert inputs.model is not None
    with storage.local_folder(inputs.model) as folder:
        recorded = chain.recorded(folder)
    if recorded is None:
        return ChainSection(form="interleaved" if inputs.alignments else "full")
    if recorded.is_interleaved and not inputs.alignments:
        return ChainSection(form="full" if recorded.has_question else "full_no_question")
    return recorded


def _pairs(config: Config) -> list[dict[str, Any]]:
    section = config.pairs
    return [
        pair
        for name, folder in section.folders.items()
        for pair in minimal_pairs.read(
            name, storage.absolute(folder), section.languages.get(name, "en"), section.max_pairs
        )
    ]


def _about(config: Config, inputs: Inputs, identifier: Identifier) -> dict[str, Any]:
    """Who and what made the figures."""
    about = {
        "model": inputs.model or "the references themselves",
        "tables": {**inputs.tables, **({"alignments": inputs.alignments} if inputs.alignments else {})},
        "split": config.data.split,
        "decoder": inputs.decoder and _voice(inputs.decoder),
        "recogniser": inputs.recogniser and hearing.describe(inputs.recogniser),
        "language_identification": identifier.name,
        "judge": Judge(config.judge).name if config.judge.url else None,
        "sampling": config.sampling.model_dump(mode="json"),
        "bootstrap": config.bootstrap.model_dump(mode="json"),
    }
    return {name: value for name, value in about.items() if value is not None}


def _voice(folder: str) -> str:
    described = decoder.describe(folder) or {}
    return f"{described['kind']} {described['fingerprint']} at {folder}"


def _log_inputs(job: Job, inputs: Inputs) -> None:
    for name, uri in inputs.tables.items():
        digest = storage.listing_digest(uri, ".parquet")
        job.run.log_input_table(uri, name, schema=contracts.load(name).schema, num_rows=None, digest=digest)


def _done(output: str, kind: str, key: str) -> set[tuple[str, str]]:
    table = evaluate_pipeline.kept(output, kind, key)
    if table is None:
        return set()
    return set(zip(table.column("task").to_pylist(), table.column("id").to_pylist(), strict=True))


def _only(table: pa.Table, wanted: set[tuple[str, str]]) -> pa.Table:
    places = zip(table.column("task").to_pylist(), table.column("id").to_pylist(), strict=True)
    return table.filter(pa.array([place in wanted for place in places], pa.bool_()))


def _task(case: dict[str, Any]) -> str:
    return str(case.get("task") or case["group"])


def _id(case: dict[str, Any]) -> str:
    return evaluate_pipeline.id_of(case)
