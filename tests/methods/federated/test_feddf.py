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


def two() -> torch.nn.ModuleList:
    torch.manual_seed(1)
    return torch.nn.ModuleList([mlp(5, 4, shape=SHAPE, classes=CLASSES)])


def test_every_group_is_averaged_apart_and_distilled_from_all_clients() -> None:
    world = vision_world()
    public = world.test.subset(range(30))
    values = {**VALUES, "participation": 1.0, "steps": 1}
    method, rounds = build(FedDF, plain(), world.train, values, given={"public": public, "others": two()})
    batch = next(iter(rounds))
    replies = method.clients.ask({k: method.broadcast(k) for k in batch.clients}, batch.number).replies
    groups, theirs = [copy.deepcopy(method.student), copy.deepcopy(method.others[0])], []
    own = [[r for r in replies if r.client % 2 == p] for p in (0, 1)]
    assert [r.client for r in own[1]] == [1, 3, 5]
    for model, sent in zip(groups, own, strict=True):
        for reply in sent:
            model.load_state_dict(part(reply.payload, "student"))
            theirs.append(copy.deepcopy(model))
        model.load_state_dict(part(weighted_mean(sent, "student"), "student"))
    updates = method.updates(batch, Clock(0, 1))
    assert float(next(updates).logs["clients"]) == 6
    torch.manual_seed(5)
    for p, (model, player) in enumerate(zip(groups, ("student", "student_2"), strict=True)):
        step = next(updates)
        torch.manual_seed(5)
        for _ in range(p + 1):
            x, _ = public.take(torch.randint(30, (method.public_batch,)))
        mean = torch.stack([teacher(x).detach() for teacher in theirs]).mean(0)
        wanted = (mean.softmax(1) * (mean.log_softmax(1) - model(x).log_softmax(1))).sum(1).mean()
        assert step.player == player
        torch.testing.assert_close(step.loss, wanted)


def test_groups_keep_their_architectures_and_learn_from_each_other() -> None:
    world = vision_world()
    values = {**VALUES, "split": "shards-3", "participation": 1.0, "steps": 10}
    method, rounds = build(FedDF, plain(), world.train, values, given={"public": world.test, "others": two()})
    assert set(method.players()) == {"student", "student_2"}
    fit(method, rounds, SGD, steps=12)
    assert method.others[0].net[1][0].out_features == 5
    assert accuracy(method.student, world.test) > 0.5 and accuracy(method.others[0], world.test) > 0.4


def test_without_further_groups_it_is_the_plain_one_bit_for_bit() -> None:
    world, found = vision_world(), []
    for others in (None, torch.nn.ModuleList()):
        torch.manual_seed(0)
        given = {"public": world.test, "others": others}
        method, rounds = build(FedDF, plain(), world.train, {**VALUES, "steps": 3}, given=given)
        fit(method, rounds, SGD, steps=2)
        found.append(method.student.state_dict())
    assert all(torch.equal(v, found[1][k]) for k, v in found[0].items())


def test_a_run_names_the_further_architectures() -> None:
    world = vision_world()
    student = FedDF.distil(world.setting(2), {**VALUES, "steps": 2, "architectures": "mlp-8, convnet-4x2"})
    assert isinstance(student, torch.nn.Module)
    with pytest.raises(InputError, match="nonsense"):
        FedDF.distil(world.setting(2), {**VALUES, "architectures": "nonsense"})
