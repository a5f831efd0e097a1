import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cslm.data.spectra import Spectrum
from cslm.speech.recogniser.alphabet import Alphabet
from cslm.speech.recogniser.network import Layout, Network, Shape
from cslm.train.optimizers import Optimizers
from cslm.train.recogniser.augment import AugmentSection
from cslm.train.recogniser.feed import SpectraFeed
from cslm.train.recogniser.loop import FitSection, Progress, ctc_loss, error_rates, train

ALPHABET = Alphabet(("a", "b", "c"))
SHAPE = Shape(width=16, hidden=32, num_blocks=2, unit_block=1)


def rows(count=12):
    """Two sounds, each with its letters."""
    found = []
    for number in range(count):
        rng = np.random.default_rng(number)
        log_mel = rng.normal(size=(60, 80)) * 0.3
        log_mel[10:50, 10 + 40 * (number % 2) : 20 + 40 * (number % 2)] += 4
        text = "ab" if number % 2 else "cc"
        facts = {"language": "en", "speaker": None, "split": "train"}
        found.append(Spectrum(id=f"u{number:02}", text=text, log_mel=log_mel.astype(np.float16), **facts))
    return found


def trained(process_group, *, stop_after=None, resume=None, **changes):
    section = FitSection(
        **{
            "max_steps": 40,
            "batch_s": 2.0,
            "warmup_steps": 5,
            "precision": "fp32",
            "evaluate_every_steps": 10,
            "checkpoint_every_steps": 10,
            **changes,
        }
    )
    torch.manual_seed(0)
    network = Network(SHAPE, ALPHABET.num_symbols)
    optimizers = Optimizers(network, section)
    progress = Progress()
    if resume:
        network.load_state_dict(resume["network"])
        for part, state in zip(optimizers.parts, resume["optimizers"], strict=True):
            part.load_state_dict(state)
        progress = Progress(**resume["progress"])
    feed = SpectraFeed(
        rows(), ALPHABET, batch_s=2.0, gap=network.gap, seed=0, rank=0, augmentation=AugmentSection(speed=0)
    )
    reports, kept = [], {}

    def checkpoint(progress):
        if progress.step == stop_after:
            kept.update(
                network={name: value.clone() for name, value in network.state_dict().items()},
                optimizers=[_copied(part.state_dict()) for part in optimizers.parts],
                progress=dict(vars(progress)),
            )

    progress = train(
        network,
        optimizers,
        feed,
        lambda: error_rates(network, ALPHABET, rows(), ["en", "fr"], torch.device("cpu")),
        section,
        progress,
        torch.device("cpu"),
        report=lambda step, metrics: reports.append((step, metrics)),
        checkpoint=checkpoint,
    )
    return network, progress, reports, kept


def _copied(state):
    import copy

    return copy.deepcopy(state)


def test_the_loss_of_clips_behind_each_other_is_that_of_each_alone():
    layout = Layout.of([7, 12, 5], gap=4)
    logits = torch.randn(layout.total, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = [torch.tensor(target) for target in ([1, 2], [3, 3, 1], [2])]
    alone = sum(
        F.ctc_loss(part.log_softmax(1)[:, None], target[None], (len(part),), (len(target),), reduction="sum")
        for part, target in zip(layout.split(logits), targets, strict=True)
    )
    expected = torch.autograd.grad(alone, logits)[0]
    loss = ctc_loss(logits, layout, targets)
    torch.testing.assert_close(loss, alone)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], expected)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_it_learns_to_tell_two_sounds_apart(process_group, optimizer):
    _, progress, reports, _ = trained(
        process_group, optimizer=optimizer, max_steps=300, learning_rate=5e-3, muon_learning_rate=0.01, patience=99
    )
    assert progress.errors == {"en": 0.0}
    assert reports[-1][1]["loss/total"] < reports[0][1]["loss/total"] / 3
    assert reports[-1][1]["eval/asr/en/cer"] == 0.0
    assert [step for step, _ in reports] == sorted({step for step, _ in reports})


def test_going_on_from_a_checkpoint_ends_with_the_same_weights(process_group):
    whole, _, _, kept = trained(process_group, stop_after=20)
    again, progress, _, _ = trained(process_group, resume=kept)
    assert progress.step == 40
    for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_it_ends_when_the_error_rate_no_longer_falls(process_group):
    # No learning at all: the second evaluation is no better than the first.
    _, progress, _, _ = trained(process_group, learning_rate=1e-12, muon_learning_rate=1e-12, patience=1)
    assert progress.step == 20


def test_a_time_budget_ends_it(process_group):
    _, progress, reports, _ = trained(process_group, max_steps=100_000, max_minutes=0.02, patience=9999)
    assert 0 < progress.step < 100_000
    assert progress.train_s >= 1.2
    assert reports[-1][1]["progress/fraction"] == 1.0
