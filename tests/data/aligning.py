"""An aligner whose outputs are made up, and units of a few clips with their tokenizer for the align job to work on."""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from cslm import contracts, storage
from cslm.speech.recogniser.alphabet import Alphabet
from cslm.speech.recogniser.network import Network, Shape
from cslm.speech.recogniser.recogniser import Recogniser
from cslm.speech.tokenizer import merge_repeats
from cslm.speech.tokenizers.learned import LearnedTokenizer
from tests.data import sounds

ROOT = Path(__file__).parents[2]
LETTERS = " abcdefghijklmnopqrstuvwxyz山水火木金土"
FRAME_RATE_HZ = 50.0
RATE_HZ = 16_000
FAULTS = ("no_transcript", "unknown_symbols", "impossible", "source_changed", "missing")


class LetterAligner:
    """Hears in each clip what `said` has for its number of samples: (symbol, seconds) pairs, all else is blank."""

    sample_rate_hz = RATE_HZ
    frame_rate_hz = FRAME_RATE_HZ
    blank = 0
    batch_s = 3.0

    def __init__(self, said: dict[int, list[tuple[str, float]]] | None = None, certainty: float = 8.0) -> None:
        self._said, self._certainty = said or {}, certainty

    def spell(self, word: str, language: str) -> list[tuple[str, int | None]]:
        return [(one, LETTERS.index(one) + 1 if one in LETTERS else None) for one in word.lower()]

    def separator(self, language: str) -> int | None:
        return 1

    def log_probs(self, waveforms: Sequence[NDArray[np.float32]], language: str) -> list[NDArray[np.float32]]:
        return [self._outputs(len(waveform)) for waveform in waveforms]

    def _outputs(self, num_samples: int) -> NDArray[np.float32]:
        logits_FV = np.zeros((max(1, int(num_samples / RATE_HZ * FRAME_RATE_HZ)), len(LETTERS) + 1), np.float32)
        logits_FV[:, 0] = self._certainty
        for letter, at_s in self._said.get(num_samples, []):
            frame = round(at_s * FRAME_RATE_HZ)
            logits_FV[frame, 0] = 0
            logits_FV[frame, LETTERS.index(letter) + 1] = self._certainty
        return logits_FV - np.log(np.exp(logits_FV).sum(1, keepdims=True))


def learned_folder(path: Path) -> Path:
    """A tokenizer of kind learned with random weights, that knows small Latin letters and a few Han characters."""
    torch.manual_seed(0)
    network = Network(Shape(width=16, hidden=32, num_blocks=2, unit_block=1), len(LETTERS) + 1)
    LearnedTokenizer.pack(Recogniser(network, Alphabet(tuple(LETTERS))), torch.randn(8, 16), 25.0).save(str(path))
    return path


def write_units(root: Path, num_clips: int, rows_a_file: int) -> None:
    """Clips, and their units as the tokenize job leaves them below `root`/units, beside their tokenizer.

    Every ninth utterance has something about it: no text, letters that nobody knows, more letters than frames, audio
    that changed since or is gone.
    """
    tokenizer = LearnedTokenizer.load(str(learned_folder(root / "tokenizer")))
    waiting: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for seed in range(num_clips):
        language = ("en", "zh")[seed % 2]
        path = root / "audio" / f"{seed}.wav"
        sounds.write(path, seed, 1.0 + 0.1 * (seed % 7))
        data = path.read_bytes()
        [codes] = tokenizer.encode([sounds.waveform(seed, 1.0 + 0.1 * (seed % 7))])
        sequence = merge_repeats(codes)
        text: str | None = {"en": "some words, Here", "zh": "山水 火木，ok"}[language]
        fault = FAULTS[seed // 9 % len(FAULTS)] if seed % 9 == 3 else ""
        text = {"no_transcript": None, "unknown_symbols": "ωωω 12", "impossible": "a" * 300}.get(fault, text)
        row = {
            "id": f"u{seed:03d}", "text": text, "units": sequence.units.tolist(),
            "durations": sequence.durations.tolist(), "num_frames": sequence.num_frames,
            "frame_rate_hz": tokenizer.frame_rate_hz, "duration_s": len(codes) / 25, "tokenizer": tokenizer.fingerprint,
            "source": str(path), "source_sha256": hashlib.sha256(data).hexdigest(), "language": language,
            "split": "test" if seed % 10 == 0 else "train",
        }  # fmt: skip
        if fault == "source_changed":
            sounds.write(path, seed + 1000)
        if fault == "missing":
            path.unlink()
        waiting.setdefault((language, str(row["split"])), []).append(row)
    number = 0
    for (language, split), rows in sorted(waiting.items()):
        for first in range(0, len(rows), rows_a_file):
            table = contracts.load("units").table(rows[first : first + rows_a_file]).drop_columns(["language", "split"])
            place = f"language={language}/split={split}/shard-{number:05d}.parquet"
            storage.write_table(table, str(root / "units" / place))
            number += 1


def start(units: Path, output: Path, address: str, **changes: Any) -> "subprocess.Popen[bytes]":
    """The job as a process of its own on a cluster; `changes` are settings with `__` for the dot."""
    found = arguments(units, output, cluster__address=address, **changes)
    command = [sys.executable, "-P", str(ROOT / "jobs" / "align.py"), *found]
    return subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def arguments(units: Path, output: Path, **changes: Any) -> list[str]:
    """The command line of the job; `changes` are settings with `__` for the dot."""
    settings = {
        "data.units": units,
        "output.path": output,
        "limits.min_score": "null",
        "align.max_actors": 1,
        "max_reject_fraction": 0.5,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def tables(output: Path) -> tuple[pa.Table, pa.Table]:
    """Alignments and rejects of an output, each checked against its contract and sorted by id."""
    found = storage.read_table(str(output / "alignments"))
    files = storage.list_files(str(output / "rejects"), ".parquet")
    rejects = contracts.load("rejects").check(storage.read_table(files)).sort_by("id")
    return contracts.load("alignments").check(found).sort_by("id"), rejects
