"""Next-word training: what is learnt, and what is not."""

import pytest
import torch
from torch.nn import functional as F

from limbeck import Clock
from limbeck.data.tokens import IGNORE
from limbeck.methods.language.sft import SFT
from tests.worlds import language_world

CLOCK = Clock(0, 1)


def test_it_is_the_cross_entropy_of_the_words_to_learn() -> None:
    world = language_world()
    batch, student = world.batch(6), world.student()
    wanted = F.cross_entropy(student(batch).logits().flatten(0, 1), batch.y.flatten(), ignore_index=IGNORE)
    found = SFT(student).loss(batch, CLOCK)["ce"]
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    ours, theirs = (torch.autograd.grad(loss, list(student.parameters())) for loss in (found, wanted))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_prompts_and_padding_are_not_learnt() -> None:
    world = language_world()
    batch, student = world.batch(6), world.student()
    loss = SFT(student).loss(batch, CLOCK)["ce"]
    other = batch._replace(x=torch.where(batch.segment == 0, 7, batch.x))
    assert float(SFT(student).loss(other, CLOCK)["ce"]) == pytest.approx(float(loss.detach()), rel=1e-6)
    assert not batch.mask[:, :3].any(), "the three digits of the prompt and their order mark come first"
