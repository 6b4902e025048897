"""FedProx: a local loop by hand with mu (w - w^t) in every gradient, nearer as mu grows, and work left unfinished."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck import fit
from limbeck.federated.client import Client
from limbeck.federated.payload import part, take
from limbeck.methods.federated._shared import build
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.methods.federated.fedprox import FedProx
from limbeck.models.tiny import mlp
from tests.worlds import CLASSES, SGD, SHAPE, vision_world


def plain(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return mlp(8, shape=SHAPE, classes=CLASSES)


def test_every_step_is_pulled_back_by_mu_times_the_distance() -> None:
    train, mu, eta, server = vision_world().train, 0.7, 0.2, plain(1)
    x, y = train.take(torch.arange(len(train)))
    w = [p.detach().clone().requires_grad_() for p in server.parameters()]
    names = [n for n, _ in server.named_parameters()]
    for _ in range(3):
        z = torch.func.functional_call(server, dict(zip(names, w, strict=True)), (x,))
        g = torch.autograd.grad(F.cross_entropy(z, y), w)
        w = [
            (p - eta * (d + mu * (p - p0))).detach().requires_grad_()
            for p, d, p0 in zip(w, g, server.parameters(), strict=True)
        ]
    worker = FedProx(plain(), None, mu=mu, epochs=3, batch=1000, lr=eta)
    got = part(worker.local(Client(0, train), take(server, "student")), "student")
    for name, p in zip(names, w, strict=True):
        torch.testing.assert_close(got[name], p.detach(), rtol=1e-4, atol=1e-6)


def test_the_larger_mu_the_nearer_to_what_was_sent() -> None:
    train, server = vision_world().train.subset(range(20)), plain(1)
    sent, apart = take(server, "student"), list[float]()
    for mu in (0.0, 1.0, 10.0):
        torch.manual_seed(3)
        got = FedProx(plain(), None, mu=mu, lr=0.05).local(Client(0, train), sent)
        apart.append(float(sum((got[k] - v).square().sum() for k, v in sent.items())))
    assert apart[0] > 1.1 * apart[1] > 1.5 * apart[2] > 0


def test_without_mu_and_stragglers_it_is_fedavg() -> None:
    world, found = vision_world(), list[torch.nn.Module]()
    for cls, own in ((FedAvg, {}), (FedProx, {"mu": 0.0}), (FedProx, {"mu": 1.0})):
        whole = {"epochs": 3, "batch": 1000, "population": 6}  # the order of rows does not matter
        method, rounds = build(cls, plain(1), world.train, {**whole, **own}, seed=4)
        fit(method, rounds, SGD, steps=3)
        found.append(method.student)
    average, without, with_mu = (m.state_dict()["net.1.0.weight"] for m in found)
    torch.testing.assert_close(without, average, rtol=1e-4, atol=1e-6)
    assert float((with_mu - average).abs().max()) > 1e-4


def test_stragglers_send_what_they_have() -> None:
    class Counted(Client):
        def batches(self, epochs: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
            done.append(epochs)
            return super().batches(epochs, batch)

    done, train = list[int](), vision_world().train.subset(range(4))
    worker, sent = FedProx(plain(), None, stragglers=0.5, epochs=4), take(plain(), "student")
    torch.manual_seed(0)
    for _ in range(200):
        worker.local(Counted(0, train), sent)
    share = [done.count(e) / 200 for e in (1, 2, 3, 4)]
    assert all(abs(s - 1 / 8) < 0.08 for s in share[:3]) and abs(share[3] - 5 / 8) < 0.1
