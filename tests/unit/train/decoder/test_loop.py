import copy

import pytest
import torch

from cslm.train.decoder import losses
from cslm.train.decoder.feed import ClipFeed, lay_out
from cslm.train.decoder.loop import FitSection, Progress, held_out, train
from cslm.train.optimizers import Optimizers
from tests.data import speaking

CPU = torch.device("cpu")
CLIPS = speaking.clips()
OPTIONS = {"crop_frames": 16, "gap": 1, "seed": 0, "rank": 0}


def voices(networks):
    return dict(zip(speaking.SPEAKERS, networks.voices_SV, strict=True))


def feed_for(networks, batch_s=2.0, num_crops=2):
    return ClipFeed(CLIPS, voices(networks), networks.shape, batch_s=batch_s, num_crops=num_crops, **OPTIONS)


def trained(*, stop_after=None, resume=None, with_flow=True, **changes):
    section = FitSection(
        **{
            "max_steps": 30,
            "warmup_steps": 5,
            "precision": "fp32",
            "evaluate_every_steps": 10,
            "checkpoint_every_steps": 10,
            "log_every_steps": 5,
            **changes,
        }
    )
    networks = speaking.networks(speaking.shape())
    networks.acoustic.flow.requires_grad_(with_flow)
    optimizers = Optimizers(networks, section)
    progress = Progress()
    if resume:
        networks.load_state_dict(resume["networks"])
        for part, state in zip(optimizers.parts, resume["optimizers"], strict=True):
            part.load_state_dict(state)
        progress = Progress(**resume["progress"])
    batches = [feed_for(networks).batch(0)]
    reports, kept = [], {}

    def checkpoint(progress):
        if progress.step == stop_after:
            kept["networks"] = copy.deepcopy(networks.state_dict())
            kept["optimizers"] = [copy.deepcopy(part.state_dict()) for part in optimizers.parts]
            kept["progress"] = copy.deepcopy(vars(progress))

    progress = train(
        networks,
        optimizers,
        feed_for(networks),
        lambda: held_out(networks, batches, CPU, with_flow),
        section,
        progress,
        CPU,
        with_flow=with_flow,
        report=lambda step, metrics: reports.append((step, metrics)),
        checkpoint=checkpoint,
    )
    return networks, progress, reports, kept


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_part_learns(process_group, optimizer):
    untrained = speaking.networks(speaking.shape())
    before = held_out(untrained, [feed_for(untrained).batch(0)], CPU, True)
    _, progress, reports, _ = trained(max_steps=60, optimizer=optimizer, learning_rate=5e-3)
    for part in ("durations", "mean", "flow", "vocoder"):
        assert progress.held_out[part] < before[part], part
        assert progress.held_out[part] == reports[-1][1][f"eval/loss/{part}"]
    assert [step for step, _ in reports] == sorted({step for step, _ in reports})
    assert reports[-1][1]["progress/fraction"] == 1.0


def test_going_on_from_a_checkpoint_ends_with_the_same_weights(process_group):
    whole, _, _, kept = trained(stop_after=20)
    again, progress, _, _ = trained(resume=kept)
    assert progress.step == 30
    for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_what_is_not_asked_for_is_not_trained(process_group):
    before = speaking.networks(speaking.shape()).acoustic.flow.state_dict()
    networks, progress, reports, _ = trained(with_flow=False)
    assert all(torch.equal(one, before[name]) for name, one in networks.acoustic.flow.state_dict().items())
    assert "loss/flow" not in reports[-1][1]
    assert set(progress.held_out) == {"durations", "mean", "vocoder"}


def test_a_time_budget_ends_it(process_group):
    _, progress, reports, _ = trained(max_steps=100_000, max_minutes=0.01)
    assert 0 < progress.step < 100_000
    assert reports[-1][1]["progress/fraction"] == 1.0


def test_the_losses_of_clips_behind_each_other_are_those_of_each_alone():
    networks = speaking.networks(speaking.shape()).eval()

    def of(clips):
        laid = lay_out(clips, voices(networks), networks.shape, networks.gap)
        return losses.of_units(networks, laid, torch.Generator().manual_seed(0), with_flow=False)

    together, apart = of(CLIPS), [of([clip]) for clip in CLIPS]
    for part in ("durations", "mean"):
        torch.testing.assert_close(together[part], sum(one[part] for one in apart), rtol=1e-4, atol=1e-4)


def test_an_epoch_takes_every_clip_once_and_a_batch_follows_from_its_step():
    networks = speaking.networks(speaking.shape())
    feed = feed_for(networks)
    drawn = [feed.batch(step) for step in range(feed.batches_an_epoch)]
    assert sum(batch.audio_s for batch in drawn) == pytest.approx(sum(clip.seconds for clip in CLIPS))
    again = feed_for(networks).batch(1)
    assert torch.equal(again.clips.codes_T, drawn[1].clips.codes_T)
    assert torch.equal(again.crops_NT, drawn[1].crops_NT)
    assert again.crops_NT.shape == (2, 16 * 160)


def test_the_vocoder_loss_is_least_for_the_sound_itself():
    mel = speaking.MEL
    sound = torch.randn(2, 64 * 160) * 0.1
    wanted = mel.log_mel(sound)
    assert float(losses.of_samples(sound, sound, mel, wanted)) == pytest.approx(0, abs=1e-5)
    assert float(losses.of_samples(sound * 0.5, sound, mel, wanted)) > 0.5
