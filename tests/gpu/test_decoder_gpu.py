"""The speech decoder on a GPU: it learns there, and what it says there is what it says on a CPU."""

import numpy as np
import pytest
import torch

from cslm.speech import decoder
from cslm.train.decoder.feed import ClipFeed
from cslm.train.decoder.loop import FitSection, Progress, held_out, train
from cslm.train.optimizers import Optimizers
from tests.data import speaking

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")


@pytest.mark.parametrize("vocoder", ["istft", "hifigan"])
def test_every_part_learns(vocoder):
    networks = speaking.networks(speaking.shape(vocoder)).to(GPU)
    voices = dict(zip(speaking.SPEAKERS, networks.voices_SV.cpu(), strict=True))
    section = FitSection(max_steps=80, warmup_steps=5, learning_rate=5e-3, evaluate_every_steps=80)
    options = {"crop_frames": 16, "gap": networks.gap, "seed": 0, "rank": 0, "batch_s": 2.0, "num_crops": 4}
    feed = ClipFeed(speaking.clips(), voices, networks.shape, **options)
    batches = [feed.batch(step) for step in range(feed.batches_an_epoch)]
    before = held_out(networks, batches, GPU, True)
    progress = train(
        networks,
        Optimizers(networks, section),
        feed,
        lambda: held_out(networks, batches, GPU, True),
        section,
        Progress(),
        GPU,
        with_flow=True,
        report=lambda step, metrics: None,
        checkpoint=lambda progress: None,
    )
    for part, loss in progress.held_out.items():
        assert loss < before[part], part


@pytest.mark.parametrize(("kind", "flow_steps"), [("flow", 0), ("flow", 3), ("griffin_lim", 0)])
def test_it_says_the_same_as_on_a_cpu(tmp_path, kind, flow_steps):
    path = str(speaking.folder(tmp_path, kind, flow_steps))
    units = speaking.units(100)
    here, there = decoder.load(path), decoder.load(path, "cuda")
    said = there.speak(units)
    assert len(said) == len(here.speak(units))
    if kind == "flow":
        np.testing.assert_allclose(said, here.speak(units), atol=5e-3)
    stream = there.stream()
    pieces = [stream.add(units[at : at + 9]) for at in range(0, 100, 9)]
    assert sum(map(len, [*pieces, stream.end()])) == len(said)
