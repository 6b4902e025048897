"""FedFTG: L_md by hand in both orders, who minimises and who maximises it, labels of the round, batch norm at rest."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from limbeck import fit
from limbeck.core.method import Clock
from limbeck.methods.federated._shared import build, diversity, models_of
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.methods.federated.fedftg import FedFTG
from limbeck.models.classifier import Classifier
from limbeck.models.tiny import cnn
from tests.worlds import CLASSES, SGD, SHAPE, vision_world

VALUES = {"population": 6, "participation": 0.5, "split": "shards-2", "epochs": 2, "lr": 0.2}
SMALL = {"width": 4, "noise": 5, "generated": 6}


def net(seed: int) -> Classifier:
    torch.manual_seed(seed)
    return cnn(4, 6, shape=SHAPE, classes=CLASSES)


@pytest.mark.parametrize("order", ["local_first", "global_first"])
def test_the_discrepancy_weighs_clients_by_their_share_of_the_class(order: str) -> None:
    method = FedFTG(net(0), None, order=order, **SMALL)
    teachers = [net(k).eval() for k in (1, 2)]
    with torch.no_grad():
        for teacher in teachers:
            teacher.net[-1].weight.mul_(20)
    x, alpha = torch.rand(3, *SHAPE), torch.tensor([[0.0, 0.25, 1.0], [1.0, 0.75, 0.0]])
    found, local = method.discrepancy(teachers, alpha, x)
    shared, total = copy.deepcopy(method.student).eval()(x).log_softmax(1), 0.0
    for k, teacher in enumerate(teachers):
        theirs = teacher(x).log_softmax(1)
        torch.testing.assert_close(local[k].log_softmax(1), theirs)
        for i in range(3):
            p, q = (theirs[i], shared[i]) if order == "local_first" else (shared[i], theirs[i])
            total += alpha[k, i] * sum(math.exp(a) * (a - b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
    torch.testing.assert_close(found, torch.as_tensor(total / 3), rtol=1e-4, atol=1e-6)


def test_the_generator_goes_up_where_the_shared_model_goes_down() -> None:
    world = vision_world()
    method, rounds = build(FedFTG, net(0), world.train, {**VALUES, **SMALL, "lambda_cls": 2.0, "lambda_dis": 3.0})
    batch = next(iter(rounds))
    replies = method.clients.ask({k: method.broadcast(k) for k in batch.clients}, batch.number).replies
    counts = torch.stack([r.payload["counts"] for r in replies])
    teachers = models_of(method.student, replies)
    updates = method.updates(batch, Clock(0, 1))
    next(updates)
    torch.manual_seed(4)
    up = next(updates)
    torch.manual_seed(4)
    y = torch.multinomial(counts.sum(0), 6, replacement=True)
    z = torch.randn(6, 5)
    assert (counts.sum(0)[y] > 0).all() and (counts.sum(0) == 0).any()
    alpha = (counts / counts.sum(0))[:, y]
    twin = copy.deepcopy(method.generator)
    x = twin(z, y)
    l_md, local = method.discrepancy(teachers, alpha, x)
    l_cls = sum(
        a * F.cross_entropy(o[i : i + 1], y[i : i + 1])
        for o, w in zip(local, alpha, strict=True)
        for i, a in enumerate(w)
    )
    torch.testing.assert_close(up.terms["hard"], -l_md)
    torch.testing.assert_close(up.terms["cls"], 2 * l_cls / 6)
    torch.testing.assert_close(up.terms["dis"], 3 * diversity(x, z))
    assert up.player == "generator"
    down = next(updates)
    assert down.player == "student" and set(down.terms) == {"md"} and float(down.loss.detach()) > 0
    players = [update.player for update in updates]
    assert ["generator", "student", *players].count("generator") == 10 and players.count("student") == 10 * 5 - 1


def test_generated_images_do_not_touch_the_statistics_of_batch_norm_nor_the_local_models() -> None:
    world = vision_world()
    average, rounds = build(FedAvg, net(0), world.train, VALUES, seed=1)
    fit(average, rounds, SGD, steps=1)
    method, rounds = build(FedFTG, net(0), world.train, {**VALUES, **SMALL}, seed=1)
    fit(method, rounds, SGD, steps=1)
    moved = False
    for (name, mine), theirs in zip(
        method.student.state_dict().items(), average.student.state_dict().values(), strict=True
    ):
        if "running" in name or "num_batches" in name:
            assert torch.equal(mine, theirs), name
        else:
            moved |= not torch.equal(mine, theirs)
    assert moved and method.student.training


def test_images_have_the_shape_and_range_of_the_data() -> None:
    from limbeck.methods.federated.fedftg import _Images

    made = _Images(5, 3, 4, (2, 9, 6))(torch.randn(7, 5), torch.arange(7) % 3).detach()
    assert made.shape == (7, 2, 9, 6) and float(made.min()) >= 0 and float(made.max()) <= 1 and float(made.std()) > 0.05
