import pytest
import torch

from limbeck.losses import adversarial

torch.set_num_threads(1)
LOGITS = torch.linspace(-5, 5, 12, dtype=torch.float64)


def test_definitions():
    sigmoid = LOGITS.sigmoid()
    close = torch.testing.assert_close
    close(adversarial.nonsaturating(LOGITS, real=True), -sigmoid.log())
    close(adversarial.nonsaturating(LOGITS, real=False), -(1 - sigmoid).log())
    close(adversarial.hinge(LOGITS, real=True), (1 - LOGITS).clamp_min(0))
    close(adversarial.hinge(LOGITS, real=False), (1 + LOGITS).clamp_min(0))
    close(adversarial.least_squares(LOGITS, real=True), (LOGITS - 1) ** 2 / 2)
    close(adversarial.least_squares(LOGITS, real=False), LOGITS**2 / 2)


@pytest.mark.parametrize("loss", [adversarial.nonsaturating, adversarial.hinge, adversarial.least_squares])
def test_gradients_signs_and_precision(loss):
    logits = LOGITS.clone().requires_grad_()
    for real in (True, False):
        assert torch.autograd.gradcheck(lambda x: loss(x, real=real), logits)  # noqa: B023
        undecided = torch.tensor([0.5], requires_grad=True)  # real logits must rise from here, fake ones fall
        (grad,) = torch.autograd.grad(loss(undecided, real=real).sum(), undecided)
        assert (grad.item() < 0) == real
        for dtype in (torch.float16, torch.bfloat16):
            half = (2 * LOGITS).to(dtype)
            got = loss(half, real=real)
            assert got.dtype == torch.float32
            torch.testing.assert_close(got.double(), loss(half.double(), real=real), rtol=1e-5, atol=1e-6)
    assert loss(torch.zeros(2, 1, 4, 4), real=True).shape == (2, 1, 4, 4)


def test_the_generator_gets_gradient_where_it_is_found_out():
    logits = torch.tensor([-20.0], requires_grad=True)
    (grad,) = torch.autograd.grad(adversarial.nonsaturating(logits, real=True).sum(), logits)
    assert grad.item() == pytest.approx(-1)


def test_r1_is_the_squared_gradient_of_each_sample_and_can_be_minimised():
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    logits = (x.flatten(1) @ weight).square()
    penalty = adversarial.r1_penalty(logits, x)
    wanted = (2 * (x.flatten(1) @ weight)) ** 2 * weight.square().sum()
    torch.testing.assert_close(penalty, wanted)
    for got, true in zip(torch.autograd.grad(penalty.sum(), weight), torch.autograd.grad(wanted.sum(), weight)):
        torch.testing.assert_close(got, true)
