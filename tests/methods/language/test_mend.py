"""MEND (2024): vectors in the place of a prompt, alignment of the two readings, and where the gradient goes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limbeck import Clock
from limbeck.data.tokens import Tokens
from limbeck.errors import InputError
from limbeck.losses.divergence import kl
from limbeck.methods.language.mend import MEND
from limbeck.models.compressor import Compressor, Parts
from tests.worlds import language_world

CLOCK = Clock(0, 1)
TEXTS = ((11, 12, 13, 14, 15, 16, 17), (21, 22, 23, 24), (31, 32, 33, 34, 35, 36))


def rows(*first: int) -> Tokens:
    """Three rows of 7, 4 and 6 tokens whose first word to learn is given."""
    x, y, segment = torch.zeros(3, 7).long(), torch.full((3, 7), -100), torch.zeros(3, 7).long()
    for k, (text, begin) in enumerate(zip(TEXTS, first, strict=True)):
        x[k, : len(text)], segment[k, : len(text)] = torch.tensor(text), 1
        y[k, begin - 1 : len(text) - 1] = torch.tensor(text[begin:])
    return Tokens(x, y, segment, x[:, 0], x[:, 0])


def test_a_row_is_cut_before_its_query_or_in_the_middle() -> None:
    world = language_world()
    made = Compressor(world.student(), world.teachers[0], 4, query=1)
    parts = made.split(rows(5, 3, 1))
    assert parts.begin.tolist() == [4, 2, 3]
    assert parts.head.tolist()[1][2:] == [21, 22] and parts.head_mask.tolist() == [[1] * 4, [0, 0, 1, 1], [0, 1, 1, 1]]
    assert parts.tail.tolist()[1][:2] == [23, 24] and parts.tail_mask.tolist() == [[1] * 3, [1, 1, 0], [1] * 3]


def test_vectors_that_are_the_prompts_embeddings_say_what_the_prompt_says() -> None:
    """The oracle of the alignment: with S_D = embed(D), the frozen network cannot tell the difference."""
    world = language_world()
    teacher, batch = world.teachers[0], rows(3, 3, 3)  # heads of one length, so that they are all l vectors

    class Same(Compressor):
        def vectors(self, parts: Parts) -> torch.Tensor:
            return teacher.embed(parts.head)

    method = MEND(world.student(), teacher, vectors=3)
    made = Same(world.student(), teacher, 3)
    found, wanted = made(batch).logits(), teacher(batch).logits()
    for k, n in enumerate(len(text) for text in TEXTS):
        torch.testing.assert_close(found[k, 2:n], wanted[k, 2:n])
        assert not made(batch).hidden[k, :2].any()
    method.student = made
    terms = method.loss(batch, CLOCK)
    assert abs(float(terms["kd"].detach())) < 1e-5
    y = F.cross_entropy(wanted[batch.mask], batch.y[batch.mask])
    assert float(terms["ce"].detach()) == pytest.approx(float(y), rel=1e-4)


def test_the_loss_is_a_mean_over_the_tail_at_temperature_tau() -> None:
    world = language_world()
    teacher, batch = world.teachers[0], rows(5, 3, 1)
    method = MEND(world.student(), teacher, vectors=3, kd=0.7, ce=0.2, tau=2.0, query=1)
    s, t = method.student(batch).logits(), teacher(batch).logits()
    ends = [(3, 6), (1, 3), (2, 5)]  # from the head's last token to the last but one
    p, q = (torch.cat([x[k, a:b] for k, (a, b) in enumerate(ends)]) / 2.0 for x in (t, s))
    terms = method.loss(batch, CLOCK)
    wanted = 0.7 * float(kl(p.log_softmax(-1), q.log_softmax(-1)).mean().detach())
    assert float(terms["kd"].detach()) == pytest.approx(wanted, rel=1e-4)
    learnt = [(0, t) for t in range(4, 6)] + [(1, t) for t in range(2, 3)] + [(2, t) for t in range(2, 5)]
    nll = torch.stack([F.cross_entropy(s[k, t], batch.y[k, t]) for k, t in learnt]).mean()
    assert float(terms["ce"].detach()) == pytest.approx(0.2 * float(nll.detach()), rel=1e-4)


def test_the_gradient_goes_through_the_frozen_network_which_is_not_saved() -> None:
    world = language_world()
    method = MEND(world.student(), world.teachers[0], vectors=3)
    sum(method.loss(world.batch(4), CLOCK).values()).backward()  # type: ignore[union-attr]
    assert isinstance(method.student, Compressor) and isinstance(method.student.adapter, nn.Sequential)
    for found in (method.student.places, method.student.adapter[0].weight, method.student.hyper.net.lm_head.weight):
        assert found.grad is not None and found.grad.abs().sum() > 0
    assert all(p.grad is None for p in method.teacher.parameters())
    own = sum(p.numel() for p in method.student.state_dict().values())
    assert own < sum(p.numel() for p in world.student().state_dict().values()) + 3 * 16 + 17 * 32 + 1


def test_what_does_not_fit_is_said() -> None:
    world = language_world()
    with pytest.raises(InputError, match=r"vectors: '60'.*prompt"):
        MEND(world.student(), world.teachers[0], vectors=60).loss(rows(6, 3, 5), CLOCK)
    packed = rows(4, 4, 4)._replace(segment=torch.tensor([[1, 1, 1, 2, 2, 2, 2]] * 3))
    with pytest.raises(InputError, match="--no-pack"):
        MEND(world.student(), world.teachers[0]).loss(packed, CLOCK)
