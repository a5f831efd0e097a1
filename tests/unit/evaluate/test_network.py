import numpy as np
import pytest
import torch

from cslm.evaluate.network import Measured, batches


@pytest.fixture
def stirred(network):
    """The model with a head that says something, put back afterwards."""
    head = network.model.get_output_embeddings().weight
    before = head.detach().clone()
    with torch.no_grad():
        head.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    yield network
    with torch.no_grad():
        head.copy_(before)


def test_a_model_that_knows_nothing_finds_every_token_equally_likely(network):
    [costs] = network.costs([Measured([1, 5, 9, 7], [0, 1, 0, 1])])
    assert costs.tolist() == pytest.approx([np.log(network.layout.num_rows)] * 2)


def test_costs_are_those_of_the_model_alone_in_any_batch(stirred):
    sequences = [Measured([1, 5, 9, 7], [0, 1, 1, 1]), Measured([1, 6], [0, 1]), Measured([1, 2, 3, 4, 5, 6], [1] * 6)]
    together = stirred.costs(sequences)
    for sequence, costs in zip(sequences, together, strict=True):
        ids = torch.tensor([sequence.ids])
        expected = torch.nn.functional.cross_entropy(
            stirred.model(input_ids=ids).logits[0, :-1].float(), ids[0, 1:], reduction="none"
        )
        assert costs.tolist() == pytest.approx(expected.detach().tolist(), rel=1e-4)


def test_many_targets_are_computed_in_parts(stirred, monkeypatch):
    sequence = Measured([1, 5, 9, 7, 8, 2], [0] + [1] * 5)
    [whole] = stirred.costs([sequence])
    monkeypatch.setattr("cslm.evaluate.network._LOGITS_AT_ONCE", 2)
    assert stirred.costs([sequence])[0].tolist() == pytest.approx(whole.tolist(), rel=1e-4)


def test_vectors_are_means_over_the_content_and_the_same_in_any_batch(network):
    speech, text = network.speech_ids([3, 4, 5]), network.text_ids("one two")
    found = network.vectors([speech, text], [2, 1])
    assert [one.shape for one in found] == [(2, 64), (2, 64)]
    alone = network.model.base_model(input_ids=torch.tensor([speech]), output_hidden_states=True).hidden_states[1:]
    expected = torch.stack([layer[0, 2:].mean(0) for layer in alone]).detach().numpy()
    assert np.allclose(found[0], expected, atol=1e-5)


def test_speech_alone_begins_like_any_sequence_and_has_its_units(network):
    ids = network.speech_ids([0, 39])
    assert ids[0] == network.tokenizer.bos_token_id
    assert network.layout.units(ids).tolist() == [0, 39]


def test_batches_hold_every_place_once_and_neighbours_are_of_like_length():
    lengths = [5, 1, 9, 3, 7]
    found = list(batches(lengths, 2))
    assert sorted(place for batch in found for place in batch) == list(range(5))
    assert [lengths[place] for batch in found for place in batch] == sorted(lengths)
