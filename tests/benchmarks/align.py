"""How near the word times of an aligner are to the true ones, on synthetic speech that tells when it begins each word.

Sentences of the demo corpus's test split, by speakers and with wordings that training does not have. Beside the
aligner two baselines: the utterance shared among its words by their letters, and the peaks of the aligner as they are.
Boundary errors are those of all beginnings of words but the first; of Mandarin of those syllables that begin a word.

- median_over_letters: the aligner's median error over that of sharing by letters.
- align_over_bare: audio seconds a second of the whole alignment over those of the bare network.
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path

# This folder goes to the end: a file in it has the name of a package that transformers imports.
sys.path.append(sys.path.pop(0))
ROOT = Path(__file__).resolve().parents[2]
for folder in (str(ROOT), str(ROOT / "platform")):
    sys.path.insert(0, folder)

import numpy as np
import torch
import torchaudio
import yaml
from rich.console import Console
from rich.table import Table

from cslm.demo.plan import CorpusSection
from cslm.speech import aligned, aligners
from cslm.speech.aligned import Aligned, LimitsSection
from cslm.speech.aligners import Aligner
from cslm.speech.words import words
from tests.benchmarks._spoken import Spoken, sentences

_DEMO = ROOT / "jobs/configs/demo_corpus/demo.yaml"


def main() -> None:
    """Run, print the table, and the JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--aligner", help="a folder of jobs/fit_tokenizer.py or a Hugging Face CTC model; else one is fitted"
    )
    parser.add_argument("--quick", action="store_true", help="fewer sentences, and without --aligner a shorter fit")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    section = CorpusSection(**yaml.safe_load(_DEMO.read_text())["corpus"])
    spoken = [one for one in sentences(0, 40 if options.quick else 200, section) if one.split == "test"]
    described = aligners.describe(options.aligner, {})
    aligner = aligners.load(described, options.device)
    figures = measure(aligner, spoken)
    machine = {"processor": platform.processor() or platform.machine(), "threads": options.threads}
    versions = {module.__name__: module.__version__ for module in (torch, torchaudio)}
    print(json.dumps({"benchmark": "align", "ratios": figures, "machine": machine, "versions": versions}))


def measure(aligner: Aligner, spoken: list[Spoken]) -> dict[str, object]:
    """Boundary errors by language and way, printed as a table; returns the ratios."""
    errors: dict[str, dict[str, list[float]]] = {"aligner": {}, "peaks": {}, "letters": {}}
    latency_s, num_words, figures = 0.0, 0, {}
    taken_s = bare_s = audio_s = 0.0
    missed = 0
    by_language: dict[str, list[Spoken]] = {}
    for one in spoken:
        by_language.setdefault(one.language, []).append(one)
    clips = {name: [one.at(aligner.sample_rate_hz) for one in members] for name, members in by_language.items()}
    paths = [
        path
        for name, members in by_language.items()
        for path in aligned.paths(aligner, clips[name], [one.text for one in members], name, 0.5)
    ]
    latency_s, num_words = aligned.latency(paths)
    for name, members in by_language.items():
        texts = [one.text for one in members]
        started_s = time.process_time()
        aligner.log_probs(clips[name], name)
        bare_s += time.process_time() - started_s
        started_s = time.process_time()
        found = aligned.align(aligner, clips[name], texts, name, latency_s, LimitsSection(min_score=None))
        taken_s += time.process_time() - started_s
        audio_s += sum(one.audio_s for one in members)
        peaks = aligned.paths(aligner, clips[name], texts, name, 0.5)
        for one, result, path in zip(members, found, peaks, strict=True):
            if not isinstance(result, Aligned) or not isinstance(path, aligned.Path):
                missed += 1
                continue
            starts = _true_starts(one)
            spans = words(one.text, one.language)
            total = sum(end - start for start, end in spans)
            letters = np.cumsum([0, *(end - start for start, end in spans)])[:-1] / total * one.audio_s
            firsts = {int(word): float(path.peaks_S[path.spelling.owners == word][0]) for word in path.spelling.owners}
            for number, (start, _) in enumerate(spans):
                if number and start in starts and number in firsts:
                    for way, at_s in (
                        ("aligner", result.times[number].start_s),
                        ("peaks", firsts[number]),
                        ("letters", letters[number]),
                    ):
                        errors[way].setdefault(name, []).append(at_s - starts[start])
    table = Table(
        title=f"beginnings of words, {audio_s / 60:.0f} min, latency {1000 * latency_s:.0f} ms, {missed} not aligned"
    )
    for heading in ("way", "language", "words", "median error, ms", "90 %, ms", "bias, ms", "within 50 ms"):
        table.add_column(heading, justify="left" if heading in ("way", "language") else "right")
    for way, of_language in errors.items():
        for name, found_s in [*of_language.items(), ("all", [e for found in of_language.values() for e in found])]:
            size = np.abs(np.array(found_s))
            table.add_row(
                way, name, f"{len(size):,}", f"{1000 * np.median(size):.0f}", f"{1000 * np.quantile(size, 0.9):.0f}",
                f"{1000 * np.median(found_s):+.0f}", f"{(size <= 0.05).mean():.1%}",
            )  # fmt: skip
            figures[f"{way}/{name}"] = {
                "median_ms": round(1000 * float(np.median(size)), 1),
                "p90_ms": round(1000 * float(np.quantile(size, 0.9)), 1),
            }
    Console(width=120).print(table)
    print(f"{audio_s / taken_s:.0f} audio seconds a CPU second, the bare network {audio_s / bare_s:.0f}")
    return {
        "median_over_letters": round(figures["aligner/all"]["median_ms"] / figures["letters/all"]["median_ms"], 3),
        "align_over_bare": round(bare_s / taken_s, 3),
        "latency_ms": round(1000 * latency_s, 1),
        "words_of_latency": num_words,
        **figures,
    }


def _true_starts(one: Spoken) -> dict[int, float]:
    """When each word begins, by its place in the text."""
    starts, at = {}, 0
    for word in one.words:
        place = one.text.find(word.text, at) if word.text else -1
        if place >= 0:
            starts[place] = word.start_s
            at = place + len(word.text)
    return starts


if __name__ == "__main__":
    main()
