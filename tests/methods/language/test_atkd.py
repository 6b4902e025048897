"""ATKD (Zhong et al., 2024): the median splits the words, and the halves get different parts of the KL."""

import copy

import numpy as np
import pytest
import torch

from limbeck import Clock
from limbeck.methods.language.atkd import ATKD, gate
from tests.worlds import language_world

CLOCK = Clock(0, 1)


def by_hand(p: np.ndarray, q: np.ndarray, y: np.ndarray, lam: float) -> float:
    """Word by word, from probabilities."""
    u = 1 - p[range(len(y)), y]
    median, easy, hard = np.sort(u)[(len(u) - 1) // 2], list[float](), list[float]()
    for n, k in enumerate(y):
        others = np.arange(p.shape[1]) != k
        a, b = p[n, others] / (1 - p[n, k]), q[n, others] / (1 - q[n, k])
        nckd = float((a * np.log(a / b)).sum())
        tckd = p[n, k] * np.log(p[n, k] / q[n, k]) + (1 - p[n, k]) * np.log((1 - p[n, k]) / (1 - q[n, k]))
        if u[n] < median:
            easy.append(nckd)
        else:
            hard.append(nckd + tckd)
    return lam * float(np.mean(easy)) + (1 - lam) * float(np.mean(hard))


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_it_is_the_two_means_of_the_paper(direction: str) -> None:
    world = language_world()
    [teacher], student, batch = world.teachers, world.student(), world.batch(6)
    found = ATKD(student, teacher, lam=0.3, direction=direction).loss(batch, CLOCK)["atkd"]  # type: ignore[arg-type]
    with torch.no_grad():
        p, q = (model(batch).log_probs()[batch.mask].double().exp().numpy() for model in (teacher, student))
    y = batch.y[batch.mask].numpy()
    wanted = by_hand(p, q, y, 0.3) if direction == "forward" else by_hand(q, p, y, 0.3)
    assert float(found) == pytest.approx(wanted, rel=1e-3)


def test_the_gate_leaves_tckd_out_where_the_teacher_is_sure_and_ignores_padding() -> None:
    unsure = torch.tensor([[0.9, 0.1, 0.2, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True, False, False]])
    target, rest = gate(unsure, mask, 0.2)
    assert torch.allclose(target, torch.tensor([[0.4, 0.0, 0.4, 0.0, 0.0]]))
    assert torch.allclose(rest, torch.tensor([[0.4, 0.2, 0.4, 0.0, 0.0]]))


def test_where_all_are_as_sure_all_are_hard_and_nothing_is_divided_by_zero() -> None:
    target, rest = gate(torch.full((2, 3), 0.5), torch.ones(2, 3, dtype=torch.bool), 0.2)
    assert torch.allclose(target, torch.full((2, 3), 0.8 / 6)) and target.equal(rest)


def test_sure_words_do_not_teach_how_sure_the_teacher_is() -> None:
    """A student that differs from the teacher only in the mass of the label learns nothing at easy words (lam 1)."""
    world = language_world()
    [teacher], batch = world.teachers, world.batch(6)
    student = copy.deepcopy(teacher).requires_grad_(True)
    words = teacher(batch).logits().detach()
    tilted = words.clone()
    tilted.scatter_add_(-1, batch.y.clamp_min(0)[..., None], torch.full_like(words[..., :1], 2.0))
    student.forward = lambda _: type(teacher(batch))(tilted, None)  # type: ignore[method-assign]
    assert float(ATKD(student, teacher, lam=1.0).loss(batch, CLOCK)["atkd"]) == pytest.approx(0, abs=1e-5)
    assert float(ATKD(student, teacher, lam=0.0).loss(batch, CLOCK)["atkd"]) > 0.01
