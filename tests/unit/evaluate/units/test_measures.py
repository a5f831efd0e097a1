import numpy as np
import pytest

from cslm.evaluate.units.abx import abx_error
from cslm.evaluate.units.classifier import label_accuracy, speaker_accuracy
from cslm.evaluate.units.measures import Utterance, measure
from cslm.evaluate.units.phones import pnmi
from cslm.evaluate.units.rates import rates

CODEBOOK = 40


def said(text, speaker, rng, split, language="en", noise=0.2):
    """Two units a letter, some of them replaced by chance; each lasts two frames, whose phone is the letter."""
    codes = np.array([(ord(letter) - ord("a")) % 20 * 2 + half for letter in text for half in (0, 1)])
    wrong = rng.random(len(codes)) < noise
    codes[wrong] = rng.integers(0, CODEBOOK, int(wrong.sum()))
    phones = [letter for letter in text for _ in range(4)]
    return Utterance(np.repeat(codes, 2).astype(np.uint16), text, language, speaker, split, len(phones) / 50, phones)


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    words = [
        said(word, speaker, rng, "test" if speaker == "cid" else "train")
        for word in ("abcd", "efgh", "ijkl", "mnop")
        for speaker in ("ann", "bob", "cid")
        for _ in range(8)
    ]
    sentences = [
        said(
            "".join(rng.choice(list("abcdefgh"), 6)),
            f"s{i}",
            rng,
            "test" if i % 5 == 0 else "train",
            ("en", "es")[i % 2],
        )
        for i in range(60)
    ]
    return words, sentences


def test_every_figure_is_that_of_its_measure_on_the_right_part(corpus):
    words, sentences = corpus
    found = measure(words, sentences, CODEBOOK, num_probe_steps=0)
    heard = [word for word in words if word.speaker != "cid"]
    unheard = [word for word in words if word.speaker == "cid"]
    units, texts, speakers = ([getattr(w, name) for w in words] for name in ("units", "text", "speaker"))
    assert found.word_accuracy == label_accuracy(
        *([getattr(word, name) for word in part] for part in (heard, unheard) for name in ("units", "text"))
    )
    assert found.abx_error == abx_error(units, texts, speakers, unheard=["cid"])
    assert found.speaker_accuracy == speaker_accuracy(units, speakers, texts)
    test = [one for one in sentences if one.split == "test"]
    assert found.pnmi == pnmi([one.units for one in test], [one.phones for one in test])
    cost = rates([one.units for one in sentences], CODEBOOK, sum(one.audio_s for one in sentences))
    assert (found.units_per_s, found.bits_per_s) == (cost.units_per_s, cost.bits_per_s)
    assert (found.perplexity, found.usage) == (cost.perplexity, cost.usage)
    assert found.frames_per_s == pytest.approx(50)
    assert (found.probe_error, found.probe_errors) == (None, {})


def test_the_probe_has_a_test_set_of_words_and_one_a_language(corpus):
    found = measure(*corpus, CODEBOOK, num_probe_steps=5)
    assert set(found.probe_errors) == {"words", "en", "es"}
    assert found.probe_error == pytest.approx(sum(found.probe_errors.values()) / 3)


def test_noise_in_the_units_makes_every_figure_worse(corpus):
    rng = np.random.default_rng(1)
    noisy = [[said(one.text, one.speaker, rng, one.split, one.language, noise=0.8) for one in part] for part in corpus]
    clear, blurred = (measure(*part, CODEBOOK, num_probe_steps=25) for part in (corpus, noisy))
    assert clear.word_accuracy > blurred.word_accuracy
    assert clear.abx_error < blurred.abx_error
    assert clear.pnmi > blurred.pnmi
    assert clear.bits_per_s < blurred.bits_per_s
    assert clear.probe_error < blurred.probe_error


def test_without_phones_there_is_no_pnmi(corpus):
    words, sentences = corpus
    unlabelled = [Utterance(o.units, o.text, o.language, o.speaker, o.split, o.audio_s) for o in sentences]
    assert measure(words, unlabelled, CODEBOOK, num_probe_steps=0).pnmi is None
