"""BLEU and chrF by sacrebleu, taken apart: the statistics of each sentence, and the score of their sums.

Both are sacrebleu's own, of one reference, with its defaults; `signature` names them as papers do.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Scorer = Callable[[Float64], float]
# Languages written without spaces between words: n-grams are of characters, or of what sacrebleu cuts Chinese into.
_TOKENIZERS = {
    "zh": "zh",
    "cmn": "zh",
    "yue": "zh",
    "ja": "char",
    "th": "char",
    "lo": "char",
    "km": "char",
    "my": "char",
}


def bleu_statistics(output: str, reference: str, language: str) -> list[float]:
    """Lengths of output and reference, then matching and all n-grams of order 1 to 4."""
    return _statistics(_bleu(tokenizer_of(language)), output, reference)


def chrf_statistics(output: str, reference: str) -> list[float]:
    """Character n-grams of output, of reference and of both, for each order."""
    return _statistics(_chrf(), output, reference)


def bleu(sums_S: Float64) -> float:
    """BLEU, 0 to 100, of summed statistics (Papineni et al. 2002; Post 2018)."""
    return _score(_bleu("13a"), sums_S)


def chrf(sums_S: Float64) -> float:
    """The chrF2 score, 0 to 100, of summed statistics (Popović 2015)."""
    return _score(_chrf(), sums_S)


def tokenizer_of(language: str) -> str:
    """How sacrebleu cuts a language into words."""
    return _TOKENIZERS.get(language.partition("-")[0], "13a")


def signature(language: str) -> str:
    """What decides BLEU's value beside the texts."""
    from sacrebleu import __version__

    return f"sacrebleu {__version__}, nrefs:1, case:mixed, tok:{tokenizer_of(language)}, smooth:exp"


@cache
def _bleu(tokenizer: str) -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize=tokenizer)


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


# sacrebleu's public scores of a corpus do not tell chrF's statistics; its own significance test takes this way too.
def _statistics(metric: Any, output: str, reference: str) -> list[float]:
    found: Sequence[Sequence[float]] = metric._extract_corpus_statistics([output], [[reference]])
    return [float(one) for one in found[0]]


def _score(metric: Any, sums_S: Float64) -> float:
    return float(metric._compute_score_from_stats(sums_S.tolist()).score)
