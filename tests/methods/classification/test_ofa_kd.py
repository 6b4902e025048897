"""The equations of OFA-KD."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from limbeck.core.method import Clock
from limbeck.losses.divergence import cross_entropy, soft_cross_entropy, soft_log
from limbeck.methods.classification.ofa_kd import OFAKD, TokenBranch, enhanced, map_branch
from limbeck.models.tiny import mixer, mlp, vit
from tests.worlds import CLASSES, SHAPE, vision_world


def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2, 16, 5, generator=g, dtype=torch.float64)
    return 3 * z[0], z[1], torch.randint(5, (16,), generator=g)


def test_at_gamma_1_the_code_is_soft_cross_entropy_and_the_paper_adds_the_label() -> None:
    t, s, y = drawn()
    p, log_s = soft_log(t).exp(), soft_log(s)
    soft = cross_entropy(soft_log(t), log_s)
    code = soft_cross_entropy(enhanced(p, y, 1.0, "code"), log_s)
    paper = soft_cross_entropy(enhanced(p, y, 1.0, "paper"), log_s)
    torch.testing.assert_close(code, soft)
    torch.testing.assert_close(paper, soft + F.cross_entropy(s, y, reduction="none"))


def test_both_variants_equal_their_sums_written_out() -> None:
    t, s, y = drawn()
    p, log_s = soft_log(t).exp(), soft_log(s)
    for gamma in (0.5, 1.5, 2.0):
        paper, code = np.zeros(16), np.zeros(16)
        for b in range(16):
            for c in range(5):
                hit = float(c == y[b])
                weight = (1 + float(p[b, c])) ** gamma if hit else float(p[b, c])
                paper[b] -= weight * float(log_s[b, c])
                code[b] -= ((float(p[b, c]) + hit) ** gamma - hit) * float(log_s[b, c])
        for variant, expected in (("paper", paper), ("code", code)):
            found = soft_cross_entropy(enhanced(p, y, gamma, variant), log_s)
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)
        assert np.abs(paper - code).min() > 1e-6, "one is not the other, whatever gamma"


def test_every_branch_reaches_its_stage_and_none_reaches_the_head() -> None:
    world = vision_world()
    batch, clock = world.batch(), Clock(0, 4)
    students = (world.student(), mlp(7, 5, shape=SHAPE, classes=CLASSES), mixer(8, 6, shape=SHAPE, classes=CLASSES))
    for student in students:
        method = OFAKD(student, world.teachers[0])
        assert len(method.exits) == min(4, len(student.stages)) and method.taps.paths[-1] == student.stages[-1]
        terms = method.loss(batch, clock)
        grads = torch.autograd.grad(terms["ofa"], list(student.parameters()), allow_unused=True)
        names = {n for (n, _), g in zip(student.named_parameters(), grads, strict=True) if g is not None and g.any()}
        assert any(name.startswith(student.stages[0]) for name in names)
        assert not any(name.startswith(student.head + ".") for name in names)
        method.eval()
        with torch.no_grad():
            p = soft_log(method.teacher(batch.x)).exp()
            weights = enhanced(p, batch.y, 1.5, "paper")
            s, features = method.taps(student, batch.x)
            logits = [made(f) for made, f in zip(method.exits, features, strict=True)]
            summed = sum(-(weights * z.log_softmax(1)).sum(1).mean().item() for z in logits)
            terms = method.loss(batch, clock)
        assert terms["ofa"].item() == pytest.approx(summed, rel=1e-4)
        assert terms["kd"].item() == pytest.approx(-(weights * s.log_softmax(1)).sum(1).mean().item(), rel=1e-4)


def test_branches_fit_every_kind_of_stage() -> None:
    wide = map_branch((3, 32, 32), 10, 3, 6)
    assert wide(torch.zeros(1, 3, 32, 32)).shape == (1, 6)
    assert map_branch((3, 2, 2), 10, 3, 6)(torch.zeros(1, 3, 2, 2)).shape == (1, 6)
    for tokens, merged in ((197, 49), (196, 49), (65, 64), (10, 9), (12, 12)):
        made = TokenBranch((tokens, 8), 1, 6).eval()
        seen: list[int] = []
        made.blocks.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].shape[1]))
        x = torch.randn(2, tokens, 8)
        assert made(x).shape == (2, 6)
        assert seen == [merged + made.first]
    token = TokenBranch((5, 8), 1, 6)
    assert token.first == 1, "2 x 2 patches and a class token"
    student = vit(16, 2, shape=SHAPE, classes=CLASSES)
    assert OFAKD(student, vision_world().teachers[0]).loss(vision_world().batch(1), Clock(0, 2))["ofa"].isfinite()
