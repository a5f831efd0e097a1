import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cslm.speech.recogniser.features import NUM_MELS
from cslm.speech.recogniser.network import SHAPES, Layout, Network, Shape

SMALL = Shape(width=16, hidden=32, num_blocks=3, unit_block=2)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Network(SMALL, num_symbols=7).eval()


def clip(seed: int, num_frames: int) -> torch.Tensor:
    return torch.randn(2 * num_frames, NUM_MELS, generator=torch.Generator().manual_seed(seed))


def side_by_side(network, clips):
    layout = Layout.of([len(one) // 2 for one in clips], network.gap)
    return [layout.split(part) for part in network(layout.lay(clips), layout.mask())]


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_a_clip_hears_nothing_of_its_neighbours(network, lengths):
    clips = [clip(seed, length) for seed, length in enumerate(lengths)]
    with torch.no_grad():
        together = side_by_side(network, clips)
        for number, one in enumerate(clips):
            for alone, among in zip(side_by_side(network, [one]), together, strict=True):
                torch.testing.assert_close(among[number], alone[0], atol=1e-4, rtol=1e-4)


def test_a_frame_hears_as_far_as_it_says_and_no_farther(network):
    one = clip(0, 120)
    with torch.no_grad():
        before = side_by_side(network, [one])[1][0]
        changed = one.clone()
        changed[2 * 60 : 2 * 61] += 10
        after = side_by_side(network, [changed])[1][0]
    heard = torch.nonzero((before - after).abs().amax(1) > 1e-5)[:, 0]
    assert 60 - heard.min() <= network.reach
    assert heard.max() - 60 <= network.reach
    assert heard.max() - heard.min() > network.reach


@pytest.mark.parametrize("name", list(SHAPES))
def test_every_shape_says_its_size(name):
    with torch.device("meta"):
        network = Network(SHAPES[name], num_symbols=100)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert millions == pytest.approx({"small": 1.65, "base": 22.8, "large": 87.5}[name], rel=0.05)
    assert 1 <= SHAPES[name].unit_block < SHAPES[name].num_blocks
