import json

import numpy as np
import pytest
from safetensors.numpy import save

from cslm import storage
from cslm.errors import CheckpointError
from cslm.speech.tokenizers import saved as saving
from cslm.speech.tokenizers.saved import SETTINGS_FILE, Saved, same_source, source_of, tensors_digest

WEIGHTS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(2, np.float16)}


@pytest.fixture
def made():
    facts = {"kind": "any", "revision": 3, "settings": {"layer": 1}, "network": {"width": 2}, "codebook_size": 9}
    return Saved.of({"model.safetensors": save(WEIGHTS)}, **facts)


def test_what_was_saved_is_read_again(made, tmp_path):
    made.save(str(tmp_path))
    assert Saved.read(str(tmp_path), "any", 3) == made
    saving.verify(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", SETTINGS_FILE]


def test_the_digest_is_that_of_the_tensors_and_not_of_the_file():
    other_order = save(dict(reversed(WEIGHTS.items())), {"written": "today"})
    assert other_order != save(WEIGHTS)
    assert tensors_digest(other_order) == tensors_digest(save(WEIGHTS))
    for name, value in (
        ("b", WEIGHTS["b"] + 1),
        ("b", WEIGHTS["b"].reshape(3, 2)),
        ("a", np.full(2, 15360, np.int16)),  # the same bytes
    ):
        assert tensors_digest(save(WEIGHTS | {name: value})) != tensors_digest(save(WEIGHTS))


@pytest.mark.parametrize("fact", ["kind", "revision", "settings", "network"])
def test_all_that_decides_the_codes_is_in_the_fingerprint(made, fact):
    assert saving.fingerprint(made.document | {fact: "another"}) != made.document["fingerprint"]


def test_notes_are_not(made, tmp_path):
    noted = made.with_notes(source={"uri": "/elsewhere"})
    assert noted.document["fingerprint"] == made.document["fingerprint"]
    noted.save(str(tmp_path))
    assert Saved.read(str(tmp_path), "any", 3).document["source"] == {"uri": "/elsewhere"}


def test_other_settings_are_another_tokenizer(made):
    other = made.with_settings(layer=2)
    assert other.document["settings"] == {"layer": 2}
    assert other.document["fingerprint"] != made.document["fingerprint"]
    assert other.with_settings(layer=1) == made


@pytest.mark.parametrize("damage", ["settings", "weights", "cut", "gone", "kind", "revision", "nothing"])
def test_a_folder_that_is_not_what_was_saved_is_refused(made, tmp_path, damage):
    made.save(str(tmp_path))
    weights, record = tmp_path / "model.safetensors", tmp_path / SETTINGS_FILE
    document = json.loads(record.read_text())
    expected = "the folder was changed after it was saved"
    if damage == "settings":
        record.write_text(json.dumps(document | {"settings": {"layer": 4}}))
    elif damage == "weights":
        weights.write_bytes(save(WEIGHTS | {"a": np.zeros(2, np.float16)}))
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:20])
    elif damage == "gone":
        weights.unlink()
        expected = "must hold model.safetensors beside"
    elif damage == "kind":
        record.write_text(json.dumps(document | {"kind": "other"}))
        expected = "of a tokenizer of kind any, found one of kind other"
    elif damage == "revision":
        record.write_text(json.dumps(document | {"revision": 2}))
        expected = "must be of revision 3, found 2"
    else:
        record.unlink()
        expected = "found no such file"
    with pytest.raises(CheckpointError, match=expected):
        Saved.read(str(tmp_path), "any", 3)
    if damage in ("settings", "weights", "cut", "gone"):
        with pytest.raises(CheckpointError):
            saving.verify(str(tmp_path))


def test_a_source_is_known_again_by_content(tmp_path):
    model = tmp_path / "model"
    storage.write_text(str(model / "config.json"), "{}")
    storage.write_text(str(model / "weights.bin"), "abc")
    kept = {"source": source_of(str(model))}
    assert same_source(kept, str(model))
    moved = model.rename(tmp_path / "moved")
    assert same_source(kept, str(moved))
    assert same_source(kept, str(model)), "a source that is gone cannot be another"
    storage.write_text(str(moved / "weights.bin"), "abd")
    assert not same_source(kept, str(moved))
    single = source_of(str(moved / "weights.bin"))
    storage.write_text(str(tmp_path / "copy.bin"), "abd")
    assert same_source({"source": single}, str(tmp_path / "copy.bin"))
