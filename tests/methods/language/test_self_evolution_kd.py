"""Self-evolution KD (Song et al., 2024): the blended target, who gets help, and what help does to the gradient."""

import pytest
import torch
from torch.nn import functional as F

from limbeck import Clock
from limbeck.losses.divergence import kl
from limbeck.methods.language.self_evolution_kd import SelfEvolutionKD, blended, help_ratio, helped
from tests.worlds import language_world

CLOCK = Clock(0, 1)


def test_the_blend_is_a_distribution_between_label_and_teacher() -> None:
    torch.manual_seed(0)
    p, y = torch.randn(4, 7).log_softmax(-1), torch.tensor([0, 6, 3, 3])
    for lam in (0.0, 0.3, 1.0):
        assert torch.allclose(blended(p, y, lam).exp(), lam * F.one_hot(y, 7) + (1 - lam) * p.exp(), atol=1e-6)


def test_without_help_it_is_the_kl_to_the_blend() -> None:
    world = language_world()
    [teacher], student, batch = world.teachers, world.student(), world.batch(6)
    found = SelfEvolutionKD(student, teacher, lam=0.3, r_max=0.0).loss(batch, CLOCK)["kl"]
    p, q = (model(batch).log_probs()[batch.mask] for model in (teacher, student))
    target = (0.3 * F.one_hot(batch.y[batch.mask], p.shape[1]) + 0.7 * p.exp()).log()
    assert float(found) == pytest.approx(float(kl(target, q).mean()), rel=1e-4)


def test_words_above_the_mean_get_help_by_their_difficulty() -> None:
    d = torch.tensor([[4.0, 1.0, 2.0, 3.0, 99.0]])
    mask = torch.tensor([[True, True, True, True, False]])
    assert help_ratio(d, mask, 0.5).tolist() == [[0.5, 0.0, 0.0, 0.375, 0.0]]


def test_help_shortens_the_gradient_of_a_hard_word_and_keeps_its_sign() -> None:
    p = torch.tensor([[4.0, 0.0, 0.0]]).log_softmax(-1)
    z = torch.tensor([[-3.0, 2.0, 1.0]], requires_grad=True)
    y = torch.tensor([0])

    def slope(r: float) -> torch.Tensor:
        value = helped(p, z.log_softmax(-1), y, torch.tensor([r]), lam=0.5)
        return torch.autograd.grad(value.sum(), z)[0]

    plain, some = slope(0.0), slope(0.5)
    assert float(some.norm()) < float(plain.norm())
    assert float(some[0, 0]) < 0 and float(plain[0, 0]) < 0, "the word's own logit rises in both"
