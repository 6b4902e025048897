"""Score forgetting: whose label is exchanged, where the forgotten class is led, what is kept, refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.core.schedule import Clock
from limbeck.data.samples import Samples
from limbeck.errors import InputError
from limbeck.methods.diffusion.score_forgetting import ScoreForgetting
from limbeck.models.gaussian_mixture import GaussianMixture, exact
from limbeck.models.path import VP
from limbeck.models.tiny_denoiser import mlp

THREE = GaussianMixture(torch.tensor([[0.0, 2.0], [-2.0, -1.0], [2.0, -1.0]]), 0.4, labels=torch.arange(3))


def method(**values: Any) -> ScoreForgetting:
    torch.manual_seed(0)
    made = ScoreForgetting(mlp(16, 2, classes=3), exact(THREE), **values)
    made.critic = exact(THREE)
    return made


def test_the_forgotten_class_is_led_to_the_other_ones() -> None:
    """With samples and a fake score of class 0: asked for 0 there is rest, asked for 2 the step goes there, and were
    the teacher's and the fake score's labels swapped it would go the other way."""
    own, x = method(), torch.tensor([0.0, 2.0]) + 0.4 * torch.randn(256, 2)
    x.requires_grad_()
    zero, two = torch.zeros(256, dtype=torch.int64), torch.full((256,), 2)
    (rest,) = torch.autograd.grad(own.fisher(x, zero, zero), x)
    (step,) = torch.autograd.grad(own.fisher(x, two, zero), x)
    assert float(rest.abs().max()) < 1e-6
    way = torch.tensor([2.0, -3.0])
    assert float((-step @ way / way.norm()).mean()) > 0.8 * float(step.norm(dim=1).mean()) > 0


def test_who_is_told_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generator and fake score hear 0 where the teacher hears 1; elsewhere all hear the same, never 0."""
    heard: dict[str, list[Tensor]] = {"student": [], "teacher": [], "critic": []}
    own = method(override=1)
    own.critic = mlp(16, 2, classes=3)

    def listen(name: str, model: nn.Module) -> None:
        forward = model.forward

        def told(x: Tensor, t: Tensor, y: Tensor, extra: Tensor | None = None) -> Any:
            heard[name].append(y)
            return forward(x, t, y, extra)

        monkeypatch.setattr(model, "forward", told)

    for name in heard:
        listen(name, getattr(own, name))
    batch = Samples(torch.zeros(64, 2), torch.zeros(64, dtype=torch.int64), torch.arange(64))
    critic, student = own.updates(batch, Clock(0, 2))
    assert set(critic.terms) == set(student.terms) == {"remain", "forget"}
    kept, swapped = heard["teacher"]
    assert set(kept.tolist()) == {1, 2} and set(swapped.tolist()) == {1}
    assert set(heard["critic"][1].tolist()) == {0} and set(heard["critic"][3].tolist()) == {0}
    assert torch.equal(heard["critic"][2], kept) and torch.equal(heard["student"][2], kept)
    assert set(heard["student"][1].tolist()) == set(heard["student"][3].tolist()) == {0}


def test_random_overrides_are_all_classes_but_the_forgotten_one() -> None:
    own = method(forget=1)
    assert set(own.kept(torch.zeros(200, dtype=torch.int64)).tolist()) == {0, 2}
    assert own.begins == pytest.approx(5 / 7) and float(VP().ratio(torch.tensor(0.44))) == pytest.approx(2.5, rel=0.01)


@pytest.mark.parametrize("values", [{"forget": 3}, {"override": 3}, {"override": 0}])
def test_labels_that_make_no_sense_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        method(**values)
    with pytest.raises(InputError, match="classes"):
        ScoreForgetting(mlp(16, 2), mlp(16, 2))
