"""Methods are checked, keyword-only dataclasses of modules."""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import KW_ONLY, field
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from limbeck.core.method import (
    Clock,
    Count,
    Fraction,
    Method,
    NonNegative,
    Positive,
    Schedule,
    Setting,
    Update,
    Weight,
    hyperparameters,
    roles,
)  # fmt: skip
from limbeck.core.modules import freeze
from limbeck.core.schedule import Linear
from limbeck.core.state import method_state, restore_method
from limbeck.errors import InputError


class Queue:
    """Something that keeps state and is not a module."""

    def __init__(self) -> None:
        self.rows = [0]

    def state_dict(self) -> dict[str, Any]:
        return {"rows": list(self.rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]


class Everything(Method):
    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    tau: Positive = 4.0
    margin: NonNegative = 0.0
    share: Fraction = 0.5
    rounds: Count = 1
    optional: Positive | None = None
    moving: Positive | Schedule = 1.0
    weight: Weight = 0.9
    mode: Literal["soft", "hard"] = "soft"
    queue: Queue = field(default_factory=Queue)

    def __post_init__(self) -> None:
        self.projector = nn.Linear(2, 3)
        freeze(self.teacher)

    def loss(self, batch: Tensor, clock: Clock) -> Tensor:
        return self.projector(self.student(batch)).square().mean()


def made(**values: Any) -> Everything:
    return Everything(nn.Linear(4, 2), nn.Linear(4, 3), **values)


def test_models_come_first_and_values_are_named() -> None:
    method = made(tau=2.0)
    assert method.tau == 2.0 and method.share == 0.5 and isinstance(method, nn.Module)
    with pytest.raises(TypeError):
        Everything(nn.Linear(4, 2), nn.Linear(4, 3), 2.0)  # type: ignore[misc]
    with pytest.raises(TypeError, match="temperature"):
        made(temperature=2.0)
    with pytest.raises(TypeError, match="teacher"):
        Everything(nn.Linear(4, 2))  # type: ignore[call-arg]


def test_models_and_helpers_are_registered() -> None:
    method = made()
    assert [name for name, _ in method.named_children()] == ["student", "teacher", "projector"]
    assert set(method.players()) == {"student"}
    assert {id(p) for p in method.players()["student"]} == {
        id(p) for part in (method.student, method.projector) for p in part.parameters()
    }
    assert hash(method) != hash(made()) and method != made()  # identity, as of any module


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tau", 0), ("tau", -1.0), ("tau", float("nan")), ("tau", "4"), ("tau", None), ("tau", True), ("margin", -1e-9),
        ("share", 1.01), ("share", -0.01), ("rounds", 0), ("rounds", 1.5), ("rounds", "one"), ("optional", 0),
        ("moving", -1), ("mode", "medium"), ("mode", 3),
    ],
)  # fmt: skip
def test_values_are_held_against_their_ranges(name: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        made(**{name: value})
    assert caught.value.field == name and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tau", 1), ("tau", 1e-9), ("margin", 0), ("share", 0), ("share", 1.0), ("rounds", 1), ("optional", None),
        ("optional", 2.0), ("moving", Linear(0, 1)), ("weight", Linear(0, 1)), ("weight", -1), ("mode", "hard"),
    ],
)  # fmt: skip
def test_what_is_in_range_is_taken(name: str, value: object) -> None:
    assert getattr(made(**{name: value}), name) == value


@pytest.mark.parametrize(
    "name", ["half", "train", "training", "float", "parameters", "loss", "players", "updates", "forward", "_buffers"]
)
def test_a_field_may_not_shadow_a_module(name: str) -> None:
    with pytest.raises(TypeError, match=f"Bad.{name}: a field of that name would shadow"):
        type("Bad", (Method,), {"__annotations__": {name: float}, name: 1.0})


def test_a_concrete_method_is_not_subclassed() -> None:
    with pytest.raises(TypeError, match="never subclassed"):
        type("Child", (Everything,), {})


def test_deepcopy_is_apart() -> None:
    method = made()
    twin = copy.deepcopy(method)
    assert twin.tau == method.tau and all(
        torch.equal(a, b) for a, b in zip(method.parameters(), twin.parameters(), strict=True)
    )
    with torch.no_grad():
        twin.student.weight.zero_()
    twin.queue.rows.append(1)
    assert method.student.weight.abs().sum() > 0 and method.queue.rows == [0]
    assert not twin.train().teacher.training and twin.student.training


def test_fields_with_state_are_part_of_the_state() -> None:
    method, other = made(), made()
    method.queue.rows = [3, 4]
    other.load_state_dict(method.state_dict())
    assert other.queue.rows == [3, 4]
    kept = method_state(method)
    assert kept["_extra_state"] == {"queue": {"rows": [3, 4]}}
    assert not any(name.startswith("teacher") for name in kept) and "projector.weight" in kept


def test_a_frozen_part_that_learns_again_is_kept_and_trains() -> None:
    """Born-again students begin as copies of a frozen teacher."""
    method = Everything(copy.deepcopy(freeze(nn.BatchNorm1d(4))).requires_grad_(True), nn.Linear(4, 3))
    assert method.train().student.training
    assert "student.weight" in method_state(method)


def test_states_of_others_are_refused() -> None:
    method = made()
    for spoilt in (
        {**method_state(method), "another.weight": torch.ones(2)},
        {k: v for k, v in method_state(method).items() if k != "student.bias"},
        {**method_state(method), "student.weight": torch.ones(5, 4)},
        {**method_state(method), "_extra_state": {}},
    ):
        with pytest.raises(InputError, match="checkpoint"):
            restore_method(made(), spoilt)


class Plain(Method):
    student: nn.Module
    teachers: nn.ModuleList
    _: KW_ONLY
    tau: Positive = 1.0


def setting(teachers: int) -> Setting:
    return Setting(lambda: nn.Linear(2, 2), [nn.Linear(2, 2) for _ in range(teachers)], [], 3, lambda *_, **__: None)


def test_roles_and_hyperparameters() -> None:
    assert set(hyperparameters(Plain)) == {"tau"}
    filled = roles(Plain, setting(2))
    assert isinstance(filled["teachers"], nn.ModuleList) and len(filled["teachers"]) == 2
    assert set(roles(Everything, setting(1))) == {"student", "teacher"}
    for cls, count in ((Plain, 0), (Everything, 0), (Everything, 2)):
        with pytest.raises(InputError, match="teacher"):
            roles(cls, setting(count))


def test_distil_builds_fits_and_returns_the_student() -> None:
    fitted: list[Method] = []
    given = Setting(lambda: nn.Linear(2, 2), [nn.Linear(2, 2)] * 2, [], 3, fitted.append)
    student = Plain.distil(given, {"tau": 3.0})
    [method] = fitted
    assert isinstance(method, Plain) and method.tau == 3.0 and method.student is student


def test_default_updates_name_the_loss() -> None:
    [update] = list(made().updates(torch.randn(3, 4), Clock(0, 1)))
    assert update.player == "student" and list(update.terms) == ["loss"]


def test_the_loss_of_an_update_is_the_sum_of_its_terms() -> None:
    terms = {"a": torch.tensor(1.0), "b": torch.tensor(2.0), "c": torch.tensor(4.0)}
    assert Update(terms).loss == 7 and Update({"a": terms["a"]}).loss == 1


def test_a_method_without_a_loss_says_so() -> None:
    method = Plain(nn.Linear(2, 2), nn.ModuleList())
    updates: Generator[Update, bool, None] = method.updates(None, Clock(0, 1))
    with pytest.raises(NotImplementedError, match="Plain must define"):
        next(updates)


def test_a_frozen_network_is_left_out_under_every_name_it_has() -> None:
    """A guided teacher is part of what guides it: one network, two names, no copy in a checkpoint."""

    class Holder(Method):
        student: nn.Module
        teacher: nn.Module

        def __post_init__(self) -> None:
            freeze(self.teacher)
            self.outer = nn.Sequential(self.teacher)

    kept = method_state(Holder(nn.Linear(2, 2), nn.Linear(2, 2)))
    assert {name.split(".")[0] for name in kept} <= {"student", "_extra_state"}, kept.keys()
