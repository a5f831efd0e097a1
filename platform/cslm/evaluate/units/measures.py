"""All measures of one tokenizer on one corpus: single words of several speakers, and sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cslm.evaluate.units.abx import abx_error
from cslm.evaluate.units.classifier import label_accuracy, speaker_accuracy
from cslm.evaluate.units.phones import pnmi
from cslm.evaluate.units.probe import NUM_STEPS, Spoken, probe
from cslm.evaluate.units.rates import rates
from cslm.evaluate.units.sequences import Units


@dataclass(frozen=True)
class Utterance:
    """The units of an utterance and what is known of it."""

    units: Units
    text: str
    language: str
    speaker: str
    split: str  # train, or test: speakers and sentences that are in no other split
    audio_s: float
    phones: Sequence[str] | None = None  # the label of every frame (see `phones.frame_labels`), where known


@dataclass(frozen=True)
class Measures:
    """What units carry and cost; None where the corpus does not tell."""

    word_accuracy: float  # of unheard speakers
    abx_error: float  # X by an unheard speaker
    pnmi: float | None  # of the test sentences
    frames_per_s: float
    units_per_s: float
    bits_per_s: float
    perplexity: float
    usage: float
    speaker_accuracy: float  # leakage: lower is better
    probe_error: float | None  # mean of `probe_errors`
    probe_errors: dict[str, float] = field(default_factory=dict)


def measure(
    words: Sequence[Utterance],
    sentences: Sequence[Utterance],
    codebook_size: int,
    *,
    num_probe_steps: int = NUM_STEPS,
    seed: int = 0,
) -> Measures:
    """All measures of a tokenizer. Without probe steps there is no probe, which costs more than all else.

    `words` are single words by several speakers, those of the split `test` by speakers that the other splits do not
    have. The probe learns from the train split of words and sentences together; its test sets are the test words and
    the test sentences of each language. Rates are those of all sentences.
    """
    test_words = [word for word in words if word.split == "test"]
    train_words = [word for word in words if word.split == "train"]
    test_sentences = [sentence for sentence in sentences if sentence.split == "test"]
    cost = rates([one.units for one in sentences], codebook_size, sum(one.audio_s for one in sentences))
    units, said, speakers = [w.units for w in words], [w.text for w in words], [w.speaker for w in words]
    labelled = [(one.units, one.phones) for one in test_sentences if one.phones is not None]
    errors: Mapping[str, float] = {}
    if num_probe_steps:
        train = [_spoken(one) for one in (*words, *sentences) if one.split == "train"]
        errors = probe(
            train, _test_sets(test_words, test_sentences), codebook_size, num_steps=num_probe_steps, seed=seed
        ).errors
    return Measures(
        word_accuracy=label_accuracy(
            [word.units for word in train_words],
            [word.text for word in train_words],
            [word.units for word in test_words],
            [word.text for word in test_words],
        ),
        abx_error=abx_error(units, said, speakers, unheard=sorted({word.speaker for word in test_words}), seed=seed),
        pnmi=pnmi([codes for codes, _ in labelled], [phones for _, phones in labelled]) if labelled else None,
        frames_per_s=cost.frames_per_s,
        units_per_s=cost.units_per_s,
        bits_per_s=cost.bits_per_s,
        perplexity=cost.perplexity,
        usage=cost.usage,
        speaker_accuracy=speaker_accuracy(units, speakers, said),
        probe_error=sum(errors.values()) / len(errors) if errors else None,
        probe_errors=dict(errors),
    )


def _test_sets(words: Sequence[Utterance], sentences: Sequence[Utterance]) -> dict[str, list[Spoken]]:
    sets = {"words": [_spoken(word) for word in words]}
    for language in sorted({sentence.language for sentence in sentences}):
        sets[language] = [_spoken(one) for one in sentences if one.language == language]
    return sets


def _spoken(utterance: Utterance) -> Spoken:
    return utterance.units, utterance.text
