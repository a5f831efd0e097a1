"""The decoder job: units and their audio -> a speech decoder, and figures of how well it speaks.

Stages that each go on where they were stopped: clips of the utterances, training on them, measuring on held-out ones.
"""

from collections.abc import Sequence
from typing import Any

import ray
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from cslm import cluster, gang, storage
from cslm.apps import decoder_clips, decoder_measure, decoder_report
from cslm.apps.decoder_clips import DataSection
from cslm.apps.decoder_measure import MeasureSection
from cslm.apps.job import Job, JobConfig, run_job
from cslm.config import fingerprint, group, setting
from cslm.data import alignments, clips
from cslm.data.sources import units_folder
from cslm.errors import ConfigError
from cslm.speech import tokenizer as speech
from cslm.speech.decoder import saved
from cslm.speech.decoder.networks import DecoderShape
from cslm.speech.decoder.voices import VoiceSums
from cslm.train.decoder import means, worker
from cslm.train.decoder.loop import FitSection
from cslm.train.decoder.settings import DecoderSection

FOLDER = "decoder"
# Means of units are told from so much speech.
_MEANS_S = 3600.0


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
    if config.measure.split == config.data.split:
        raise ConfigError(
            f"measure.split: must be another split than data.split, found {config.data.split} in both; what was "
            "learned from says nothing of the decoder"
        )
    tokenizer, recogniser = _tokenizer(units), _recogniser(config, units)
    shape = config.decoder.shape(tokenizer["codebook_size"], tokenizer["frame_rate_hz"])
    kept = config.model_dump(
        mode="json", exclude={"output": True, "cluster": True, "tracking": True, "fit": gang.SETTINGS}
    )
    splits = (config.data.split, config.measure.split)
    key = [tokenizer["fingerprint"], storage.listing_digest(units, ".parquet"), kept]
    if job.finished(key):
        return
    shards = alignments.shards(units, config.data.languages, splits)
    cluster.connect(config.cluster)
    held = (config.measure.split, config.measure.max_utterances)
    learned = decoder_clips.learned(config.data, config.fit, job, units, tokenizer["fingerprint"], shape.mel, shards)
    measured = decoder_clips.held_out(*held, job.output, units, tokenizer["fingerprint"], shape.mel, shards)
    speakers, voices = decoder_clips.voices(learned), decoder_clips.voices(measured)
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
    table = decoder_measure.measured(
        config.measure, job, folder, recogniser, measured, dict(zip(known, stacked_SV.numpy(), strict=True))
    )
    decoder_report.close(
        job,
        key,
        described,
        result,
        table,
        learned,
        decoder_measure.samples(config.measure, job.output, folder, measured),
    )


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
    # A longer flow is the same network, and what is measured changes none.
    learned_by = config.fit.model_dump(exclude=gang.SETTINGS)
    deciding = [learned_by, settings["shape"], config.decoder.flow_steps > 0, known[:num_known]]
    identity = {"settings": fingerprint([*deciding, [shard["key"] for shard in learned]])}
    place = storage.join(job.output, worker.RESULT)
    result = dict(storage.read_json(place)) if storage.exists(place) else {}
    if result.get("identity") != identity:
        use_gpu = gang.on_gpus(config.fit.device, config.fit)
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
