import numpy as np
import pytest

from cslm.data import intake
from cslm.data.filters import FiltersSection
from cslm.data.intake import Intake
from cslm.speech.audio import AudioSection, Recording
from cslm.speech.segment import SegmentSection
from tests.data import broken, sounds

BY_ENERGY = SegmentSection(by="energy", max_s=5, search_s=3)
KINDS = broken.kinds()


def row(**changes):
    blank = dict.fromkeys(("text", "speaker", "start_s", "end_s"))
    return {"id": "a", "audio": "a.wav", "language": "en", "split": "train", **blank, **changes}


def utterances(data, settings=None, **changes):
    found = list(intake.utterances(row(**changes), lambda: (Recording(data), "d" * 64), settings or Intake(), 16_000))
    assert sum(one["settles"] is not None for one, _ in found if "settles" in one) == 1
    for one, samples in found:
        assert (len(samples) == 0) == bool(one.get("error")) == bool(one.get("message"))
    return found


@pytest.mark.parametrize("name", list(KINDS))
def test_what_is_no_recording_is_rejected_with_a_reason_that_a_person_understands(name):
    kind = KINDS[name]
    [(found, _)] = utterances(kind.data, Intake(segment=SegmentSection(by="energy")), **kind.row)
    assert found["error"] == kind.reason
    assert kind.told in found["message"]
    # What must hold, what was found, what to do.
    for part in ("must", "found", "; "):
        assert part in found["message"]
    assert found["settles"] == "rejected"
    assert found["stage"] in ("audio", "filter")


def test_there_are_more_than_twenty_kinds_of_broken_input_and_all_reasons_of_decoding_are_among_them():
    assert len(KINDS) > 20
    assert {kind.reason for kind in KINDS.values()} >= {
        "empty_file", "not_audio", "corrupt", "truncated", "unsupported_codec", "bad_header", "no_samples", "bad_span",
        "too_short", "too_long", "not_finite", "silent", "channels_cancel", "clipped", "characters_per_second",
    }  # fmt: skip


def test_valid_audio_is_taken_whatever_its_name_says():
    for kind in ("FLAC", "MP3", "OGG"):
        [(found, samples)] = utterances(sounds.encoded(sounds.waveform(1), kind=kind), audio="a.wav")
        assert found["settles"] == "accepted"
        assert len(samples)


def test_the_transcript_comes_in_its_normal_form_and_what_was_changed_is_told():
    [(found, _)] = utterances(sounds.encoded(sounds.waveform(1)), text="  cafe\u0301\u00a0au  lait\u200b")
    assert found["text"] == "café au lait"
    assert {"spaces", "nfc"} <= set(found["text_changes"])
    [(found, _)] = utterances(sounds.encoded(sounds.waveform(1)), text="plain")
    assert (found["text"], found["text_changes"]) == ("plain", [])
    [(found, _)] = utterances(sounds.encoded(sounds.waveform(1)), text=" \n")
    assert found["text"] is None


def test_a_row_without_a_required_transcript_costs_no_reading():
    def refuse():
        raise AssertionError("the audio must not be asked for")

    settings = Intake(filters=FiltersSection(require_text=True))
    for text, reason in ((None, "empty_text"), (" \t", "empty_text"), ("?!", "unspeakable_text")):
        [(found, _)] = intake.utterances(row(text=text), refuse, settings, 16_000)
        assert (found["stage"], found["error"], found["settles"]) == ("filter", reason, "rejected")


def long_recording(seed=1, num_words=40):
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(num_words):
        parts += [sounds.waveform(number, rng.uniform(0.3, 0.6)), np.zeros(int(rng.uniform(0.2, 0.5) * 16_000))]
    return np.concatenate(parts).astype(np.float32)


def test_a_long_recording_without_a_transcript_is_split_and_accounted_for():
    samples = long_recording()
    found = utterances(sounds.encoded(samples, subtype="FLOAT"), Intake(segment=BY_ENERGY))
    assert [one["id"] for one, _ in found] == [f"a#{number}" for number in range(len(found))]
    assert len(found) > 4
    assert [one["settles"] for one, _ in found if "settles" in one] == ["accepted"]
    assert found[0][0]["settles"] == "accepted"
    kept = 0
    for one, cut in found:
        assert one["part_of"] == "a"
        assert len(cut) <= 5 * 16_000
        first = round(one["start_s"] * 16_000)
        assert np.array_equal(cut, samples[first : first + len(cut)])
        kept += len(cut)
    [trimmed_s] = [one["trimmed_s"] for one, _ in found if "trimmed_s" in one]
    assert trimmed_s == pytest.approx((len(samples) - kept) / 16_000, abs=0.01)


@pytest.mark.parametrize(
    "changes",
    [{"text": "a transcript that cannot be divided without times"}, {"start_s": 1.0}, {"start_s": 1.0, "end_s": 12.0}],
)
def test_a_transcript_and_a_given_span_stay_whole(changes):
    [(found, samples)] = utterances(sounds.encoded(long_recording()), Intake(segment=BY_ENERGY), **changes)
    assert found["id"] == "a"
    assert "part_of" not in found
    assert len(samples) > 5 * 16_000


def test_with_splitting_off_the_limit_of_length_counts():
    data = sounds.encoded(long_recording())
    off = SegmentSection(by="none")
    [(found, samples)] = utterances(data, Intake(segment=off))
    assert found["settles"] == "accepted"
    assert len(samples) > 30 * 16_000
    [(found, _)] = utterances(data, Intake(segment=off, audio=AudioSection(max_s=10.0)))
    assert found["error"] == "too_long"


def test_a_split_recording_counts_as_accepted_when_one_utterance_is():
    samples = long_recording()
    samples[: len(samples) // 2] = np.clip(samples[: len(samples) // 2] * 500, -1, 1)
    settings = Intake(segment=SegmentSection(by="energy", max_s=5, search_s=3, pause_s=0.15, min_pause_s=0.05))
    found = utterances(sounds.encoded(samples), settings)
    rejected = [one for one, _ in found if one.get("error")]
    assert rejected
    assert {one["error"] for one in rejected} == {"clipped"}
    assert found[0][0]["error"] == "clipped"
    assert len(rejected) < len(found)
    [settling] = [one for one, _ in found if one.get("settles")]
    assert settling["settles"] == "accepted"
    assert "error" not in settling
    # The utterances before it, which were rejected, settle nothing: they are no rows of the manifest.
    assert all(one["part_of"] == "a" for one, _ in found)


def test_a_split_recording_of_which_nothing_is_taken_is_rejected_itself():
    settings = Intake(segment=BY_ENERGY, filters=FiltersSection(min_level_dbfs=-1.0))
    found = utterances(sounds.encoded(long_recording()), settings)
    assert all(one["error"] == "silent" for one, _ in found[:-1])
    last = found[-1][0]
    assert (last["id"], last["error"], last["settles"]) == ("a", "no_span_taken", "rejected")
    assert f"silent {len(found) - 1}" in last["message"]


def test_a_long_recording_without_speech_is_rejected():
    pytest.importorskip("silero_vad")
    noise = 0.05 * np.random.default_rng(0).normal(size=8 * 16_000).astype(np.float32)
    [(found, _)] = utterances(sounds.encoded(noise), Intake(segment=SegmentSection(max_s=5, search_s=3)))
    assert found["error"] == "no_speech"
    assert found["rejected_s"] == 8.0


def test_the_key_changes_with_what_shapes_a_shard_and_with_nothing_else():
    key = Intake().key()
    assert Intake(filters=FiltersSection(duplicate_audio=False)).key() == key
    for changed in (
        Intake(audio=AudioSection(channels="first")),
        Intake(segment=SegmentSection(max_s=20)),
        Intake(filters=FiltersSection(require_text=True)),
    ):
        assert changed.key() != key
