"""Frozen networks, moving averages, taps and projectors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.core.method import Method
from limbeck.core.modules import Ema, Projector, Taps, freeze, gather, is_frozen, unwrap
from limbeck.errors import InputError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))


class Pair(Method):
    student: nn.Module
    teacher: nn.Module


def test_frozen_stays_in_eval_mode_and_still() -> None:
    method = Pair(net(), freeze(net()))
    method.eval()
    method.train()
    assert method.student.training and all(m.training for m in method.student.modules())
    assert not any(m.training for m in method.teacher.modules())
    before, x = copy.deepcopy(method.teacher.state_dict()), torch.randn(5, 4)
    assert torch.equal(method.teacher(x), method.teacher(x))  # no dropout
    assert all(torch.equal(v, before[k]) for k, v in method.teacher.state_dict().items())  # no batch statistics


def test_frozen_passes_gradients_to_its_input() -> None:
    x = torch.randn(5, 4, requires_grad=True)
    frozen = freeze(net())
    frozen(x).square().sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert all(p.grad is None for p in frozen.parameters())


def test_a_copy_that_learns_is_not_frozen() -> None:
    frozen = freeze(net())
    assert is_frozen(frozen) and is_frozen(copy.deepcopy(frozen))
    assert not is_frozen(copy.deepcopy(frozen).requires_grad_(True)) and not is_frozen(net())


def test_ema_follows_the_formula() -> None:
    model, average = net(), Ema(net(), 0.9)
    expected = [p.detach().clone() for p in model.parameters()]
    for factor, decay in ((2.0, None), (-1.0, 0.5)):
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(factor)
        average.update(model, decay)
        keep = 0.9 if decay is None else decay
        expected = [keep * e + (1 - keep) * p.detach() for e, p in zip(expected, model.parameters(), strict=True)]
    for e, p in zip(expected, average.average.parameters(), strict=True):
        torch.testing.assert_close(p, e)


def test_ema_copies_statistics_and_is_kept() -> None:
    model = net()
    average = Ema(model)
    model(torch.randn(8, 4) + 3)
    average.update(model)
    assert torch.equal(average.average[1].running_mean, model[1].running_mean)
    average.train()
    assert not any(m.training for m in average.modules()) and not any(p.requires_grad for p in average.parameters())
    assert len(average.state_dict()) == len(model.state_dict()) and not is_frozen(average)
    assert average(torch.randn(2, 4)).shape == (2, 3)


def test_taps_read_outputs_and_inputs() -> None:
    model, x = net().eval(), torch.randn(5, 4)
    logits, (first, last, again) = Taps("0", "3:in", "0")(model, x)
    assert torch.equal(logits, model(x)) and torch.equal(first, model[0](x)) and torch.equal(again, first)
    assert torch.equal(model[3](last), logits)
    assert first.requires_grad


def test_taps_leave_nothing_behind_even_after_an_error() -> None:
    model = net()
    with pytest.raises(RuntimeError):
        Taps("0", "3:in")(model, torch.randn(5, 7))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_taps_of_two_models_never_meet() -> None:
    """One call inside another, on a model and its copy."""
    outer, x = net().eval(), torch.randn(5, 4)
    inner, taps, seen = copy.deepcopy(outer).eval(), Taps("3"), list[Tensor]()

    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = outer

        def forward(self, x: Tensor) -> Tensor:
            seen.extend(taps(inner, -x)[1])
            return self.own(x)

    _, [found] = Taps("own.3")(Nested(), x)
    assert torch.equal(found, outer(x)) and torch.equal(seen[0], outer(-x)) and not torch.equal(found, seen[0])


def test_taps_name_what_is_wrong() -> None:
    model = net()
    with pytest.raises(InputError, match="did you mean 'layer2'"):
        Taps("layer3")(nn.ModuleDict({"layer2": nn.ReLU()}), torch.randn(5, 4))
    model.add_module("idle", nn.Linear(2, 2))
    model.forward = lambda x: nn.Sequential.forward(model[:4], x)  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="idle: this submodule did not run"):
        Taps("idle")(model, torch.randn(5, 4))


def test_taps_refuse_a_feature_that_is_overwritten() -> None:
    """An in-place ReLU would silently turn the feature before it into the one after it."""
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)), torch.randn(5, 4)
    with pytest.raises(RuntimeError, match="0: a later layer overwrites"):
        Taps("0")(model, x)
    assert torch.equal(Taps("1")(model, x)[1][0], model[0](x).relu())
    with torch.inference_mode():
        assert Taps("2")(model, x)[1][0].shape == (5, 2)


class Keyworded(nn.Module):
    """Calls its layer by keyword, and returns a tuple, as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Tupled()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(hidden=2 * x)[0]


class Tupled(nn.Module):
    def forward(self, hidden: Tensor) -> tuple[Tensor, None]:
        return hidden + 1, None


def test_taps_read_tuples_and_keywords() -> None:
    x = torch.randn(2, 3)
    _, (into, out) = Taps("layer:in", "layer")(Keyworded(), x)
    assert torch.equal(into, 2 * x) and torch.equal(out, 2 * x + 1)


def test_taps_on_a_compiled_model() -> None:
    model, x = net().eval(), torch.randn(5, 4)
    compiled: Any = torch.compile(model, backend="eager")
    compiled(x)
    for _ in range(2):
        logits, [found] = Taps("0")(compiled, x)
        assert torch.equal(found, model[0](x)) and torch.equal(logits, model(x))


def test_shapes_leave_the_model_alone() -> None:
    model = net()
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    assert Taps("0", "3:in", "3").shapes(model, torch.zeros(2, 4)) == [(6,), (6,), (3,)]
    assert model.training and model[1].training and not model[2].training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_unwrap_finds_the_network() -> None:
    inner = net()

    class DataParallelLike(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    assert unwrap(inner) is inner
    assert unwrap(torch.compile(DataParallelLike(inner))) is inner  # type: ignore[arg-type]
    holder = nn.Module()
    holder.module = inner  # a network of the user's that happens to call a part ``module``
    assert unwrap(holder) is holder


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((5,), (7,)), ((4, 5), (4, 7)), ((5, 8, 8), (7, 8, 8)), ((5, 8, 8), (7, 4, 4)), ((5, 4, 4), (7, 8, 8)),
        ((5, 4, 6), (7, 8, 3)), ((5, 6, 5), (5, 3, 5)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("hidden", [0, 3])
def test_projector_shapes(source: tuple[int, ...], target: tuple[int, ...], hidden: int) -> None:
    x = torch.randn(2, *source)
    found = Projector(source, target, hidden)(x)
    assert tuple(found.shape) == (2, *target) and found.requires_grad


@pytest.mark.parametrize(("source", "target"), [((5,), (5, 2)), ((4, 5), (3, 5)), ((1, 2, 3, 4), (1, 2, 3, 4))])
def test_projector_refuses_what_it_would_have_to_guess(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot project"):
        Projector(source, target)


def test_gather_in_one_process_is_the_rows_without_gradient() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert torch.equal(gather(rows), rows) and not gather(rows).requires_grad
