import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cslm.lm import chain, decoding, grammar
from cslm.lm.grammar import Bounds, Guide, Kind
from cslm.lm.sampling import Chooser, Sampling
from cslm.lm.vocabulary import ANSWER, QUESTION, SPEECH_END, SPEECH_START, Vocabulary

# Ids 0 .. 9 are text, of which 0 ends a turn, 10 .. 14 units, then the marks; the last rows only fill up.
LAYOUT = Vocabulary(10, 5, "text", "units", 25.0)
KINDS = np.array([Kind.STOP] + [Kind.TEXT] * 9 + [Kind.UNIT] * 5 + [2, 3, 4, 5] + [len(Kind)] * 3)
MARKS = {name: LAYOUT.special(name) for name in (SPEECH_START, SPEECH_END, QUESTION, ANSWER)}
FORMS = ["any", "interleaved", "full", "interleaved_no_question", "full_no_question"]

grammars = st.one_of(
    st.just(grammar.text_only()),
    st.just(grammar.speech_only()),
    st.builds(
        grammar.answer,
        st.sampled_from(FORMS),
        st.sampled_from(["always", "never", "free"]),
        marked=st.booleans(),
    ),
)
bounds = st.builds(Bounds, st.integers(8, 40), st.integers(1, 12), st.integers(1, 12))


def written(rows, seed, *, liked=(), sampling=None):
    """What comes of random logits, in which some ids stand out."""
    guide = Guide([one for one, _ in rows], [bound for _, bound in rows], KINDS)
    bans = decoding.Bans(KINDS, torch.device("cpu"))
    random = torch.Generator().manual_seed(seed)
    choose = Chooser(sampling or Sampling(temperature=0), [[row] for row in range(len(rows))])
    outputs = [[] for _ in rows]
    every = np.arange(len(rows))
    while not guide.ended(every).all():
        logits = torch.randn(len(rows), len(KINDS), generator=random)
        logits[:, list(liked)] += 20
        going = ~guide.ended(every)
        tokens = choose(every, logits.masked_fill(bans.of(guide.allowed(every)), -torch.inf)).numpy()
        guide.advance(every, tokens)
        for row in np.flatnonzero(going):
            outputs[row].append(int(tokens[row]))
    return outputs, guide.was_cut


@given(
    rows=st.lists(st.tuples(grammars, bounds), min_size=1, max_size=4),
    seed=st.integers(0, 999),
    liked=st.lists(st.integers(0, len(KINDS) - 1), max_size=3),
)
def test_whatever_the_logits_the_output_can_be_read_and_keeps_its_bounds(rows, seed, liked):
    outputs, _ = written(rows, seed, liked=liked)
    for (_, bound), ids in zip(rows, outputs, strict=True):
        assert len(ids) <= bound.tokens
        assert ids[-1] == 0
        assert 0 not in ids[:-1]
        body = ids[:-1]
        question, spans = chain.spans(body, LAYOUT)
        for is_speech, content in spans:
            assert 1 <= len(content) <= (bound.speech_units if is_speech else bound.text_tokens)
        assert question is None or 1 <= len(question) <= bound.text_tokens
        # No mark is lost or doubled: what was read makes the same ids again.
        again = [] if question is None else [MARKS[QUESTION], *question]
        again += [MARKS[ANSWER]] if MARKS[ANSWER] in body else []
        for is_speech, content in spans:
            again += chain.speech_span(content, LAYOUT) if is_speech else content
        assert again == body
        if MARKS[ANSWER] in body:
            heard, text, units = chain.split(body, LAYOUT)
            assert heard == (question or [])
            assert text == [token for is_speech, content in spans if not is_speech for token in content]
            assert units == [unit for is_speech, content in spans if is_speech for unit in content]


@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("seed", range(5))
def test_an_answer_has_the_form_that_it_was_asked_in(form, seed):
    ((*ids, _),), _ = written([(grammar.answer(form), Bounds(200, 5, 5))], seed)
    question, spans = chain.spans(ids, LAYOUT)
    assert (question is None) == form.endswith("no_question")
    kinds = [is_speech for is_speech, _ in spans]
    assert kinds == [False, True] * (len(kinds) // 2)
    assert not form.startswith("full") or len(kinds) == 2


def test_a_limit_that_is_met_is_noted_and_only_then():
    stops, goes_on = (grammar.text_only(), Bounds(8, 8, 8)), (grammar.speech_only(), Bounds(8, 8, 8))
    outputs, was_cut = written([stops, goes_on], 0, liked=[0, 10])
    assert [len(ids) for ids in outputs] == [2, 8]
    assert was_cut.tolist() == [False, True]


def test_room_that_is_too_small_for_any_answer_is_refused():
    with pytest.raises(ValueError, match="needs 8 tokens"):
        Guide([grammar.answer("interleaved")], [Bounds(7, 5, 5)], KINDS)


def test_marks_of_the_text_tokenizer_are_never_text(joint):
    tokenizer, layout = joint
    kinds = grammar.kinds(layout, tokenizer, [tokenizer.eos_token_id], layout.num_rows)
    assert kinds[tokenizer.eos_token_id] == Kind.STOP
    banned = [tokenizer.bos_token_id, tokenizer.pad_token_id, *range(layout.size, layout.num_rows)]
    assert {int(kinds[token]) for token in banned} == {len(Kind)}
    assert {int(kinds[token]) for token in tokenizer("It is red.")["input_ids"]} == {Kind.TEXT}
    assert (kinds == Kind.UNIT).sum() == layout.num_units
