"""APFL: one step is the paper's, alpha 0 is FedAvg, alpha 1 is local training, and what is private stays."""

import torch
from torch.func import functional_call
from torch.nn import functional as F

from limbeck.federated.client import Client
from limbeck.federated.payload import take
from limbeck.methods.federated._shared import build
from limbeck.methods.federated.apfl import APFL
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.models.tiny import mlp
from tests.worlds import CLASSES, SHAPE, vision_world

WORLD = vision_world()


def worker(**values: float) -> APFL:
    torch.manual_seed(0)
    return APFL(mlp(8, shape=SHAPE, classes=CLASSES), **values)


def test_a_step_is_that_of_the_paper() -> None:
    method = worker(lr=0.2, lr_alpha=3.0)
    x, y = WORLD.train.take(torch.arange(12))
    w = {n: p.detach().clone() for n, p in method.student.named_parameters()}
    v, alpha = {n: p + 0.1 * torch.randn_like(p) for n, p in w.items()}, torch.tensor(0.3, requires_grad=True)
    leaf = {n: p.clone().requires_grad_() for n, p in v.items()}
    mixed = {n: alpha * leaf[n] + (1 - alpha) * w[n] for n in w}
    F.cross_entropy(functional_call(method.student, mixed, (x,)), y).backward()  # autograd through the mixture
    own = {n: p.clone().requires_grad_() for n, p in w.items()}
    F.cross_entropy(functional_call(method.student, own, (x,)), y).backward()
    v_new, alpha_new, _ = method.step(x, y, v, alpha.detach(), dict(method.student.named_buffers()))
    for n, p in method.student.named_parameters():
        torch.testing.assert_close(p.detach(), w[n] - 0.2 * own[n].grad)
        torch.testing.assert_close(v_new[n], v[n] - 0.2 * leaf[n].grad)
    torch.testing.assert_close(alpha_new, (alpha.detach() - 3.0 * alpha.grad).clamp(0, 1))


def test_without_a_share_of_its_own_a_client_is_fedavgs() -> None:
    client, got = Client(0, WORLD.train), take(worker().student, "student")
    sent = []
    for method in (worker(alpha=0.0, lr_alpha=0.0), FedAvg(worker().student)):
        torch.manual_seed(5)
        sent.append(method.local(client, got))
    assert all(torch.allclose(sent[0][k], sent[1][k], atol=1e-6) for k in got)
    start = worker().student
    assert all(torch.equal(client.state[f"v/{n}"], p) for n, p in start.named_parameters()), "alpha 0 moves no v"


def test_what_is_private_stays_at_the_client_and_alone_decides_at_alpha_one() -> None:
    values = {"population": 4, "participation": 1.0, "split": "shards-2", "lr": 0.2}
    method, rounds = build(
        APFL, worker().student, WORLD.train, {**values, "alpha": 1.0, "lr_alpha": 0.0}, test=WORLD.test
    )
    list(method.updates(next(iter(rounds)), None))
    state = method.clients.state_dict()["2"]
    assert not any("v/" in k or "alpha" in k for k in method.broadcast(2)) and float(state["alpha"]) == 1
    client = Client(2, WORLD.train, WORLD.test, state=state)
    one, other = (worker().judge(client, take(net, "student")) for net in (method.student, worker().student))
    assert one == other, "with alpha 1 the shared model has no say"


def test_the_mixture_has_statistics_of_its_own() -> None:
    torch.manual_seed(0)
    method, client = APFL(WORLD.student()), Client(0, WORLD.train.subset(range(40)), WORLD.test)
    start, got = WORLD.student(), take(WORLD.student(), "student")
    torch.manual_seed(1)
    method.local(client, got)
    kept = client.state["statistics/net.0.1.running_mean"]
    assert not torch.equal(kept, start.get_buffer("net.0.1.running_mean"))
    assert not torch.equal(kept, method.student.get_buffer("net.0.1.running_mean"))
    method.judge(client, got)
    assert torch.equal(method.student.get_buffer("net.0.1.running_mean"), kept)
