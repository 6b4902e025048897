"""Swing distillation (Li et al., 2022): which words are private, and what their targets become."""

import re

import pytest
import torch
from torch.nn import functional as F

from limbeck import Clock
from limbeck.errors import InputError
from limbeck.losses.divergence import entropy, kl
from limbeck.methods.language.swing import Swing, private_words, protected
from tests.worlds import language_world

CLOCK = Clock(0, 1)


def test_words_that_touch_a_match_are_private_whatever_the_tokens() -> None:
    pattern = re.compile(r"\d{4}")
    assert private_words(["call", "Ġ12", "34", "Ġor", "Ġ99"], pattern) == [False, True, True, False, False]
    world = language_world()
    batch = world.batch(4)
    scores = Swing(world.student(), world.teachers[0], private=r"(?<=>)\d").scores(batch)
    first = batch.mask.int().argmax(1)  # the position after the prompt predicts the first digit of the answer
    assert scores.sum(1).tolist() == [1, 1, 1, 1] and scores.argmax(1).equal(first)


def test_where_nothing_is_private_it_is_distillation_with_labels() -> None:
    world = language_world()
    [teacher], student, batch = world.teachers, world.student(), world.batch(6)
    found = Swing(student, teacher, private="nothing", tau_min=2.0, a=0.3).loss(batch, CLOCK)
    z, y = (model(batch).logits()[batch.mask] for model in (student, teacher))
    wanted = kl((y / 2).log_softmax(-1), (z / 2).log_softmax(-1)).mean()
    assert float(found["swing"]) == pytest.approx(0.3 * 4 * float(wanted), rel=1e-4)
    assert float(found["ce"]) == pytest.approx(0.7 * float(F.cross_entropy(z, batch.y[batch.mask])), rel=1e-4)


def test_private_targets_are_flat_disturbed_and_still_distributions() -> None:
    torch.manual_seed(0)
    p = (4 * torch.randn(3, 50)).log_softmax(-1)
    tau, s = torch.tensor([1.0, 10.0, 10.0]), torch.tensor([0.0, 1.0, 1.0])
    flat = protected(p, tau, s, 0.0)
    assert torch.allclose(flat[0], p[0], atol=1e-5) and torch.allclose(flat[1], (p[1] / 10).log_softmax(-1), atol=1e-5)
    assert float(entropy(flat[1])) > float(entropy(p[1])) + 1
    once, again = protected(p, tau, s, 1.0), protected(p, tau, s, 1.0)
    assert torch.allclose(once.exp().sum(-1), torch.ones(3)) and torch.equal(once[0], flat[0])
    assert not torch.allclose(once[1], flat[1]) and not torch.equal(once[1], again[1]), "new at every step"


def test_labels_of_private_words_teach_nothing() -> None:
    world = language_world()
    [teacher], student, batch = world.teachers, world.student(), world.batch(6)
    method = Swing(student, teacher, private=r"\d", a=0.0)  # all but the end of text
    end = batch.y == student.eos
    found = float(method.loss(batch, CLOCK)["ce"])
    said = student(batch).log_probs()[end][:, student.eos]
    assert found == pytest.approx(-float(said.sum()) / int(batch.mask.sum()), rel=1e-4)
    with pytest.raises(InputError, match="private"):
        Swing(student, teacher, private="(")
