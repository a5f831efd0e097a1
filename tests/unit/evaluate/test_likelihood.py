import pytest

from cslm.evaluate import figures, likelihood, minimal_pairs
from cslm.evaluate.bootstrap import BootstrapSection
from cslm.evaluate.likelihood import PerplexitySection
from cslm.lm.chain import ChainSection

FULL = ChainSection(form="full")


@pytest.fixture(scope="module")
def tables_of(evaluated):
    places = {"units": "units/units", "parallel_text": "parallel_text", "dialogues": "dialogues"}
    return {name: str(evaluated / place) for name, place in places.items()}


def test_perplexity_of_a_model_that_knows_nothing_is_the_size_of_its_vocabulary(network, tables_of):
    cases = likelihood.cases(tables_of, None, "test", FULL, PerplexitySection(max_examples=5))
    assert {case["group"] for case in cases} == {
        "asr/en", "tts/en", "units/en", "mt/en-es", "answer/en-en", "text/en-en",
    }  # fmt: skip
    scores = figures.table(likelihood.scores(network, FULL, cases))
    found = figures.figures(scores, BootstrapSection(resamples=20))
    assert {figure.metric for figure in found} == {"perplexity"}
    for figure in found:
        assert figure.value == pytest.approx(network.layout.num_rows, rel=1e-4)
        assert (figure.low, figure.high) == pytest.approx((figure.value, figure.value), rel=1e-4)


def test_targets_are_those_of_training(network, tables_of):
    cases = likelihood.cases(tables_of, None, "test", FULL, PerplexitySection(max_examples=1))
    [speaking] = [case for case in cases if case["group"] == "tts/en"]
    sequence = likelihood.measured(network, FULL, speaking)
    targets = [token for token, counts in zip(sequence.ids, sequence.targets, strict=True) if counts]
    assert network.layout.units(targets).tolist() == speaking["row"]["units"]
    [alone] = [case for case in cases if case["group"] == "units/en"]
    sequence = likelihood.measured(network, FULL, alone)
    assert sum(sequence.targets) == len(alone["row"]["units"])


def test_what_no_example_can_be_made_of_has_no_score(network, tables_of):
    """Interleaved answers that are spoken, without alignments."""
    cases = likelihood.cases(tables_of, None, "test", FULL, PerplexitySection(max_examples=1))
    [case] = [one for one in cases if one["group"] == "answer/en-en"]
    turns = [*case["row"]["turns"][:-1], {**case["row"]["turns"][-1], "audio": "u0"}]
    spoken = {**case["spoken"], "u0": ([1, 2, 3], None)}
    spoken_answer = {**case, "row": {**case["row"], "turns": turns}, "spoken": spoken}
    assert likelihood.scores(network, ChainSection(form="interleaved"), [spoken_answer]) == []
    [whole, of_text, of_units] = likelihood.scores(network, FULL, [spoken_answer])
    assert of_units["statistics"][1] == 3
    # Two marks of the chain and two of speech are neither text nor units.
    assert whole["statistics"][1] == of_text["statistics"][1] + 3 + 4


def test_a_model_that_knows_nothing_cannot_tell_right_from_wrong(network):
    pairs = [({"task": "swuggy/en", "id": str(n)}, [1, 2, 3], [4, 5, 6, 7]) for n in range(4)]
    found = figures.figures(figures.table(minimal_pairs.scores(network, pairs)), BootstrapSection(resamples=0))
    by_name = figures.metrics(found)
    assert by_name["swuggy/en/accuracy"] == 0.5
    # The whole of a shorter one is always likelier.
    assert by_name["swuggy/en/accuracy_sum"] == 1.0
