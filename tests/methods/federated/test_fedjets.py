"""FedJETs: the gate is normalised over the chosen experts alone, experts that nobody trained stay, anchors are
heard."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from limbeck import fit
from limbeck.core.method import Clock
from limbeck.federated.client import Client
from limbeck.federated.payload import part, take
from limbeck.methods.federated._shared import build
from limbeck.methods.federated.fedjets import FedJETs, Mixture
from limbeck.models.classifier import Classifier
from limbeck.models.tiny import mlp
from tests.worlds import CLASSES, SGD, SHAPE, accuracy, vision_world

VALUES = {"population": 6, "participation": 0.5, "experts": 4, "best": 2, "epochs": 1, "lr": 0.1}


def plain(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return mlp(8, shape=SHAPE, classes=CLASSES)


def diverse() -> Mixture:
    mixture = Mixture(plain(), 4, 2)
    mixture.experts = nn.ModuleList(plain(k + 1) for k in range(4))
    return mixture


def test_the_gate_is_normalised_over_the_chosen_experts_alone() -> None:
    mixture, x = diverse(), torch.rand(5, *SHAPE)
    feature = mixture.common.net[1](mixture.common.net[0]((x - 0.5) / 0.5))
    g = (feature @ mixture.gate.weight.T + mixture.gate.bias).softmax(1)
    answers = [expert(x) for expert in mixture.experts]
    wanted = (g[:, 1:2] * answers[1] + g[:, 3:4] * answers[3]) / (g[:, 1:2] + g[:, 3:4])
    torch.testing.assert_close(mixture(x, torch.tensor([1, 3])), wanted)
    F.cross_entropy(mixture(x, torch.tensor([1, 3])), torch.zeros(5, dtype=torch.int64)).backward()
    assert mixture.gate.weight.grad[[0, 2]].abs().sum() == 0 and mixture.gate.weight.grad[1].abs().sum() > 0
    assert all(p.grad is None for m in (mixture.common, mixture.experts[0]) for p in m.parameters())
    best = g.topk(2).indices
    for row, (a, b) in enumerate(best.tolist()):
        mixed = (g[row, a] * answers[a][row] + g[row, b] * answers[b][row]) / (g[row, a] + g[row, b])
        torch.testing.assert_close(mixture(x)[row], mixed)


def test_experts_are_means_over_who_trained_them_and_the_others_stay() -> None:
    world = vision_world()
    method, rounds = build(FedJETs, plain(), world.train, {**VALUES, "anchors": 1.0, "common": 0.0})
    batch, before = next(iter(rounds)), copy.deepcopy(method.student)
    seen, ask = [], method.clients.ask
    method.clients.ask = lambda *a, **k: (seen.append((a[0], found := ask(*a, **k))), found)[1]
    list(method.updates(batch, Clock(0, 1)))
    (_, gated), (given, trained) = seen
    chosen = {k: payload["chosen"].tolist() for k, payload in given.items()}
    for k, told, _ in gated.replies:
        assert int(told["anchor"]) in chosen[k] and len(chosen[k]) == 2
        torch.testing.assert_close(told["gated"].sum(), torch.tensor(1.0))
        assert not any(name.startswith("expert2/") for name in given[k])
    mixture, untouched = method.student, set(range(4)) - {j for own in chosen.values() for j in own}
    for j, expert in enumerate(mixture.experts):
        sent = [part(r.payload, f"expert{chosen[r.client].index(j)}") for r in trained.replies if j in chosen[r.client]]
        for name, value in expert.state_dict().items():
            wanted = torch.stack([s[name] for s in sent]).mean(0) if sent else before.experts[j].state_dict()[name]
            torch.testing.assert_close(value, wanted)
    assert untouched or len({tuple(own) for own in chosen.values()}) > 1
    means = torch.stack([reply.payload["gate/weight"] for reply in trained.replies]).mean(0)
    torch.testing.assert_close(mixture.gate.weight.detach(), means)
    assert all(torch.equal(v, before.common.state_dict()[k]) for k, v in mixture.common.state_dict().items())


def test_anchors_have_the_expert_of_their_classes_and_others_what_the_gate_says() -> None:
    world, method = vision_world(), FedJETs(plain(), None, experts=4, best=2, population=10, anchors=0.3)
    rows = [*[i for i, k in enumerate(world.train.labels.tolist()) if k in (1, 5)][:8], 0, 2]
    assert int(method.group(Client(0, world.train.subset(rows)))) == 1  # classes 1 and 5, modulo 4
    gated, anchor = torch.tensor([0.5, 0.1, 0.15, 0.25]), torch.tensor(1)
    assert method.choice(2, gated, anchor).tolist() == [0, 1]
    assert method.choice(3, gated, anchor).tolist() == [0, 3]
    x, y = world.train.take(torch.tensor(rows))
    told = method.student.scores(x).log_softmax(1)[:, 1]
    anchored = Client(2, world.train.subset(rows))
    torch.testing.assert_close(method.routing(anchored, x, y), -told[:8].sum() / 10)
    assert method.routing(Client(3, world.train.subset(rows)), x, y) == 0


def test_first_rounds_train_the_common_expert_and_a_newcomer_needs_no_label() -> None:
    world = vision_world()
    method, rounds = build(FedJETs, plain(), world.train, {**VALUES, "common": 0.5}, test=world.test)
    fit(method, rounds, SGD, steps=4)
    mixture, first = method.student, plain()
    assert not torch.equal(mixture.common.net[1][0].weight, first.net[1][0].weight)
    client = Client(0, world.train.subset(range(12)), world.test)
    judge = FedJETs(plain(), None, **VALUES).eval()
    told = judge.judge(client, method.broadcast(0))
    client.train.labels.fill_(0)
    assert judge.judge(client, take(mixture, "student")) == told and told["count"] == len(world.test)
    assert 0 <= accuracy(mixture, world.test) <= 1
