import numpy as np

from cslm.evaluate.units.sequences import frames, merged
from cslm.speech.tokenizer import UnitSequence


def test_both_forms_give_the_same():
    codes = np.array([4, 4, 9, 4, 4, 4], np.uint16)
    runs = UnitSequence(np.array([4, 9, 4], np.uint16), np.array([2, 1, 3], np.uint16))
    for units in (codes, runs):
        assert frames(units).tolist() == codes.tolist()
        assert merged(units).tolist() == [4, 9, 4]
