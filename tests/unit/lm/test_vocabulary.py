from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cslm import storage
from cslm.errors import CheckpointError
from cslm.lm import vocabulary
from cslm.lm.vocabulary import SPECIALS, Vocabulary

LAYOUT = Vocabulary(num_text=300, num_units=500, text_tokenizer="t", unit_tokenizer="u", frame_rate_hz=50.0)


@given(st.lists(st.integers(0, 499)))
def test_units_survive_the_way_through_token_ids(units):
    assert LAYOUT.units(LAYOUT.unit_ids(units)).tolist() == units


def test_ids_of_text_units_and_specials_do_not_meet():
    unit_ids = set(LAYOUT.unit_ids(range(500)).tolist())
    special_ids = {LAYOUT.special(token) for token in SPECIALS}
    assert min(unit_ids) == 300
    assert not unit_ids & special_ids
    assert max(special_ids) == LAYOUT.size - 1
    assert LAYOUT.num_rows % 64 == 0
    assert LAYOUT.num_rows >= LAYOUT.size


def test_a_unit_of_another_codebook_is_refused():
    with pytest.raises(CheckpointError, match=r"0\.\.499"):
        LAYOUT.unit_ids([3, 500])


def test_layout_is_the_same_after_saving(tmp_path):
    LAYOUT.save(str(tmp_path))
    assert vocabulary.load(str(tmp_path)) == LAYOUT


def test_a_layout_changed_by_hand_is_refused(tmp_path):
    LAYOUT.save(str(tmp_path))
    path = str(tmp_path / vocabulary.VOCABULARY_FILE)
    storage.write_json(path, storage.read_json(path) | {"num_units": 501})
    with pytest.raises(CheckpointError, match="changed by hand"):
        vocabulary.load(str(tmp_path))


def test_every_part_of_the_layout_changes_the_hash():
    others = [
        replace(LAYOUT, num_text=301),
        replace(LAYOUT, num_units=499),
        replace(LAYOUT, text_tokenizer="x"),
        replace(LAYOUT, unit_tokenizer="x"),
        replace(LAYOUT, frame_rate_hz=25.0),
        replace(LAYOUT, specials=SPECIALS[::-1]),
    ]
    assert len({layout.hash for layout in [LAYOUT, *others]}) == 7


def test_units_of_another_tokenizer_are_refused_with_both_fingerprints():
    LAYOUT.require_units_of(["u"], "here")
    with pytest.raises(CheckpointError, match=r"tokenizer u .* found v"):
        LAYOUT.require_units_of(["u", "v"], "here")


def test_extending_names_units_in_code_order(joint):
    tokenizer, layout = joint
    assert tokenizer.convert_tokens_to_ids("<unit_7>") == layout.unit_ids([7])[0]
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIALS] == [layout.special(t) for t in SPECIALS]
    assert len(tokenizer) == layout.size


def test_a_tokenizer_is_extended_once_only(joint):
    with pytest.raises(CheckpointError, match="must not know"):
        vocabulary.extend(joint[0], num_units=20, unit_tokenizer="abc", frame_rate_hz=50.0)
