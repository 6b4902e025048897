"""FedD2S: the cut rises, a head a depth, the client's step by hand with its own rows' scores up to the cut alone."""

import copy

import torch
from torch.nn import functional as F

from limbeck import fit
from limbeck.core.modules import Taps
from limbeck.federated.client import Client
from limbeck.federated.partition import partition
from limbeck.federated.rounds import Reply
from limbeck.methods.federated._shared import build
from limbeck.methods.federated.fedd2s import FedD2S
from limbeck.models.classifier import Classifier
from limbeck.models.tiny import mlp
from tests.worlds import CLASSES, SGD, SHAPE, VisionWorld, vision_world

VALUES = {"population": 6, "participation": 0.5, "split": "shards-2", "lr": 0.1}


def plain(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return mlp(8, 7, 6, shape=SHAPE, classes=CLASSES)


def test_the_cut_rises_from_the_last_stage_to_the_first_and_stays() -> None:
    method = FedD2S(plain(), None, dropping=0.5)
    assert [method.depth(r) for r in range(8)] == [3, 3, 2, 2, 1, 1, 1, 1]
    assert [FedD2S(plain(), None, dropping=0.0).depth(r) for r in (0, 99)] == [3, 3]
    assert [head[2].in_features for head in method.heads] == [8, 7, 6]


def test_a_clients_step_ends_the_distillation_at_the_cut() -> None:
    world, eta, lam, t = vision_world(), 0.1, 0.7, 2.0
    train = world.train.subset(range(5))
    scores = torch.randn(5, len(CLASSES), generator=torch.Generator().manual_seed(2))
    values = {"lam": lam, "temperature": t, "epochs": 1, "batch": 5, "lr": eta}
    for depth in (1, 2, 3):
        client, method = Client(0, train), FedD2S(plain(), None, **values)
        start = plain()
        x, y = train.take(torch.arange(5))
        logits = start(x)
        p = (scores / t).softmax(1)
        apart = (p * (p.log() - (logits / t).log_softmax(1))).sum(1).mean()
        parameters = dict(start.named_parameters())
        own = torch.autograd.grad(F.cross_entropy(logits, y), list(parameters.values()), retain_graph=True)
        more = torch.autograd.grad(lam * apart, list(parameters.values()))
        method.local(client, {"depth": torch.tensor(depth), "scores": scores})
        for k, (name, value) in enumerate(parameters.items()):  # weight and bias of a layer after the other
            slope = own[k] + (more[k] if k < 2 * depth else 0)
            torch.testing.assert_close(
                client.state[f"model/{name}"], value.detach() - eta * slope, rtol=1e-4, atol=1e-6
            )


def test_scores_are_of_the_clients_own_rows_and_other_heads_stay() -> None:
    world = vision_world()
    method, rounds = build(FedD2S, plain(), world.train, {**VALUES, "dropping": 1.0, "epochs": 1, "batch": 1000})
    batches = iter(rounds)
    next(batches)
    batch, heads, seen = next(batches), copy.deepcopy(method.heads), []
    ask = method.clients.ask
    method.clients.ask = lambda asked, *a, **k: (seen.append(asked), ask(asked, *a, **k))[1]
    fit(method, [batch], SGD, steps=1)
    told, back = seen
    assert set(told) == set(back) == set(batch.clients) and all(set(p) == {"depth"} for p in told.values())
    moved = [not torch.equal(a[2].weight, b[2].weight) for a, b in zip(method.heads, heads, strict=True)]
    assert moved == [False, True, False]  # round 1, one stage dropped
    first = plain()
    whole = build(FedD2S, plain(), world.train, VALUES)[0]
    for k in batch.clients:
        sent = whole.clients.ask({k: {"depth": torch.tensor(2)}}, 0).replies[0].payload
        _, [feature] = Taps(first.stages[1])(first, _rows_of(world, k)[0])
        torch.testing.assert_close(sent["feature"], feature.detach())
        assert torch.equal(sent["labels"], _rows_of(world, k)[1])
        torch.testing.assert_close(back[k]["scores"], method.heads[1](sent["feature"]).detach())
    assert set(method.clients.state_dict()) == {str(k) for k in batch.clients}
    assert len(method.committee().models) == len(batch.clients)


def _rows_of(world: VisionWorld, client: int) -> tuple[torch.Tensor, torch.Tensor]:
    return world.train.take(partition("shards-2", world.train.labels, 6, 0)[client])


def test_the_head_learns_labels_and_the_clients_scores() -> None:
    method = FedD2S(plain(), None, soft=0.5, temperature=3.0, head_epochs=1)
    torch.manual_seed(3)
    sent = {"feature": torch.randn(4, 7), "scores": torch.randn(4, 6), "labels": torch.tensor([0, 1, 2, 3])}
    parts = [{n: v[:1] for n, v in sent.items()}, {n: v[1:] for n, v in sent.items()}]
    [update] = method.teaching(2, [Reply(k, part, 1) for k, part in enumerate(parts)])
    logits, p = method.heads[1](sent["feature"]), (sent["scores"] / 3).softmax(1)
    torch.testing.assert_close(update.terms["labels"], F.cross_entropy(logits, sent["labels"]))
    wanted = 0.5 * (p * (p.log() - (logits / 3).log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(update.terms["clients"], wanted)
