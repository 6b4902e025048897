"""WCoRD: the two terms against slow references, the memory, and the critic's Lipschitz constant."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from limbeck.core.schedule import Clock
from limbeck.methods.classification.wcord import WCoRD
from tests.worlds import vision_world


def made(**fields: object) -> tuple[WCoRD, object]:
    world = vision_world(0)
    torch.manual_seed(0)
    return WCoRD(world.student(), world.teachers[0], examples=len(world.train), width=16, **fields), world.batch(8)


def test_the_global_term_is_the_printed_one() -> None:
    """One negative a sample and a memory of two rows: the drawn negative is known, and the sum can be written out."""
    method, _ = made()
    u, memory = F.normalize(torch.randn(2, 16), dim=1), F.normalize(torch.randn(2, 16), dim=1)
    log_z = torch.tensor(math.log(3.0))
    got = method.contrast(u, memory, log_z, torch.tensor([0, 1]))
    for i in range(2):
        critic = [math.exp(float(u[i] @ memory[j]) / method.t) / 3.0 for j in range(2)]
        g = [c / (c + 1 / 2) for c in critic]  # M / N = 1 / 2
        assert math.isclose(float(got[i]), -math.log(g[i]) - math.log(1 - g[1 - i]), rel_tol=1e-4)


def test_the_first_batch_sets_the_normaliser_so_that_the_mean_critic_is_one_over_the_samples() -> None:
    method, batch = made(negatives=100_000)
    u = F.normalize(torch.randn(8, 16), dim=1)
    method.contrast(u, method.teacher_memory, method.teacher_log_z, batch.index)
    scores = u @ method.teacher_memory.T / method.t
    mean = (scores - method.teacher_log_z).exp().mean()
    assert math.isclose(float(mean), 1 / len(method.teacher_memory), rel_tol=0.2)  # drawn with replacement
    kept = method.teacher_log_z.clone()
    method.contrast(-u, method.teacher_memory, method.teacher_log_z, batch.index)
    assert torch.equal(kept, method.teacher_log_z), "estimated once"


def test_memories_move_after_the_step_by_the_momentum_and_only_where_samples_were_seen() -> None:
    method, batch = made()
    before, steps = method.teacher_memory.clone(), method.updates(batch, Clock(0, 10))
    next(steps)
    assert torch.equal(before, method.teacher_memory), "not before the step"
    next(steps, None)
    moved = (before != method.teacher_memory).any(1)
    assert moved[:8].all() and not moved[8:].any()
    assert torch.allclose(method.teacher_memory.norm(dim=1), torch.ones(len(before)), atol=1e-5)
    weight = method.eval().heads["student"].weight
    assert abs(float(torch.linalg.matrix_norm(weight, 2)) - 1) < 0.3, "the critic's layers are 1-Lipschitz, nearly"
