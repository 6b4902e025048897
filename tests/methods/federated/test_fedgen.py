"""FedGen: class shares, the generator's objective by hand, the client's loss by hand, no generator in the first
round."""

import copy

import torch
from torch.nn import functional as F

from limbeck import fit
from limbeck.core.method import Clock
from limbeck.federated.client import Client
from limbeck.federated.payload import take
from limbeck.methods.federated._shared import build, class_counts, class_shares, diversity
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.methods.federated.fedgen import FedGen
from limbeck.models.classifier import Classifier
from limbeck.models.tiny import mlp
from tests.worlds import CLASSES, SGD, SHAPE, vision_world

VALUES = {"population": 6, "participation": 0.5, "split": "shards-1", "epochs": 1, "lr": 0.1}


def plain(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return mlp(8, shape=SHAPE, classes=CLASSES)


def test_shares_of_a_class_sum_to_one_and_classes_of_nobody_are_skipped() -> None:
    world = vision_world()
    parts = [world.train.subset(range(0, 20)), world.train.subset([0, 6, 12]), world.train.subset([0, 1, 6])]
    counts = torch.stack([class_counts(Client(k, p)) for k, p in enumerate(parts)])
    assert counts[1].tolist() == [3, 0, 0, 0, 0, 0] and counts[2].tolist() == [2, 1, 0, 0, 0, 0]
    counts[:, 4] = 0
    shares = class_shares(counts)
    assert shares.sum(0).tolist() == [1, 1, 1, 1, 0, 1]
    torch.testing.assert_close(shares[:, 0], torch.tensor([4.0, 3.0, 2.0]) / 9)
    method, rounds = build(FedGen, plain(), world.train, {**VALUES, "participation": 0.01})
    updates = method.updates(next(iter(rounds)), Clock(0, 1))
    next(updates), next(updates)
    assert method.available.sum() == 1  # one client, of one class: nothing else is generated


def test_unlike_noise_must_make_unlike_features() -> None:
    torch.manual_seed(0)
    z, x = torch.rand(7, 3), torch.randn(7, 4, requires_grad=True)
    by_hand = sum((x[i] - x[j]).abs().mean() * (z[i] - z[j]).square().mean() for i in range(7) for j in range(7)) / 49
    torch.testing.assert_close(diversity(x, z), (-by_hand).exp())
    assert diversity(torch.ones(7, 4), z) == 1 and diversity(x.detach(), z) < 1
    further = x.detach() - 10 * torch.autograd.grad(diversity(x, z), x)[0]
    assert diversity(further, z) < diversity(x, z)


def test_the_generator_pleases_every_head_by_its_share() -> None:
    method = FedGen(plain(), None, adversary=0.5, diversity=0.0)
    heads = [plain(k).get_submodule(method.student.head) for k in (1, 2, 3)]
    shares = class_shares(torch.tensor([[2.0, 0, 1, 0, 0, 0], [0, 5, 1, 0, 0, 0], [0, 0, 2, 0, 0, 0]]))
    y = torch.tensor([0, 1, 2, 2])
    torch.manual_seed(3)
    found = method.objective(heads, shares, y)
    torch.manual_seed(3)
    feature = method.generator(torch.rand(4, 32), y)
    logits = [h(feature) for h in heads]
    ce = [F.cross_entropy(o, y, reduction="none") for o in logits]
    wanted = ce[0][0] + ce[1][1] + sum(s * (c[2] + c[3]) for s, c in zip((0.25, 0.25, 0.5), ce, strict=True))
    torch.testing.assert_close(found["heads"], wanted / 4)
    third = [sum(s * o[i] for s, o in zip((0.25, 0.25, 0.5), logits, strict=True)) for i in (2, 3)]
    mixed = torch.stack([logits[0][0], logits[1][1], *third])
    p, q = mixed.softmax(1), method.student.get_submodule(method.student.head)(feature).log_softmax(1)
    torch.testing.assert_close(found["adversary"], -0.5 * (p * (p.log() - q)).sum(1).mean())
    other = FedGen(plain(), None, ensemble="mean_logits")
    other.generator = method.generator
    torch.manual_seed(3)
    torch.testing.assert_close(other.objective(heads, shares, y)["heads"], F.cross_entropy(sum(logits) / 3, y))


def test_a_client_learns_from_generated_features_once_there_is_a_generator() -> None:
    train, eta = vision_world().train.subset(range(6)), 0.1
    server = FedGen(plain(), None, generated=3, batch=6, epochs=1, lr=eta, noise=2)
    client = Client(0, train, round=2)
    x, y = train.take(torch.arange(6))

    def worker() -> FedGen:
        torch.manual_seed(1)
        return FedGen(plain(1), None, generated=3, batch=6, epochs=1, lr=eta, noise=2)

    def by_hand(classes: list[int]) -> dict[str, torch.Tensor]:
        torch.manual_seed(9)
        order = torch.randperm(6)
        student, generator = copy.deepcopy(server.student), copy.deepcopy(server.generator).eval()
        logits, head = student(x[order]), student.get_submodule(student.head)
        loss = F.cross_entropy(logits, y[order])
        if classes:
            drawn = torch.tensor(classes)[torch.randint(len(classes), (3,))]
            weight = 10 * 0.98**2
            loss = loss + 3 / 6 * weight * F.cross_entropy(head(generator(torch.rand(3, 2), drawn).detach()), drawn)
            p = head(generator(torch.rand(6, 2), y[order])).softmax(1).detach()
            apart = (p * (p.log() - logits.log_softmax(1))).sum(1)
            loss = loss + weight * (apart * torch.tensor([float(k in classes) for k in y[order]])).mean()
        loss.backward()
        return {f"student/{n}": (p - eta * p.grad).detach() for n, p in student.named_parameters()}

    for classes in ([], [1, 4]):
        server.available[classes] = 1.0
        got, wanted = server.broadcast(0), by_hand(classes)
        at_client = worker()
        torch.manual_seed(9)
        sent = at_client.local(client, got)
        for name, value in wanted.items():
            torch.testing.assert_close(sent[name], value, rtol=1e-4, atol=1e-6)
        assert all(torch.equal(v, got[k]) for k, v in take(at_client.generator, "generator").items())


def test_the_first_round_is_fedavg_and_the_heads_learn_to_agree_with_the_generator() -> None:
    world = vision_world()
    average, rounds = build(FedAvg, plain(), world.train, {**VALUES, "participation": 1.0}, seed=3)
    fit(average, rounds, SGD, steps=1)
    method, rounds = build(FedGen, plain(), world.train, {**VALUES, "participation": 1.0}, seed=3)
    record = fit(method, rounds, SGD, steps=1)
    for mine, theirs in zip(method.student.parameters(), average.student.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert record is not None and method.available.tolist() == [1] * len(CLASSES)
    assert float(record.logs["generator/heads"]) < 0.5
