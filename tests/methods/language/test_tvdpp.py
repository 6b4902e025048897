"""TVD++ (Goel et al., 2024): the lemma on total variation's gradient, the baseline, drawn words, pooling."""

import pytest
import torch

from limbeck import Clock
from limbeck.data.tokens import IGNORE
from limbeck.losses.divergence import total_variation
from limbeck.losses.vocabulary import Words, sample_words, word_log_probs
from limbeck.methods.language.tvdpp import FLOOR, TVDPlusPlus, pooled, reward, tvd_plus
from tests.worlds import language_world


def pair(n: int = 6, V: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    p, z = torch.randn(2, n, V, generator=drawn, dtype=torch.float64)
    return p.log_softmax(-1), z.requires_grad_()


def test_exactly_its_gradient_is_that_of_total_variation_over_sigma_whatever_the_baseline() -> None:
    p, z = pair()
    [wanted] = torch.autograd.grad(total_variation(p, z.log_softmax(-1)).sum(), z)
    one = torch.ones(6, dtype=z.dtype)
    for mu, sigma in ((0 * one, one), (0.3 * one, 0.5 * one)):
        [found] = torch.autograd.grad(tvd_plus(p, z.log_softmax(-1), mu, sigma).sum(), z)
        torch.testing.assert_close(found * sigma[:, None], wanted)


def test_with_drawn_words_it_is_right_on_average_and_the_baseline_takes_variance_away() -> None:
    p, z = pair(1, 9)
    q = z.log_softmax(-1)
    mu = reward(p, q).detach()
    [wanted] = torch.autograd.grad(tvd_plus(p, q, 0 * mu, 1 + 0 * mu).sum(), z, retain_graph=True)
    spread = []
    for base in (0 * mu, mu):
        found = torch.stack([
            torch.autograd.grad(tvd_plus(p, q, base, 1 + 0 * mu, torch.tensor([[v]])).sum(), z, retain_graph=True)[0][0]
            for v in range(9)
        ])  # fmt: skip
        law = q.exp().detach()[0, :, None]
        torch.testing.assert_close((law * found).sum(0), wanted[0])
        spread.append(float((law * (found - wanted) ** 2).sum()))
    assert spread[1] < spread[0]
    drawn = sample_words(Words(q.detach().expand(500, 9), None), 8, torch.Generator().manual_seed(0)).index
    assert float(reward(p.expand(500, 9), q.expand(500, 9), drawn).mean()) == pytest.approx(float(mu), abs=0.02)


def test_mean_and_deviation_are_pooled_over_words_that_are_to_be_learnt() -> None:
    batch = language_world().batch(4)
    batch = batch._replace(
        y=torch.where(torch.arange(4)[:, None] + torch.arange(batch.y.shape[1]) < 8, batch.y, IGNORE)
    )
    rewards = torch.rand(batch.y.shape, generator=torch.Generator().manual_seed(0))
    for over, groups in (
        ("batch", [batch.mask]),
        ("sequence", [batch.mask & (torch.arange(4) == k)[:, None] for k in range(4)]),
    ):
        mu, sigma = pooled(rewards, batch, over)
        for group in groups:
            m = float(rewards[group].mean())
            torch.testing.assert_close(mu[group], torch.full_like(mu[group], m))
            torch.testing.assert_close(sigma[group], torch.full_like(mu[group], (m * (1 - m)) ** 0.5 + FLOOR))
    assert pooled(rewards, batch, "position")[0].equal(rewards)


def test_a_step_draws_the_draft_to_the_target_and_one_batch_in_ten_is_text() -> None:
    world = language_world()
    [target], draft, batch = world.teachers, world.student(), world.batch(8)
    method = TVDPlusPlus(draft, target, source="data", regular=0.0)
    update = next(method.updates(batch, Clock(0, 1)))
    p, q = (model(batch).log_probs()[batch.mask] for model in (target, draft))
    assert float(update.logs["acceptance"]) == pytest.approx(1 - float(total_variation(p, q).mean().detach()), abs=1e-5)
    mu = float(reward(p, q).mean().detach())
    parameters = list(draft.parameters())
    wanted = torch.autograd.grad(total_variation(p, q).mean(), parameters, allow_unused=True)
    found = torch.autograd.grad(update.loss, parameters, allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        if b is not None:
            torch.testing.assert_close(a * ((mu * (1 - mu)) ** 0.5 + FLOOR), b, atol=1e-6, rtol=1e-3)
    text = next(TVDPlusPlus(draft, target, regular=1.0).updates(batch, Clock(0, 1)))
    assert float(text.loss.detach()) == pytest.approx(
        -float(word_log_probs(draft(batch), batch.y)[batch.mask].mean().detach()), rel=1e-4
    )
