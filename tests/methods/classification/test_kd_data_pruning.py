"""Data pruning: the scores, the choice of rows, and the weight that grows as fewer are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from limbeck.core.method import Clock, Method, Setting
from limbeck.data.batches import Images
from limbeck.methods.classification._scores import Scorer, el2n, select
from limbeck.methods.classification.kd_data_pruning import KDDataPruning, kd_weight
from tests.worlds import vision_world


class Says(nn.Module):
    """Predicts what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.answers = torch.zeros(0, dtype=torch.int64)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * nn.functional.one_hot(self.answers, 3).float()


@pytest.mark.parametrize(("keep", "alpha"), [(0.05, 1.0), (0.3, 1.0), (0.65, 0.75), (1.0, 0.5)])
def test_the_weight_of_the_soft_term_grows_as_fewer_samples_are_kept(keep: float, alpha: float) -> None:
    world = vision_world()
    student, teacher, batch = world.student().eval(), world.teachers[0], world.batch()
    terms = KDDataPruning(student, teacher, keep=keep, tau=2.0).loss(batch, Clock(0, 1))
    s, t = (m(batch.x).detach().double().numpy() for m in (student, teacher))

    def log_softmax(z: np.ndarray) -> np.ndarray:
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    p, q = log_softmax(t / 2), log_softmax(s / 2)
    assert kd_weight(keep) == pytest.approx(alpha)
    assert terms["kd"].item() == pytest.approx(alpha * 4 * (np.exp(p) * (p - q)).sum(1).mean(), rel=1e-4)
    ce = -log_softmax(s)[np.arange(len(s)), batch.y].mean()
    assert terms["ce"].item() == pytest.approx((1 - alpha) * ce, rel=1e-4, abs=1e-7)


def test_forgetting_counts_every_fall_from_right_to_wrong() -> None:
    truth = torch.tensor([0, 1, 2, 0])
    seen = [  # what is said of samples 0 to 3 in five epochs; the batches come in another order every time
        [0, 1, 2, 1],
        [1, 1, 0, 1],
        [0, 1, 1, 2],
        [2, 1, 2, 1],
        [0, 1, 0, 2],
    ]
    scorer, forgotten, model = Scorer(Says(), examples=4), [0, 0, 0, 0], None
    for epoch, said in enumerate(seen):
        order = torch.arange(4).roll(epoch)
        scorer.student.answers = torch.tensor(said)[order]
        scorer.loss(Images(torch.zeros(4, 1), truth[order], order), Clock(epoch, 5))
        if model is not None:
            forgotten = [c + (a == y != b) for c, a, b, y in zip(forgotten, model, said, truth.tolist(), strict=True)]
        model = said
    assert forgotten == [2, 0, 2, 0]
    assert scorer.forgetting.tolist() == [2, 0, 2, float("inf")]  # the last was never learnt


def test_el2n_is_the_length_of_the_error_and_the_hardest_of_every_class_are_kept() -> None:
    torch.manual_seed(0)
    z, y = torch.randn(300, 4, dtype=torch.float64), torch.arange(300) % 3 % 2 + torch.arange(300) % 2
    e = np.exp(z.numpy())
    error = e / e.sum(1, keepdims=True) - np.eye(4)[y.numpy()]
    score = el2n(z, y)
    np.testing.assert_allclose(score.numpy(), np.sqrt((error**2).sum(1)), rtol=1e-6)
    assert set(select(score, y, 0.1, balanced=False).tolist()) == set(score.topk(30).indices.tolist())
    rows = select(score, y, 0.1, balanced=True)
    assert len(rows) == 30 and torch.equal(rows, rows.unique())
    for k in y.unique():
        own, kept = (y == k).nonzero()[:, 0], rows[y[rows] == k]
        assert abs(len(kept) - 0.1 * len(own)) <= 1
        assert score[kept].min() >= score[own].topk(len(kept)).values.min()


def test_equal_scores_are_drawn_between() -> None:
    torch.manual_seed(0)
    y = torch.zeros(1000, dtype=torch.int64)
    for balanced in (False, True):
        rows = select(torch.zeros(1000), y, 0.2, balanced=balanced).double()
        assert 400 < rows.mean() < 600


@pytest.mark.parametrize("score", ["random", "el2n", "forgetting"])
def test_the_student_sees_only_what_is_kept_for_as_many_steps(score: str) -> None:
    world, fits = vision_world(), []

    def look(method: Method, *, name: str = "student", data: Any = None, steps: int = 40) -> None:
        fits.append((name, steps, len(world.train if data is None else data.dataset)))
        if name == "scorer-0":
            method.loss(world.batch(), Clock(0, 1))

    setting = Setting(world.student, world.teachers, world.data, 40, look)
    KDDataPruning.distil(setting, {"keep": 0.25, "score": score, "scorers": 2})
    early = {"random": [], "el2n": [4, 4], "forgetting": [40, 40]}[score]
    assert fits == [*((f"scorer-{k}", steps, 144) for k, steps in enumerate(early)), ("student", 40, 36)]
