"""FIRST: the loss by hand from five words, recalibration, the temperature that a too sure teacher needs."""

import pytest
import torch
from torch import nn

from limbeck.core.schedule import Clock
from limbeck.data.tokens import TokenBatches
from limbeck.diagnostics.calibration import ece
from limbeck.errors import InputError
from limbeck.losses.vocabulary import TopK, Words
from limbeck.methods.language.first_trustworthy import GRID, First, likeliest, smoothed
from tests.worlds import language_world

NOW = Clock(0, 1)


class Says(nn.Module):
    """A teacher whose log-probabilities are given by a function of the batch."""

    def __init__(self, log_p):
        super().__init__()
        self.log_p = log_p

    def forward(self, batch):
        return Words(self.log_p(batch), None)


@pytest.mark.parametrize("rest", [False, True])
def test_loss_by_hand(rest):
    world = language_world(0)
    batch, student, teacher = world.batch(4), world.student(1).eval(), world.teachers[0]
    found = First(student, teacher, tau=1.7, rest=rest).loss(batch, NOW)["kl"]
    p, q = (m(batch).log_probs().detach().double().exp() for m in (teacher, student))
    total = 0.0
    for b, t in batch.mask.nonzero().tolist():
        best = p[b, t].argsort(descending=True)[:5]
        a, c = p[b, t, best], q[b, t, best]
        a, c = (torch.cat([x, 1 - x.sum()[None]]) if rest else x for x in (a, c))
        a, c = a ** (1 / 1.7) / (a ** (1 / 1.7)).sum(), c / c.sum()
        total += float((a * (a / c).log()).sum())
    assert float(found.detach()) == pytest.approx(total / 4, rel=1e-3), "a sum over words, a mean over sequences"


def test_smoothing_moves_what_it_says_and_keeps_the_sum():
    log_p = torch.tensor([[0.5, 0.2, 0.1, 0.05, 0.05], [0.04, 0.04, 0.04, 0.04, 0.04]]).log()
    plain, smooth = log_p.softmax(-1), smoothed(log_p, 0.1).exp()
    assert torch.allclose(smooth[:, 0], plain[:, 0] - 0.1) and torch.allclose(smooth[:, 1:], plain[:, 1:] + 0.025)
    assert torch.allclose(smoothed(log_p, 0.0).exp(), plain) and torch.allclose(smooth.sum(-1), torch.ones(2))
    world = language_world(0)
    losses = [
        float(First(world.student(1).eval(), world.teachers[0], **chosen).loss(world.batch(4), NOW)["kl"].detach())
        for chosen in ({"recalibrate": "smoothing", "smoothing": 0.0}, {"tau": 1.0}, {"recalibrate": "smoothing"})
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and abs(losses[2] - losses[1]) > 1e-3


def test_tau_is_the_one_that_makes_the_teacher_as_sure_as_right():
    """Right four times in five; half the mass on its word, which of five words is nearly all of it."""
    world = language_world(0)

    def says(batch):
        wrong = (batch.index[:, None] + torch.arange(batch.x.shape[1])) % 5 == 0
        named = torch.where(wrong, (batch.y.clamp_min(0) + 1) % 258, batch.y.clamp_min(0))
        return torch.full((*batch.x.shape, 258), 0.5 / 257).scatter(-1, named[..., None], 0.5).log()

    method = First(world.student(1), Says(says))
    tau = method.best_tau(TokenBatches(world.train, 16, shuffle=False))
    x = torch.full((1, 5), 0.5 / 257).log()
    x[0, 0] = torch.tensor(0.5).log()
    sure = {t: float((x / t).softmax(-1)[0, 0]) for t in GRID}
    assert tau == min(GRID, key=lambda t: abs(sure[t] - 0.8)) and tau == 2.0
    batch = next(iter(TokenBatches(world.train, 144, shuffle=False)))
    top = likeliest(method.teacher(batch), 5).rows(batch.mask)
    missed = (top.index[:, 0] != batch.y[batch.mask]).long()
    before, after = (ece((top.log_prob / t).log_softmax(-1), missed) for t in (1.0, tau))
    assert after < 0.05 and before > 0.15


def test_stored_words_do_and_too_few_do_not():
    index, log_p = torch.tensor([[[4, 9, 2, 7]]]), torch.tensor([[[0.1, 0.5, 0.2, 0.15]]]).log()
    top = likeliest(TopK(index, log_p, 12), 3)
    assert top.index.tolist() == [[[9, 2, 7]]]
    assert torch.allclose(top.log_prob.exp(), torch.tensor([[[0.5, 0.2, 0.15]]]))
    with pytest.raises(InputError, match="capture topk"):
        likeliest(TopK(index, log_p, 12), 5)
