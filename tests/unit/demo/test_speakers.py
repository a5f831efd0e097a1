from cslm.demo.speakers import ANSWERER, TEST_ONLY_VARIANTS, VARIANTS, pools
from cslm.demo.voices import Speaker


def test_pools_share_no_speaker_and_leave_the_answering_voice_alone():
    by_split = pools()
    everyone = [speaker for speakers in by_split.values() for speaker in speakers]
    assert len(set(everyone)) == len(everyone)
    assert all(speaker.variant != ANSWERER.variant for speaker in everyone)
    assert len(by_split["train"]) > 200


def test_every_common_variant_is_heard_in_train_and_held_out_in_some_combinations():
    for split in ("train", "dev", "test"):
        assert set(VARIANTS) <= {speaker.variant for speaker in pools()[split]}
    elsewhere = {speaker.variant for split in ("train", "dev") for speaker in pools()[split]}
    assert not set(TEST_ONLY_VARIANTS) & elsewhere


def test_a_speaker_is_found_by_name():
    for speaker in (*pools()["test"], ANSWERER):
        assert Speaker.of(speaker.name) == speaker
