"""Repeats of groups: volumes that stay, bounds that hold, and names that must be known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm.data import mixture
from cslm.data.mixture import Draw, GroupSize, MixtureSection, shares
from cslm.errors import ConfigError

SIZES = {"asr/en": GroupSize(9000, 90.0), "asr/zh": GroupSize(1000, 10.0), "mt/en-zh": GroupSize(500, 40_000.0)}


def volumes(found, sizes, task):
    return sum(share.repeats * sizes[name].size for name, share in found.items() if mixture.task_of(name) == task)


def test_as_the_data_lies_every_example_is_seen_as_often_as_its_task_weighs():
    found = shares(SIZES, {"asr": 1.0, "mt": 0.25}, MixtureSection())
    assert {name: share.repeats for name, share in found.items()} == {"asr/en": 1.0, "asr/zh": 1.0, "mt/en-zh": 0.25}
    assert not any(share.bounded for share in found.values())


def test_beta_zero_gives_languages_equal_shares_of_what_the_task_has():
    found = shares(SIZES, {"asr": 1.0}, MixtureSection(beta=0, max_repeats=100))
    assert found["asr/en"].repeats * 90 == pytest.approx(found["asr/zh"].repeats * 10) == pytest.approx(50)


def test_beta_in_between_is_the_power_of_the_sizes():
    found = shares(SIZES, {"asr": 1.0}, MixtureSection(beta=0.5, max_repeats=100))
    share = {name: one.repeats * SIZES[name].size for name, one in found.items()}
    assert share["asr/en"] / share["asr/zh"] == pytest.approx((90 / 10) ** 0.5)


def test_what_a_bounded_group_loses_goes_to_the_others_of_its_task():
    found = shares(SIZES, {"asr": 1.0, "mt": 1.0}, MixtureSection(beta=0, max_repeats=2))
    assert found["asr/zh"].repeats == 2
    assert found["asr/zh"].bounded
    assert found["asr/zh"].wanted == pytest.approx(5)
    assert found["asr/en"].repeats == pytest.approx((100 - 2 * 10) / 90)
    assert found["mt/en-zh"].repeats == 1


def test_factors_multiply_by_group_and_by_language_or_direction():
    section = MixtureSection(groups={"asr/zh": 2, "zh": 1.5, "en-zh": 0})
    found = shares(SIZES, {"asr": 1.0, "mt": 1.0}, section)
    assert found["asr/zh"].repeats == 3
    assert found["asr/en"].repeats == 1
    assert "mt/en-zh" not in found


def test_unknown_names_and_negative_factors_are_refused_with_what_there_is():
    with pytest.raises(ConfigError) as refused:
        shares(SIZES, {"asr": 1.0}, MixtureSection(groups={"asr/fr": 2, "de": 1, "en": -1}))
    message = str(refused.value)
    assert len(refused.value.faults) == 3
    for part in ("asr/fr", "groups.de", "asr/en, asr/zh, mt/en-zh, en, en-zh, zh", "found -1"):
        assert part in message


groups = st.dictionaries(
    st.sampled_from([f"{task}/{name}" for task in ("asr", "mt", "text") for name in ("en", "zh", "es", "fr", "th")]),
    st.builds(GroupSize, st.integers(1, 10**6), st.floats(0.01, 1e6)),
    min_size=1,
)


@given(
    groups,
    st.dictionaries(st.sampled_from(["asr", "mt", "text"]), st.floats(0.01, 10), min_size=1),
    st.floats(0, 1),
    st.floats(0.1, 20),
)
def test_bounds_hold_and_volumes_stay_as_far_as_there_is_room(sizes, weights, beta, bound):
    section = MixtureSection(beta=beta, max_repeats=bound)
    found = shares(sizes, weights, section)
    assert found == shares(dict(reversed(sizes.items())), weights, section)
    assert all(0 < share.repeats <= bound * (1 + 1e-9) for share in found.values())
    for task, weight in weights.items():
        members = [name for name in sizes if mixture.task_of(name) == task]
        whole = sum(sizes[name].size for name in members)
        assert volumes(found, sizes, task) == pytest.approx(min(weight, bound) * whole, rel=1e-6)
        # A group that others are ahead of by the temperature never is overtaken for the bound's sake.
        open_ones = [found[name] for name in members if found[name].repeats < bound * (1 - 1e-9)]
        ratios = [share.repeats / share.wanted for share in open_ones]
        assert max(ratios, default=1) == pytest.approx(min(ratios, default=1))


@given(st.floats(0, 5), st.integers(0, 100))
def test_copies_are_the_repeats_on_average_and_the_same_every_time(repeats, seed):
    draw = Draw({"asr/en": repeats}, seed)
    found = [draw.copies("asr/en", f"u{n}") for n in range(400)]
    assert found == [draw.copies("asr/en", f"u{n}") for n in range(400)]
    assert set(found) <= {int(repeats), int(repeats) + 1}
    assert sum(found) / 400 == pytest.approx(repeats, abs=0.15)
    assert draw.copies("tts/en", "u0") == 0


FOUR = {
    "asr/en": GroupSize(9000, 90.0),
    "asr/zh": GroupSize(1000, 10.0),
    "asr/fr": GroupSize(500, 5.0),
    "mt/en-zh": GroupSize(500, 40_000.0),
    "mt/en-fr": GroupSize(500, 8_000.0),
    "text/en": GroupSize(100, 1_000.0),
}


@given(share=st.floats(0.05, 0.9), beta=st.floats(0, 1))
def test_replayed_groups_have_their_share_of_every_task_and_new_ones_stay(share: float, beta: float):
    section = MixtureSection(max_repeats=1e9, replay={"languages": ("en", "zh"), "share": share, "beta": beta})
    found = shares(FOUR, {"asr": 1.0, "mt": 0.5, "text": 1.0}, section)
    assert found["asr/fr"].repeats == pytest.approx(1.0)
    assert found["mt/en-fr"].repeats == pytest.approx(0.5)
    for task, new in (("asr", "asr/fr"), ("mt", "mt/en-fr")):
        total = volumes(found, FOUR, task)
        assert 1 - found[new].repeats * FOUR[new].size / total == pytest.approx(share)
    en, zh = (found[f"asr/{code}"].repeats * FOUR[f"asr/{code}"].size for code in ("en", "zh"))
    assert en / zh == pytest.approx((90 / 10) ** beta)
    # Text brings nothing new: it keeps what the other tasks keep of theirs.
    kept = [share / (1 - share) * new / old for new, old in ((5, 100), (4_000, 20_000))]
    assert found["text/en"].repeats == pytest.approx(min(1.0, sum(kept) / 2))


def test_without_replay_nothing_of_the_known_languages_is_seen():
    found = shares(FOUR, {"asr": 1.0, "text": 1.0}, MixtureSection(replay={"languages": ("en", "zh"), "share": 0.0}))
    assert set(found) == {"asr/fr"}
    assert set(shares(FOUR, {"asr": 1.0}, MixtureSection(replay={"languages": ("en", "zh")}))) == {
        "asr/en",
        "asr/zh",
        "asr/fr",
    }


def test_a_group_is_known_when_it_speaks_known_languages_only():
    codes = ("en", "zh-Hant")
    assert mixture.is_known("asr/zh-Hant", codes)
    assert mixture.is_known("answer/zh-Hant-en", codes)
    assert not mixture.is_known("answer/en-fr", codes)
    assert not mixture.is_known("asr/zh", codes)
