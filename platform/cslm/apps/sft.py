"""Supervised fine-tuning on dialogues: spoken and written questions, answered by the chain of modality."""

from collections.abc import Sequence

from cslm.apps.job import Job, run_job
from cslm.apps.training import TrainingConfig, run_training
from cslm.errors import ConfigError

Config = TrainingConfig


def body(config: TrainingConfig, job: Job) -> None:
    """Supervised fine-tuning of a pre-trained speech language model on dialogues, within and across languages.

    The answer to a spoken question is trained as its text, the text of the answer, then the speech of the answer. The
    other tasks stay in the mixture by their weights (data.weights), so that they are not forgotten. Leaves a Hugging
    Face folder in output.path/model.
    """
    faults = []
    if not config.data.dialogues:
        faults.append("data.dialogues: required for fine-tuning, not given")
    if not config.model.path:
        faults.append("model.path: required for fine-tuning (the model folder of a pretrain job), not given")
    if faults:
        raise ConfigError(faults)
    run_training(config, job, ("answer", "text", "asr", "tts", "spans", "mt", "st", "s2st"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from a command line and return its exit code."""
    return run_job("sft", Config, body, argv)
