"""The worked example of CONTRIBUTING runs as it is printed."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

from limbeck.core.card import Card
from limbeck.core.method import Method, hyperparameters
from limbeck.core.schedule import Clock
from tests.worlds import accuracy, vision_world

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(), re.S)


@pytest.fixture
def example() -> ModuleType:
    module = ModuleType("annealed_jeffreys")
    sys.modules["annealed_jeffreys"] = module  # where dataclasses look the annotations up
    exec(compile(BLOCKS[0], "CONTRIBUTING.md", "exec"), vars(module))
    yield module
    del sys.modules["annealed_jeffreys"]


def test_the_printed_method_trains(example: ModuleType) -> None:
    world = vision_world(0)
    student, before = world.student(), accuracy(world.student(), world.test)
    given = {
        "student": student,
        "teacher": world.teachers[0],
        "batches": world.data,
        "torch": torch,
        "partial": partial,
    }
    exec(BLOCKS[1], {**vars(example), **given})
    assert accuracy(student, world.test) > before + 0.2
    assert isinstance(example.CARD, Card) and issubclass(example.AnnealedJeffreys, Method)
    assert set(hyperparameters(example.AnnealedJeffreys)) == {"tau", "weight"}


def test_its_term_vanishes_at_equality_as_its_card_says(example: ModuleType) -> None:
    world = vision_world(0)
    teacher = world.teachers[0]
    terms = example.AnnealedJeffreys(teacher, teacher).eval().loss(world.batch(8), Clock(0, 10))
    assert float(terms["jeffreys"]) < 1e-6 < float(terms["ce"])
