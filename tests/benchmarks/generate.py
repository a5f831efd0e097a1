"""Tokens a second of the platform's decoding loop against transformers' `generate` on the same model and prompts.

Both write the same number of tokens for each prompt: as long as each other, or of the mixed lengths that answers have,
where outputs that have ended should cost nothing. Ours is held to the form of speech besides.

    python tests/benchmarks/generate.py --shape small

Weights are random: speed does not depend on what is said.
"""

import sys

# This folder holds a tokenize.py, which must not stand for the standard library's.
sys.path.pop(0)

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "platform"), str(Path(__file__).resolve().parents[2])]

import numpy as np
import torch
import transformers
from transformers import LogitsProcessor, LogitsProcessorList

from cslm.lm import decoding, grammar, text_tokenizer, vocabulary
from cslm.lm import model as lm_model
from cslm.lm.grammar import Bounds, Guide
from cslm.lm.model import ModelSection
from cslm.lm.sampling import Chooser, Sampling
from tests.data.tables import WORDS

NUM_UNITS = 1000
# Prompts that are decoded side by side, at most.
BATCH = 64


class EndAt(LogitsProcessor):
    """Ends each output of `generate` at its length, and no sooner."""

    def __init__(self, lengths: torch.Tensor, prompt_length: int, stop: int) -> None:
        self._lengths, self._prompt_length, self._stop = lengths, prompt_length, stop

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, self._stop] = -torch.inf
        over = input_ids.shape[1] - self._prompt_length >= self._lengths - 1
        scores[over] = -torch.inf
        scores[over, self._stop] = 0.0
        return scores


class Bench:
    """A model of random weights, and both ways of decoding with it."""

    def __init__(self, shape: str, device: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            lm_model.prepare(
                folder + "/model",
                ModelSection(shape=shape, text_vocab_size=1000),
                texts=lambda: WORDS * 3,
                num_units=NUM_UNITS,
                unit_tokenizer="t",
                frame_rate_hz=25.0,
                codebook=lambda: None,
                seed=0,
            )
            self.tokenizer = text_tokenizer.load(folder + "/model")
            self.layout = vocabulary.load(folder + "/model")
            self.model = lm_model.load(folder + "/model", torch.float32).to(device).eval()
        torch.nn.init.normal_(self.model.lm_head.weight)
        # Never the likeliest, so that only a limit ends the speech.
        self.model.lm_head.weight.data[self.layout.special("<eosp>")] = 0
        stop = int(self.tokenizer.eos_token_id)
        kinds = grammar.kinds(self.layout, self.tokenizer, [stop], self.model.lm_head.weight.shape[0])
        self.bans = decoding.Bans(kinds, self.model.device)

    def ours(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int], sampling: Sampling) -> int:
        """Decode with the platform's loop; the number of tokens."""
        bounds = [Bounds(length, 1, 1 << 30) for length in lengths]
        guide = Guide([grammar.speech_only()] * len(prompts), bounds, self.bans.kinds)
        chooser = Chooser(sampling, prompts)
        steps = decoding.decode(self.model, prompts, guide, self.bans, chooser, batch_size=BATCH)
        return sum(len(step.tokens) for step in steps)

    def theirs(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int], sampling: Sampling) -> int:
        """Decode with transformers, batch after batch, prompts of like length together."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        for start in range(0, len(order), BATCH):
            members = order[start : start + BATCH]
            self._generate([prompts[index] for index in members], [lengths[index] for index in members], sampling)
        return sum(lengths)

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int], sampling: Sampling) -> None:
        longest = max(map(len, prompts))
        input_ids = torch.zeros((len(prompts), longest), dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        for row, prompt in enumerate(prompts):
            input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        stop, device = int(self.tokenizer.eos_token_id), self.model.device
        drawn = {} if sampling.is_greedy else {"top_p": sampling.top_p, "top_k": 0, "temperature": sampling.temperature}
        output = self.model.generate(
            input_ids=input_ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=max(lengths),
            do_sample=not sampling.is_greedy,
            eos_token_id=stop,
            pad_token_id=int(self.tokenizer.pad_token_id),
            logits_processor=LogitsProcessorList([EndAt(torch.tensor(lengths, device=device), longest, stop)]),
            **drawn,
        )
        assert output.shape[1] == longest + max(lengths)


def rate(decode: Callable[[], int]) -> float:
    """Tokens a second of one call."""
    started = time.perf_counter()
    return decode() / (time.perf_counter() - started)


def main() -> None:
    """Run, print the table, and the JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter outputs, each case once")
    parser.add_argument("--shape", default="mini", help=f"one of {', '.join(lm_model.SHAPES)}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.shape, options.device)
    rng = np.random.default_rng(0)
    longest, repeats, many = (64, 1, 2 * BATCH) if options.quick else (192, 3, 4 * BATCH)
    greedy, drawn = Sampling(temperature=0), Sampling()
    cases: dict[str, tuple[int, bool, Sampling]] = {
        "one": (1, False, greedy),
        "batch_16": (16, False, greedy),
        "batch_64": (64, False, greedy),
        "mixed_lengths": (many, True, greedy),
        "mixed_lengths_drawn": (many, True, drawn),
    }
    print(f"{'':30}{'generate':>12}{'ours':>12}{'ratio':>8}   tokens/s")
    ratios = {}
    for name, (size, is_mixed, sampling) in cases.items():
        prompt_lengths = rng.integers(40, 160, size)
        prompts = [rng.integers(bench.layout.num_text, bench.layout.size - 4, n).tolist() for n in prompt_lengths]
        # Answers are mostly short, with a long tail.
        drawn_lengths = np.clip(rng.lognormal(np.log(longest / 4), 0.7, size).astype(int), 8, longest)
        lengths = drawn_lengths.tolist() if is_mixed else [longest] * size
        # The longest first, as the platform asks.
        order = np.argsort(-prompt_lengths)
        prompts = [prompts[index] for index in order]
        bench.ours(prompts, [4] * size, sampling)
        theirs, ours = [], []
        for _ in range(repeats):
            theirs.append(rate(lambda: bench.theirs(prompts, lengths, sampling)))  # noqa: B023
            ours.append(rate(lambda: bench.ours(prompts, lengths, sampling)))  # noqa: B023
        ratios[f"ours_over_generate_{name}"] = round(statistics.median(np.divide(ours, theirs)), 3)
        medians = statistics.median(theirs), statistics.median(ours)
        print(f"{name:30}{medians[0]:12,.0f}{medians[1]:12,.0f}{medians[1] / medians[0]:8.2f}", flush=True)
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"1 core, {platform.machine()}"
    machine = {"device": device, "shape": options.shape}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({"benchmark": "generate", "ratios": ratios, "machine": machine, "versions": versions}))


if __name__ == "__main__":
    main()
