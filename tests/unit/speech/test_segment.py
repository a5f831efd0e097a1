import importlib.util
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from cslm.config import parse
from cslm.demo import voices
from cslm.errors import AudioError, ConfigError
from cslm.speech import segment
from cslm.speech.audio import Recording
from cslm.speech.segment import Activity, SegmentSection, cut, speech_runs, split
from tests.data.sounds import encoded, waveform

RATE_HZ = 16_000
FSDD = Path(__file__).parents[4] / "shared" / "data" / "fsdd"


@st.composite
def recordings(draw):
    """Runs of speech with pauses between, the silence around, and the activity of every frame."""
    lengths = draw(st.lists(st.integers(1, 60), max_size=12))
    pauses = draw(st.lists(st.integers(2, 30), min_size=len(lengths) + 1, max_size=len(lengths) + 1))
    runs, place = [], pauses[0]
    for length, pause in zip(lengths, pauses[1:], strict=True):
        runs.append((place, place + length))
        place += length + pause
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    activity = rng.uniform(0, 0.3, place)
    for start, end in runs:
        activity[start:end] = rng.uniform(0.5, 1.0, end - start)
    return runs, activity


@given(recordings(), st.integers(2, 60), st.integers(1, 59), st.integers(2, 40), st.integers(0, 12))
def test_utterances_are_in_order_disjoint_short_enough_and_hold_all_speech(made, most, search, pause, keep):
    runs, activity = made
    search = min(search, most - 1)
    options = {"max_frames": most, "search_frames": search, "pause_frames": pause, "keep_frames": keep}
    spans = cut(runs, activity, **options)
    speech = np.zeros(len(activity), bool)
    for start, end in runs:
        speech[start:end] = True
    held = np.zeros(len(activity), int)
    before = 0
    for start, end in spans:
        assert before <= start < end <= len(activity)
        assert end - start <= most
        held[start:end] += 1
        before = end
        # Silence at the ends is trimmed, and never all there is.
        inside = np.flatnonzero(speech[start:end])
        assert len(inside)
        assert inside[0] <= keep
        assert end - start - 1 - inside[-1] <= keep
    assert (held[speech] == 1).all()
    assert held.max(initial=0) <= 1
    for start, end in runs:
        # A run is cut only where it cannot be whole.
        if any(start < place < end for span in spans for place in span):
            assert end - start > most
    for (_, end), (start, _) in itertools.pairwise(runs):
        if start - end >= pause:
            assert not any(first < end and start < last for first, last in spans)


def test_a_cut_falls_on_the_longest_pause_of_the_window_and_else_on_the_last_before():
    options = {"search_frames": 40, "pause_frames": 1000, "keep_frames": 0}
    flat = np.ones(400)
    # Pauses of 3, 9 and 4 frames end at 70, 90 and 97; the longest within the last 40 of 100 frames is the second.
    runs = [(0, 67), (70, 81), (90, 93), (97, 99), (103, 150)]
    assert cut(runs, flat, max_frames=100, **options) == [(0, 81), (90, 150)]
    # None within the window: the pause before it, rather than a word cut in two.
    runs = [(0, 20), (25, 110), (120, 150)]
    assert cut(runs, flat, max_frames=100, **options) == [(0, 20), (25, 110), (120, 150)]


def test_speech_without_a_pause_is_cut_where_it_is_faintest():
    activity = np.full(250, 0.9)
    activity[[10, 77, 160]] = 0.6, 0.7, 0.55
    spans = cut([(0, 250)], activity, max_frames=100, search_frames=40, pause_frames=1000, keep_frames=5)
    assert spans == [(0, 77), (77, 160), (160, 250)]


def test_runs_are_found_with_two_thresholds_and_short_gaps_and_clicks_do_not_count():
    values = np.array([0, 9, 4, 9, 1, 1, 9, 1, 1, 1, 1, 9, 1, 1, 1, 1, 6, 6, 6, 4, 4, 0], np.float32) / 10
    activity = Activity(values, 0.02, 0.5, 0.35)
    assert speech_runs(activity, min_pause=3, min_speech=2) == [(1, 7), (16, 21)]
    assert speech_runs(Activity(values[:0], 0.02, 0.5, 0.35), min_pause=3, min_speech=2) == []


def words_of_noise(seed, num_words):
    """Bursts of 0.2 to 0.6 s over a noise 40 dB fainter, and where they lie; pauses between are of all lengths."""
    rng = np.random.default_rng(seed)
    parts, words, place = [], [], 0
    for number in range(num_words):
        gap = np.zeros(int(rng.choice([0.04, 0.15, 0.4, 1.5], p=[0.5, 0.3, 0.17, 0.03]) * RATE_HZ), np.float32)
        word = waveform(number, rng.uniform(0.2, 0.6))
        words.append(((place + len(gap)) / RATE_HZ, (place + len(gap) + len(word)) / RATE_HZ))
        parts += [gap, word]
        place += len(gap) + len(word)
    samples = np.concatenate([*parts, np.zeros(RATE_HZ, np.float32)])
    return samples + 1e-3 * rng.normal(size=len(samples)).astype(np.float32), words


def assert_no_word_is_cut_or_lost(spans, words, max_s, slack_s):
    for start_s, end_s in spans:
        assert end_s - start_s <= max_s + 1e-6
    for start_s, end_s in words:
        inside = [
            max(0.0, min(end_s, end) - max(start_s, start)) for start, end in spans if start < end_s and end > start_s
        ]
        assert max(inside, default=0.0) >= end_s - start_s - slack_s, (start_s, end_s)


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_by_energy_no_word_is_cut_where_a_pause_is_near(gain):
    samples, words = words_of_noise(1, 120)
    section = SegmentSection(by="energy", max_s=8, search_s=5)
    recording = Recording(encoded((gain * samples).astype(np.float32), subtype="FLOAT"))
    spans = segment.utterances(recording, section, "mean")
    assert len(spans) > 6
    assert_no_word_is_cut_or_lost(spans, words, 8, slack_s=0.05)


SENTENCES = (
    "The weather was fine and we walked along the river.",
    "Nobody knew where the key had gone.",
    "Please bring three apples and a bottle of milk.",
    "It rained for seven days without a break.",
)


def spoken(num_sentences, rng):
    """Sentences of synthetic voices, some near and some far, with pauses; where each lies in time."""
    parts, places, place = [], [], 0
    for number in range(num_sentences):
        speech = voices.synthesise(SENTENCES[number % 4], "en-us", voices.Speaker(("m1", "f2")[number % 2], 50, 170))
        samples = speech.samples_T.astype(np.float32) / 32768
        loud = np.flatnonzero(np.abs(samples) > 0.02)
        samples = samples[loud[0] : loud[-1]] * (1.0, 0.15, 0.5)[number % 3]
        gap = np.zeros(int(rng.choice([0.3, 0.6, 2.0]) * voices.SAMPLE_RATE_HZ), np.float32)
        places.append((place / voices.SAMPLE_RATE_HZ, (place + len(samples)) / voices.SAMPLE_RATE_HZ))
        parts += [samples, gap]
        place += len(samples) + len(gap)
    samples = np.concatenate(parts)
    return samples + 3e-4 * rng.normal(size=len(samples)).astype(np.float32), places


def test_by_voice_activity_sentences_stay_whole_whatever_their_level():
    pytest.importorskip("silero_vad")
    pytest.importorskip("espeakng_loader")
    import torch

    samples, places = spoken(9, np.random.default_rng(0))
    threads = torch.get_num_threads()
    for gain in (1.0, 0.02):
        data = encoded((gain * samples).astype(np.float32), voices.SAMPLE_RATE_HZ, subtype="FLOAT")
        spans = segment.utterances(Recording(data), SegmentSection(max_s=8, search_s=5), "mean")
        assert len(spans) >= 4
        assert_no_word_is_cut_or_lost(spans, places, 8, slack_s=0.1)
        kept_s = sum(end - start for start, end in spans)
        assert kept_s < len(samples) / voices.SAMPLE_RATE_HZ - 1.0  # the long pauses are gone
    assert torch.get_num_threads() == threads


def test_gains_bring_near_and_far_speech_to_one_level_and_leave_noise_faint():
    frames = np.concatenate([np.full(200, 0.5), np.full(200, 0.05), np.full(200, 0.001)])
    gained = frames * segment._even_level(frames**2)
    for heard in (gained[:130], gained[270:330]):
        assert heard == pytest.approx(np.full(len(heard), 10 ** (-10 / 20)), rel=0.05)
    assert gained[400:].max() < 0.03


@pytest.mark.parametrize("speaker", ["george", "jackson"])
def test_by_voice_activity_people_are_heard_at_any_level(speaker):
    # At a tenth of full scale the network by itself hears 1 % of the first and 6 % of the second.
    pytest.importorskip("silero_vad")
    if not FSDD.is_dir():
        pytest.skip(f"no recordings of people at {FSDD}")
    rows = [json.loads(line) for line in (FSDD / "manifest.jsonl").read_text().splitlines()]
    named = [row["audio"] for row in rows if row["speaker"] == speaker][::12][:30]
    parts, words, place = [], [], 0
    for number, name in enumerate(named):
        samples, rate_hz = soundfile.read(FSDD / name, dtype="float32")
        gap = np.zeros(int((0.05, 0.12, 0.3, 0.6)[number % 4] * rate_hz), np.float32)
        words.append((place / rate_hz, (place + len(samples)) / rate_hz))
        parts += [0.05 * samples / np.abs(samples).max(), gap]
        place += len(samples) + len(gap)
    noise = 1e-4 * np.random.default_rng(0).normal(size=place)
    recording = Recording(encoded(np.concatenate(parts) + noise, rate_hz, subtype="FLOAT"))
    spans = segment.utterances(recording, SegmentSection(max_s=10, search_s=5), "mean")
    heard_s = sum(max(0.0, min(end, to) - max(start, at)) for start, end in spans for at, to in words)
    assert heard_s > 0.95 * sum(to - at for at, to in words)


def test_by_voice_activity_noise_is_no_speech():
    pytest.importorskip("silero_vad")
    noise = 0.1 * np.random.default_rng(0).normal(size=8 * RATE_HZ).astype(np.float32)
    assert segment.utterances(Recording(encoded(noise)), SegmentSection(), "mean") == []


def test_without_the_package_a_long_recording_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AudioError, match=r"pip install 'cslm\[vad\]'") as caught:
        segment.utterances(Recording(encoded(waveform(1))), SegmentSection(), "mean")
    assert caught.value.reason == "needs_vad"


def test_only_the_beginning_is_looked_at_where_that_is_enough():
    samples, _ = words_of_noise(2, 60)
    recording = Recording(encoded(samples))
    section = SegmentSection(by="energy", max_s=5, search_s=3)
    some = segment.utterances(recording, section, "mean", first_s=1.0)
    assert some
    assert len(segment.utterances(recording, section, "mean")) >= len(some)


def test_level_noise_is_taken_for_sound_and_cut_to_length():
    noise = 0.1 * np.random.default_rng(0).normal(size=25 * RATE_HZ).astype(np.float32)
    spans = split(segment.energy_activity([noise]), SegmentSection(by="energy", max_s=10, search_s=5))
    assert spans[0][0] == 0
    assert spans[-1][1] == pytest.approx(25, abs=0.02)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(spans))


def test_settings_that_do_not_fit_together_are_told():
    with pytest.raises(ConfigError, match="search_s must be less than max_s"):
        parse(SegmentSection, ["--max_s", "5"], prog="x", description="")
    with pytest.raises(ConfigError, match="min_pause_s must be at most pause_s"):
        parse(SegmentSection, ["--pause_s", "0.05"], prog="x", description="")
