"""CDA: the bound's schedule, the loss by hand, and images that the network knows."""

import math

import pytest
import torch
from torch.nn import functional as F

from limbeck import fit
from limbeck.core.schedule import Clock
from limbeck.data.batches import Batches
from limbeck.errors import InputError
from limbeck.methods.dataset._recover import grouped
from limbeck.methods.dataset.cda import CDA
from tests.worlds import vision_world

WORLD = vision_world(plain=True)
BATCH, LAST = WORLD.batch(8), Clock(10, 10)


def built(**values: object) -> CDA:
    torch.manual_seed(0)
    return CDA(WORLD.train, WORLD.teachers[0], **{"per_class": 3, **values})


def test_the_bound_falls_from_the_whole_to_parts_and_stays() -> None:
    def bounds(**values: object) -> list[float]:
        return [built(lower=0.2, **values).bound(Clock(step, 100)) for step in (0, 20, 40, 99)]

    third = 0.2 + 0.8 * (1 + math.cos(math.pi / 2)) / 2
    assert bounds(milestone=0.4) == pytest.approx([1.0, third, 0.2, 0.2])
    assert bounds(milestone=0.4, schedule="linear") == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert bounds(milestone=0.4, schedule="step") == pytest.approx([1.0, 1.0, 0.2, 0.2])
    assert bounds(milestone=0.0) == pytest.approx([0.2] * 4)  # SRe2L
    assert bounds(milestone=0.4, reverse=True) == pytest.approx([0.2, 1.2 - third, 1.0, 1.0])


def test_the_loss_by_hand() -> None:
    method = built(lower=1.0, flip=False, jitter=0.0, r_bn=0.3, first=7.0, how="real")
    terms, teacher = method.loss(BATCH, LAST), method.teacher
    ce = bn = 0.0
    for k in range(3):  # groups: image k of every class
        x, y = method.student().detach()[k::3], method.student.y[k::3]
        assert y.tolist() == list(range(6))
        ce += F.cross_entropy(teacher(x), y) / 3
        f = (x - teacher.mean) / teacher.std
        for weight, (conv, norm, *rest) in zip((7.0, 1.0), list(teacher.net)[:2], strict=True):
            f = conv(f)
            off = (f.mean((0, 2, 3)) - norm.running_mean).norm()
            spread = ((f - f.mean((0, 2, 3), keepdim=True)) ** 2).mean((0, 2, 3))
            bn += weight * (off + (spread - norm.running_var).norm()) / 3
            f = norm(f)
            for layer in rest:
                f = layer(f)
    torch.testing.assert_close(terms["ce"], ce, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(terms["bn"], 0.3 * bn, rtol=1e-4, atol=1e-4)


def test_recovered_images_are_known_to_the_network_and_have_its_statistics() -> None:
    method = built(lower=0.5, flip=False, milestone=0.5)
    kept = {k: v.clone() for k, v in method.teacher.state_dict().items()}
    torch.manual_seed(1)
    before = method.loss(BATCH, LAST)
    data = Batches(WORLD.train, 8)
    fit(method, data, lambda p: torch.optim.Adam(p, lr=0.03, betas=(0.5, 0.9)), steps=80)
    torch.manual_seed(1)
    after = method.loss(BATCH, LAST)
    assert after["ce"] < 0.3 * before["ce"] and after["bn"] < 0.6 * before["bn"]
    x, y = (part.detach() for part in grouped(method.student)[:2])
    assert float(x.min()) >= 0 and float(x.max()) <= 1
    assert (method.teacher(x).argmax(1) == y).float().mean() > 0.9
    assert all(torch.equal(v, kept[k]) for k, v in method.teacher.state_dict().items())


def test_a_network_without_batch_norm_is_refused() -> None:
    with pytest.raises(InputError, match="no batch norm"):
        CDA(WORLD.train, WORLD.student(0))
