from collections import Counter

import numpy as np
import torch

from cslm.data.spectra import Spectrum
from cslm.speech.recogniser.alphabet import Alphabet
from cslm.train.recogniser.augment import AugmentSection
from cslm.train.recogniser.feed import SpectraFeed

ALPHABET = Alphabet(tuple("abcdefghij"))
ROWS = [
    Spectrum(
        id=f"u{number}",
        language="en",
        speaker="s",
        split="train",
        text="abcdefghij"[number % 10] * 3,
        log_mel=np.random.default_rng(number).normal(size=(20 + 2 * number, 80)).astype(np.float16),
    )
    for number in range(40)
]


def feed(**changes):
    settings = {"batch_s": 3.0, "gap": 4, "seed": 0, "rank": 0, "augmentation": AugmentSection(speed=0)}
    return SpectraFeed(ROWS, ALPHABET, **(settings | changes))


def spoken(batch):
    return ["".join(map(str, target.tolist())) for target in batch.targets]


def test_an_epoch_has_every_utterance_once():
    source, seen, lengths = feed(), Counter(), Counter()
    total_s = 0.0
    step = 0
    while total_s < source.audio_s - 1e-6:
        batch = source.batch(step)
        seen.update(spoken(batch))
        lengths.update(batch.layout.lengths)
        total_s += batch.num_frames / 50
        step += 1
    assert seen == Counter("".join(map(str, ALPHABET.spell(row.text))) for row in ROWS)
    assert lengths == Counter(len(row.log_mel) // 2 for row in ROWS)


def test_any_step_can_be_asked_for_and_is_always_the_same():
    for step in (37, 3, 0, 12):
        one, other = feed().batch(step), feed().batch(step)
        assert torch.equal(one.mel_TM, other.mel_TM)
        assert one.layout == other.layout
        assert spoken(one) == spoken(other)


def test_epochs_seeds_and_ranks_differ():
    source = feed()
    per_epoch = len(source._epoch(0))
    assert spoken(source.batch(0)) != spoken(source.batch(per_epoch))
    assert spoken(source.batch(0)) != spoken(feed(seed=1).batch(0))
    assert spoken(source.batch(0)) != spoken(feed(rank=1).batch(0))


def test_short_utterances_are_drawn_more_often_and_long_ones_never_less():
    def times(source):
        return np.mean(
            [np.bincount(np.concatenate(source._epoch(epoch)), minlength=len(ROWS)) for epoch in range(50)], 0
        )

    alike, biased = times(feed()), times(feed(short_bias=1.0))
    assert (alike == 1).all()
    lengths = np.array([len(row.log_mel) for row in ROWS])
    median = np.median(lengths)
    np.testing.assert_allclose(biased, np.maximum(median / lengths, 1), atol=0.25)
    assert biased.max() > 2


def test_clips_lie_apart_with_nothing_between_them():
    batch = feed().batch(0)
    outside = batch.layout.mask().repeat_interleave(2, 0)[:, 0] == 0
    assert outside.any()
    assert (batch.mel_TM[outside] == 0).all()
    assert batch.mel_TM[~outside].abs().mean() > 0.3
