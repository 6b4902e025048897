"""Group PFL: FedAvg at first, then group by group from where it was; fine-tuning is a client's own."""

import torch

from limbeck.core.schedule import Clock
from limbeck.federated.client import Client
from limbeck.federated.payload import take
from limbeck.methods.federated._shared import build
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.methods.federated.group_pfl import GroupPFL
from limbeck.models.tiny import mlp
from tests.worlds import CLASSES, SHAPE, vision_world

WORLD = vision_world()
VALUES = {"population": 4, "participation": 1.0, "split": "shards-2", "lr": 0.2}


def plain() -> torch.nn.Module:
    torch.manual_seed(0)
    return mlp(8, shape=SHAPE, classes=CLASSES)


def test_it_begins_as_fedavg() -> None:
    made = [build(cls, plain(), WORLD.train, VALUES) for cls in (GroupPFL, FedAvg)]
    for method, rounds in made:
        list(method.updates(next(iter(rounds)), Clock(0, 9)))
    one, other = (take(method.student, "s") for method, _ in made)
    assert all(torch.allclose(one[k], other[k], atol=1e-6) for k in one)


def test_then_a_group_moves_by_its_own_clients_alone_at_a_lower_rate() -> None:
    method, rounds = build(GroupPFL, plain(), WORLD.train, VALUES)
    start = take(method.student, "student")
    everybody = next(iter(rounds))
    list(method.updates(everybody._replace(clients=(1, 3)), Clock(8, 9)))
    assert all(torch.equal(v, start[k]) for k, v in take(method.student, "student").items())
    assert all(torch.equal(v, start[k]) for k, v in take(method.group[0], "student").items()), "group 0 had no client"
    moved = take(method.group[1], "student")
    worker = GroupPFL(plain(), None, **{**VALUES, "lr": 0.02})
    sent = [r.payload for r in method.clients.ask({1: {**start, "level": torch.tensor(0)}}, everybody.number).replies]
    assert (moved["student/net.1.0.weight"] - start["student/net.1.0.weight"]).norm() < 0.3 * (
        sent[0]["student/net.1.0.weight"] - start["student/net.1.0.weight"]
    ).norm()
    assert set(worker.broadcast(0)) == {*start, "level"}


def test_a_pull_keeps_a_client_near_its_group() -> None:
    client, far = Client(0, WORLD.train), list[float]()
    for rho in (0.0, 5.0):
        method = GroupPFL(plain(), None, **VALUES)
        torch.manual_seed(1)
        method.descend(client, 3, 0.1, rho)
        far.append(
            sum(
                float((a - b).detach().square().sum())
                for a, b in zip(method.student.parameters(), plain().parameters(), strict=True)
            )
        )
    assert far[1] < 0.7 * far[0]
