"""Federated averaging: FedSGD with everybody is one step on all rows, and who has more rows counts more."""

import torch
from torch.nn import functional as F

from limbeck import fit
from limbeck.methods.federated._shared import build
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.models.tiny import mlp
from tests.worlds import CLASSES, SGD, SHAPE, accuracy, vision_world


def plain() -> torch.nn.Module:
    torch.manual_seed(0)
    return mlp(8, shape=SHAPE, classes=CLASSES)


def test_fedsgd_with_everybody_is_a_step_on_all_rows() -> None:
    world, eta = vision_world(), 0.3
    x, y = world.train.take(torch.arange(len(world.train)))
    by_hand = plain()
    F.cross_entropy(by_hand(x), y).backward()
    values = {"population": 5, "participation": 1.0, "epochs": 1, "batch": 1000, "lr": eta}
    method, rounds = build(FedAvg, plain(), world.train, values)
    fit(method, rounds, SGD, steps=1)
    for mine, theirs in zip(method.student.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(mine.detach(), theirs.detach() - eta * theirs.grad, rtol=1e-4, atol=1e-6)


def test_a_round_moves_to_the_mean_by_rows_of_those_who_took_part() -> None:
    world = vision_world()
    method, rounds = build(FedAvg, plain(), world.train, {"population": 6, "participation": 0.5, "lr": 0.2})
    batch = next(iter(rounds))
    start = method.broadcast(0)
    replies = method.clients.ask({k: start for k in batch.clients}, batch.number).replies
    assert [r.client for r in replies] == list(batch.clients) and len({r.samples for r in replies}) > 1
    list(method.updates(batch, None))
    key = "net.1.0.weight"
    whole = sum(r.samples for r in replies)
    mean = sum(r.samples / whole * r.payload[f"student/{key}"] for r in replies)
    torch.testing.assert_close(method.student.state_dict()[key], mean)


def test_it_learns_from_clients_that_see_few_classes() -> None:
    world = vision_world()
    student = world.student()
    method, rounds = build(FedAvg, student, world.train, {"population": 6, "participation": 0.5, "split": "shards-3"})
    fit(method, rounds, SGD, steps=30)
    assert accuracy(student, world.test) > 0.5
