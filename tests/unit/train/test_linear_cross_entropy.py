import pytest
import torch
import torch.nn.functional as F

from cslm.train.linear_cross_entropy import attach, linear_cross_entropy

N, D, V = 23, 8, 40


def inputs(dtype=torch.float32):
    torch.manual_seed(0)
    hidden = torch.randn(N, D, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, D, dtype=dtype, requires_grad=True)
    bias = torch.randn(V, dtype=dtype, requires_grad=True)
    return hidden, weight, bias, torch.randint(0, V, (N,))


def reference(hidden, weight, bias, labels, softcap):
    logits = F.linear(hidden, weight, bias).float()
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, labels, reduction="sum")


@pytest.mark.parametrize("rows", [5, 100])
@pytest.mark.parametrize("softcap", [None, 4.0])
def test_losses_and_gradients_are_those_of_all_logits_at_once(rows, softcap):
    *tensors, labels = inputs()
    expected = torch.autograd.grad(3 * reference(*tensors, labels, softcap), tensors)
    hidden, weight, bias = tensors
    total, losses = linear_cross_entropy(hidden, weight, labels, bias=bias, softcap=softcap, rows=rows)
    torch.testing.assert_close(total, reference(*tensors, labels, softcap))
    torch.testing.assert_close(losses.sum(), total)
    assert not losses.requires_grad
    torch.testing.assert_close(torch.autograd.grad(3 * total, tensors), expected)


def test_sums_of_16_bit_gradients_are_taken_in_32():
    hidden, weight, _, labels = inputs(torch.bfloat16)
    exact = [tensor.detach().float().requires_grad_() for tensor in (hidden, weight)]
    wanted = torch.autograd.grad(linear_cross_entropy(*exact, labels)[0], exact[1])[0]
    parted = torch.autograd.grad(linear_cross_entropy(hidden, weight, labels, rows=2)[0], weight)[0]
    assert parted.dtype == torch.bfloat16
    torch.testing.assert_close(parted.float(), wanted, rtol=0.02, atol=0.05)


def test_a_frozen_head_gets_no_gradient_and_no_targets_give_zeros():
    hidden, weight, _, labels = inputs()
    total, _ = linear_cross_entropy(hidden, weight.detach(), labels)
    total.backward()
    assert hidden.grad is not None
    assert weight.grad is None
    total, losses = linear_cross_entropy(hidden[:0], weight, labels[:0])
    total.backward()
    assert total.item() == 0
    assert losses.shape == (0,)
    assert not weight.grad.any()


def test_a_head_without_labels_still_gives_logits():
    hidden, weight, _, labels = inputs()
    head = torch.nn.Linear(D, V, bias=False)
    head.weight = torch.nn.Parameter(weight.detach())
    attach(head)
    torch.testing.assert_close(head(hidden), hidden @ weight.T)
    torch.testing.assert_close(head(hidden, labels=labels)[0], reference(hidden, weight, None, labels, None))
    with torch.no_grad():
        torch.testing.assert_close(head(hidden, labels=labels)[0], reference(hidden, weight, None, labels, None))
