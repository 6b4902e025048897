"""Private rounds: what clips and what disturbs is Flower's, to the bit it is nothing when nothing is asked."""

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from limbeck import fit
from limbeck.core.method import Clock, Method
from limbeck.core.privacy import Mechanism
from limbeck.errors import InputError
from limbeck.federated.client import Client
from limbeck.federated.grid import in_process
from limbeck.federated.payload import Payload, part
from limbeck.federated.privacy import Privacy, clipped, noisy
from limbeck.federated.rounds import Reply, Round, Rounds
from limbeck.methods.federated._shared import build
from limbeck.methods.federated.fedavg import FedAvg
from limbeck.methods.federated.fedprox import FedProx
from limbeck.models.tiny import mlp
from tests.federated import private_app
from tests.federated.test_engines import RAY, said
from tests.worlds import CLASSES, SGD, SHAPE, vision_world

VALUES = {"population": 6, "participation": 1.0, "split": "iid", "epochs": 1, "lr": 0.2}


def plain() -> nn.Module:
    torch.manual_seed(0)
    return mlp(8, shape=SHAPE, classes=CLASSES)


def made(cls: type[Method] = FedAvg, **values: Any) -> tuple[Any, Rounds]:
    return build(cls, plain(), vision_world().train, {**VALUES, **values})


def length(one: Payload, other: Payload) -> float:
    return math.sqrt(sum(float((v.double() - other[k].double()).square().sum()) for k, v in one.items()))


def change() -> tuple[Payload, Payload]:
    torch.manual_seed(1)
    start = {"student/a": torch.randn(40, 30), "student/b": torch.randn(30)}
    return {k: v + 0.1 * torch.randn_like(v) for k, v in start.items()}, start


def test_an_update_is_cut_to_the_norm_as_flower_cuts_it() -> None:
    payload, start = change()
    flower: Any = import_module("flwr.supercore.differential_privacy")
    cut = clipped(payload, start, 0.7)
    assert length(payload, start) > 1 and length(cut, start) == pytest.approx(0.7, rel=1e-5)
    theirs = [v.numpy() for v in payload.values()]
    flower.compute_clip_model_update(theirs, [v.numpy() for v in start.values()], 0.7)
    for mine, other in zip(cut.values(), theirs, strict=True):
        torch.testing.assert_close(mine, torch.from_numpy(other))
    assert all(torch.equal(v, payload[k]) for k, v in clipped(payload, start, 100.0).items())
    assert all(torch.equal(v, start[k]) for k, v in clipped(start, start, 0.7).items()), "no update, no division by 0"


@pytest.mark.parametrize("where", ["server", "client"])
def test_the_noise_of_the_mean_is_multiplier_times_norm_by_clients(where: str) -> None:
    flower: Any = import_module("flwr.supercore.differential_privacy")
    _, start = change()
    private = Privacy(where, 0.7, 1.5, 1e-5, 20, 4, frozenset({"a", "b"}))  # type: ignore[arg-type]
    torch.manual_seed(2)
    found = torch.cat([(v - start[k]).flatten() for k, v in private.mean([], start).items()])
    assert float(found.std()) == pytest.approx(flower.compute_stdv(1.5, 0.7, 4), rel=0.05)
    assert abs(float(found.mean())) < 4 * 1.5 * 0.7 / 4 / math.sqrt(len(found))


def test_the_sum_is_divided_by_the_clients_that_were_expected_whoever_answers() -> None:
    payload, start = change()
    private = Privacy("server", 0.7, 0.0, 1e-5, 20, 4, frozenset({"a", "b"}))
    one = private.mean([Reply(3, payload, samples=900)], start)
    assert length(one, start) == pytest.approx(0.7 / 4, rel=1e-5)
    two = private.mean([Reply(3, payload, samples=900), Reply(5, payload, samples=2)], start)
    assert length(two, start) == pytest.approx(2 * 0.7 / 4, rel=1e-5), "rows do not weigh"


def test_a_clients_own_noise_is_added_before_it_sends() -> None:
    worker, data = FedAvg(plain(), None, **VALUES, privacy="local", clipping_norm=0.3), vision_world().train
    start = worker.broadcast(0)
    torch.manual_seed(3)
    sent = worker.local(Client(0, data), start)
    assert "loss" not in sent and set(part(sent, "student")) == {n for n, _ in worker.student.named_parameters()}
    count = sum(v.numel() for v in sent.values())
    assert length(sent, start) == pytest.approx(math.sqrt(0.3**2 * count + 0.3**2), rel=0.05)
    clipping = FedAvg(plain(), None, **VALUES, privacy="client", clipping_norm=0.3)
    assert length(clipping.local(Client(0, data), start), start) == pytest.approx(0.3, rel=1e-4)


@pytest.mark.parametrize("cls", [FedAvg, FedProx])
def test_without_noise_and_bound_it_is_the_plain_method_bit_for_bit(cls: type[Method]) -> None:
    method, rounds = made(cls, population=8)  # of equal parts; an eighth has no rounding of its own
    fit(method, rounds, SGD, steps=2)
    for where in ("server", "client", "local"):
        other, rounds = made(cls, population=8, privacy=where, clipping_norm=math.inf, noise_multiplier=0.0)
        record = fit(other, rounds, SGD, steps=2)
        assert record is not None and "epsilon" not in record.logs
        theirs = other.student.state_dict()
        assert all(torch.equal(v, theirs[k]) for k, v in method.student.state_dict().items())


def test_who_clips_is_a_matter_of_trust_alone() -> None:
    found = []
    for where in ("server", "client"):
        method, rounds = made(privacy=where, clipping_norm=0.05, participation=0.5)
        torch.manual_seed(4)
        fit(method, rounds, SGD, steps=3)
        found.append(method.student.state_dict())
    assert all(torch.equal(v, found[1][k]) for k, v in found[0].items())


def test_clients_take_part_by_coins_and_the_budget_is_accounted() -> None:
    method, rounds = made(privacy="server", participation=0.5)
    stream = iter(rounds)
    drawn = [len(next(stream).clients) for _ in range(400)]
    assert len(set(drawn)) > 3 and sum(drawn) / 400 == pytest.approx(3, abs=0.3)  # six coins
    [update] = method.updates(Round(7, (0, 2)), Clock(0, 1))
    assert float(update.logs["epsilon"]) == pytest.approx(Mechanism(6, 3, 1.0, 1e-5).epsilon(8))
    before = {k: v.clone() for k, v in method.student.state_dict().items()}
    [update] = method.updates(Round(8, ()), Clock(0, 1))
    now = method.student.state_dict()
    assert float(update.logs["clients"]) == 0 and not torch.equal(now["net.1.0.weight"], before["net.1.0.weight"])
    local, _ = made(privacy="local", noise_multiplier=2.0)
    private = Privacy.of(local)
    assert private is not None and private.epsilon(8) == pytest.approx(Mechanism(1, 1.0, 1.0, 1e-5).epsilon(8))


def test_what_is_not_covered_is_refused() -> None:
    world = vision_world()
    with pytest.raises(InputError, match="batch norm"):
        build(FedAvg, world.student(), world.train, {**VALUES, "privacy": "server"})
    for wrong in (
        {"delta": 1.5},
        {"clipping_norm": 0.0},
        {"clipping_norm": math.inf},
        {"noise_multiplier": -1.0},
        {"privacy": "both"},
    ):
        with pytest.raises(InputError, match=next(iter(wrong))):
            made(**{"privacy": "server", **wrong})


def test_noise_is_the_generators_and_none_is_none() -> None:
    payload, _ = change()
    torch.manual_seed(5)
    one = noisy(payload, 0.25, 2.0)
    torch.manual_seed(5)
    assert all(torch.equal(v, one[k]) for k, v in noisy(payload, 0.25, 2.0).items())
    assert noisy(payload, 0.0, math.inf) is payload


@pytest.mark.skipif(not RAY, reason="Flower's simulation needs ray")
def test_flowers_simulation_draws_the_same_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.app import Context, RecordDict
    from flwr.simulation import run_simulation

    path = said(tmp_path, monkeypatch)
    private_app.server(in_process(private_app.client, private_app.POPULATION), Context(0, 0, {}, RecordDict(), {}))
    alone = path.read_text()
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"include_dashboard": False}}
    run_simulation(private_app.server, private_app.client, private_app.POPULATION, backend_config=resources)
    assert path.read_text() == alone
