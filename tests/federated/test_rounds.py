"""Rounds: personal state stays with its client, faults cost a share, and a killed server goes on bit for bit."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from limbeck import fit
from limbeck.core.checkpoint import Checkpoint
from limbeck.errors import InputError
from limbeck.federated.client import Client
from limbeck.federated.payload import Payload, part
from limbeck.federated.rounds import Rounds
from limbeck.methods.federated._shared import build
from tests.federated.heads import Heads, personal, shared
from tests.worlds import SGD, vision_world


def made(weather: Callable[[int, int], None] = lambda client, number: None, **values: object) -> tuple[Heads, Rounds]:
    world = vision_world()
    return build(Heads, world.student(3), world.train, values, seed=1, test=world.test, weather=weather)


def everything(method: Heads) -> Payload:
    held = {f"{k}/{n}": v for k, own in method.clients.state_dict().items() for n, v in own.items()}
    return {**{k: v.clone() for k, v in method.student.state_dict().items()}, **held}


def same(one: Payload, other: Payload) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def test_personal_parts_never_reach_the_server_and_outlive_absence() -> None:
    method, rounds = made()
    start = {k: v.clone() for k, v in method.student.state_dict().items()}
    seen, stream, before = set[int](), iter(rounds), dict[str, Payload]()
    for number in range(4):
        batch = next(stream)
        for reply in method.clients.ask({k: method.broadcast(k) for k in batch.clients}, number).replies:
            assert not any(personal(path) for path in part(reply.payload, "body"))
        seen |= set(batch.clients)
        now = method.clients.state_dict()
        assert set(now) == {str(k) for k in seen}
        for k, held in before.items():
            assert same(held, now[k]) == (int(k) not in batch.clients)
        before = now
    fit(method, rounds, SGD, steps=3)
    moved = {k for k, v in method.student.state_dict().items() if not torch.equal(v, start[k])}
    assert moved and all(shared(path) or path in ("mean", "std") for path in moved)


def test_a_killed_server_goes_on_bit_for_bit_with_the_personal_states(tmp_path: Path) -> None:
    whole, rounds = made()
    fit(whole, rounds, SGD, steps=5)
    first, rounds = made()
    fit(first, rounds, SGD, steps=2, checkpoint=Checkpoint(tmp_path, every=1))
    second, rounds = made()
    fit(second, rounds, SGD, steps=5, checkpoint=Checkpoint(tmp_path, every=1))
    assert same(everything(second), everything(whole)) and not same(everything(first), everything(whole))


def test_a_client_that_is_dead_or_late_costs_its_share(caplog: pytest.LogCaptureFixture) -> None:
    def storm(client: int, number: int) -> None:
        if client == 0 and number >= 0:
            raise ConnectionError("unplugged")
        if client == 1:
            raise TimeoutError

    calm, rounds = made(participation=1.0)
    stormy, _ = made(participation=1.0)
    stormy.clients.meet()
    stormy.clients.grid.weather = storm
    batch = next(iter(rounds))
    with caplog.at_level(logging.WARNING, "limbeck.federated"):
        [update] = stormy.updates(batch, None)
    assert float(update.logs["clients"]) == 4
    assert [r.getMessage() for r in caplog.records] == [
        "round 0, client 0 is left out: error 0: unplugged", "round 0, client 1 is left out: no answer in time",
    ]  # fmt: skip
    others = calm.clients.ask({k: calm.broadcast(k) for k in (2, 3, 4, 5)}, 0).replies
    whole = sum(r.samples for r in others)
    mean = sum(r.samples / whole * r.payload["body/net.0.0.weight"] for r in others)
    torch.testing.assert_close(stormy.student.state_dict()["net.0.0.weight"], mean)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: {**p, "loss": torch.tensor(float("nan"))}, "loss: NaN"),
        (lambda p: {**p, "body/net.0.0.weight": p["body/net.0.0.weight"] / 0}, "body/net.0.0.weight: "),
        (lambda p: {**p, "loss": torch.zeros(2)}, r"loss: shape \[2\] instead of \[\]"),
        (lambda p: {**p, "extra": torch.zeros(2)}, "extra: not asked for"),
        (lambda p: {"loss": p["loss"]}, "body/.*: missing"),
        (lambda p: {}, "body/.*: missing"),
    ],
)
def test_a_spoilt_answer_costs_its_share(
    spoil: Callable[[Payload], Payload], said: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, rounds = made(participation=1.0)
    sent = Heads.local
    monkeypatch.setattr(
        Heads, "local", lambda self, c, got: spoil(sent(self, c, got)) if c.number == 2 else sent(self, c, got)
    )
    fit(method, rounds, SGD, steps=2)
    assert len(caplog.records) == 2 and all(torch.isfinite(v.float()).all() for v in everything(method).values())
    assert re.search(f"round 0, client 2 is left out: {said}", caplog.text)


def test_a_round_that_nobody_answers_changes_nothing() -> None:
    method, rounds = made()
    method.clients.meet()

    def night(client: int, number: int) -> None:
        raise ConnectionError("night")

    method.clients.grid.weather = night
    before = everything(method)
    record = fit(method, rounds, SGD, steps=2)
    assert record.floats()["clients"] == 0 and same(everything(method), before)


def test_a_bug_in_a_methods_own_code_is_not_taken_for_a_dead_client(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Heads, client: object, got: Payload) -> Payload:
        raise KeyError("typo")

    monkeypatch.setattr(Heads, "local", broken)
    method, rounds = made()
    with pytest.raises(KeyError, match="typo"):
        fit(method, rounds, SGD, steps=1)


def test_who_takes_part_is_a_function_of_seed_and_round() -> None:
    rounds, again = Rounds(20, 0.2, seed=3), Rounds(20, 0.2, seed=3)
    stream = iter(rounds)
    five = [next(stream) for _ in range(5)]
    again.load_state_dict({**rounds.state_dict(), "taken": 3})
    assert next(iter(again)) == five[3] and len({r.clients for r in five}) > 1
    assert all(len(set(r.clients)) == 4 for r in five) and [r.number for r in five] == [0, 1, 2, 3, 4]
    assert len(next(iter(Rounds(20, 0.0))).clients) == 1
    with pytest.raises(InputError, match="population"):
        Rounds(10, 0.2, seed=3).load_state_dict(rounds.state_dict())


def test_a_client_that_left_is_missed_and_known_again_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    method, _ = made()
    sent = {k: method.broadcast(k) for k in range(6)}
    method.clients.meet()
    there, gone = method.clients.grid.get_node_ids, {2, 5}
    monkeypatch.setattr(method.clients.grid, "get_node_ids", lambda: [n for n in there() if n not in gone])
    assert [r.client for r in method.clients.ask(sent, 0).replies] == [0, 2, 3, 5]
    gone.clear()
    assert [r.client for r in method.clients.ask(sent, 1).replies] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(InputError, match="population"):
        gone.update(there())
        method.clients.meet(patience=0.1)


def test_a_client_whose_work_is_not_finite_keeps_the_state_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    method, _ = made()
    sent = {2: method.broadcast(2)}
    method.clients.ask(sent, 0)
    held, work = method.clients.state_dict(), Heads.local

    def explodes(self: Heads, client: Client, got: Payload) -> Payload:
        found = work(self, client, got)
        client.state = {k: v / 0 for k, v in client.state.items()}
        return found

    monkeypatch.setattr(Heads, "local", explodes)
    method.clients.ask(sent, 1)
    assert same(method.clients.state_dict()["2"], held["2"])
    monkeypatch.undo()
    method.clients.ask(sent, 1)
    assert not same(method.clients.state_dict()["2"], held["2"])


def test_nothing_passes_from_one_client_to_the_next() -> None:
    both, _ = made()
    alone, _ = made()
    start = both.broadcast(0)
    together = both.clients.ask({0: start, 1: start}, 0).replies[1]
    assert same(together.payload, alone.clients.ask({1: start}, 0).replies[0].payload)
    assert same(both.clients.state_dict()["1"], alone.clients.state_dict()["1"])
