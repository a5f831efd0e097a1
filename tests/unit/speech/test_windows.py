import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cslm.errors import CheckpointError
from cslm.speech import windows
from cslm.speech.tokenizer import encode_all, expand_repeats
from cslm.speech.windows import Window, plan, stitch
from tests.data.sounds import waveform


@settings(deadline=None)
@given(st.integers(0, 2_000), st.integers(1, 700), st.integers(0, 699), st.integers(4, 300), st.integers(1, 100))
def test_every_frame_is_kept_from_exactly_one_window(num_hops, hop, rest, longest_frames, overlap_frames):
    num_samples = num_hops * hop + rest % hop
    longest, overlap = longest_frames * hop, overlap_frames * hop
    planned = plan(num_samples, hop, longest, overlap)
    whole = np.arange(-(-num_samples // hop))
    assert all(window.start % hop == 0 and window.end - window.start <= longest for window in planned)
    # What a window gives are the places of its frames in the recording: they must come out as they are there.
    codes = [whole[window.start // hop : -(-window.end // hop)] for window in planned]
    assert np.array_equal(stitch(planned, codes), whole)
    shared = min(overlap_frames, longest_frames // 2)
    for one, following, found in zip(planned, planned[1:], codes, strict=False):
        assert one.end - following.start >= shared * hop
        # Both sides of a seam have at least half of the overlap, and the frame's own samples, around them.
        assert len(found) - one.last >= shared // 2
        assert following.first >= shared // 2


@given(st.integers(1, 3), st.integers(30, 200))
def test_windows_are_equally_long_but_for_the_part_of_a_frame_at_the_end(fraction, seconds):
    planned = plan(seconds * 16_000 - fraction, 320, 480_000, 64_000)
    lengths = {-(-(window.end - window.start) // 320) for window in planned}
    assert len(lengths) == 1


def test_a_little_more_than_one_window_costs_a_little_more():
    one, two = plan(30 * 16_000 + 1, 320, 30 * 16_000, 4 * 16_000)
    assert one.end - one.start == pytest.approx(17 * 16_000, abs=320)
    assert two.end == 30 * 16_000 + 1


def test_windows_too_small_for_an_overlap_are_refused():
    with pytest.raises(ValueError, match="at least 4 frames, found 3"):
        plan(10_000, 320, 1000, 320)


def test_frames_off_the_grid_are_told():
    planned = [Window(0, 1600, 0, 4), Window(640, 2000, 2, None)]
    with pytest.raises(CheckpointError, match="found 3 codes where at least 4 are due in 1600 samples"):
        stitch(planned, [np.zeros(3), np.zeros(4)])


class Local:
    """Codes that depend on the second before and the second behind a frame, to the bit."""

    sample_rate_hz, frame_rate_hz, codebook_size, max_window_s, batch_s = 1_000, 50.0, 251, 8.0, 20.0

    def __init__(self):
        self.longest_s = 0.0

    def encode(self, waveforms):
        self.longest_s = max(self.longest_s, *(len(clip) / self.sample_rate_hz for clip in waveforms))
        return [self._encode(clip) for clip in waveforms]

    def _encode(self, clip):
        # Only full frames, so that a remnant of a frame at the end is none, as with most networks.
        levels = np.cumsum([0, *np.pad((clip * 1000).astype(np.int64), 1_000)])
        starts = np.arange(len(clip) // 20) * 20
        return ((levels[starts + 2_020] - levels[starts]) % self.codebook_size).astype(np.uint16)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(20, 40_000), min_size=1, max_size=4))
def test_units_equal_those_of_the_whole_where_the_tokenizer_allows(lengths):
    tokenizer = Local()
    clips = [waveform(length, 40, 1_000)[:length] for length in lengths]
    for clip, sequence in zip(clips, encode_all(tokenizer, clips), strict=True):
        assert np.array_equal(expand_repeats(sequence), tokenizer._encode(clip))
    assert tokenizer.longest_s <= tokenizer.max_window_s


def test_with_less_context_than_the_tokenizer_looks_at_units_would_differ(monkeypatch):
    # The test above can fail: a second of context is what it takes.
    monkeypatch.setattr(windows, "OVERLAP_S", 1.0)
    clip = waveform(1, 20, 1_000)
    tokenizer = Local()
    assert not np.array_equal(expand_repeats(encode_all(tokenizer, [clip])[0]), tokenizer._encode(clip))
