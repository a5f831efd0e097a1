"""Connectionist temporal classification (Graves et al. 2006): from the network's outputs to text, and where it lies.

Symbol 0 is the blank. Log probabilities are (F, V): frames by symbols.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torchaudio.functional import forced_align

BLANK = 0
Float32 = NDArray[np.float32]


def greedy(log_probs_FV: Float32) -> list[int]:
    """The symbols of the likeliest path: repeats merged, then blanks dropped."""
    return collapse(log_probs_FV.argmax(1))


def collapse(path_F: NDArray[np.integer]) -> list[int]:
    """The symbols that a path of one symbol a frame stands for."""
    if len(path_F) == 0:
        return []
    kept = np.concatenate(([True], path_F[1:] != path_F[:-1])) & (path_F != BLANK)
    return [int(symbol) for symbol in path_F[kept]]


def prefix_beam(log_probs_FV: Float32, beam: int = 8, candidates: int = 12) -> list[tuple[list[int], float]]:
    """The likeliest texts, each with its log probability summed over all paths that are kept, best first.

    Prefix beam search (Hannun et al. 2014, arXiv:1408.2873, without a language model). `beam` prefixes are kept from
    frame to frame; of each frame the `candidates` likeliest symbols are looked at.
    """
    # Of each prefix: log probability of its paths that end in a blank, and of those that end in its last symbol.
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    candidates = min(candidates, log_probs_FV.shape[1])
    likeliest_FK = np.argpartition(-log_probs_FV, candidates - 1, axis=1)[:, :candidates]
    for log_probs_V, likeliest_K in zip(log_probs_FV, likeliest_FK, strict=True):
        found: dict[tuple[int, ...], tuple[float, float]] = {}
        for prefix, (blank, symbol_last) in beams.items():
            either = _log_add(blank, symbol_last)
            for symbol in likeliest_K.tolist():
                log_prob = float(log_probs_V[symbol])
                if symbol == BLANK:
                    _add(found, prefix, either + log_prob, -math.inf)
                elif prefix and symbol == prefix[-1]:
                    _add(found, prefix, -math.inf, symbol_last + log_prob)
                    _add(found, (*prefix, symbol), -math.inf, blank + log_prob)
                else:
                    _add(found, (*prefix, symbol), -math.inf, either + log_prob)
        beams = dict(sorted(found.items(), key=lambda item: -_log_add(*item[1]))[:beam])
    return [(list(prefix), _log_add(*parts)) for prefix, parts in beams.items()]


def _add(found: dict[tuple[int, ...], tuple[float, float]], prefix: tuple[int, ...], blank: float, last: float) -> None:
    known = found.get(prefix, (-math.inf, -math.inf))
    found[prefix] = (_log_add(known[0], blank), _log_add(known[1], last))


def _log_add(one: float, other: float) -> float:
    high, low = max(one, other), min(one, other)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def forced(
    log_probs_FV: Float32, symbols: Sequence[int], blank: int = BLANK
) -> tuple[NDArray[np.int64], NDArray[np.int64], Float32] | None:
    """The likeliest path that stands for these symbols: first frame of each, frame behind its last, log probability.

    (S,) each; the log probability is the mean over the frames of the symbol. None where no path of so many frames can
    stand for them: each symbol needs a frame, and one between two that are alike.
    """
    wanted = np.asarray(symbols, np.int64)
    if len(wanted) + int((wanted[1:] == wanted[:-1]).sum()) > len(log_probs_FV):
        return None
    if len(wanted) == 0:
        empty = np.empty(0, np.int64)
        return empty, empty, np.empty(0, np.float32)
    path_1F, scores_1F = forced_align(
        torch.from_numpy(np.ascontiguousarray(log_probs_FV))[None], torch.from_numpy(wanted)[None], blank=blank
    )
    path_F, scores_F = path_1F[0].numpy(), scores_1F[0].numpy()
    changes = np.flatnonzero(np.concatenate(([True], path_F[1:] != path_F[:-1])))
    ends = np.append(changes[1:], len(path_F))
    spoken = path_F[changes] != blank
    starts, ends = changes[spoken], ends[spoken]
    sums = np.concatenate(([0.0], np.cumsum(scores_F, dtype=np.float64)))
    return starts, ends, ((sums[ends] - sums[starts]) / (ends - starts)).astype(np.float32)
