import numpy as np
import pytest
import torch

from cslm.evaluate.units import probe as module
from cslm.evaluate.units.probe import UnitReader, probe
from cslm.speech.tokenizer import merge_repeats

LETTERS = "abcdefgh"


def spoken(num, seed, *, tells=True, units_a_letter=3):
    """Texts of some letters, each letter said by units of its own, or of nobody's."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(num):
        letters = rng.integers(0, len(LETTERS), rng.integers(2, 7))
        said = letters if tells else rng.integers(0, len(LETTERS), len(letters))
        units = (said[:, None] * units_a_letter + np.arange(units_a_letter)).ravel()
        rows.append((units.astype(np.uint16), "".join(LETTERS[letter] for letter in letters)))
    return rows


def test_text_is_read_where_units_tell_it_and_only_there():
    test = {"told": spoken(40, 1), "untold": spoken(40, 2, tells=False)}
    found = probe(spoken(300, 0), test, 24, num_steps=60)
    assert found.errors["told"] < 0.1
    assert found.errors["untold"] > 0.5
    assert found.mean_error == pytest.approx(sum(found.errors.values()) / 2)
    assert (found.num_steps, found.positions_a_unit) == (60, 1)


def test_the_same_seed_gives_the_same_and_torch_keeps_its_own():
    train, tests = spoken(60, 0), {"test": spoken(30, 1)}
    state = torch.get_rng_state()
    first, again, other = (probe(train, tests, 24, num_steps=6, seed=seed).errors for seed in (5, 5, 6))
    assert first == again
    assert first != other
    assert torch.equal(torch.get_rng_state(), state)


def test_lengths_of_runs_are_not_seen():
    train, tests = spoken(60, 0), {"test": spoken(30, 1)}
    slow = [(merge_repeats(np.repeat(units, 4)), text) for units, text in train]
    assert probe(train, tests, 24, num_steps=8) == probe(slow, tests, 24, num_steps=8)


def test_units_that_stand_for_several_letters_get_several_positions():
    # One unit says two letters.
    rng = np.random.default_rng(0)
    words = [rng.integers(0, 8, rng.integers(2, 5)) for _ in range(300)]
    rows = [(word.astype(np.uint16), "".join(LETTERS[i] + "xyz"[i % 3] for i in word)) for word in words]
    rows = [(units, text) for units, text in rows if len(units) == len(merge_repeats(units).units)]
    found = probe(rows[:-30], {"test": rows[-30:]}, 8, num_steps=80)
    assert found.positions_a_unit == 2
    assert found.mean_error < 0.2


def test_a_padded_batch_reads_as_each_alone():
    torch.manual_seed(0)
    reader = UnitReader(24, 9, positions_a_unit=2).eval()
    runs = [torch.randint(0, 24, (length,)) for length in (1, 5, 17, 40)]
    units_BU, lengths_B = module._padded(runs)
    # What stands in the padding is of no meaning either.
    units_BU[0, 1:] = 7
    with torch.no_grad():
        together = reader(units_BU, lengths_B)
        for row, run in zip(together, runs, strict=True):
            alone = reader(run[None], torch.tensor([len(run)]))[0]
            assert torch.allclose(row[: 2 * len(run)], alone, atol=1e-5)


def test_a_round_has_every_utterance_once_within_the_size_of_a_batch():
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(1, 200, 300).tolist(), 5000]
    batches = module._batches(lengths, 2, np.random.default_rng(1))
    assert sorted(place for batch in batches for place in batch) == list(range(301))
    for batch in batches:
        padded = 2 * len(batch) * max(lengths[place] for place in batch)
        assert padded <= module._POSITIONS_A_BATCH or len(batch) == 1
    assert len(batches) < 2.5 * sum(lengths[:-1]) * 2 / module._POSITIONS_A_BATCH
    assert batches != module._batches(lengths, 2, np.random.default_rng(2))


def test_nothing_to_read_is_refused():
    with pytest.raises(ValueError, match="needs texts to learn"):
        probe([(np.array([1, 2]), "...")], {"test": spoken(2, 0)}, 24)
    with pytest.raises(ValueError, match="test sets to read"):
        probe(spoken(2, 0), {}, 24)
