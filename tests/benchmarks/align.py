"""How far from where words truly begin an aligner puts them, on synthetic speech that knows it.

Sentences of the demo corpus, of its test split: words and speakers that were not trained on. Beside it what needs no
aligner: the utterance cut into parts as long as the words have letters. Mandarin is compared where a word begins.

    python tests/benchmarks/align.py --aligner runs/demo/fit_tokenizer/tokenizer

Without --aligner a recogniser is fitted here, in a minute or (--quick) half of one, which is worse than any in use.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# This folder goes to the end: its files have names of the standard library's and other packages.
sys.path.append(sys.path.pop(0))
ROOT = Path(__file__).resolve().parents[2]
for folder in (str(ROOT), str(ROOT / "platform")):
    sys.path.insert(0, folder)

import numpy as np
import torch
import torchaudio
import transformers

from cslm import storage
from cslm.data.spectra import Spectrum
from cslm.demo.plan import CorpusSection
from cslm.speech import aligned, aligners
from cslm.speech.aligned import Aligned, LimitsSection
from cslm.speech.recogniser import features
from cslm.speech.recogniser.alphabet import Alphabet
from cslm.speech.recogniser.network import SHAPES, Network
from cslm.speech.recogniser.recogniser import Recogniser
from cslm.speech.tokenizers.learned import LearnedTokenizer
from cslm.speech.words import words
from cslm.train.recogniser.augment import AugmentSection
from cslm.train.recogniser.feed import SpectraFeed
from cslm.train.recogniser.loop import FitSection, Optimizers, Progress, train
from tests.benchmarks import _spoken
from tests.benchmarks._spoken import Spoken

RATE_HZ = 16_000
ANY = LimitsSection(min_score=None, min_known=0.0)


def main() -> None:
    """Run, print the table, and the JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sentences; fewer steps where one is fitted")
    parser.add_argument("--aligner", help="folder of jobs/fit_tokenizer.py or a Hugging Face CTC model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--whole_grammar", action="store_true", help="sentences of more words than the demo has")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shipped = storage.read_yaml(str(ROOT / "jobs" / "configs" / "demo_corpus" / "demo.yaml"))["corpus"]
    section = CorpusSection() if options.whole_grammar else CorpusSection(**shipped)
    num_train = 0 if options.aligner else 150 if options.quick else 600
    spoken = _spoken.sentences(num_train, 20 if options.quick else 150, section)
    test = [one for one in spoken if one.split == "test"]
    with tempfile.TemporaryDirectory() as work:
        path = options.aligner or fitted(work, [one for one in spoken if one.split == "train"], quick=options.quick)
        ratios = measure(path, test, options.device)
    machine = {"processor": platform.processor() or platform.machine(), "threads": 1, "device": options.device}
    versions = {module.__name__: module.__version__ for module in (torch, torchaudio, transformers)}
    print(json.dumps({"benchmark": "align", "ratios": ratios, "machine": machine, "versions": versions}))


def measure(path: str, spoken: Sequence[Spoken], device: str) -> dict[str, Any]:
    """Errors in ms by language and speed; prints them."""
    aligner = aligners.load(aligners.describe(path, {}), device)
    by_language: dict[str, list[Spoken]] = {}
    for one in spoken:
        by_language.setdefault(one.language, []).append(one)
    clips = {language: [one.at(RATE_HZ) for one in members] for language, members in by_language.items()}
    texts = {language: [one.text for one in members] for language, members in by_language.items()}
    found = [
        path
        for language in by_language
        for path in aligned.paths(aligner, clips[language][:64], texts[language][:64], language, 0.0)
    ]
    latency_s, num_words = aligned.latency(found)
    print(f"latency {1000 * latency_s:.0f} ms, from {num_words:,} words")
    print(
        f"{'language':<9}{'words':>7}{'median ms':>11}{'90 % ms':>9}{'bias ms':>9}{'by letters: median':>20}{'90 %':>8}"
    )
    ratios: dict[str, Any] = {"latency_ms": round(1000 * latency_s, 1)}
    forward_s = align_s = 0.0
    for language, members in by_language.items():
        started_s = time.process_time()
        aligner.log_probs(clips[language], language)
        between_s = time.process_time()
        results = aligned.align(aligner, clips[language], texts[language], language, latency_s, ANY)
        align_s += time.process_time() - between_s
        forward_s += between_s - started_s
        ours, letters = [], []
        for one, result in zip(members, results, strict=True):
            assert isinstance(result, Aligned), result
            true_s = beginnings(one)
            by_letters = evenly(one)
            for (start, _), time_of in zip(result.spans, result.times, strict=True):
                if start in true_s and start > 0:
                    ours.append(1000 * (time_of.start_s - true_s[start]))
                    letters.append(1000 * (by_letters[start] - true_s[start]))
        median, most = np.percentile(np.abs(ours), [50, 90])
        median_even, most_even = np.percentile(np.abs(letters), [50, 90])
        bias = float(np.median(ours))
        print(
            f"{language:<9}{len(ours):>7}{median:>11.0f}{most:>9.0f}{bias:>9.0f}{median_even:>20.0f}{most_even:>8.0f}"
        )
        ratios[language] = {
            "median_ms": round(median, 1), "p90_ms": round(most, 1), "bias_ms": round(bias, 1),
            "letters_median_ms": round(median_even, 1), "letters_p90_ms": round(most_even, 1),
            "median_over_letters": round(median / median_even, 3),
        }  # fmt: skip
    audio_s = sum(one.audio_s for one in spoken)
    print(f"{audio_s / align_s:,.0f} audio s a CPU second, {forward_s / align_s:.2f} of the network's own forward")
    return ratios | {"align_over_forward": round(forward_s / align_s, 3)}


def beginnings(one: Spoken) -> dict[int, float]:
    """When each spoken word begins, by its place in the text."""
    found, at = {}, 0
    for word in one.words:
        place = one.text.find(word.text, at) if word.text else -1
        if place >= 0:
            found[place] = word.start_s
            at = place + len(word.text)
    return found


def evenly(one: Spoken) -> dict[int, float]:
    """When each word would begin if every letter took equally long."""
    spans = words(one.text, one.language)
    total = sum(end - start for start, end in spans)
    found, before = {}, 0
    for start, end in spans:
        found[start] = one.audio_s * before / total
        before += end - start
    return found


def fitted(work: str, spoken: Sequence[Spoken], *, quick: bool) -> str:
    """A recogniser of the training sentences, as jobs/fit_tokenizer.py would save it."""
    rows = []
    for number, one in enumerate(spoken):
        samples = one.at(RATE_HZ)
        log_mel = features.log_mel(torch.tensor(samples), 2 * (len(samples) // 320)).half().numpy()
        rows.append(Spectrum(f"u{number:05d}", one.language, one.speaker, "train", one.text, log_mel))
    alphabet = Alphabet.of([row.text for row in rows])
    section = FitSection(max_steps=80 if quick else 200, batch_s=10.0, evaluate_every_steps=10**6, precision="fp32")
    torch.manual_seed(0)
    network = Network(SHAPES["small"], alphabet.num_symbols)
    feed = SpectraFeed(
        rows, alphabet, batch_s=section.batch_s, gap=network.gap, seed=0, rank=0, augmentation=AugmentSection()
    )
    torch.distributed.init_process_group("gloo", init_method=f"file://{work}/meet", rank=0, world_size=1)
    train(
        network,
        Optimizers(network, section),
        feed,
        lambda: {},
        section,
        Progress(),
        torch.device("cpu"),
        report=lambda step, metrics: None,
        checkpoint=lambda progress: None,
    )
    torch.distributed.destroy_process_group()
    recogniser = Recogniser(network, alphabet)
    folder = f"{work}/tokenizer"
    LearnedTokenizer.pack(recogniser, torch.zeros(2, network.shape.width), 50.0).save(folder)
    return folder


if __name__ == "__main__":
    main()
