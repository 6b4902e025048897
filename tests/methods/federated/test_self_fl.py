"""Self-FL: the step rule reaches the Bayesian mixture, weights are precisions, a contribution is taken out exactly."""

import pytest
import torch

from limbeck.federated.client import Client
from limbeck.federated.payload import take
from limbeck.federated.rounds import Reply
from limbeck.methods.federated._shared import build, weighted_mean
from limbeck.methods.federated.self_fl import SelfFL, local_steps, precision_weights
from limbeck.models.tiny import mlp
from tests.worlds import CLASSES, SHAPE, vision_world

WORLD = vision_world()


def worker(**values: object) -> SelfFL:
    torch.manual_seed(0)
    return SelfFL(mlp(8, shape=SHAPE, classes=CLASSES), **values)


def test_so_many_steps_lead_to_the_bayesian_mixture() -> None:
    own, between, eta, whole, alone = 0.3, 1.7, 0.01, 2.0, -1.0
    at = alone + (whole - alone) * (1 - eta) ** local_steps(own, between, eta)  # from the shared towards the local
    assert at == pytest.approx((between * alone + own * whole) / (between + own))
    assert local_steps(own, 100.0, eta) > local_steps(own, 1.0, eta) > local_steps(3.0, 1.0, eta)


def test_weights_are_precisions() -> None:
    w = precision_weights(torch.tensor([0.0, 1.0, 3.0]), torch.tensor(1.0))
    torch.testing.assert_close(w, torch.tensor([1.0, 0.5, 0.25]) / 1.75)
    torch.testing.assert_close(precision_weights(torch.rand(4), torch.tensor(1e9)), torch.full((4,), 0.25))


def test_a_clients_own_contribution_is_taken_out_of_the_mean() -> None:
    nets = [take(mlp(8, shape=SHAPE, classes=CLASSES), "student") for _ in range(3)]
    replies = [Reply(k, net, 1) for k, net in enumerate(nets)]
    mean = weighted_mean(replies, "student", [0.5, 0.2, 0.3])
    rest = weighted_mean(replies[1:], "student", [0.2, 0.3])
    client, method = Client(0, WORLD.train, state={**nets[0], "own": torch.tensor(0.1)}), worker()
    method.begin(client, {**mean, "share": torch.tensor(0.5)})
    assert all(torch.allclose(v, rest[k], atol=1e-5) for k, v in take(method.student, "student").items())


def test_the_variance_between_clients_is_what_theirs_does_not_explain() -> None:
    method, base = worker(population=3), take(worker().student, "student")
    drawn = torch.Generator().manual_seed(0)
    sent = [{k: v + 0.5 * torch.randn(v.shape, generator=drawn) for k, v in base.items()} for _ in range(40)]
    method.weigh([Reply(k, {**net, "own": torch.tensor(0.1)}, 1) for k, net in enumerate(sent)])
    assert float(method.between) == pytest.approx(0.25 - 0.1, rel=0.05)
    method.weigh([Reply(k, {**net, "own": torch.tensor(9.0)}, 1) for k, net in enumerate(sent)])
    assert float(method.between) > 0


def test_rounds_run_and_steps_are_within_their_bounds() -> None:
    values = {"population": 4, "participation": 1.0, "split": "shards-2", "least": 3, "most": 9, "batch": 8}
    method, rounds = build(SelfFL, worker().student, WORLD.train, values, test=WORLD.test)
    seen = [
        float(u.logs["steps"]) for batch, _ in zip(rounds, range(3), strict=False) for u in method.updates(batch, None)
    ]
    assert seen[0] == 9 and all(3 <= s <= 9 for s in seen) and float(method.share.sum()) == pytest.approx(1)
