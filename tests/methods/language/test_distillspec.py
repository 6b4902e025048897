"""DistillSpec (Zhou et al., 2024): the menu of divergences, means a row first, whose answers are learnt."""

import pytest
import torch

from limbeck import Clock
from limbeck.errors import InputError
from limbeck.losses.divergence import js, kl, total_variation
from limbeck.methods.language._shared import answers
from limbeck.methods.language.distillspec import DistillSpec
from limbeck.models.speculative import acceptance
from tests.worlds import language_world

CLOCK = Clock(0, 1)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd", "tvd"])
def test_each_divergence_is_a_mean_over_rows_of_means_over_their_words(name: str) -> None:
    world = language_world()
    [target], draft, batch = world.teachers, world.student(), world.batch(5)
    batch = batch._replace(
        y=torch.where(torch.arange(batch.y.shape[1]) < torch.tensor([[6], [5], [9], [9], [9]]), batch.y, -100)
    )
    found = DistillSpec(draft, target, own=0.0, divergence=name, tau=1.5).loss(batch, CLOCK)["divergence"]
    p, q = (model(batch).log_probs(1.5) for model in (target, draft))
    value = {"forward_kl": kl(p, q), "reverse_kl": kl(q, p), "jsd": js(p, q), "tvd": total_variation(p, q)}[name]
    rows = [value[row][batch.mask[row]].mean() for row in range(5)]
    assert len({int(n) for n in batch.mask.sum(1)}) > 1, "rows of different lengths, or nothing is pinned"
    assert float(found) == pytest.approx(float(torch.stack(rows).mean()), rel=1e-4)


@pytest.mark.parametrize(("own", "otherwise"), [(1.0, "data"), (0.0, "teacher")])
def test_who_answers(own: float, otherwise: str) -> None:
    world = language_world()
    [target], draft, batch = world.teachers, world.student(), world.batch(6)
    method = DistillSpec(draft, target, own=own, otherwise=otherwise, divergence="tvd", longest=4)
    torch.manual_seed(3)
    found = method.loss(batch, CLOCK)["divergence"]
    torch.manual_seed(3)
    torch.rand(())  # the draw that decides whose answers
    said = answers(draft if own else target, batch, longest=4)
    p, q = (model(said).log_probs() for model in (target, draft))
    mask = said.mask
    wanted = ((total_variation(p, q) * mask).sum(1) / mask.sum(1)).mean()
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)
    assert not any(p.grad is not None for p in target.parameters())


def test_total_variation_is_what_acceptance_lacks() -> None:
    world = language_world()
    [target], draft, batch = world.teachers, world.student(), world.batch(1)
    found = DistillSpec(draft, target, own=0.0, divergence="tvd").loss(batch, CLOCK)["divergence"]
    assert float(found) == pytest.approx(1 - acceptance(target, draft, batch), abs=1e-5)


def test_a_teacher_that_cannot_write_says_so() -> None:
    world = language_world()
    method = DistillSpec(world.student(), torch.nn.Identity(), own=0.0, otherwise="teacher")
    with pytest.raises(InputError, match="in memory"):
        method.loss(world.batch(2), CLOCK)
