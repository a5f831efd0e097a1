import re
import sys

import numpy as np
import pytest

from cslm.demo.facts import all_facts
from cslm.demo.grammar import available_languages, load_language
from cslm.demo.speakers import ANSWERER, TEST_ONLY_VARIANTS, VARIANTS
from cslm.demo.voices import SAMPLE_RATE_HZ, Speaker, phonemes, synthesise
from cslm.errors import MissingDependency

SENTENCES = {
    "en": "The old teacher buys a blue cup every day.",
    "zh": "年老的老师每天买一个蓝色的杯子。",
    "es": "El profesor viejo compra una taza azul todos los días.",
    "fr": "Le vieux professeur achète une tasse bleue tous les jours.",
}


def say(code, speaker=ANSWERER, text=None):
    language = load_language(code)
    return synthesise(text or SENTENCES[code], language.voice, speaker, rate_factor=language.rate)


def voiced_share(samples_T):
    """Share of the loud frames that repeat themselves at the pitch of a human voice."""
    signal = samples_T.astype(np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(signal, 1024)[::512]
    loudness = np.sqrt((frames**2).mean(axis=1))
    frames = frames[loudness > 0.1 * loudness.max()]
    spectrum = np.fft.rfft(frames - frames.mean(axis=1, keepdims=True), 2048)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)
    peaks = correlation[:, SAMPLE_RATE_HZ // 450 : SAMPLE_RATE_HZ // 55].max(axis=1) / correlation[:, 0]
    return (peaks > 0.5).mean()


@pytest.mark.parametrize("code", available_languages())
@pytest.mark.parametrize("variant", [*VARIANTS, *TEST_ONLY_VARIANTS, ANSWERER.variant])
def test_every_voice_speaks_every_language(code, variant):
    speech = say(code, Speaker(variant, 50, 150))
    assert speech.samples_T.dtype == np.int16
    level = np.abs(speech.samples_T.astype(np.int32))
    assert 600 < level.mean() < 9000
    assert (level >= 32767).mean() < 0.002
    assert 1.8 < speech.duration_s < 5.0
    assert voiced_share(speech.samples_T) > 0.5


def test_the_same_words_sound_the_same_whatever_was_said_before():
    first = say("en")
    say("es", Speaker("m3", 40, 170))
    again = say("en")
    assert np.array_equal(first.samples_T, again.samples_T)
    assert first.words == again.words


def test_rate_and_pitch_are_heard():
    slow, quick = (say("en", Speaker("m3", 50, rate)).duration_s for rate in (125, 170))
    assert 1.2 < slow / quick < 1.6
    assert not np.array_equal(say("en", Speaker("m3", 40, 125)).samples_T, say("en", Speaker("m3", 70, 125)).samples_T)


@pytest.mark.parametrize("code", available_languages())
def test_words_come_with_the_times_at_which_they_begin(code):
    speech = say(code)
    starts = [word.start_s for word in speech.words]
    assert starts[0] < 0.1
    assert starts == sorted(starts)
    assert starts[-1] < speech.duration_s
    # French runs words together (tous les jours) and Mandarin takes syllables apart: the letters are all there.
    assert re.sub(r"\W", "", "".join(word.text for word in speech.words)) == re.sub(r"\W", "", SENTENCES[code])
    assert len(speech.words) >= 7


@pytest.mark.parametrize("code", available_languages())
def test_phones_come_with_the_times_at_which_they_begin(code):
    speech = say(code)
    starts = [phone.start_s for phone in speech.phones]
    assert starts == sorted(starts)
    assert 0 <= starts[0] < starts[-1] <= speech.duration_s
    # Tones are no phones of their own.
    read = re.sub(r"[ˈˌ\s|\dɜ-]", "", phonemes(SENTENCES[code], load_language(code).voice))
    said = re.sub(r"[\dɜ-]", "", "".join(phone.text for phone in speech.phones))
    assert said == read
    assert speech.phones[-1].text == ""


def test_loud_frames_lie_in_phones_and_the_end_is_a_pause():
    speech = say("en", text="Yes.")
    vowel = next(i for i, phone in enumerate(speech.phones) if phone.text == "ɛ")
    first, end = (round(phone.start_s * SAMPLE_RATE_HZ) for phone in speech.phones[vowel : vowel + 2])
    level = np.abs(speech.samples_T.astype(np.int32))
    assert level[first:end].mean() > 3 * level[end:].mean()
    assert level[first:end].mean() > 1.5 * level[:first].mean()


def test_hanzi_are_read_as_mandarin():
    pypinyin = pytest.importorskip("pypinyin")
    language = load_language("zh")
    answers = {language.exchange(fact.kind, fact.slots).answers[2] for fact in all_facts()[::5]}

    def sounds(text, voice):
        # Tones aside: sandhi and neutral tones are spelled differently from dictionary pinyin.
        return re.sub(r"[ˈˌ\s|\dɜ-]", "", phonemes(text, voice))

    assert len(answers) > 50
    for text in answers:
        hanzi = re.sub(r"\W", "", text)
        style = pypinyin.Style.TONE3
        pinyin = " ".join(pypinyin.lazy_pinyin(hanzi, style=style, neutral_tone_with_five=True))
        assert sounds(language.spoken(text), language.voice) == sounds(pinyin, "cmn-latn-pinyin"), text


def test_a_respelling_must_fit():
    with pytest.raises(ValueError, match="as long as"):
        synthesise("三只猫", "sit/cmn", ANSWERER, spoken="三支")


def test_an_unknown_voice_is_named():
    with pytest.raises(ValueError, match="xx-none"):
        synthesise("hello", "xx-none", ANSWERER)


def test_without_the_wheel_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MissingDependency, match=r"cslm\[demo\]"):
        say("en")
