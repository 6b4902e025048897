"""DREAM: the chosen images are nearest to their centres, and D is between plain gradients of weights."""

import copy

import torch
from torch.nn import functional as F

from limbeck.core.schedule import Clock
from limbeck.data.by_class import ClassBatches
from limbeck.data.representatives import representatives
from limbeck.methods.dataset._shared import representative
from limbeck.methods.dataset.dream import Dream
from tests.worlds import SGD, vision_world

WORLD = vision_world(plain=True)
CLOCK = Clock(0, 1)


def built(**values: object) -> Dream:
    torch.manual_seed(0)
    return Dream(WORLD.train, WORLD.student(), **{"per_class": 2, "augment": "none", **values})


def test_every_cluster_gives_the_point_nearest_to_its_centre() -> None:
    drawn = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    away = torch.randn(30, 2, generator=drawn)
    clusters = torch.arange(30) % 3
    points = centres[clusters] + away
    chosen = representatives(points, 3, seed=1)
    for k in range(3):
        own = (clusters == k).nonzero().squeeze(1)
        best = own[(points[own] - points[own].mean(0)).norm(dim=1).argmin()]
        assert best in chosen  # a uniform draw would hit one cluster twice, an outlier would not be its nearest
    assert len(chosen) == 3
    assert torch.equal(representatives(points, 40), torch.arange(30))
    assert len(representatives(torch.ones(5, 2), 3).unique()) == 3


def test_the_distance_is_between_the_gradients_of_the_weights_of_each_class() -> None:
    method, batch = built(sampling="random"), next(iter(ClassBatches(WORLD.train, 4)))
    net, expected = copy.deepcopy(method.net).requires_grad_(True), 0.0
    made, y = method.student().detach(), method.student.y
    weights = [net.net[0][0].weight, net.net[1][0].weight]  # no bias, no normalisation, no head
    for k in range(6):
        pair = [
            torch.autograd.grad(F.cross_entropy(net(x[of == k]), of[of == k]), weights)
            for x, of in ((batch.x, batch.y), (made, y))
        ]
        expected += sum((a - b).square().sum().item() for a, b in zip(*pair, strict=True))
    torch.testing.assert_close(method.loss(batch, CLOCK)["match"], torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_it_is_zero_when_the_set_is_what_is_matched() -> None:
    method, batch = built(per_class=6, factor=1, clusters=6), next(iter(ClassBatches(WORLD.train, 4)))
    near = representative(method.real, method.net, 6)
    method.rows.copy_(near)
    with torch.no_grad():
        method.student.images.pixels.copy_(WORLD.train.take(near)[0])
    assert method.loss(batch, CLOCK)["match"].item() < 1e-8
    method.rows.copy_(torch.cat([(WORLD.train.labels == k).nonzero().squeeze(1)[-6:] for k in range(6)]))
    assert method.loss(batch, CLOCK)["match"].item() > 1e-5


def test_the_network_is_trained_and_drawn_anew_on_time() -> None:
    from limbeck import fit

    method = built(inner=2, interval=3, clusters=5)
    seen = []
    data = ClassBatches(WORLD.train, 16)  # 96 images a step: two batches of the network's own
    for steps in (1, 2, 3):
        torch.manual_seed(0)
        method = built(inner=2, interval=3, clusters=5)
        fit(method, data, SGD, steps=steps)
        seen.append((int(method.seen.age), method.rows.clone()))
    assert [age for age, _ in seen] == [2, 4, 2]
    assert torch.equal(seen[0][1], seen[2][1])
    assert torch.equal(WORLD.train.labels[seen[0][1]], torch.arange(6).repeat_interleave(5))
