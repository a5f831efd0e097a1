"""The settings of jobs/evaluate.py."""

from typing import Literal

from cslm.apps.job import JobConfig
from cslm.config import REQUIRED, Section, group, setting
from cslm.evaluate.bootstrap import BootstrapSection
from cslm.evaluate.items import AmountSection
from cslm.evaluate.judge import JudgeSection
from cslm.evaluate.latency import LatencySection
from cslm.evaluate.likelihood import PerplexitySection
from cslm.evaluate.minimal_pairs import PairsSection
from cslm.evaluate.similarity import SimilaritySection
from cslm.lm.generate import Sampling


class ModelSection(Section):
    """The model that is measured."""

    path: str | None = setting(None, "folder of a trained model (output.path/model of pretrain or sft)")
    is_reference: bool = setting(
        False, "no model: every output is the reference, which must score perfectly (a check of data and measures)"
    )


class DataSection(Section):
    """The held-out tables."""

    units: str | None = setting(None, "units table: its folder `units`, or the tokenize job's output folder")
    alignments: str | None = setting(
        None,
        "alignments table, for perplexity and latency of interleaved answers; without it words get units by length",
    )
    parallel_text: str | None = setting(None, "parallel_text table: text and, where it is spoken, speech translation")
    dialogues: str | None = setting(None, "dialogues table: spoken questions to answer")
    split: str = setting("test", "split that is measured")


class SpeechSection(Section):
    """How speech is judged: a voice makes sound of units, a listener writes down what it hears."""

    decoder: str | None = setting(
        None, "speech decoder made by jobs/decoder.py; without it speech is not heard, and measured in no way but loss"
    )
    recogniser: str | None = setting(
        None, "tokenizer of jobs/fit_tokenizer.py, or a Whisper folder of transformers; beside the units when not given"
    )


class EvaluateSection(AmountSection):
    """How much is asked, and by how many workers."""

    batch_size: int = setting(64, "items a worker computes together", ge=1)
    num_workers: int = setting(2, "models that work side by side (one GPU each, or one CPU core each)", ge=1)
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "where to compute; auto takes GPUs where there are any")
    samples: int = setting(2, "items of each task and language that the report shows and plays", ge=0)


class SamplingSection(Sampling):
    """How outputs are drawn: the likeliest by default, so that an evaluation has one result."""

    temperature: float = setting(0.0, "0: always the likeliest; 1 with top_p 0.7 as the paper samples dialogues", ge=0)
    spoken: Literal["always", "free"] = setting(
        "free", "whether a spoken question's answer must be spoken; free: as the model likes"
    )


class Config(JobConfig):
    """Settings of the evaluation."""

    model: ModelSection = group(ModelSection, "the model that is measured")
    data: DataSection = group(DataSection, "the held-out tables")
    evaluate: EvaluateSection = group(EvaluateSection, "how much is asked")
    sampling: SamplingSection = group(SamplingSection, "how outputs are drawn")
    speech: SpeechSection = group(SpeechSection, "how speech is judged")
    judge: JudgeSection = group(JudgeSection, "a language model that grades answers")
    perplexity: PerplexitySection = group(PerplexitySection, "how well held-out data is foretold")
    similarity: SimilaritySection = group(SimilaritySection, "whether speech and its text are one thing to the model")
    latency: LatencySection = group(LatencySection, "how long a listener waits")
    pairs: PairsSection = group(PairsSection, "spoken minimal pairs (sWUGGY, sBLIMP, StoryCloze)")
    bootstrap: BootstrapSection = group(BootstrapSection, "confidence intervals")


class CompareSection(Section):
    """The two evaluations that are compared."""

    first: str = setting(REQUIRED, "output.path of an evaluation")
    second: str = setting(REQUIRED, "output.path of another, on the same items as far as they are to be compared")


class CompareConfig(JobConfig):
    """Settings of `jobs/evaluate.py --compare A B`."""

    compare: CompareSection = group(CompareSection, "the two evaluations that are compared")
    bootstrap: BootstrapSection = group(BootstrapSection, "confidence intervals")
