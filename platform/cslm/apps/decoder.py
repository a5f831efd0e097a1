"""The decoder job: units and their audio -> a speech decoder, and figures of how well it speaks.

Stages that each go on where they were stopped: clips of the utterances, training on them, measuring on held-out ones.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from cslm import cluster, contracts, storage
from cslm.apps import decoder_report, drawn_shards
from cslm.apps.job import Job, JobConfig, run_job
from cslm.config import REQUIRED, Section, fingerprint, group, setting
from cslm.data import alignments, clips
from cslm.data.ledger import Entry
from cslm.data.sources import units_folder
from cslm.errors import ConfigError, ContractError
from cslm.evaluate import resynthesis
from cslm.speech import decoder as speaking
from cslm.speech import tokenizer as speech
from cslm.speech.decoder import saved
from cslm.speech.decoder.networks import DecoderShape
from cslm.speech.decoder.voices import VoiceSums
from cslm.speech.tokenizers.learned import LearnedTokenizer
from cslm.train.decoder import means, worker
from cslm.train.decoder.loop import FitSection
from cslm.train.decoder.settings import DecoderSection

FOLDER = "decoder"
# Means of units are told from so much speech.
_MEANS_S = 3600.0


class DataSection(Section):
    """Which utterances are learned from, and which are held out."""

    units: str = setting(
        REQUIRED, "units table made by jobs/tokenize.py: its folder `units`, or the job's output folder"
    )
    languages: tuple[str, ...] | None = setting(None, "BCP-47 tags of the languages to learn; all when not given")
    speakers: tuple[str, ...] | None = setting(None, "speakers to learn from; all when not given")
    default_speaker: str | None = setting(
        None, "who speaks where nobody is asked for; when not given who is heard longest"
    )
    split: str = setting("train", "split that is learned from")
    max_hours: float = setting(100.0, "audio that is learned from at most, every language alike", unit="h", gt=0)


class MeasureSection(Section):
    """What is measured at the end."""

    split: str = setting("test", "split that is measured; its speakers need not be known")
    max_utterances: int = setting(100, "utterances of each language that are measured, the first by id", ge=0)
    recogniser: str | None = setting(
        None,
        "folder of jobs/fit_tokenizer.py whose recogniser listens; when not given the tokenizer of the units, where "
        "that is of kind learned",
    )
    num_samples: int = setting(3, "utterances whose sound is written, original and resynthesis", ge=0)


class Config(JobConfig):
    """Settings of jobs/decoder.py."""

    data: DataSection = group(DataSection, "which utterances are learned from")
    decoder: DecoderSection = group(DecoderSection, "which decoder")
    fit: FitSection = group(FitSection, "steps, batches, learning rates and workers")
    measure: MeasureSection = group(MeasureSection, "what is measured at the end")
    max_reject_fraction: float = setting(0.05, "the job fails when more of the utterances have no audio", ge=0, le=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("decoder", Config, train, argv)


def train(config: Config, job: Job) -> None:
    """Learn to make sound of speech units: how long each lasts, the mel, and the samples.

    output.path/decoder is a folder for `cslm.speech.decoder.load` and for jobs that speak. It speaks the units of one
    tokenizer. --decoder.kind griffin_lim makes one in seconds that needs no training and sounds like it.
    """
    units = units_folder(config.data.units)
    if not storage.exists(units):
        raise ConfigError(f"data.units: must be a units table, found nothing at {units}; run jobs/tokenize.py first")
    tokenizer, recogniser = _tokenizer(units), _recogniser(config, units)
    shape = config.decoder.shape(tokenizer["codebook_size"], tokenizer["frame_rate_hz"])
    kept = config.model_dump(mode="json", exclude={"output", "cluster", "tracking"})
    splits = (config.data.split, config.measure.split)
    key = [tokenizer["fingerprint"], storage.listing_digest(units, ".parquet"), kept]
    if job.finished(key):
        return
    shards = alignments.shards(units, config.data.languages, splits)
    cluster.connect(config.cluster)
    learned = _clips(config, job, units, tokenizer["fingerprint"], shape, shards)
    measured = _held_out(config, job, units, tokenizer["fingerprint"], shape, shards)
    speakers, voices = _voices(learned), _voices(measured)
    rejected = sum(shard["rejected"] for shard in (*learned, *measured))
    total = rejected + sum(shard["clips"] for shard in (*learned, *measured))
    job.limit_rejects(
        rejected, total, config.max_reject_fraction, {}, rows="utterances", remedy="bring the audio, or tokenize again"
    )
    default = _default_speaker(config, learned, speakers)
    audio_s = sum(shard["audio_s"] for shard in learned)
    job.say(
        f"learning from {sum(shard['clips'] for shard in learned):,} utterances, {audio_s / 3600:.2f} h, of "
        f"{len(speakers):,} speakers; {default} speaks where nobody is asked for"
    )
    # Of those who are known to the decoder, then of those who are only measured.
    known = list(speakers) + [name for name in voices if name not in speakers]
    stacked_SV = torch.stack([(speakers.get(name) or voices[name]).voice for name in known])
    storage.write_bytes(storage.join(job.output, worker.VOICES), save_tensors({"voices_SV": stacked_SV}))
    result, tensors = _learned(config, job, shape, learned, measured, known, len(speakers))
    folder = storage.join(job.output, FOLDER)
    told = {"learned_from_s": round(audio_s, 1), "cpu_s": round(result.get("cpu_s", 0.0), 1)}
    described = saved.save(
        folder,
        tensors,
        kind=config.decoder.kind,
        tokenizer=tokenizer["fingerprint"],
        speakers=list(speakers),
        default_speaker=default,
        settings={"flow_steps": config.decoder.flow_steps, "temperature": config.decoder.temperature},
        network=shape.config(),
        sample_rate_hz=shape.mel.sample_rate_hz,
        **told,
    )
    table = _measured(config, job, folder, recogniser, measured, dict(zip(known, stacked_SV.numpy(), strict=True)))
    decoder_report.close(job, key, described, result, table, learned, _samples(config, job, folder, measured))


def _tokenizer(units: str) -> dict[str, Any]:
    path = storage.join(storage.parent(units), "tokenizer")
    described = speech.describe(path)
    if described is None:
        raise ConfigError(
            f"data.units: the tokenizer of the units must lie beside them, found none at {path}; give the output "
            "folder of jobs/tokenize.py"
        )
    return described


def _recogniser(config: Config, units: str) -> str | None:
    """Where the recogniser lies that listens; None where nobody is given and the units' tokenizer cannot."""
    given = config.measure.recogniser
    path = storage.absolute(given) if given else storage.join(storage.parent(units), "tokenizer")
    described = speech.describe(path)
    if described is not None and described["kind"] == "learned":
        return path
    if given:
        raise ConfigError(
            f"measure.recogniser: must be a folder `tokenizer` of jobs/fit_tokenizer.py, found {described} at {path}"
        )
    return None


def _clips(
    config: Config, job: Job, units: str, tokenizer: str, shape: DecoderShape, shards: Sequence[Entry]
) -> list[dict[str, Any]]:
    """The shards that are learned from, with their counts: in a drawn order, until there are enough hours."""
    ordered = drawn_shards.drawn([one for one in shards if one["split"] == config.data.split], config.fit.seed)
    job.run.log_input_table(
        units,
        "units",
        schema=contracts.load("units").schema,
        num_rows=sum(shard["rows"] for shard in ordered),
        digest=fingerprint([shard["digest"] for shard in ordered]),
    )
    left_s = {shard["language"]: 0.0 for shard in ordered}
    left_s = dict.fromkeys(left_s, config.data.max_hours * 3600 / max(len(left_s), 1))

    def start(shard: dict[str, Any]) -> Any:
        return _write_clips.remote(job.output, units, shard, tokenizer, shape.mel, config.data.speakers)

    taken: list[dict[str, Any]] = []
    num_rows = sum(shard["rows"] for shard in ordered)
    with job.progress("clips", num_rows, "utterances") as progress, cluster.workers_faults():
        for shard, counts in drawn_shards.in_order(ordered, start):
            progress.update(shard["rows"])
            if counts["clips"] + counts["rejected"] and left_s[shard["language"]] > 0:
                taken.append({**shard, **counts})
                left_s[shard["language"]] -= counts["audio_s"]
            if all(rest_s <= 0 for rest_s in left_s.values()):
                break
    if sum(shard["clips"] for shard in taken) < config.fit.num_workers:
        raise ContractError(
            f"data: must leave at least one utterance for each of {config.fit.num_workers} workers, found "
            f"{sum(shard['clips'] for shard in taken)} of split {config.data.split} in {len(ordered)} files; look at "
            "data.speakers, data.languages and the table rejects"
        )
    return taken


def _held_out(
    config: Config, job: Job, units: str, tokenizer: str, shape: DecoderShape, shards: Sequence[Entry]
) -> list[dict[str, Any]]:
    """The shards that are measured, with their counts: of each language as many utterances as are asked for."""
    waiting = []
    left = {shard["language"]: config.measure.max_utterances for shard in shards}
    for shard in sorted(shards, key=lambda shard: shard["name"]):
        most = min(left[shard["language"]], shard["rows"])
        if shard["split"] == config.measure.split and most:
            left[shard["language"]] -= most
            waiting.append((shard, _write_clips.remote(job.output, units, shard, tokenizer, shape.mel, None, most)))
    with cluster.workers_faults():
        return [{**shard, **ray.get(task)} for shard, task in waiting]


@ray.remote
def _write_clips(*arguments: Any) -> dict[str, Any]:
    from cslm.apps.shard_pipeline import one_thread_a_cpu

    one_thread_a_cpu()
    return clips.write_shard(*arguments)


def _voices(shards: Sequence[dict[str, Any]]) -> dict[str, VoiceSums]:
    """What each speaker sounds like, by name."""
    found: dict[str, VoiceSums] = {}
    for shard in shards:
        for name, sums in shard["voices"].items():
            found[name] = found[name] + VoiceSums(**sums) if name in found else VoiceSums(**sums)
    return dict(sorted(found.items()))


def _default_speaker(config: Config, learned: Sequence[dict[str, Any]], speakers: dict[str, VoiceSums]) -> str:
    given = config.data.default_speaker
    if given is None:
        return max(speakers, key=lambda name: speakers[name].num_frames)
    if given not in speakers:
        raise ConfigError(f"data.default_speaker: must be one of the {len(speakers)} that are learned, found {given!r}")
    return given


def _learned(
    config: Config,
    job: Job,
    shape: DecoderShape,
    learned: Sequence[dict[str, Any]],
    measured: Sequence[dict[str, Any]],
    known: Sequence[str],
    num_known: int,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Figures of the training, and the tensors that are saved."""
    if config.decoder.kind == "griffin_lim":
        names = [shard["name"] for shard in learned if shard["clips"]]
        made = ray.get(_fit_means.remote(job.output, names, list(known), num_known, shape))
        return {}, made
    settings = {
        "fit": config.fit.model_dump(),
        "shape": shape.config(),
        "flow_steps": config.decoder.flow_steps,
        "speakers": list(known),
        "num_known": num_known,
        "train": [shard["name"] for shard in learned if shard["clips"]],
        "dev": [shard["name"] for shard in measured if shard["clips"]],
        "output": job.output,
    }
    # A longer or shorter flow is the same network.
    deciding = {**settings, "flow_steps": config.decoder.flow_steps > 0}
    identity = {"settings": fingerprint([deciding, [shard["key"] for shard in learned]])}
    place = storage.join(job.output, worker.RESULT)
    result = dict(storage.read_json(place)) if storage.exists(place) else {}
    if result.get("identity") != identity:
        use_gpu = config.fit.device == "cuda" or (config.fit.device == "auto" and cluster.has_gpus())
        result = worker.run({**settings, "identity": identity, "tracking": job.run.handle}, use_gpu=use_gpu)
    job.say(f"trained {result['step']:,} steps on {result['audio_s'] / 3600:.1f} h in {result['train_s']:.0f} s")
    return result, load_tensors(storage.read_bytes(storage.join(job.output, worker.WEIGHTS)))


@ray.remote
def _fit_means(
    output: str, names: Sequence[str], known: Sequence[str], num_known: int, shape: DecoderShape
) -> dict[str, torch.Tensor]:
    voices_SV = load_tensors(storage.read_bytes(storage.join(output, worker.VOICES)))["voices_SV"]
    taken: list[clips.Clip] = []
    left_s = _MEANS_S
    for name in names:
        if left_s > 0:
            taken += clips.read(output, [name], shape.mel.sample_rate_hz)
            left_s = _MEANS_S - sum(clip.seconds for clip in taken)
    made = means.fit(taken, dict(zip(known, voices_SV, strict=True)), shape)
    return {**made.tensors(), "voices_SV": voices_SV[:num_known].clone()}


def _measured(
    config: Config,
    job: Job,
    folder: str,
    recogniser: str | None,
    measured: Sequence[dict[str, Any]],
    voices: dict[str, np.ndarray],
) -> pa.Table:
    """The rows of `evaluate.resynthesis`, one for each held-out utterance, kept in output.path/predictions."""
    if recogniser is None:
        job.say("note: nothing listens to the resynthesis; give measure.recogniser, a folder of jobs/fit_tokenizer.py")
    tasks = [
        (
            _measure.remote(
                job.output, shard["name"], folder, recogniser, {name: voices[name] for name in shard["voices"]}
            )
        )
        for shard in measured
        if shard["clips"]
    ]
    tables = []
    num_clips = sum(shard["clips"] for shard in measured)
    with job.progress("measure", num_clips, "utterances") as progress, cluster.workers_faults():
        for task in tasks:
            tables.append(ray.get(task))
            progress.update(tables[-1].num_rows)
    if not tables:
        raise ContractError(
            f"measure.split: must name a split with utterances, found none in {config.measure.split}; the decoder lies "
            f"in {folder}"
        )
    table = pa.concat_tables(tables).sort_by("id")
    storage.write_table(table, storage.join(job.output, "predictions", "part-00000.parquet"))
    return table


@ray.remote
def _measure(output: str, name: str, folder: str, recogniser: str | None, voices: dict[str, np.ndarray]) -> pa.Table:
    from cslm.apps.shard_pipeline import one_thread_a_cpu

    decoder = speaking.load(folder)
    listening = LearnedTokenizer.load(recogniser).recogniser if recogniser else None
    one_thread_a_cpu()
    found = clips.read(output, [name], decoder.sample_rate_hz)
    return resynthesis.measure(decoder, listening, found, voices)


def _samples(
    config: Config, job: Job, folder: str, measured: Sequence[dict[str, Any]]
) -> list[tuple[clips.Clip, np.ndarray]]:
    """A few held-out utterances, of each language in turn, and how the decoder says them."""
    by_language: dict[str, list[clips.Clip]] = {}
    decoder = speaking.load(folder)
    for shard in measured:
        of_one = by_language.setdefault(shard["language"], [])
        if shard["clips"] and len(of_one) < config.measure.num_samples:
            of_one += clips.read(job.output, [shard["name"]], decoder.sample_rate_hz)
    chosen: list[clips.Clip] = []
    for number in range(config.measure.num_samples):
        chosen += [of_one[number] for _, of_one in sorted(by_language.items()) if number < len(of_one)]
    return [(clip, resynthesis.resynthesis(decoder, clip)) for clip in chosen[: config.measure.num_samples]]
