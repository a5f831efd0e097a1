import numpy as np
import pytest

from cslm.config import parse
from cslm.data.filters import FiltersSection, clip_fault, loudest_second_dbfs, spoken_characters, text_fault
from cslm.errors import ConfigError
from cslm.speech.audio import Clip
from tests.data.sounds import tone, waveform

ALL_OFF = FiltersSection(
    min_level_dbfs=None, max_clipped=None, min_speaking_rate=None, max_speaking_rate=None, duplicate_audio=False
)


def reason(samples, text=None, clipped=0.0, **changes):
    section = FiltersSection(**changes)
    fault = clip_fault(Clip(samples, clipped), text, 16_000, section)
    if fault:
        assert clip_fault(Clip(samples, clipped), text, 16_000, ALL_OFF) is None
        assert "must" in fault.message
        assert "found" in fault.message
        assert "filters." in fault.message
    return fault and fault.error


def test_the_level_is_that_of_the_loudest_second_without_its_offset():
    assert loudest_second_dbfs(tone(3.0), 16_000) == pytest.approx(-9.03, abs=0.01)
    assert loudest_second_dbfs(tone(0.3), 16_000) == pytest.approx(-9.03, abs=0.1)
    assert loudest_second_dbfs(tone(3.0) + 0.25, 16_000) == pytest.approx(-9.03, abs=0.01)
    late = np.concatenate([np.zeros(30 * 16_000, np.float32), tone(1.0), np.zeros(8_000, np.float32)])
    assert loudest_second_dbfs(late, 16_000) == pytest.approx(-9.03, abs=0.1)
    assert loudest_second_dbfs(np.zeros(16_000, np.float32), 16_000) < -150


def test_silence_is_what_has_no_loud_second():
    assert reason(waveform(1, 2.0)) is None
    assert reason(waveform(1, 2.0) * 1e-4) == "silent"
    assert reason(waveform(1, 2.0) * 1e-4, min_level_dbfs=-100.0) is None
    assert reason(waveform(1, 2.0), min_level_dbfs=-3.0) == "silent"


def test_clipping_is_a_share_of_the_samples():
    assert reason(waveform(1), clipped=0.2) == "clipped"
    assert reason(waveform(1), clipped=0.05) is None
    assert reason(waveform(1), clipped=0.05, max_clipped=0.01) == "clipped"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("no", 5.0), ("one two three four five six seven", 1.2), ("你好", 0.6), ("不", 4.0), ("こんにちは世界", 1.0),
     ("안녕하세요", 1.0), ("1984", 1.0), ("สวัสดีครับ", 1.0), ("नमस्ते दुनिया", 1.0), ("مرحبا بالعالم", 1.0),
     ("Übermäßig große Straßenlaternen", 1.5)],
)  # fmt: skip
def test_what_people_say_is_within_the_limits(text, seconds):
    assert reason(waveform(1, seconds), text) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("a", 10.0), ("words and words and words and words and words", 0.5), ("一二三四五六七八九十" * 2, 1.0),
     ("...", 1.0), ("—", 30.0)],
)  # fmt: skip
def test_a_transcript_that_cannot_be_of_this_audio_is_told(text, seconds):
    assert reason(waveform(1, seconds), text) == "characters_per_second"


def test_the_rate_is_asked_only_of_rows_with_a_transcript_and_can_be_open_at_either_end():
    assert reason(waveform(1, 30.0)) is None
    assert reason(waveform(1, 30.0), "a", min_speaking_rate=None) is None
    assert reason(waveform(1, 0.5), "word " * 50, max_speaking_rate=None) is None
    assert reason(waveform(1, 0.5), "word " * 50, min_speaking_rate=None) == "characters_per_second"


def test_characters_are_counted_as_an_alphabet_would_write_them():
    assert spoken_characters("one, two!") == 6
    assert spoken_characters("你好") == 6
    assert spoken_characters("e\u0301") == 1
    assert spoken_characters("7") == spoken_characters("٧") == 3
    assert spoken_characters(" .—!?🙂") == 0


def test_a_transcript_is_required_only_where_it_is_asked_for():
    required = FiltersSection(require_text=True)
    assert text_fault(None, FiltersSection()) is None
    assert text_fault("...", FiltersSection()) is None
    assert text_fault(None, required).error == "empty_text"
    assert text_fault("", required).error == "empty_text"
    assert text_fault("... —!", required).error == "unspeakable_text"
    assert text_fault("7", required) is None
    assert text_fault("你", required) is None


def test_limits_in_the_wrong_order_are_told():
    with pytest.raises(ConfigError, match="min_speaking_rate must be less"):
        parse(FiltersSection, ["--min_speaking_rate", "60"], prog="x", description="")
