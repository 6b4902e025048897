"""PromptKD (Kim et al., 2024): who moves at which step, in which direction, and what holds the prompt."""

import copy

import pytest
import torch

from limbeck import Clock
from limbeck.core.fit import fit
from limbeck.core.modules import unwrap
from limbeck.losses.divergence import kl
from limbeck.methods.language._shared import answers
from limbeck.methods.language.promptkd_lm import PromptKDLM
from tests.worlds import SGD, language_world


def test_both_losses_against_their_plain_forms() -> None:
    world = language_world()
    [teacher], student, batch = world.teachers, world.student(), world.batch(5)
    method = PromptKDLM(student, teacher, prompt_length=3, longest=4)
    torch.manual_seed(2)
    steps = method.updates(batch, Clock(1, 5))
    first = next(steps)
    torch.manual_seed(2)
    said = answers(student, batch, longest=4)
    with torch.no_grad():
        q, plain = (model(said).log_probs()[said.mask] for model in (student, teacher))
        p = teacher(said, prefix=method.prompt).log_probs()[said.mask]
    assert first.player == "prompt"
    assert float(first.terms["friendly"].detach()) == pytest.approx(float(kl(p, q).mean()), rel=1e-3)
    assert float(first.terms["held"].detach()) == pytest.approx((1 - 1 / 4) * float(kl(p, plain).mean()), rel=1e-3)
    with torch.no_grad():
        method.prompt += 0.1  # the optimiser's step
        p = teacher(said, prefix=method.prompt).log_probs()[said.mask]
    second = steps.send(True)
    assert second.player == "student"
    assert float(second.terms["kl"].detach()) == pytest.approx(float(kl(q, p).mean()), rel=1e-3)
    grads = torch.autograd.grad(second.loss, [method.prompt, *student.parameters()], allow_unused=True)
    assert grads[0] is None and any(g is not None for g in grads[1:])


def test_the_prompt_moves_the_teacher_towards_the_student_and_nothing_else_of_it_moves() -> None:
    world = language_world()
    [teacher], student = world.teachers, world.student()
    before = copy.deepcopy(teacher.state_dict())
    method = PromptKDLM(student, teacher, c=0.0, longest=4)
    start, batch = method.prompt.detach().clone(), world.batch(8)
    torch.manual_seed(0)
    said = answers(student, batch, longest=4)

    def gap() -> float:
        with torch.no_grad():
            p = method.prompted(said).log_probs()[said.mask]
            return float(kl(p, student(said).log_probs()[said.mask]).mean())

    far = gap()
    optimizer = torch.optim.Adam([method.prompt], lr=0.02)
    for _ in range(20):
        update = next(method.updates(batch, Clock(0, 1)))
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
    assert gap() < far and not method.prompt.equal(start)
    assert all(v.equal(before[k]) for k, v in teacher.state_dict().items())


def test_the_prompt_starts_as_its_text_and_is_kept_in_a_checkpoint_while_the_teacher_is_not() -> None:
    world = language_world()
    teacher = world.teachers[0]
    method = PromptKDLM(world.student(), teacher, prompt_length=4, prompt_text="abc")
    ids = torch.tensor(teacher.tokenizer("abca", add_special_tokens=False).input_ids)
    torch.testing.assert_close(method.prompt.detach(), teacher.embed(ids))
    assert set(method.players()) == {"student", "prompt"}
    moved = method.prompt.detach().clone()
    fit(method, world.batches(8, 0), SGD, steps=2)
    assert not method.prompt.equal(moved) and unwrap(method.teacher) is teacher
