"""The trained recogniser's middle -> speech units: centroids of its frames, and what the units are like."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cslm import storage
from cslm.config import Section, setting
from cslm.data import spectra
from cslm.data.spectra import Spectrum
from cslm.errors import CheckpointError
from cslm.speech.clustering import fit_centroids
from cslm.speech.recogniser import features
from cslm.speech.recogniser.alphabet import Alphabet
from cslm.speech.recogniser.network import Network, Shape
from cslm.speech.recogniser.recogniser import Recogniser
from cslm.speech.tokenizer import merge_repeats
from cslm.speech.tokenizers.learned import LearnedTokenizer, pooled
from cslm.train.recogniser.feed import lay_out


class UnitsSection(Section):
    """How the middle of the network becomes units."""

    codebook_size: int = setting(500, "number of units", ge=2, le=65536)
    frame_rate_hz: float = setting(50.0, "codes a second: 50, or 25 for means of two frames", unit="Hz")
    fit_audio_s: float = setting(3600.0, "audio that the units are fitted on, every language alike", unit="s", gt=0)
    fit_iterations: int = setting(30, "Lloyd iterations at most", ge=1)
    seed: int = setting(0, "of the sample and of the first centroids", ge=0)


def make(
    output: str,
    weights: dict[str, Tensor],
    shape: Shape,
    alphabet: Alphabet,
    section: UnitsSection,
    train: Sequence[str],
    dev: Sequence[str],
    errors: dict[str, float],
    fit_cpu_s: float,
    folder: str,
) -> None:
    """Fit the units on spectra of the shards `train` and save the tokenizer to `folder`.

    Its file notes `errors` (the recogniser's character error rate by language), the CPU time of its training, and what
    the units are like on `dev`, or on what they were fitted on where there is no `dev`. Raises CheckpointError for
    fewer frames than units.
    """
    network = Network(shape, alphabet.num_symbols).eval()
    network.load_state_dict(weights)
    together = round(50 / section.frame_rate_hz)
    chosen = sample(spectra.read(output, train), section.fit_audio_s, section.seed)
    frames_FD = np.concatenate([middle(network, spectrum, together) for spectrum in chosen])
    if len(frames_FD) < section.codebook_size:
        raise CheckpointError(
            f"fitting {section.codebook_size} units needs at least as many frames, found {len(frames_FD)}; give more "
            "audio or lower units.codebook_size"
        )
    centroids_KD = fit_centroids(frames_FD, section.codebook_size, seed=section.seed, iterations=section.fit_iterations)
    saved = LearnedTokenizer.pack(Recogniser(network, alphabet), torch.from_numpy(centroids_KD), section.frame_rate_hz)
    measured = sample(spectra.read(output, dev), section.fit_audio_s, section.seed) or chosen
    codes = [nearest(middle(network, spectrum, together), centroids_KD) for spectrum in measured]
    qualities = {"character_error_rate": errors, **described(codes, section.codebook_size, section.frame_rate_hz)}
    saved.with_notes(qualities=qualities, fit_cpu_s=round(fit_cpu_s, 1)).save(storage.absolute(folder))


def sample(rows: Sequence[Spectrum], seconds: float, seed: int) -> list[Spectrum]:
    """About so many seconds, the same share of every language; equal for equal seeds."""
    languages = sorted({row.language for row in rows})
    taken = []
    for number, language in enumerate(languages):
        ordered = sorted((row for row in rows if row.language == language), key=lambda row: row.id)
        left_s = seconds / len(languages)
        for position in np.random.default_rng([seed, number]).permutation(len(ordered)):
            if left_s <= 0:
                break
            taken.append(ordered[position])
            left_s -= ordered[position].seconds
    return taken


@torch.no_grad()
def middle(network: Network, spectrum: Spectrum, together: int) -> NDArray[np.float32]:
    """The frames of an utterance that are clustered, (F, width)."""
    clip_FM = features.normalise(torch.from_numpy(spectrum.log_mel.astype(np.float32)))
    batch = lay_out([clip_FM], [], network.gap)
    frames: NDArray[np.float32] = pooled(network.unit_frames(*batch.inputs(torch.device("cpu"))), together).numpy()
    return frames


def nearest(frames_FD: NDArray[np.float32], centroids_KD: NDArray[np.float32]) -> NDArray[np.int64]:
    """The nearest centroid of each frame."""
    found: NDArray[np.int64] = (frames_FD @ centroids_KD.T - (centroids_KD**2).sum(1) / 2).argmax(1)
    return found


def described(codes: Sequence[NDArray[np.int64]], codebook_size: int, frame_rate_hz: float) -> dict[str, float]:
    """Units a second once repeats are merged, how many units there are in effect, and bits a second."""
    merged = np.concatenate([merge_repeats(one).units for one in codes])
    seconds = sum(map(len, codes)) / frame_rate_hz
    share = np.bincount(merged, minlength=codebook_size) / len(merged)
    used = share[share > 0]
    entropy_bits = float(-(used * np.log2(used)).sum())
    return {
        "units_per_s": len(merged) / seconds,
        "perplexity": 2**entropy_bits,
        "bits_per_s": entropy_bits * len(merged) / seconds,
    }
