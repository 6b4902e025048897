"""PGFed: the added gradient is that of the linearised risks, the shares follow theirs, absent ones stay."""

import torch
from torch.nn import functional as F

from limbeck.federated.client import Client
from limbeck.federated.payload import take
from limbeck.methods.federated._shared import build
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.methods.federated.pgfed import PGFed
from limbeck.models.tiny import mlp
from tests.worlds import CLASSES, SHAPE, vision_world

WORLD = vision_world()


def worker(**values: object) -> PGFed:
    torch.manual_seed(0)
    given = {"population": 5, "participation": 0.4, "epochs": 1, "batch": 1000, "lr": 0.1, **values}
    return PGFed(mlp(8, shape=SHAPE, classes=CLASSES), **given)


def remembering(**values: object) -> PGFed:
    """A server after a round with clients 1 and 3."""
    method = worker(**values)
    drawn = torch.Generator().manual_seed(1)
    method.who, method.c = torch.tensor([1, 3]), torch.randn(2, generator=drawn)
    method.g = torch.randn(method.g.shape, generator=drawn)
    return method


def test_one_step_descends_the_papers_objective_in_the_model_and_in_the_shares() -> None:
    server = remembering(mu=0.3, lam=0.05)
    got, client = server.broadcast(0), Client(0, WORLD.train)
    x, y = WORLD.train.take(torch.arange(len(WORLD.train)))
    net, a = worker().student, got["a"][[1, 3]].clone().requires_grad_()
    theta = torch.cat([p.flatten() for p in net.parameters()])
    (F.cross_entropy(net(x), y) + 0.3 * (a * (server.c + server.g @ theta)).sum()).backward()
    sent = worker(mu=0.3, lam=0.05).local(client, got)
    for name, p in net.named_parameters():
        torch.testing.assert_close(sent[f"student/{name}"], p.detach() - 0.1 * p.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sent["a"][[1, 3]], (a.detach() - 0.05 * a.grad).clamp(min=0), rtol=1e-4, atol=1e-5)
    assert torch.equal(sent["a"][[2, 4]], got["a"][[2, 4]]) and float(sent["a"][0]) == 0


def test_what_is_sent_back_is_the_risk_where_the_client_is() -> None:
    client = Client(0, WORLD.train)
    sent = worker().local(client, worker().broadcast(0))
    net, (x, y) = worker().student, WORLD.train.take(torch.arange(len(WORLD.train)))
    net.load_state_dict({k.removeprefix("student/"): v for k, v in sent.items() if k.startswith("student/")})
    theta = torch.cat([p.detach().flatten() for p in net.parameters()])
    torch.testing.assert_close(sent["c"] + sent["g"] @ theta, F.cross_entropy(net(x), y).detach(), rtol=1e-4, atol=1e-4)


def test_the_mean_is_sent_when_asked_and_smoothing_keeps_the_past() -> None:
    exact, mean = remembering(), remembering(inner="mean")
    assert exact.broadcast(0)["g"].shape[0] == 2
    torch.testing.assert_close(mean.broadcast(0)["g"], exact.g.mean(0, keepdim=True))
    slow = remembering(beta=0.75)
    slow.smooth[0] = 1.0
    torch.testing.assert_close(slow.broadcast(0)["pull"], 0.75 + 0.25 * exact.broadcast(0)["pull"])


def test_in_the_first_round_it_is_fedavg_and_then_it_remembers_who_was_there() -> None:
    values = {"population": 5, "participation": 0.4, "split": "iid", "lr": 0.2}
    made = [build(cls, worker().student, WORLD.train, values) for cls in (PGFed, FedAvg)]
    batch = next(iter(made[0][1]))
    for method, _ in made:
        list(method.updates(batch, None))
    one, other = (take(method.student, "s") for method, _ in made)
    assert all(torch.allclose(one[k], other[k], atol=1e-6) for k in one)
    assert made[0][0].who.tolist() == list(batch.clients) and made[0][0].g.abs().sum() > 0
