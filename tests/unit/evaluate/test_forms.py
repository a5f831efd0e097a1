import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from cslm.evaluate import forms, translation

SENTENCES = [
    ("the cat sat on the mat", "the cat is on the mat"),
    ("hello there world", "hello there, world"),
    ("", "nothing was said"),
    ("one two three four five", "one two three four five"),
]


def test_a_ratio_is_that_of_the_sums_and_nothing_where_there_is_nothing_to_divide_by():
    assert forms.value("ratio", np.array([[1.0, 4.0], [0.0, 2.0]]).sum(0)) == pytest.approx(1 / 6)
    values = forms.value("ratio", np.array([[3.0, 2.0], [3.0, 0.0]]))
    assert values[0] == 1.5
    assert math.isnan(values[1])


def test_perplexity_is_that_of_the_mean_over_tokens():
    assert forms.value("perplexity", np.array([10 * math.log(8), 10.0])) == pytest.approx(8)


@pytest.mark.parametrize("language", ["en", "zh-CN", "ja", "es"])
def test_bleu_of_summed_statistics_is_that_of_the_corpus(language):
    pairs = SENTENCES if language in ("en", "es") else [("二加三等于五。", "二加三等于六。"), ("红色的猫", "红色的狗")]
    sums = np.sum([translation.bleu_statistics(*pair, language) for pair in pairs], axis=0)
    outputs, references = zip(*pairs, strict=True)
    tokenizer = {"zh-CN": "zh", "ja": "char"}.get(language, "13a")
    expected = sacrebleu.corpus_bleu(list(outputs), [list(references)], tokenize=tokenizer).score
    assert forms.value("bleu", sums) == pytest.approx(expected)


def test_chrf_of_summed_statistics_is_that_of_the_corpus():
    sums = np.sum([translation.chrf_statistics(*pair) for pair in SENTENCES], axis=0)
    outputs, references = zip(*SENTENCES, strict=True)
    assert forms.value("chrf", sums) == pytest.approx(sacrebleu.corpus_chrf(list(outputs), [list(references)]).score)


@given(st.text(alphabet="abc de", min_size=1).filter(str.strip))
def test_a_translation_is_like_itself(text):
    assert forms.value("chrf", np.array(translation.chrf_statistics(text, text))) == pytest.approx(100)


def test_figures_of_many_choices_of_items_are_made_at_once():
    sums = np.arange(12, dtype=np.float64).reshape(2, 3, 2) + 1
    assert forms.value("ratio", sums).shape == (2, 3)
    statistics = np.array(translation.bleu_statistics("a b c d", "a b c d", "en"))
    assert forms.value("bleu", np.stack([statistics, 2 * statistics])).tolist() == pytest.approx([100, 100])
