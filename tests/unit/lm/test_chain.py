import pytest

from cslm.lm import chain
from cslm.lm.chain import ChainSection
from cslm.lm.chunks import Spoken, Word, cut

TEXT = "It is red. It is not so big."
SPOKEN = Spoken(
    [1, 2, 3, 4, 5, 6, 7, 8],
    [Word(word, number, number + 1) for number, word in enumerate("It is red It is not so big".split())],
)


@pytest.fixture
def encode(joint):
    tokenizer, _ = joint
    return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]


def written(joint, ids):
    return joint[0].decode(ids)


def units(*codes):
    return "<sosp>" + "".join(f"<unit_{code}>" for code in codes) + "<eosp>"


def test_chunks_of_text_are_each_followed_by_their_speech(joint, encode):
    ids = chain.answer(TEXT, SPOKEN, ChainSection(chunk_words=4), encode, joint[1])
    assert written(joint, ids) == f"It is red.{units(1, 2, 3)} It is not so big.{units(4, 5, 6, 7, 8)}"


def test_the_full_form_has_all_text_before_all_speech(joint, encode):
    ids = chain.answer(TEXT, Spoken(SPOKEN.units), ChainSection(form="full"), encode, joint[1])
    assert written(joint, ids) == TEXT + units(*SPOKEN.units)


def test_an_answer_without_speech_is_its_text(joint, encode):
    assert written(joint, chain.answer(TEXT, None, ChainSection(), encode, joint[1])) == TEXT


@pytest.mark.parametrize(
    ("form", "expected"),
    [("interleaved", "[question]Is it?[answer]"), ("full", "[question]Is it?[answer]"),
     ("interleaved_no_question", "[answer]"), ("full_no_question", "[answer]")],
)  # fmt: skip
def test_the_question_is_written_down_where_the_form_has_it(joint, encode, form, expected):
    ids = chain.with_question("Is it?", encode("Yes."), ChainSection(form=form), encode, joint[1])
    assert written(joint, ids) == f"{expected}Yes."


@pytest.mark.parametrize("form", ["interleaved", "full", "interleaved_no_question", "full_no_question"])
def test_what_was_said_is_read_back_from_every_form(joint, encode, form):
    section = ChainSection(form=form, chunk_words=3)
    said = chain.answer(TEXT, SPOKEN, section, encode, joint[1])
    question, text, speech = chain.split(chain.with_question("Is it?", said, section, encode, joint[1]), joint[1])
    assert written(joint, question) == ("Is it?" if section.has_question else "")
    assert written(joint, text) == TEXT
    assert speech == list(SPOKEN.units)


def test_without_the_answers_mark_nothing_is_answered(joint, encode):
    assert chain.split(encode("Is it? Yes."), joint[1])[1:] == ([], [])


def test_speech_and_text_alternate(joint, encode):
    def spans(speech_first):
        chunks = cut(TEXT, SPOKEN, 4)
        ids = chain.alternating(chunks, speech_first=speech_first, encode=encode, vocabulary=joint[1])
        return written(joint, ids)

    assert spans(True) == f"{units(1, 2, 3)} It is not so big."
    assert spans(False) == f"It is red.{units(4, 5, 6, 7, 8)}"


def test_speech_that_is_not_aligned_cannot_be_cut(joint, encode):
    with pytest.raises(ValueError, match="aligned"):
        chain.answer(TEXT, Spoken([1, 2]), ChainSection(), encode, joint[1])
