"""How much the code of a frame tells about its phone: phone-normalised mutual information (PNMI).

I(phone; code) / H(phone) over frames, as HuBERT's authors measure it (Hsu et al. 2021, section IV-D): 0 when codes know
nothing of phones, 1 when the code gives the phone away. It grows with the codebook, and the more the fewer frames
there are: compare tokenizers on the same audio, and codebooks of different sizes with care.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cslm.evaluate.units.rates import entropy_bits
from cslm.evaluate.units.sequences import Units, frames


def frame_labels(starts_s: Sequence[float], labels: Sequence[str], num_frames: int, frame_rate_hz: float) -> list[str]:
    """The label at the middle of each frame, where label i holds from `starts_s[i]` to the next start.

    Frame i is centred on (i + 0.5) / frame_rate_hz seconds. Before the first start it is "", a pause.
    """
    middles_s = (np.arange(num_frames) + 0.5) / frame_rate_hz
    places = np.searchsorted(np.asarray(starts_s, float), middles_s, side="right")
    known = ["", *labels]
    return [known[place] for place in places]


def pnmi(sequences: Sequence[Units], labels: Sequence[Sequence[str]]) -> float:
    """PNMI of the codes of frames and the labels of the same frames; 0 where there is only one label.

    Raises ValueError when an utterance has not as many labels as frames.
    """
    codes = [frames(sequence) for sequence in sequences]
    for place, (found, wanted) in enumerate(zip(codes, labels, strict=True)):
        if len(found) != len(wanted):
            raise ValueError(f"utterance {place} must have a label a frame, found {len(wanted)} for {len(found)}")
    _, code_ids = np.unique(np.concatenate(codes), return_inverse=True)
    _, phone_ids = np.unique(np.concatenate([np.asarray(each, dtype=object) for each in labels]), return_inverse=True)
    return _normalised_information(phone_ids, code_ids)


def _normalised_information(phone_ids: NDArray[np.intp], code_ids: NDArray[np.intp]) -> float:
    joint_PC = np.zeros((phone_ids.max() + 1, code_ids.max() + 1))
    np.add.at(joint_PC, (phone_ids, code_ids), 1)
    phone_bits = entropy_bits(joint_PC.sum(1))
    shared_bits = phone_bits + entropy_bits(joint_PC.sum(0)) - entropy_bits(joint_PC)
    return shared_bits / phone_bits if phone_bits > 0 else 0.0
