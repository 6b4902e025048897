"""What the methods share: directions are read in eval mode, a critic is what it is asked to be."""

import torch
from torch import nn

from limbeck.losses.score import follow
from limbeck.methods.diffusion._shared import critic_of, noised_logits, score_gap, trainable
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.tiny_denoiser import mlp


def test_score_networks_are_read_in_eval_mode_and_left_as_they_were() -> None:
    """Dropout in a critic would be taken for a difference of distributions."""
    torch.manual_seed(0)
    teacher = mlp(16, 2)
    teacher.net.leave = nn.Sequential(nn.Dropout(0.5), teacher.net.leave)
    critic, x = trainable(teacher), torch.randn(64, 2)
    gap = score_gap(x, torch.full((64,), -1), teacher.eval(), critic, 0.02, 0.98)
    assert critic.training and float(gap.abs().max()) == 0


def test_the_direction_leads_away_from_the_teacher_so_that_descent_leads_to_it() -> None:
    torch.manual_seed(0)
    teacher, critic = (exact(GaussianMixture(torch.tensor([[m, 0.0]]), 0.5)) for m in (1.0, -1.0))
    x = (torch.tensor([[-1.0, 0.0]]) + 0.5 * torch.randn(256, 2)).requires_grad_()
    gap = score_gap(x, torch.full((256,), -1), teacher, critic, 0.02, 0.98)
    (slope,) = torch.autograd.grad(follow(x, gap).mean(), x)
    assert float(gap[:, 0].mean()) < 0 and not gap.requires_grad
    torch.testing.assert_close(slope, gap / 512)


def test_a_critic_has_adapters_where_asked_and_the_students_weights_where_the_teacher_has_none() -> None:
    teacher, student, world = mlp(16, 2), mlp(8, 1), exact(GaussianMixture(torch.zeros(1, 2), 1.0))
    learning = [n for n, p in critic_of(teacher, student, 4).named_parameters() if p.requires_grad]
    assert learning and all("lora_" in name for name in learning)
    assert critic_of(teacher, student).net.enter.out_features == 16
    assert critic_of(world, student, 4).net.enter.out_features == 8


def test_logits_of_noised_samples_reach_the_sample() -> None:
    model, x = mlp(16, 2), torch.randn(8, 2, requires_grad=True)
    logits = noised_logits(nn.Sequential(nn.Linear(16, 1), nn.Flatten(0)), model, x, torch.full((8,), -1), 0.1, 0.2)
    (slope,) = torch.autograd.grad(logits.sum(), x)
    assert logits.shape == (8,) and float(slope.abs().min()) > 0
