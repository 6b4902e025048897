"""MiniPLM (2024): the score against a slow reference, across tokenizers, and which rows are kept."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from limbeck import Method
from limbeck.core.method import Setting
from limbeck.errors import InputError
from limbeck.methods.language.miniplm import MiniPLM, difference_scores, select
from tests.worlds import LanguageWorld, language_world


def log_likelihood(model: Any, batch: Any, row: int) -> float:
    logs = model(batch).log_probs()[row]
    return sum(float(logs[t, y]) for t, y in enumerate(batch.y[row].tolist()) if y != -100)


@pytest.mark.parametrize("crossed", [False, True])
def test_the_score_is_the_difference_of_log_likelihoods_a_word_of_the_students(crossed: bool) -> None:
    world = language_world(crossed=crossed)
    teacher, reference = world.teachers[0], world.student()
    found = difference_scores(teacher, reference, world.data.plain(7))
    assert found.shape == (len(world.train),)
    batch = world.batch(8)
    for row in range(8):
        words = int((batch.y[row] != -100).sum())
        wanted = log_likelihood(teacher, batch.teacher_view, row) - log_likelihood(reference, batch, row)
        assert float(found[row]) == pytest.approx(wanted / words, rel=1e-4)


def test_a_reference_that_is_the_teacher_finds_no_difference() -> None:
    world = language_world()
    twin = copy.deepcopy(world.teachers[0])
    assert difference_scores(world.teachers[0], twin, world.data.plain(16)).abs().max() < 1e-5


def test_the_largest_scores_are_kept() -> None:
    assert select(torch.tensor([0.1, 0.9, -1.0, 0.5]), 0.5) == [1, 3]
    assert select(torch.tensor([0.1, 0.9, -1.0, 0.5]), 0.01) == [1]


@pytest.mark.parametrize("crossed", [False, True])
def test_the_student_reads_what_the_reference_did_not_and_the_teacher_finds_easier(crossed: bool) -> None:
    world: LanguageWorld = language_world(crossed=crossed)
    seen: dict[str, tuple[Method, Any, int]] = {}

    def watch(method: Method, *, name: str = "fit", data: Any = None, steps: int = 40) -> None:
        seen[name] = method, data, steps

    setting = Setting(world.student, world.teachers, world.data, 40, watch)
    MiniPLM.distil(setting, {"share": 0.2, "alpha": 0.25})
    (small, few, steps), (large, kept, _) = seen["reference"], seen["fit"]
    N = len(world.train)
    assert len(few.dataset) == round(0.2 * N) and len(kept.dataset) == round(0.25 * (N - round(0.2 * N)))
    assert steps == round(40 * len(few.dataset) / len(kept.dataset)), "every row is read as often"
    assert isinstance(small, MiniPLM) and isinstance(large, MiniPLM) and small.student is not large.student
    assert not {*few.dataset.keys.tolist()} & {*kept.dataset.keys.tolist()}
    assert (kept.view is not None) == crossed
    own = difference_scores(world.teachers[0], small.student, kept.plain(16))
    rest = [k for k, key in enumerate(world.train.keys.tolist()) if key not in {*few.dataset.keys.tolist()}]
    whole = difference_scores(world.teachers[0], small.student, world.data.plain(16))[rest]
    torch.testing.assert_close(own.sort().values, whole.sort().values[-len(own) :])


def test_shares_of_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="share"):
        MiniPLM(language_world().student(), language_world().teachers[0], share=0.0)
