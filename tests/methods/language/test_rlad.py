"""RLAD (Zhang et al., 2026): GRPO at alpha 1, whom the clip holds back, the verifier, groups without variance."""

import pytest
import torch

from limbeck import Clock
from limbeck.data.tokens import Tokens
from limbeck.losses.policy import clipped_surrogate, group_advantage, is_clipped, sampled_kl
from limbeck.losses.vocabulary import word_log_probs
from limbeck.methods.language._shared import answers, exact, repeated
from limbeck.methods.language.rlad import RLAD, anchored_log_ratio
from tests.worlds import language_world

LATE = Clock(9, 10)


def by_length(said: Tokens, batch: Tokens) -> torch.Tensor:
    """A verifier under which answers differ: how many of its words are even."""
    return ((said.y % 2 == 0) & said.mask).sum(1).float()


def test_the_objective_against_a_slow_loop() -> None:
    world = language_world()
    [teacher], student, batch = world.teachers, world.student(), world.batch(3)
    method = RLAD(student, teacher, by_length, group=4, longest=4, alpha=0.3, eps=0.2)
    torch.manual_seed(5)
    update = next(method.updates(batch, LATE))
    torch.manual_seed(5)
    said = answers(student, repeated(batch, 4), longest=4)
    rewards = by_length(said, batch).view(3, 4)
    with torch.no_grad():
        s, t = (word_log_probs(model(said), said.y) for model in (student, teacher))
    total = 0.0
    for i in range(12):
        group = rewards[i // 4]
        A = float((group[i % 4] - group.mean()) / (group.std(correction=0) + 1e-6))
        ratio = (s[i] - 0.3 * s[i] - 0.7 * t[i])[said.mask[i]].exp()
        total -= sum(min(float(r) * A, min(max(float(r), 0.8), 1.2) * A) for r in ratio) / len(ratio) / 12
    assert float(update.terms["policy"].detach()) == pytest.approx(total, rel=1e-4)
    assert float(update.logs["reward"]) == pytest.approx(float(rewards.mean()))


def test_alpha_one_is_grpo_and_so_is_a_teacher_that_is_the_old_student() -> None:
    now, old, teacher = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    assert anchored_log_ratio(now, old, teacher, 1.0).equal(now - old - 0 * teacher)
    for alpha in (0.0, 0.5):
        torch.testing.assert_close(anchored_log_ratio(now, old, old, alpha), now - old)


def test_a_gap_bounds_what_an_impossible_word_of_a_bad_answer_counts() -> None:
    old, teacher = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-40.0, -1.5, -0.01])
    now = old.clone().requires_grad_()
    free, held = (anchored_log_ratio(now, old, teacher, 0.5, gap) for gap in (None, 2.0))
    assert free[0] > 19 and float(held[0].detach()) == pytest.approx(1.0), "(1 - alpha) gap, not (1 - alpha) 39"
    torch.testing.assert_close(held[1:], free[1:])
    [slope] = torch.autograd.grad(clipped_surrogate(held, -torch.ones(3), 0.2).sum(), now)
    assert float(slope[0]) == pytest.approx(torch.e, rel=1e-5), "no more than exp((1 - alpha) gap), and not none"
    world = language_world()
    [teacher_model], batch = world.teachers, world.batch(3)
    losses = []
    for gap in (None, 1e-9):
        torch.manual_seed(5)
        method = RLAD(world.student(), teacher_model, by_length, alpha=0.3, group=4, longest=4, gap=gap)
        losses.append(float(next(method.updates(batch, LATE)).terms["policy"].detach()))
    assert losses[1] == pytest.approx(0, abs=1e-5) != losses[0], "GRPO's first step: ratios 1, advantages of mean 0"


def test_a_word_that_the_teacher_likes_may_go_further_before_it_is_clipped() -> None:
    old, now = torch.tensor(-2.0), torch.tensor(-2.0 + 0.3)  # a step up by more than the clip allows
    good, bad = torch.tensor(1.0), torch.tensor(-1.0)
    liked, disliked = (anchored_log_ratio(now, old, old + gap, 0.5) for gap in (0.5, -0.5))
    assert not is_clipped(liked, good, 0.2) and is_clipped(disliked, good, 0.2)
    for log_ratio, advantage in ((liked, good), (disliked, good), (disliked, bad), (liked - 0.5, bad)):
        x = log_ratio.clone().requires_grad_()
        [slope] = torch.autograd.grad(clipped_surrogate(x, advantage, 0.2), x)
        assert bool(slope == 0) == bool(is_clipped(log_ratio, advantage, 0.2))
        assert slope * advantage <= 0, "good words become likelier, bad ones less likely"
    assert float(group_advantage(torch.full((2, 4), 3.0)).abs().max()) == 0, "nothing to learn where all are alike"
    q, p = torch.randn(2, 7, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    expected = (q.exp() * sampled_kl(q, p)).sum()
    torch.testing.assert_close(expected, (q.exp() * (q - p)).sum())


def test_the_verifier_wants_the_completion_word_for_word_and_a_reference_costs_what_it_says() -> None:
    world = language_world()
    [teacher], batch = world.teachers, world.batch(4)
    x, y = batch.x.clone(), batch.y.clone()
    y[1, y[1] != -100] = 7
    assert exact(batch._replace(x=x, y=y), batch).tolist() == [1, 0, 1, 1]
    method = RLAD(world.student(), teacher, by_length, beta=0.1, group=2, longest=3, inner=2)
    updates = list(method.updates(batch, LATE))
    assert len(updates) == 2 and float(updates[0].terms["kl"].detach()) == pytest.approx(0, abs=1e-6)
    [warm] = method.updates(batch, Clock(0, 10))
    assert list(warm.terms) == ["ce"]
