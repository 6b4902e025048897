"""FedMD: the consensus is the plain mean of scores, digesting approaches it, weights never travel, networks differ."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from limbeck.core.method import Clock
from limbeck.federated.client import Client
from limbeck.federated.payload import put
from limbeck.methods.federated._shared import build
from limbeck.methods.federated.fedmd import FedMD
from limbeck.models.tiny import cnn, mlp
from tests.worlds import CLASSES, SHAPE, vision_world

VALUES = {"population": 4, "split": "shards-2", "alignment": 20, "transfer_epochs": 2}


def zoo() -> nn.ModuleList:
    torch.manual_seed(1)
    return nn.ModuleList([mlp(8, shape=SHAPE, classes=CLASSES), cnn(4, 6, shape=SHAPE, classes=CLASSES)])


def test_the_consensus_is_the_mean_of_what_different_networks_say_of_the_same_images() -> None:
    world, models = vision_world(), zoo()
    given = {"public": world.test, "models": models}
    method, rounds = build(FedMD, world.student(), world.train, VALUES, given=given)
    asked = method.rows.clone()
    batch = next(iter(rounds))
    list(method.updates(batch, Clock(0, 1)))
    x, _ = world.test.take(asked)
    said = []
    for k, state in sorted(method.clients.state_dict().items()):
        model = copy.deepcopy(models[int(k) % 2]).eval()
        put(model, state, "model")
        said.append(model(x).detach())
    assert len(said) == 4
    torch.testing.assert_close(method.consensus, sum(said) / 4)
    assert torch.equal(method.known, asked) and not torch.equal(method.rows, asked)
    sent = method.clients.ask({0: method.broadcast(0)}, 1).replies[0].payload
    assert set(sent) == {"scores", "loss"} and sent["scores"].shape == (20, len(CLASSES))


def test_a_client_takes_sgd_steps_on_the_absolute_distance_before_it_revisits_its_rows() -> None:
    world, eta, tiny = vision_world(), 0.3, 1e-9
    torch.manual_seed(0)
    net = mlp(8, shape=SHAPE, classes=CLASSES)
    values = {"alignment": 12, "digest_batch": 12, "digest_lr": eta, "transfer_epochs": 0, "lr": tiny, "epochs": 1}
    worker = FedMD(copy.deepcopy(net), None, world.test, **values)
    wanted = torch.randn(12, len(CLASSES))
    client = Client(0, world.train.subset(range(6)))
    got = {"rows": torch.arange(5), "known": torch.arange(12), "consensus": wanted}
    sent = worker.local(client, got)["scores"]
    x, _ = world.test.take(torch.arange(12))
    (net(x) - wanted).abs().mean().backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(client.state[f"model/{name}"], (p - eta * p.grad).detach())
    put(net, client.state, "model")
    torch.testing.assert_close(sent, net(x[:5]).detach())


def test_transfer_learning_is_done_once_and_needs_labels() -> None:
    world = vision_world()
    blind = world.test.subset(range(len(world.test)))
    blind.labels.fill_(-1)
    found = dict[str, float]()
    x, y = world.test.take(torch.arange(len(world.test)))
    for name, public in (("labelled", world.test), ("blind", blind)):
        torch.manual_seed(0)
        worker = FedMD(world.student(), None, public, alignment=8, transfer_epochs=30, lr=0.1)
        client = Client(0, world.train.subset([0, 6]))  # two ants
        got = worker.broadcast(0)
        worker.local(client, got)
        after = {k: v.clone() for k, v in client.state.items()}
        found[name] = F.cross_entropy(worker.student(x), y).item()
        worker.local(client, got)  # now it knows its own state and only trains on its own rows
        apart = max(float((v - after[k]).abs().max()) for k, v in client.state.items() if "weight" in k)
        assert 0 < apart < 0.5
    assert found["labelled"] < 0.7 * found["blind"]
