"""What the units of tokenizers carry and cost: all measures of `cslm.evaluate.units`, on the same speech.

Every tokenizer is fitted on the train split alone; words and sentences that it is measured on have other speakers,
and the sentences are none that train has.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cslm.evaluate.units.measures import Measures, Utterance, measure
from cslm.evaluate.units.phones import frame_labels
from cslm.speech import tokenizer as speech
from cslm.speech.tokenizer import SpeechTokenizer, encode_all
from cslm.speech.tokenizers import KMeansSection
from cslm.speech.tokenizers.kmeans import KMeansTokenizer
from cslm.speech.tokenizers.learned import LearnedTokenizer
from cslm.speech.transcript import EditCounts, edit_counts
from tests.benchmarks import _spoken
from tests.benchmarks._spoken import Spoken

BASELINE = "mfcc_500"
FITTED = {
    BASELINE: KMeansSection(),
    "mfcc_2000": KMeansSection(codebook_size=2000),
    "logmel_500": KMeansSection(features="logmel"),
}


@dataclass(frozen=True)
class Made:
    """A tokenizer and the CPU seconds it took to train, where they are known."""

    tokenizer: SpeechTokenizer
    fit_cpu_s: float | None


def run(
    *, quick: bool, device: str, folders: dict[str, str], only: bool, digits: Path, num_probe_steps: int
) -> dict[str, dict[str, Any]]:
    """Measure, print the table, and give the figures of each tokenizer."""
    words = _spoken.people_digits(digits) if digits.is_dir() else _spoken.synthetic_digits()
    sentences = _spoken.sentences(*((120, 10) if quick else (1500, 60)))
    source = "people" if digits.is_dir() else "synthetic voices"
    told = [f"{sum(one.audio_s for one in part) / 60:.0f} min" for part in (words, sentences)]
    console = Console(width=160)
    title = f"units: {told[0]} of digits by {source}, {told[1]} of demo sentences, {num_probe_steps} steps of the probe"
    figures: dict[str, dict[str, Any]] = {}
    fitted = {BASELINE: FITTED[BASELINE]} if only or quick else FITTED
    for name in (*fitted, *folders):
        made = _load(folders[name], device) if name in folders else _fit(fitted[name], [*words, *sentences], device)
        found, speed = _measure(made.tokenizer, words, sentences, num_probe_steps)
        figures[name] = {
            "digits_by": source,
            **_rounded(asdict(found)),
            "audio_s_per_cpu_s": round(speed, 1),
            "fit_cpu_s": None if made.fit_cpu_s is None else round(made.fit_cpu_s, 1),
        }
        told_by_itself = _own_errors(made.tokenizer, [*words, *sentences], len(words))
        if told_by_itself:
            figures[name]["own_errors"] = _rounded(told_by_itself)
        console.print(f"{name}: measured")
    baseline = figures[BASELINE]["probe_error"]
    for found_figures in figures.values():
        found_figures["probe_error_over_baseline"] = round(found_figures["probe_error"] / baseline, 3)
    console.print(_table(figures, title))
    for name, found_figures in figures.items():
        if "own_errors" in found_figures:
            shown = ", ".join(f"{each} {error:.1%}" for each, error in found_figures["own_errors"].items())
            console.print(f"{name} as a recogniser, character error (greedy) on the same tests: {shown}")
    return figures


def _fit(settings: KMeansSection, spoken: Sequence[Spoken], device: str) -> Made:
    sample = _spoken.fitting_sample(spoken, settings.making_audio_s)
    waveforms = [one.at(KMeansTokenizer.sample_rate_hz) for one in sample]
    started_s = time.process_time()
    fitted = KMeansTokenizer.fit(waveforms, settings)
    return Made(fitted.to(device), time.process_time() - started_s)


def _load(folder: str, device: str) -> Made:
    described = speech.describe(folder)
    if described is None:
        raise SystemExit(f"--tokenizer: must be the folder of a saved tokenizer, found {folder}")
    return Made(speech.load(described["kind"], folder, device), described.get("fit_cpu_s"))


def _measure(
    tokenizer: SpeechTokenizer, words: Sequence[Spoken], sentences: Sequence[Spoken], num_probe_steps: int
) -> tuple[Measures, float]:
    """The measures, and audio seconds encoded in a second of CPU."""
    spoken = [*words, *sentences]
    waveforms = [one.at(tokenizer.sample_rate_hz) for one in spoken]
    tokenizer.encode(waveforms[:1])
    started_s = time.process_time()
    units = encode_all(tokenizer, waveforms)
    cpu_s = time.process_time() - started_s
    utterances = []
    for one, sequence in zip(spoken, units, strict=True):
        phones = None
        if one.phones:
            starts_s, labels = [phone.start_s for phone in one.phones], [phone.text for phone in one.phones]
            phones = frame_labels(starts_s, labels, sequence.num_frames, tokenizer.frame_rate_hz)
        utterances.append(Utterance(sequence, one.text, one.language, one.speaker, one.split, one.audio_s, phones))
    found = measure(
        utterances[: len(words)], utterances[len(words) :], tokenizer.codebook_size, num_probe_steps=num_probe_steps
    )
    return found, sum(one.audio_s for one in spoken) / cpu_s


def _own_errors(tokenizer: SpeechTokenizer, spoken: Sequence[Spoken], num_words: int) -> dict[str, float]:
    """Character error of a tokenizer that is a recogniser too, on the probe's test sets; none of others."""
    if not isinstance(tokenizer, LearnedTokenizer):
        return {}
    counts: dict[str, list[EditCounts]] = {}
    for place, one in enumerate(spoken):
        if one.split == "test":
            text = tokenizer.recogniser.texts([one.at(tokenizer.sample_rate_hz)])[0]
            counts.setdefault("words" if place < num_words else one.language, []).append(edit_counts(one.text, text))
    return {
        name: sum(each.character_errors for each in found) / sum(each.characters for each in found)
        for name, found in counts.items()
    }


# Heading, name of the figure, format.
_COLUMNS = (
    ("digits,\nunheard\nspeaker", "word_accuracy", ".3f"),
    ("ABX\nerror", "abx_error", ".3f"),
    ("PNMI", "pnmi", ".3f"),
    ("frames\na s", "frames_per_s", ".1f"),
    ("units\na s", "units_per_s", ".1f"),
    ("bits\na s", "bits_per_s", ".0f"),
    ("perplex-\nity", "perplexity", ".0f"),
    ("codes\nused", "usage", ".0%"),
    ("speaker\ntold", "speaker_accuracy", ".3f"),
    ("probe\nCER", "probe_error", ".3f"),
    ("over\nbase-\nline", "probe_error_over_baseline", ".2f"),
    ("audio s\na CPU s", "audio_s_per_cpu_s", ".0f"),
    ("training\nCPU s", "fit_cpu_s", ".0f"),
)


def _table(figures: dict[str, dict[str, Any]], title: str) -> Table:
    table = Table(title=title, padding=(0, 1))
    table.add_column("tokenizer", no_wrap=True)
    test_sets = list(next(iter(figures.values()))["probe_errors"])
    for heading in [heading for heading, _, _ in _COLUMNS] + [f"CER\n{name}" for name in test_sets]:
        table.add_column(heading, justify="right")
    for name, found in figures.items():
        cells = ["" if found[key] is None else format(found[key], form) for _, key, form in _COLUMNS]
        table.add_row(name, *cells, *(f"{found['probe_errors'][each]:.2f}" for each in test_sets))
    return table


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value
