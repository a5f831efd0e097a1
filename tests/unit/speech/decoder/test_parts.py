import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cslm.speech.decoder.acoustic import AcousticShape
from cslm.speech.decoder.durations import (
    DurationPredictor,
    DurationShape,
    negative_log_likelihood,
    whole_frames,
)
from cslm.speech.decoder.griffin_lim import UnitMeans
from cslm.speech.decoder.mel import MelShape, hann
from cslm.speech.decoder.vocoder import KINDS, VocoderShape, overlap_add
from cslm.speech.decoder.voices import VoiceSums
from tests.data import sounds, speaking

MEL = MelShape()


def loudest_hz(samples):
    return np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * 16_000 / len(samples)


def test_a_mel_has_a_hundred_frames_a_second_and_knows_the_pitch():
    tones = torch.tensor(np.stack([sounds.tone(1.0, hz=hz) for hz in (300.0, 3000.0)]))
    mel_BFM = MEL.log_mel(tones)
    assert mel_BFM.shape == (2, 100, 80)
    low, high = mel_BFM[:, 50].argmax(1).tolist()
    assert low < 15 < 45 < high


def test_a_mel_tells_how_loud_it_is():
    tone = torch.tensor(sounds.tone(0.5))[None]
    change = MEL.log_mel(tone)[0, 20].max() - MEL.log_mel(tone / 10)[0, 20].max()
    assert float(change) == pytest.approx(np.log(10), abs=1e-3)


def test_every_band_has_a_frequency():
    for rate_hz in (8_000, 16_000, 24_000):
        filters = MelShape(rate_hz).filters()
        torch.testing.assert_close(filters.sum(0), torch.ones(80))


@pytest.mark.parametrize(("rate_hz", "frames"), [(25.0, 4), (50.0, 2), (12.5, 8), (75.0, None)])
def test_mel_frames_in_a_frame_of_units(rate_hz, frames):
    assert MEL.frames_of(rate_hz) == frames


def test_windowed_frames_add_up_to_what_they_were_cut_from():
    samples = torch.randn(1, 40 * 160)
    padded = torch.nn.functional.pad(samples, (240, 240))
    frames = padded.unfold(-1, 640, 160) * hann(640) ** 2
    torch.testing.assert_close(overlap_add(frames, 160)[:, 480:-480], samples[:, 480:-480])


@pytest.mark.parametrize("kind", sorted(KINDS))
@torch.no_grad()
def test_a_vocoder_hears_as_far_as_it_says(kind):
    torch.manual_seed(0)
    vocoder = KINDS[kind](VocoderShape(kind, 32, 48, 2, 3), MEL).eval()
    mel = torch.randn(1, 120, 80) - 5
    samples = vocoder(mel)
    assert samples.shape == (1, 120 * 160)
    mel[:, 60] += 3
    changed = torch.nonzero((vocoder(mel) - samples)[0].abs() > 1e-6).flatten()
    assert len(changed)
    assert changed.min() >= (60 - vocoder.reach) * 160
    assert changed.max() < (61 + vocoder.reach) * 160


@torch.no_grad()
def test_the_mel_of_a_frame_hears_as_far_as_it_says():
    networks = speaking.networks(speaking.shape(num_blocks=3)).eval()
    codes = torch.tensor(speaking.units(60))[None]
    voice = networks.voices_SV[:1]
    noise = torch.randn(1, 60, networks.acoustic.patch)
    mel = networks.mel(codes, voice, noise, 2)
    other = codes.clone()
    other[0, 30] = (other[0, 30] + 1) % speaking.CODEBOOK
    changed = torch.nonzero((networks.mel(other, voice, noise, 2) - mel)[0].abs().amax(1) > 1e-6).flatten() // 4
    reach = networks.acoustic.reach + 2 * networks.acoustic.flow.reach
    assert 30 - reach <= changed.min() <= 30 <= changed.max() <= 30 + reach


@given(st.lists(st.floats(1, 9), max_size=40), st.lists(st.integers(0, 40), max_size=5))
def test_whole_frames_last_together_what_is_expected_however_they_are_cut(expected, cuts):
    expected_U = torch.tensor(expected, dtype=torch.float32)
    whole_U, left = whole_frames(expected_U)
    assert bool((whole_U >= 1).all())
    np.testing.assert_allclose(whole_U.cumsum(0), expected_U.double().cumsum(0), atol=0.5 + 1e-9)
    assert left == pytest.approx(float(expected_U.double().sum() - whole_U.sum()), abs=1e-9)
    pieces, carried = [], 0.0
    for start, stop in itertools.pairwise(sorted({0, len(expected), *(min(cut, len(expected)) for cut in cuts)})):
        piece_U, carried = whole_frames(expected_U[start:stop], carried)
        pieces += piece_U.tolist()
    # Rounding of sums may differ in the last digit, and with it a frame that is as near to one unit as to the next.
    assert sum(pieces) == pytest.approx(int(whole_U.sum()), abs=1)
    assert carried == pytest.approx(float(expected_U.double().sum()) - sum(pieces), abs=1e-9)


def test_durations_are_most_likely_at_their_mean():
    lasting_U = torch.tensor([1.0, 1.0, 1.0, 3.0])
    log = torch.zeros(1, requires_grad=True)
    negative_log_likelihood(torch.log(torch.tensor(0.5)) + log.expand(4), lasting_U).sum().backward()
    assert float(log.grad) == pytest.approx(0, abs=1e-6)
    torch.manual_seed(0)
    network = DurationPredictor(DurationShape(width=8, hidden=8, num_blocks=1, kernel=3), 4, 2)
    expected = network.expected(torch.tensor([[0, 1, 2, 3]]), torch.zeros(1, 1, 2))
    torch.testing.assert_close(expected, torch.full((1, 4), 1 + np.exp(-2.0)).float())


def test_sums_of_a_voice_add_up():
    mels = [torch.randn(30, 80) * 2 + 1, torch.randn(50, 80)]
    both = VoiceSums.of(mels).voice
    torch.testing.assert_close((VoiceSums.of(mels[:1]) + VoiceSums.of(mels[1:])).voice, both)
    torch.testing.assert_close(both[:80], torch.cat(mels).mean(0), atol=1e-5, rtol=1e-5)
    assert float(VoiceSums.of([torch.ones(4, 80)]).voice[80:].min()) > 0.1


def test_unit_means_say_what_their_units_sounded_like():
    mel = [MEL.log_mel(torch.tensor(sounds.tone(0.4, hz=hz))[None])[0] for hz in (400.0, 2000.0)]
    voice = VoiceSums.of(mel).voice
    mean, deviation = voice.chunk(2)
    clips = [
        (torch.tensor([unit]), torch.tensor([10]), ((one - mean) / deviation).view(10, -1))
        for unit, one in enumerate(mel)
    ]
    means = UnitMeans.fit(MEL, 3, clips)
    assert means.expected_frames(torch.tensor([0, 1, 2]), voice).tolist() == [10, 10, 1]
    noise = torch.zeros(20, means.patch)
    for unit, hz in ((0, 400.0), (1, 2000.0)):
        samples = means.samples(means.mel(torch.full((20,), unit), voice, noise)).numpy()
        assert len(samples) == 20 * 640
        assert loudest_hz(samples) == pytest.approx(hz, rel=0.12)


def test_the_flow_is_conditional_on_time():
    networks = speaking.networks(speaking.shape())
    flow = networks.acoustic.flow
    known = torch.randn(1, 6, AcousticShape().width)[..., :24]
    state = torch.randn(1, 6, networks.acoustic.patch)
    early, late = (flow(state, torch.tensor([at]), known, state) for at in (0.0, 0.9))
    assert (early - late).abs().max() > 1e-3
    by_clip = flow(state, torch.tensor([0.0, 0.9]), known, state, None, torch.tensor([0, 0, 0, 1, 1, 1]))
    torch.testing.assert_close(by_clip[:, 0], early[:, 0])
    torch.testing.assert_close(by_clip[:, 5], late[:, 5])
