"""Continual pre-training: one model learns to hear (ASR), speak (TTS), translate (MT) and answer in text."""

from collections.abc import Sequence

from cslm.apps.job import Job, run_job
from cslm.apps.training import TrainingConfig, run_training

Config = TrainingConfig
TASKS = ("asr", "tts", "spans", "mt", "st", "s2st", "text")


def body(config: TrainingConfig, job: Job) -> None:
    """Continual pre-training of a causal language model on speech units and text, with DeepSpeed ZeRO under Ray Train.

    Reads a units table (and parallel_text, dialogues when given), merges the units into the model's vocabulary, packs
    examples into rows and trains. Leaves a Hugging Face folder in output.path/model.
    """
    run_training(config, job, TASKS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from a command line and return its exit code."""
    return run_job("pretrain", Config, body, argv)
