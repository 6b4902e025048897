"""FedPerfix: the plugin is added to keys and values alone, the scale multiplies it alone, plugins and heads stay."""

import copy

import pytest
import torch

from limbeck.core.method import Clock
from limbeck.errors import InputError
from limbeck.methods.federated._shared import build, weighted_mean
from limbeck.methods.federated.fedperfix import FedPerfix, prefixed
from limbeck.models.classifier import Classifier
from limbeck.models.tiny import cnn, vit
from tests.worlds import CLASSES, SHAPE, vision_world

VALUES = {"population": 6, "participation": 0.5, "split": "shards-2", "middle": 5, "epochs": 1, "lr": 0.1}


def plain(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return vit(16, 2, shape=SHAPE, classes=CLASSES)


def test_the_plugin_is_added_to_keys_and_values_alone() -> None:
    torch.manual_seed(1)
    base = plain()
    attention = prefixed(base, 5, 0.7).net.blocks[0].attention
    old, x = base.net.blocks[0].attention, torch.randn(2, 9, 16)
    down, up = attention.plugin[0], attention.plugin[2]
    added = (x @ down.weight.T + down.bias).tanh() @ up.weight.T + up.bias
    assert added.shape == (2, 9, 32)
    q, k, v = (x @ old.in_proj_weight.T + old.in_proj_bias).chunk(3, -1)
    k, v = k + 0.7 * added[..., :16], v + 0.7 * added[..., 16:]
    mixed = (q @ k.transpose(1, 2) / 4).softmax(-1) @ v  # one head of 16 channels
    torch.testing.assert_close(attention(x, x, x)[0], old.out_proj(mixed), rtol=1e-4, atol=1e-6)


def test_without_its_scale_it_is_the_plain_transformer() -> None:
    base, x = plain().eval(), torch.rand(4, *SHAPE)
    silent, loud = prefixed(base, 5, 0.0).eval(), prefixed(base, 5, 1.0).eval()
    with torch.no_grad():
        torch.testing.assert_close(silent(x), base(x), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(loud(x), base(x), atol=1e-3)
    with pytest.raises(InputError, match="attention"):
        prefixed(cnn(4, 4, shape=SHAPE, classes=CLASSES), 5, 1.0)


def test_plugins_and_heads_stay_and_all_else_is_averaged_and_trained() -> None:
    world = vision_world()
    method, rounds = build(FedPerfix, plain(), world.train, VALUES)
    batch, start = next(iter(rounds)), copy.deepcopy(method.student.state_dict())
    sent = method.broadcast(0)
    assert not any("plugin" in name or "net.head" in name for name in sent)
    assert {n.removeprefix("student/") for n in sent} | {"net.head.weight", "net.head.bias"} == set(start)
    replies = method.clients.ask({k: sent for k in batch.clients}, batch.number).replies
    assert all(set(reply.payload) == {*sent, "loss"} for reply in replies)
    method.clients.load_state_dict({})
    list(method.updates(batch, Clock(0, 1)))
    now, mean = method.student.state_dict(), weighted_mean(replies, "student")
    for name, value in now.items():
        assert torch.equal(value, mean.get(f"student/{name}", start[name]))
    assert not torch.equal(now["net.blocks.1.attention.in_proj_weight"], start["net.blocks.1.attention.in_proj_weight"])
    held = method.clients.state_dict()
    assert {int(k) for k in held} == set(batch.clients)
    assert all(set(own) == {f"own/{n}" for n in method.personal.state_dict() if method.own(n)} for own in held.values())
    assert len({float(own["own/net.head.weight"][0, 0]) for own in held.values()}) == len(held)


def test_a_client_that_is_not_asked_keeps_its_own() -> None:
    world = vision_world()
    method, _ = build(FedPerfix, plain(), world.train, VALUES)
    method.clients.ask({0: method.broadcast(0)}, 0)
    mine = method.clients.state_dict()["0"]
    method.clients.ask({k: method.broadcast(k) for k in (1, 2)}, 1)
    method.clients.ask({0: method.broadcast(0)}, 1, task="evaluate")
    assert all(torch.equal(value, mine[name]) for name, value in method.clients.state_dict()["0"].items())
