import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cslm.errors import CheckpointError, ConfigError, ContractError
from cslm.speech import decoder
from cslm.speech.decoder import saved
from tests.data import speaking

KINDS = [("flow", 0), ("flow", 3), ("griffin_lim", 0)]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def loaded(request, tmp_path_factory):
    kind, flow_steps = request.param
    path = speaking.folder(tmp_path_factory.mktemp("decoder"), kind, flow_steps)
    assert decoder.has_decoder(str(path))
    return decoder.load(str(path))


def streamed(loaded, units, sizes, **options):
    stream = loaded.stream()
    pieces, at = [], 0
    for size in sizes:
        pieces.append(stream.add(units[at : at + size], **options))
        at += size
    pieces.append(stream.add(units[at:], **options))
    return [*pieces, stream.end()]


def test_it_says_what_it_is(loaded):
    assert loaded.sample_rate_hz == 16_000
    assert loaded.tokenizer == "of-these"
    assert loaded.speakers == speaking.SPEAKERS
    assert loaded.kind in ("flow", "griffin_lim")


def test_every_unit_lasts_as_long_as_it_is_told(loaded):
    units = speaking.units(20)
    durations = np.arange(20) % 3 + 1
    samples = loaded.speak(units, durations)
    assert samples.dtype == np.float32
    assert samples.shape == (durations.sum() * 640,)
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1


def test_predicted_durations_are_those_it_speaks_with(loaded):
    units = speaking.units(30)
    lasting = loaded.durations(torch.tensor(units), loaded.voice_named(None)).numpy()
    assert lasting.min() >= 1
    np.testing.assert_array_equal(loaded.speak(units), loaded.speak(units, lasting))


def test_voices_differ_and_one_may_be_brought(loaded):
    units = speaking.units(20)
    bob = loaded.speak(units, np.ones(20, int), speaker="bob")
    np.testing.assert_array_equal(bob, loaded.speak(units, np.ones(20, int)))
    assert np.abs(bob - loaded.speak(units, np.ones(20, int), speaker="ann")).max() > 1e-3
    voice = loaded.voice([0.1 * np.random.default_rng(0).normal(size=8000).astype(np.float32)])
    assert voice.shape == (160,)
    assert len(loaded.speak(units, np.ones(20, int), speaker=voice)) == len(bob)


def test_nothing_gives_nothing(loaded):
    assert len(loaded.speak([])) == 0
    stream = loaded.stream()
    assert len(stream.add([])) == 0
    assert len(stream.end()) == 0


def test_a_stream_speaks_before_it_is_ended(loaded):
    pieces = streamed(loaded, speaking.units(150), [10] * 14)
    assert sum(len(piece) > 0 for piece in pieces[:-1]) > 3


def test_a_stream_has_no_clicks_at_its_joints(loaded):
    units = speaking.units(120, seed=3)
    whole = loaded.speak(units, np.full(120, 2))
    pieces = streamed(loaded, units, [12] * 9, durations=None)
    ends = np.cumsum([len(piece) for piece in pieces])[:-1]
    samples = np.concatenate(pieces)
    steps = np.abs(np.diff(samples))
    for end in {int(end) for end in ends if 0 < end < len(samples)}:
        assert steps[end - 2 : end + 2].max() <= 1.2 * np.abs(np.diff(whole)).max()


@settings(max_examples=12)
@given(st.lists(st.integers(0, 25), max_size=8), st.integers(0, 5))
def test_however_units_come_the_sound_is_that_of_the_whole(tmp_path_factory, sizes, seed):
    loaded = decoder.load(str(speaking.folder(tmp_path_factory.mktemp("d"), flow_steps=2)))
    units = speaking.units(90, seed)
    whole = loaded.speak(units)
    samples = np.concatenate(streamed(loaded, units, sizes))
    assert len(samples) == len(whole)
    # All that a frame depends on is nearer than what a stream waits for: nothing but rounding is left.
    np.testing.assert_allclose(samples, whole, atol=2e-3)


def test_a_stream_that_is_told_durations_keeps_to_them(loaded):
    units, durations = speaking.units(60), np.arange(60) % 4 + 1
    stream = loaded.stream(speaker="ann")
    pieces = [stream.add(units[at : at + 7], durations[at : at + 7]) for at in range(0, 60, 7)]
    samples = np.concatenate([*pieces, stream.end()])
    assert len(samples) == durations.sum() * 640
    with pytest.raises(ContractError, match="open another stream"):
        stream.add([1])


@pytest.mark.parametrize("frame_rate_hz", [12.5, 50.0])
def test_units_of_other_rates(tmp_path, frame_rate_hz):
    loaded = decoder.load(str(speaking.folder(tmp_path, frame_rate_hz=frame_rate_hz)))
    assert len(loaded.speak([1, 2, 3], [1, 1, 2])) == 4 * 16_000 / frame_rate_hz


def test_both_vocoders_stand_behind_one_interface(tmp_path):
    loaded = decoder.load(str(speaking.folder(tmp_path, vocoder="hifigan")))
    units = speaking.units(60)
    whole, samples = loaded.speak(units), np.concatenate(streamed(loaded, units, [9] * 6))
    np.testing.assert_allclose(samples, whole, atol=2e-3)


@pytest.mark.parametrize(
    ("units", "durations"), [([1, 12], None), ([-1], None), ([[1, 2]], None), ([1, 2], [1]), ([1, 2], [0, 1])]
)
def test_units_and_durations_that_cannot_be(loaded, units, durations):
    with pytest.raises(ContractError, match="must be"):
        loaded.speak(units, durations)


def test_a_speaker_that_is_not_known(loaded):
    with pytest.raises(ConfigError, match="ann, bob"):
        loaded.speak([1], speaker="eve")


def test_units_of_another_tokenizer_are_refused(loaded):
    loaded.check_units("of-these", "the model")
    with pytest.raises(CheckpointError, match="the model"):
        loaded.check_units("of-others", "the model")


def test_what_is_no_decoder_is_refused(tmp_path):
    assert not decoder.has_decoder(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"jobs/decoder\.py"):
        decoder.load(str(tmp_path))


@pytest.mark.parametrize("change", ["cut", "gone", "settings", "revision"])
def test_a_folder_that_was_changed_is_refused(tmp_path, change):
    path = speaking.folder(tmp_path)
    weights, record = path / saved.WEIGHTS_FILE, path / saved.SETTINGS_FILE
    if change == "cut":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif change == "gone":
        weights.unlink()
    else:
        document = json.loads(record.read_text())
        document |= {"revision": 99} if change == "revision" else {"tokenizer": "another"}
        record.write_text(json.dumps(document))
    with pytest.raises(CheckpointError):
        decoder.load(str(path))


def test_saving_again_gives_the_same_fingerprint(tmp_path):
    one, other = (speaking.folder(tmp_path / name) for name in ("one", "other"))
    assert decoder.describe(str(one)) == decoder.describe(str(other))
    with_flow = speaking.folder(tmp_path / "flow", flow_steps=4)
    assert decoder.describe(str(with_flow))["fingerprint"] != decoder.describe(str(one))["fingerprint"]
