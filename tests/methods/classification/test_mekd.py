"""The equations of MEKD, and that its teacher stays a black box."""

import math

import numpy as np
import pytest
import torch

from limbeck.core.method import Clock
from limbeck.losses.divergence import soft_log
from limbeck.methods.classification.mekd import MEKD, code
from limbeck.models.gan import conv_discriminator, conv_generator
from tests.worlds import vision_world

FIRST, SECOND = Clock(0, 10), Clock(9, 10)


def _method(**values: float) -> tuple[MEKD, object]:
    world = vision_world()
    torch.manual_seed(0)
    method = MEKD(world.student(), world.teachers[0], width=4, **values).eval()
    return method, world.batch()._replace(y=torch.full((8,), -1))


def test_codes_are_one_affine_map_of_the_softened_response() -> None:
    z = 3 * torch.randn(5, 4, dtype=torch.float64)
    softened = np.exp(z.numpy() / 2)
    softened /= softened.sum(1, keepdims=True)
    assert np.allclose(code(z, 2.0).numpy(), (softened - 0.25) / math.sqrt(0.25 * 0.75))
    assert torch.allclose(code(soft_log(z), 2.0), code(z, 2.0))  # probabilities are enough
    assert torch.allclose(code(torch.zeros(1, 4), 2.0), torch.zeros(1, 4), atol=1e-6)
    hot = code(torch.tensor([[0.0, -math.inf, -math.inf, -math.inf]]), 2.0)  # a hard answer without smoothing
    assert (hot.mean().item(), hot.var(correction=0).item()) == pytest.approx((0.0, 1.0), abs=1e-6)


@pytest.mark.parametrize("hard", [False, True])
def test_stage_2_compares_decoded_answers_through_a_frozen_generator(hard: bool) -> None:
    method, batch = _method(hard=hard, image=2.0, beta=0.5, tau=2.0)
    method.train()
    held = {k: v.clone() for k, v in method.generator.state_dict().items()}
    state = torch.get_rng_state()
    [update] = method.updates(batch, SECOND)
    assert update.player == "student" and int(method.queries) == len(batch.x)
    torch.set_rng_state(state)
    with torch.no_grad():
        c = code(3 * torch.randn(8, 6), 2.0)
        x = method.generator(c)
        t, s = method.teacher(x), method.student(x)
        if hard:
            t = torch.log(0.9 * torch.eye(6)[t.argmax(1)] + 0.1 / 6)
        images = [method.generator((((z / 2).softmax(1)) - 1 / 6) / math.sqrt(5 / 36)).numpy() for z in (t, s)]
        p, q = ((z / 2).softmax(1).double().numpy() for z in (t, s))
    assert update.terms["image"].item() == pytest.approx(2 * float(np.abs(images[0] - images[1]).mean()), rel=1e-4)
    assert update.terms["kl"].item() == pytest.approx(0.5 * 4 * (p * np.log(p / q)).sum(1).mean(), rel=1e-4)
    gradients = torch.autograd.grad(update.terms["image"], list(method.student.parameters()))
    assert any(g.abs().max() > 0 for g in gradients)  # they pass through the generator
    assert all(torch.equal(v, held[k]) for k, v in method.generator.state_dict().items())


def test_stage_1_never_asks_the_teacher_for_a_gradient() -> None:
    method, batch = _method()
    asked = []
    method.teacher.register_forward_hook(lambda _, inputs, output: asked.append((inputs[0], output)))
    found = {}
    for update in method.updates(batch, FIRST):
        own = method.players()[update.player]
        found[update.player] = torch.autograd.grad(update.loss, own, allow_unused=True, retain_graph=True)
    assert list(found) == ["discriminator", "student", "generator"]
    assert all(any(g is not None and g.abs().max() > 0 for g in grads) for grads in found.values())
    [(x, answer)] = asked
    assert not x.requires_grad and not answer.requires_grad and int(method.queries) == len(batch.x)


def test_the_generator_is_rewarded_for_images_that_are_sure_and_of_all_classes() -> None:
    method, batch = _method(confidence=0.5, balance=2.0)
    state = torch.get_rng_state()
    terms = next(u.terms for u in method.updates(batch, FIRST) if u.player == "generator")
    parameters = list(method.generator.parameters())
    gradients = torch.autograd.grad(terms["confidence"] + terms["balance"], parameters)

    def judged() -> tuple[float, float]:
        """Mean entropy, and entropy of the mean, of the student's answers."""
        torch.set_rng_state(state)
        with torch.no_grad():
            p = method.student(method.generator(code(3 * torch.randn(8, 6), 3.0))).softmax(1)
        return float(-(p * p.log()).sum(1).mean()), float(-(p.mean(0) * p.mean(0).log()).sum())

    before = judged()
    assert terms["confidence"].item() == pytest.approx(0.5 * before[0], rel=1e-4)
    assert terms["balance"].item() == pytest.approx(-2.0 * before[1], rel=1e-4)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= 1e-2 * gradient
    after = judged()
    assert 0.5 * after[0] - 2.0 * after[1] < 0.5 * before[0] - 2.0 * before[1]
    for shape in ((1, 5, 7), (3, 16, 16), (2, 1, 4)):
        x = conv_generator(6, shape, 4)(torch.zeros(2, 6))
        assert x.shape == (2, *shape) and conv_discriminator(shape, 4)(x).shape == (2, 1)
