"""Speech to measure tokenizers on: single words by several speakers, and sentences whose phones are known."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from cslm.demo.corpus import speak
from cslm.demo.facts import NUMBERS
from cslm.demo.languages.en import NUMBERS as ENGLISH_NUMBERS
from cslm.demo.plan import CorpusSection, plan_of
from cslm.demo.speakers import TEST_ONLY_VARIANTS, VARIANTS
from cslm.demo.voices import SAMPLE_RATE_HZ, Speaker, Speech, SpokenPhone, SpokenWord

_NUM_TRAIN_SPEAKERS, _TAKES = 8, 12


@dataclass(frozen=True)
class Spoken:
    """One utterance: samples (T,) at its own rate, what is said, by whom, and the phones where they are known."""

    samples: NDArray[np.float32]
    rate_hz: int
    text: str
    language: str
    speaker: str
    split: str
    phones: tuple[SpokenPhone, ...] = ()
    words: tuple[SpokenWord, ...] = ()

    @property
    def audio_s(self) -> float:
        return len(self.samples) / self.rate_hz

    def at(self, rate_hz: int) -> NDArray[np.float32]:
        resampled: NDArray[np.float32] = soxr.resample(self.samples, self.rate_hz, rate_hz, quality="HQ")
        return resampled


def people_digits(folder: Path) -> list[Spoken]:
    """The Free Spoken Digit Dataset, as a folder with a manifest that names the splits."""
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    found = []
    for row in rows:
        samples, rate_hz = soundfile.read(folder / row["audio"], dtype="float32")
        found.append(Spoken(samples, rate_hz, row["text"], row["language"], row["speaker"], row["split"]))
    return found


def synthetic_digits() -> list[Spoken]:
    """Digits by synthetic voices; those of the test are of variants that nobody else has."""
    voices = [(variant, "train") for variant in VARIANTS[:_NUM_TRAIN_SPEAKERS]]
    voices += [(variant, "test") for variant in TEST_ONLY_VARIANTS]
    found = []
    for variant, split in voices:
        for take in range(_TAKES):
            # A speaker is a variant here, whatever its pitch and rate.
            speaker = Speaker(variant, 40 + 10 * (take % 4), 140 + 20 * (take // 4))
            for number in NUMBERS[:10]:
                word = ENGLISH_NUMBERS[number]
                found.append(_spoken(speak("en", f"{word}.", speaker), word, "en", variant, split))
    return found


def sentences(num_train: int, num_test_a_language: int, section: CorpusSection | None = None) -> list[Spoken]:
    """Questions and statements of a demo corpus: of train so many in all, of test so many of each language.

    The whole grammar where no settings are given.
    """
    section = section or CorpusSection()
    plan, wanted = plan_of(section), {("train", ""): num_train}
    wanted |= {("test", language): num_test_a_language for language in section.languages}
    found = []
    for number in np.random.default_rng(0).permutation(plan.num_utterances):
        utterance = plan.utterance(int(number))
        key = (utterance.split, utterance.language if utterance.split == "test" else "")
        if utterance.part == "answer" or not wanted.get(key):
            continue
        wanted[key] -= 1
        speech = speak(utterance.language, utterance.text, utterance.speaker)
        found.append(_spoken(speech, utterance.text, utterance.language, utterance.speaker.name, utterance.split))
    return found


def fitting_sample(spoken: Iterable[Spoken], audio_s: float) -> list[Spoken]:
    """About `audio_s` seconds of the train split, the same share of every language."""
    by_language: dict[str, list[Spoken]] = {}
    for one in spoken:
        if one.split == "train":
            by_language.setdefault(one.language, []).append(one)
    return [
        one
        for language in sorted(by_language)
        for one in _first_seconds(by_language[language], audio_s / len(by_language))
    ]


def _first_seconds(spoken: Sequence[Spoken], audio_s: float) -> list[Spoken]:
    taken: list[Spoken] = []
    taken_s = 0.0
    for place in np.random.default_rng(0).permutation(len(spoken)):
        if taken_s >= audio_s:
            break
        taken.append(spoken[place])
        taken_s += spoken[place].audio_s
    return taken


def _spoken(speech: Speech, text: str, language: str, speaker: str, split: str) -> Spoken:
    samples = speech.samples_T.astype(np.float32) / 32768
    return Spoken(samples, SAMPLE_RATE_HZ, text, language, speaker, split, speech.phones, speech.words)
