"""CV-DD: votes, the committee of every image, and the loss as a weighted sum over it."""

import pytest
import torch
from torch import nn

from limbeck.core.schedule import Clock
from limbeck.errors import InputError
from limbeck.methods.dataset._recover import recovered
from limbeck.methods.dataset.cv_dd import CVDD
from tests.worlds import vision_world

WORLD = vision_world(plain=True, teachers=3)
PRIOR = torch.tensor([60.0, 50.0, 40.0])


def built(**values: object) -> CVDD:
    torch.manual_seed(0)
    plain = {"lower": 1.0, "flip": False, "jitter": 0.0, "per_class": 4}
    return CVDD(WORLD.train, nn.ModuleList(WORLD.teachers), PRIOR, **{**plain, **values})


def test_votes_are_a_softmax_within_the_committee() -> None:
    method = built(temperature=10.0)
    assert method.members.shape == (4, 2) and all(a != b for a, b in method.members.tolist())
    assert len({tuple(sorted(row)) for row in built(per_class=12).members.tolist()}) == 3
    for row, votes in zip(method.members, method.votes, strict=True):
        a, b = PRIOR[row]
        torch.testing.assert_close(votes[0], torch.sigmoid((a - b) / 10))
        torch.testing.assert_close(votes.sum(), torch.tensor(1.0))
    assert built(voting="equal").votes.eq(0.5).all()
    torch.testing.assert_close(built(voters=9, voting="equal").votes, torch.full((4, 3), 1 / 3))
    assert method.student.use.weights == pytest.approx([0.4, 1 / 3, 4 / 15])
    with pytest.raises(InputError, match="prior"):
        CVDD(WORLD.train, nn.ModuleList(WORLD.teachers), PRIOR[:2])


def test_the_loss_is_the_weighted_sum_over_the_committee() -> None:
    method = built(r_bn=0.2)
    terms = method.loss(WORLD.batch(8), Clock(0, 1))
    ce = bn = torch.zeros(())
    for k in range(4):
        x, y = method.student()[k::4], method.student.y[k::4]
        for m, w in zip(method.members[k], method.votes[k], strict=True):
            found = recovered(method.teachers[m], x, y, 1, 10.0)
            ce, bn = ce + w * found.ce[0] / 4, bn + w * found.bn[0] / 4
    torch.testing.assert_close(terms["ce"], ce, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["bn"], 0.2 * bn, rtol=1e-4, atol=1e-5)


def test_only_the_committee_of_an_image_moves_it() -> None:
    method = built(voters=1)
    slopes = torch.autograd.grad(sum(method.loss(WORLD.batch(8), Clock(0, 1)).values()), method.student.images.pixels)
    for k in range(4):
        x = method.student()[k::4].detach().requires_grad_()
        found = recovered(method.teachers[method.members[k, 0]], x, method.student.y[k::4], 1, 10.0)
        alone = torch.autograd.grad((found.ce + 0.05 * found.bn)[0], x)[0]
        torch.testing.assert_close(slopes[0][k::4], alone / 4, rtol=1e-3, atol=1e-7)


def test_the_prior_is_measured_for_every_member_unless_votes_are_equal() -> None:
    seen: list[tuple[str, int]] = []
    setting = WORLD.setting()

    def fit(method: CVDD, *, name: str = "student") -> None:
        seen.append((name, len(method.teachers)))
        last.append(method)

    last: list[CVDD] = []
    spied = type(setting)(setting.student, setting.teachers, setting.data, 40, fit)
    CVDD.distil(spied, {"per_class": 2, "lower": 0.5})
    assert seen == [("prior-1", 1), ("prior-2", 1), ("prior-3", 1), ("student", 3)]
    assert float(last[-1].prior.min()) > 100 / 6 and float(last[-1].prior.max()) <= 100
    seen.clear()
    CVDD.distil(spied, {"voting": "equal"})
    assert seen == [("student", 3)]
