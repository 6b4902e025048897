"""FedDF: averaged logits as the teacher, the forward KL, and one client's model when one client answers."""

import copy

import pytest
import torch

from limbeck import fit
from limbeck.core.method import Clock
from limbeck.errors import InputError
from limbeck.federated.payload import part
from limbeck.methods.federated._shared import build, models_of, weighted_mean
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.methods.federated.feddf import FedDF
from limbeck.models.tiny import mlp
from tests.worlds import CLASSES, SGD, SHAPE, accuracy, vision_world

VALUES = {"population": 6, "participation": 0.5, "epochs": 2, "lr": 0.2}


def plain() -> torch.nn.Module:
    torch.manual_seed(0)
    return mlp(8, shape=SHAPE, classes=CLASSES)


def test_the_server_goes_down_the_forward_kl_from_the_mean_of_logits() -> None:
    world, eta = vision_world(), 0.5
    public = world.test.subset(range(30))
    method, rounds = build(FedDF, plain(), world.train, {**VALUES, "steps": 1}, given={"public": public})
    batch = next(iter(rounds))
    replies = method.clients.ask({k: method.broadcast(k) for k in batch.clients}, batch.number).replies
    assert len(replies) == 3

    by_hand = copy.deepcopy(method.student)
    by_hand.load_state_dict(part(weighted_mean(replies, "student"), "student"))
    torch.manual_seed(5)
    x, _ = public.take(torch.randint(30, (method.public_batch,)))
    theirs = []
    for reply in replies:
        one = copy.deepcopy(method.student)
        one.load_state_dict(part(reply.payload, "student"))
        theirs.append(one(x).detach())
    p, q = (sum(theirs) / 3).softmax(1), by_hand(x).log_softmax(1)
    loss = (p * (p.log() - q)).sum(1).mean()  # KL(ensemble || student)
    loss.backward()

    torch.manual_seed(5)
    updates = method.updates(batch, Clock(0, 1))
    assert not next(updates).terms
    step = next(updates)
    torch.testing.assert_close(step.loss, loss)
    step.loss.backward()
    for mine, wanted in zip(method.student.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(mine - eta * mine.grad, wanted - eta * wanted.grad)


def test_the_ensemble_of_one_client_is_its_model_and_nothing_is_left_to_distil() -> None:
    world = vision_world()
    values = {**VALUES, "participation": 0.01, "steps": 4}
    average, rounds = build(FedAvg, plain(), world.train, {k: values[k] for k in VALUES | {"participation": 0}}, seed=2)
    fit(average, rounds, SGD, steps=2)
    method, rounds = build(FedDF, plain(), world.train, values, seed=2, given={"public": world.test})
    record = fit(method, rounds, SGD, steps=2)
    assert record is not None and float(record.logs["clients"]) == 1 and abs(float(record.logs["distillation"])) < 1e-6
    for mine, theirs in zip(method.student.parameters(), average.student.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_teachers_are_frozen_copies_and_the_public_images_need_no_labels() -> None:
    world = vision_world()
    blind = world.test.subset(range(40))
    blind.labels.fill_(-1)
    student = world.student()
    values = {**VALUES, "split": "shards-3", "steps": 10}
    method, rounds = build(FedDF, student, world.train, values, given={"public": blind})
    batch = next(iter(rounds))
    replies = method.clients.ask({k: method.broadcast(k) for k in batch.clients}, batch.number).replies
    teachers = models_of(student, replies)
    assert not any(p.requires_grad for t in teachers for p in t.parameters()) and not any(t.training for t in teachers)
    assert student.training and all(p.requires_grad for p in student.parameters())
    fit(method, rounds, SGD, steps=12)
    assert accuracy(student, world.test) > 0.5
    with pytest.raises(InputError, match="public"):
        list(build(FedDF, plain(), world.train, VALUES)[0].updates(batch, Clock(0, 1)))
