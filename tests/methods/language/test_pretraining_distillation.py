"""Pre-training distillation: truncation by hand, the whole teacher as a limit, alpha's course, gradients of D."""

import pytest
import torch

from limbeck.core.schedule import Clock
from limbeck.methods.language.pretraining_distillation import PretrainingDistillation, trapezium, truncated
from tests.worlds import language_world


def test_top_p_then_top_k_by_hand():
    p = torch.tensor([[0.1, 0.5, 0.3, 0.06, 0.04], [0.2, 0.2, 0.2, 0.2, 0.2]]).log()
    assert truncated(p, 0.85, 5)[0].tolist() == [True, True, True, False, False], "the word that reaches p is kept"
    assert truncated(p, 0.85, 2)[0].tolist() == [False, True, True, False, False]
    assert truncated(p, 0.0, 5).sum(1).tolist() == [1, 1] and truncated(p, 1.0, 9).all()
    assert truncated(p, 0.5, 5)[1].sum() == 3


@pytest.mark.parametrize("tau", [1.0, 1.6])
def test_loss_by_hand(tau):
    world = language_world(0)
    batch, student, teacher = world.batch(4), world.student(1).eval(), world.teachers[0]
    method = PretrainingDistillation(student, teacher, top_p=0.7, top_k=6, tau=tau, schedule="constant", alpha=0.8)
    terms = method.loss(batch, Clock(0, 1))
    p = teacher(batch).log_probs().exp()[batch.mask].double()
    q1, q = (student(batch).log_probs(x).detach()[batch.mask].double() for x in (1.0, tau))
    ce = -q1.gather(1, batch.y[batch.mask][:, None]).mean()
    total = 0.0
    for a, b in zip(p, q):
        order, mass, kept = a.argsort(descending=True), 0.0, []
        for word in order.tolist():
            if mass >= 0.7 or len(kept) == 6:
                break
            kept.append(word)
            mass += float(a[word])
        target = a[kept] ** (1 / tau) / (a[kept] ** (1 / tau)).sum()  # kept at temperature 1, then softened
        total -= float((target * b[kept]).sum())
    assert float(terms["ce"].detach()) == pytest.approx(0.2 * float(ce), rel=1e-4)
    assert float(terms["kd"].detach()) == pytest.approx(0.8 * total / len(p), rel=1e-4)


def test_divergences_agree_where_they_must():
    world = language_world(0)
    batch, teacher = world.batch(4), world.teachers[0]
    p, q = teacher(batch).log_probs()[batch.mask], world.student(1)(batch).log_probs().detach()[batch.mask]
    found, pulls = {}, {}
    for name in ("nll", "kl", "mse"):
        z = q.clone().requires_grad_()
        method = PretrainingDistillation(world.student(1), teacher, divergence=name, top_p=1.0, top_k=300)
        found[name] = method.between(p, z.log_softmax(-1))
        pulls[name] = torch.autograd.grad(found[name].sum(), z)[0]
    entropy = -(p.exp() * p).sum(-1)
    assert torch.allclose(found["nll"] - found["kl"], entropy, atol=1e-4) and torch.allclose(pulls["nll"], pulls["kl"])
    assert torch.allclose(pulls["kl"], q.exp() - p.exp(), atol=1e-5), "with all words kept it is plain distillation"
    assert torch.allclose(found["mse"], (p - q).var(-1, correction=0), rtol=1e-4)
    assert torch.allclose(method.between(p, (p + 3.0).log_softmax(-1)), torch.zeros(len(p)), atol=1e-6)


def test_alpha_rises_stays_and_falls():
    course = [trapezium(Clock(step, 100), 0.1, 0.2) for step in range(100)]
    assert course[0] == pytest.approx(0.05) and course[9] == pytest.approx(0.95) and course[99] == pytest.approx(0.025)
    assert course[10:80] == [1.0] * 70 and course[90] == pytest.approx(0.475)
    assert course == sorted(course[:50]) + sorted(course[50:], reverse=True)
    assert trapezium(Clock(0, 5), 0.0, 0.0) == 1.0
    world = language_world(0)
    method = PretrainingDistillation(world.student(1).eval(), world.teachers[0])
    start, middle = (method.loss(world.batch(4), Clock(step, 100)) for step in (0, 50))
    assert float(start["kd"].detach()) == pytest.approx(0.05 * float(middle["kd"].detach()), rel=1e-4)
    assert float(start["ce"].detach()) == pytest.approx(0.955 / 0.1 * float(middle["ce"].detach()), rel=1e-4)
