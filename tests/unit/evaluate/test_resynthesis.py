import numpy as np
import pytest

from cslm.evaluate import resynthesis
from cslm.speech import decoder
from cslm.speech.tokenizers.learned import LearnedTokenizer
from tests.data import aligning, speaking


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return decoder.load(str(speaking.folder(tmp_path_factory.mktemp("decoder"))))


@pytest.fixture(scope="module")
def voices(loaded):
    return {name: loaded.voice_named(name).numpy() for name in speaking.SPEAKERS}


def test_every_clip_is_measured_without_a_recogniser(loaded, voices):
    clips = speaking.clips(4)
    table = resynthesis.measure(loaded, None, clips, voices)
    assert table.column("id").to_pylist() == [clip.id for clip in clips]
    found = resynthesis.metrics_of(table)
    assert set(found) == {"duration_error_frames", "mel_distance_db", "times_real_time"}
    errors = []
    for clip in clips:
        spoken = loaded.speak(clip.units, speaker=clip.speaker)
        errors.append((len(spoken) / 640, clip.num_frames))
    assert found["duration_error_frames"] >= abs(sum(a - b for a, b in errors)) / sum(len(c.units) for c in clips)
    assert found["mel_distance_db"] > 0


def test_a_recogniser_hears_every_variant(loaded, voices, tmp_path):
    recogniser = LearnedTokenizer.load(str(aligning.learned_folder(tmp_path))).recogniser
    clips = speaking.clips(3)
    table = resynthesis.measure(loaded, recogniser, clips, voices)
    originals = [clip.samples.astype(np.float32) / 32768 for clip in clips]
    assert table.column("original_text").to_pylist() == recogniser.texts(originals)
    found = resynthesis.metrics_of(table)
    for variant in resynthesis.VARIANTS:
        assert f"{variant}/en/cer" in found
        assert f"{variant}/mean/cer" in found


def test_rates_are_of_all_characters_and_ratios_of_rates():
    facts = {"num_units": 4, "duration_error": 2, "mel_distance_db": 3.0, "spoken_s": 2.0, "taken_s": 0.5}
    errors = {f"{name}_errors": 2 for name in resynthesis.VARIANTS} | {"original_errors": 1}
    rows = [
        {"language": "en", "characters": 10, **errors, **facts},
        {"language": "en", "characters": 30, **errors, **facts},
        {"language": "zh", "characters": 4, **errors, **facts},
        {"language": "zh", "characters": None, **dict.fromkeys(errors), **facts},
    ]

    class Rows:
        def to_pylist(self):
            return rows

    found = resynthesis.metrics_of(Rows())
    assert found["original/en/cer"] == 2 / 40
    assert found["resynthesis/en/cer"] == 4 / 40
    assert found["resynthesis/en/ratio"] == 2
    assert found["resynthesis/mean/cer"] == pytest.approx((4 / 40 + 2 / 4) / 2)
    assert found["duration_error_frames"] == 0.5
    assert found["times_real_time"] == 4
