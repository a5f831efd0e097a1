import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cslm.lm.attention import packed_attention, segment_index


def positions(rows, length):
    """Rows of segment lengths -> position ids [B, length]; what is left of a row is a segment too."""
    filled = [[*row, length - sum(row)] if sum(row) < length else row for row in rows]
    return torch.tensor([[place for size in row for place in range(size)] for row in filled])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=3), st.integers(0, 1000))
def test_each_segment_is_attended_to_as_if_alone(rows, seed):
    torch.manual_seed(seed)
    length = max(sum(row) for row in rows) + 2
    index = segment_index(positions(rows, length))
    query = torch.randn(len(rows), 4, length, 8)
    key, value = torch.randn(2, len(rows), 2, length, 8)
    output, _ = packed_attention(None, query, key, value, None, scaling=8**-0.5, segments=index)
    for row, sizes in enumerate(rows):
        start = 0
        for size in sizes:
            span = slice(start, start + size)
            parts = (tensor[row : row + 1, :, span] for tensor in (query, key, value))
            alone = F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)
            torch.testing.assert_close(output[row : row + 1, span], alone.transpose(1, 2), rtol=1e-4, atol=1e-5)
            start += size


@pytest.mark.parametrize("num_key_heads", [4, 2])
@pytest.mark.parametrize("length", [40, 600, 2100])  # one block of queries, several, and PyTorch's kernel
def test_bf16_attends_as_fp32_does_and_has_its_gradients(num_key_heads, length):
    torch.manual_seed(0)
    index = segment_index(positions([[length, 7]], length + 7))
    exact = [torch.randn(1, heads, length + 7, 16) for heads in (4, num_key_heads, num_key_heads)]
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        parts = [tensor.detach().to(dtype).requires_grad_() for tensor in exact]
        output, _ = packed_attention(None, *parts, None, scaling=0.25, segments=index)
        output.float().square().sum().backward()
        results.append([output.detach().float(), *(part.grad.float() for part in parts)])
    for wanted, found in zip(*results, strict=True):
        assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_every_token_is_found_again():
    index = segment_index(positions([[3, 5, 2], [10], [1, 1]], 12))
    flat = torch.cat([group.flatten() for group in index.groups])
    assert set(range(len(flat))) - set(index.restore.tolist()) == set(index.filled.tolist())
    assert flat[index.restore].tolist() == list(range(36))


def test_segments_of_like_length_share_a_group_of_one_of_few_lengths():
    index = segment_index(positions([[100, 95, 8, 7, 520]], 730))
    assert sorted(tuple(group.shape) for group in index.groups) == [(1, 576), (2, 16), (2, 112)]
