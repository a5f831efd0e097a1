"""The fit_tokenizer job: utterances with transcripts -> a recogniser, and speech units from its middle.

Three stages, each of which goes on where it was stopped: spectra of the utterances, training on them, and the units.
"""

from collections.abc import Sequence
from typing import Any

import ray
from safetensors.torch import load as load_tensors

from cslm import cluster, contracts, gang, storage
from cslm.apps import drawn_shards, fit_report
from cslm.apps.job import Job, JobConfig, run_job
from cslm.config import Section, fingerprint, group, setting
from cslm.data import manifest, spectra
from cslm.data.corpora import CorpusSection
from cslm.data.filters import FiltersSection
from cslm.data.intake import Intake
from cslm.errors import ConfigError, ContractError
from cslm.speech import tokenizer as speech
from cslm.speech.audio import AudioSection
from cslm.speech.recogniser.alphabet import Alphabet
from cslm.speech.recogniser.network import SHAPES, Shape
from cslm.speech.segment import SegmentSection
from cslm.train.recogniser import units, worker
from cslm.train.recogniser.augment import AugmentSection
from cslm.train.recogniser.loop import FitSection
from cslm.train.recogniser.units import UnitsSection


class LearnSection(Section):
    """Which utterances are learned from."""

    max_hours: float = setting(100.0, "audio that is learned from at most, every language alike", unit="h", gt=0)
    longest_s: float = setting(20.0, "longer utterances are left out", unit="s", gt=0)
    least_characters: int = setting(1, "characters that are seldomer in the transcripts are left out", ge=1)


class NetworkSection(Section):
    """The network that is trained."""

    shape: str = setting("small", f"one of {', '.join(SHAPES)}; small is for CPUs")
    dropout: float = setting(0.0, "in every block", ge=0, lt=1)


class Config(JobConfig):
    """Settings of jobs/fit_tokenizer.py."""

    corpus: CorpusSection = group(CorpusSection, "utterances with transcripts")
    audio: AudioSection = group(AudioSection, "which recordings are taken")
    segment: SegmentSection = group(SegmentSection, "not of use here: what has no transcript is not learned from")
    filters: FiltersSection = group(FiltersSection, "which utterances are kept out of training")
    learn: LearnSection = group(LearnSection, "which utterances are learned from")
    network: NetworkSection = group(NetworkSection, "the network that is trained")
    augment: AugmentSection = group(AugmentSection, "how spectra are varied in training")
    fit: FitSection = group(FitSection, "steps, batches, learning rate and workers")
    units: UnitsSection = group(UnitsSection, "how the middle of the network becomes units")

    @property
    def intake(self) -> Intake:
        """What decides which audio is taken."""
        return Intake(self.audio, self.segment.model_copy(update={"by": "none"}), self.filters)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("fit_tokenizer", Config, fit, argv)


def fit(config: Config, job: Job) -> None:
    """Learn a recogniser and speech units from a corpus with transcripts.

    output.path/tokenizer is a folder for `tokenizer.path` of jobs/tokenize.py, and for `python -m cslm.recognise`.
    """
    if config.network.shape not in SHAPES:
        raise ConfigError(f"network.shape: must be one of {', '.join(SHAPES)}, found {config.network.shape!r}")
    source = manifest.source_key(config.corpus)
    plain = config.model_dump(include={"learn", "network", "augment", "fit", "units"}, exclude={"fit": gang.SETTINGS})
    key = [source, config.intake.key(), plain]
    if job.finished(key):
        return
    corpus = manifest.prepare(config.corpus, job.output, key=source)
    cluster.connect(config.cluster)
    shards = _spectra(config, job, corpus)
    train, dev = _splits(shards)
    alphabet = Alphabet.of(_texts(job.output, train), config.learn.least_characters)
    languages = sorted({shard["language"] for shard in shards})
    audio_s = sum(shard["audio_s"] for shard in train)
    job.say(
        f"learning from {sum(shard['utterances'] for shard in train):,} utterances, {audio_s / 3600:.2f} h, of "
        f"{', '.join(languages)}; {len(alphabet.characters)} characters"
    )
    use_gpu = gang.on_gpus(config.fit.device, config.fit)
    shape = SHAPES[config.network.shape]
    result = _train(config, job, shape, alphabet, languages, train, dev, use_gpu)
    job.say(f"trained {result['step']:,} steps on {result['audio_s'] / 3600:.1f} h in {result['train_s']:.0f} s")
    folder = storage.join(job.output, "tokenizer")
    described = _units(config, job, shape, alphabet, result, train, dev, folder)
    summary = fit_report.summarise(described, result, train, languages)
    fit_report.show(job, summary)
    storage.write_text(storage.join(folder, "README.md"), fit_report.card(described, summary))
    job.run.log_metrics(fit_report.metrics(summary))
    job.complete(key, summary)


def _spectra(config: Config, job: Job, corpus: manifest.Manifest) -> list[dict[str, Any]]:
    """The shards that are learned from, with their counts: in a drawn order, until there are enough hours."""
    job.run.log_input_table(
        storage.absolute(config.corpus.manifest),
        "utterances",
        schema=contracts.load("utterances").schema,
        num_rows=corpus.num_rows,
        digest=corpus.key,
    )
    # The split test is left for tests.
    ordered = drawn_shards.drawn([shard for shard in corpus.shards if shard["split"] != "test"], config.fit.seed)
    total_rows = sum(shard["rows"] for shard in ordered)
    taken: list[dict[str, Any]] = []
    # Of every language alike, and a tenth as much to evaluate on.
    share_s = config.learn.max_hours * 3600 / len({shard["language"] for shard in ordered} or "-")
    left_s = {(shard["language"], shard["split"] == "train"): share_s for shard in ordered}
    left_s |= {place: share_s / 10 for place in left_s if not place[1]}

    def start(shard: dict[str, Any]) -> Any:
        return _write_spectra.remote(job.output, shard, config.intake, config.learn.longest_s)

    with job.progress("spectra", total_rows, "utterances") as progress:
        for shard, counts in drawn_shards.in_order(ordered, start):
            progress.update(shard["rows"])
            place = (shard["language"], shard["split"] == "train")
            if counts["utterances"] and left_s[place] > 0:
                taken.append({**shard, **counts})
                left_s[place] -= counts["audio_s"]
            if all(rest_s <= 0 for rest_s in left_s.values()):
                break
    if not taken:
        raise ContractError(
            "corpus.manifest: must have utterances with a transcript that can be decoded, found none in "
            f"{corpus.num_rows:,} rows; give corpus.columns where the transcript has another name"
        )
    return taken


@ray.remote
def _write_spectra(output: str, shard: dict[str, Any], intake: Intake, longest_s: float) -> dict[str, Any]:
    from cslm.apps.shard_pipeline import one_thread_a_cpu

    one_thread_a_cpu()
    return spectra.write_shard(output, shard, intake, longest_s)


def _splits(shards: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Shards to train on and shards to evaluate on; without a train split all are trained on."""
    train = [shard for shard in shards if shard["split"] == "train"] or list(shards)
    return train, [shard for shard in shards if shard["split"] == "dev"]


def _texts(output: str, shards: Sequence[dict[str, Any]]) -> list[str]:
    return [row.text for shard in shards for row in spectra.read(output, [shard["name"]])]


def _train(
    config: Config,
    job: Job,
    shape: Shape,
    alphabet: Alphabet,
    languages: Sequence[str],
    train: Sequence[dict[str, Any]],
    dev: Sequence[dict[str, Any]],
    use_gpu: bool,
) -> dict[str, Any]:
    settings = {
        "fit": config.fit.model_dump(),
        "augment": config.augment.model_dump(),
        "shape": shape.__dict__,
        "dropout": config.network.dropout,
        "characters": list(alphabet.characters),
        "languages": list(languages),
        "train": [shard["name"] for shard in train],
        "dev": [shard["name"] for shard in dev],
        "output": job.output,
    }
    identity = {
        "settings": fingerprint(
            [{**settings, "fit": config.fit.model_dump(exclude=gang.SETTINGS)}, [shard["key"] for shard in train]]
        )
    }
    result = storage.join(job.output, worker.RESULT)
    if storage.exists(result) and storage.read_json(result)["identity"] == identity:
        return dict(storage.read_json(result))
    return worker.run({**settings, "identity": identity, "tracking": job.run.handle}, use_gpu=use_gpu)


def _units(
    config: Config,
    job: Job,
    shape: Shape,
    alphabet: Alphabet,
    result: dict[str, Any],
    train: Sequence[dict[str, Any]],
    dev: Sequence[dict[str, Any]],
    folder: str,
) -> dict[str, Any]:
    job.say(f"fitting {config.units.codebook_size:,} units")
    made = _make_units.options(num_cpus=1).remote(
        job.output,
        load_tensors(storage.read_bytes(storage.join(job.output, worker.WEIGHTS))),
        shape,
        alphabet,
        config.units,
        [shard["name"] for shard in train],
        [shard["name"] for shard in dev],
        result["errors"],
        result["cpu_s"],
        folder,
    )
    ray.get(made)
    return speech.describe(folder) or {}


@ray.remote
def _make_units(*arguments: Any) -> None:
    units.make(*arguments)
