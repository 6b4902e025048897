"""DataDAM: the loss is zero on the real images themselves, and its terms are the paper's sums."""

import torch

from limbeck.core.modules import Taps
from limbeck.core.schedule import Clock
from limbeck.data.by_class import ClassBatches
from limbeck.methods.dataset.datadam import DataDAM
from limbeck.models.renew import renew
from tests.worlds import vision_world

WORLD = vision_world(plain=True)
CLOCK = Clock(0, 1)


def built(**values: object) -> DataDAM:
    torch.manual_seed(0)
    return DataDAM(WORLD.train, WORLD.student(), **{"per_class": 2, "augment": "none", **values})


def test_real_images_match_themselves() -> None:
    method = built(per_class=24)
    batch = next(iter(ClassBatches(WORLD.train, 24)))
    assert all(abs(term.item()) < 1e-8 for term in method.loss(batch, CLOCK).values())
    half = next(iter(ClassBatches(WORLD.train, 12)))
    assert all(term.item() > 1e-6 for term in method.loss(half, CLOCK).values())


def test_the_terms_are_the_papers_sums() -> None:
    method, batch = built(p=3.0, lam=0.5), next(iter(ClassBatches(WORLD.train, 4)))
    torch.manual_seed(5)
    terms = method.loss(batch, CLOCK)
    torch.manual_seed(5)
    renew(method.net)
    taps = Taps(*method.net.stages, f"{method.net.head}:in")
    real, made = taps(method.net, batch.x)[1], taps(method.net, method.student())[1]
    attention = mmd = 0.0
    for k in range(6):
        t, s = batch.y == k, method.student.y == k
        for r, m in zip(real[:-1], made[:-1], strict=True):
            maps = [f.abs().pow(3).sum(1).flatten(1) for f in (r[t], m[s])]
            a, b = ((z / z.norm(dim=1, keepdim=True)).mean(0) for z in maps)
            attention += (a - b).square().sum().item()
        mmd += (real[-1][t].mean(0) - made[-1][s].mean(0)).square().sum().item()
    torch.testing.assert_close(terms["attention"], torch.tensor(attention), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(terms["mmd"], torch.tensor(0.5 * mmd), rtol=1e-4, atol=1e-6)


def test_every_step_looks_through_another_network_and_only_images_learn() -> None:
    method, batch = built(), next(iter(ClassBatches(WORLD.train, 4)))
    one, other = (sum(method.loss(batch, CLOCK).values()) for _ in range(2))
    assert float(one) != float(other)
    assert [p.shape for p in method.players()["student"]] == [method.student.images.pixels.shape]
    assert torch.autograd.grad(other, method.student.images.pixels)[0].flatten(1).abs().amax(1).min() > 0
