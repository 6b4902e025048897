"""BabyLlama-2 (2024): the mean of logits without the logits, and what each term is a mean over."""

import pytest
import torch
from torch.nn import functional as F

from limbeck import Clock
from limbeck.losses.divergence import kl
from limbeck.losses.vocabulary import Words
from limbeck.methods.language.babyllama2 import BabyLlama2
from limbeck.models.teachers import mean_logits, mean_probabilities
from tests.worlds import language_world

CLOCK = Clock(0, 1)


def test_concatenated_heads_say_the_mean_of_the_logits() -> None:
    torch.manual_seed(0)
    made = [
        Words(torch.randn(3, 5, d), torch.randn(7, d), torch.randn(7), scale, None, 7)
        for d, scale in ((4, 1.0), (6, 0.5))
    ]
    wanted = (made[0].logits() + made[1].logits()) / 2
    torch.testing.assert_close(mean_logits(made).logits(), wanted)
    mixed = (made[0].log_probs(2.0).exp() + made[1].log_probs(2.0).exp()) / 2
    torch.testing.assert_close(mean_probabilities(made, 2.0).log_probs(2.0).exp(), mixed)
    assert not torch.allclose(mean_logits(made).log_probs(2.0).exp(), mixed, atol=1e-2), "the two are not one"


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_both_terms_equal_a_plain_reference(average: str) -> None:
    world = language_world(teachers=2)
    student, batch, tau, alpha = world.student(), world.batch(6), 2.0, 0.3
    method = BabyLlama2(student, torch.nn.ModuleList(world.teachers), tau=tau, alpha=alpha, average=average)  # type: ignore[arg-type]
    terms = method.loss(batch, CLOCK)
    s, a, b = (model(batch).logits()[batch.mask] for model in (student, *world.teachers))
    p = ((a + b) / 2 / tau).log_softmax(-1)
    if average == "probabilities":
        p = (((a / tau).softmax(-1) + (b / tau).softmax(-1)) / 2).log()
    wanted = (1 - alpha) * tau**2 * kl(p, (s / tau).log_softmax(-1)).mean()
    assert float(terms["kd"].detach()) == pytest.approx(float(wanted.detach()), rel=1e-4)
    ce = alpha * F.cross_entropy(s, batch.y[batch.mask])
    assert float(terms["ce"].detach()) == pytest.approx(float(ce.detach()), rel=1e-4)


def test_over_rows_the_kl_is_summed_over_a_rows_words() -> None:
    world = language_world(teachers=2)
    student, batch = world.student(), world.batch(6)
    words, rows = (
        BabyLlama2(student, torch.nn.ModuleList(world.teachers), kl_over=over).loss(batch, CLOCK)["kd"].detach()  # type: ignore[arg-type]
        for over in ("words", "rows")
    )
    assert float(rows) == pytest.approx(float(words) * int(batch.mask.sum()) / 6, rel=1e-5)
