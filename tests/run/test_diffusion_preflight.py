"""Every check of a run on samples: a healthy run passes it, and the bug it is for is planted and seen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck import fit
from limbeck.core.card import find
from limbeck.core.method import Clock, Update
from limbeck.core.modules import freeze
from limbeck.core.schedule import Cosine
from limbeck.data.load import load_data
from limbeck.data.samples import SampleBatches, Samples, SampleSet
from limbeck.losses.score import distance, follow
from limbeck.methods.diffusion._shared import trainable, uniform_times
from limbeck.methods.diffusion.denoising import Denoising
from limbeck.methods.diffusion.dmd2 import DMD2
from limbeck.models.denoiser import Denoised, Denoiser, guide
from limbeck.models.path import Flow
from limbeck.models.tiny_denoiser import mlp
from limbeck.run.checks import memory
from limbeck.run.checks.said import Said
from limbeck.run.diffusion.bench import SampleBench
from limbeck.run.diffusion.checks import CHECKS, models
from limbeck.run.diffusion.task import SampleTask
from limbeck.run.preflight import preflight
from limbeck.run.spec import make_spec

DIGITS = load_data("digits")
TEACHERS = list[Denoiser]()


def teacher() -> Denoiser:
    """A flow on digits, trained once for the file; a copy for every test."""
    if not TEACHERS:
        torch.manual_seed(0)
        model = mlp(96, 2, shape=DIGITS.train.shape, classes=DIGITS.train.classes)
        adam = partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.0)
        fit(Denoising(model), SampleBatches(SampleSet.of(DIGITS.train), 128), adam, steps=600, lr=Cosine(), clip=1.0)
        TEACHERS.append(freeze(model))
    return copy.deepcopy(TEACHERS[0])


def made(given: Denoiser | None = None, **changed: Any) -> SampleTask:
    """A healthy run, with something changed."""
    model = teacher() if given is None else freeze(given)
    spec = make_spec({"method": "dmd2", "teacher": "x", "data": "digits", "batch": 32})
    base: dict[str, Any] = {
        "student": lambda seed: trainable(model), "teachers": [model], "train": DIGITS.train, "test": DIGITS.test,
        "spec": spec.model_copy(update={"student": "teacher"}),
    }  # fmt: skip
    return SampleTask(**(base | changed))


def look(check: str, task: SampleTask, key: str = "dmd2", **values: Any) -> Said:
    return CHECKS[check](SampleBench(task, find(key), values))


class Wrapped(nn.Module):
    """A network with something done to its input or its answer."""

    def __init__(self, net: nn.Module, ask: Callable[..., Tensor]) -> None:
        super().__init__()
        self.net, self.ask, self.middle = net, ask, "net.blocks.0"

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        return self.ask(self.net, x, t, y)


def spoilt(ask: Callable[..., Tensor]) -> Denoiser:
    model = teacher()
    model.net = Wrapped(model.net, ask)
    return model


@pytest.mark.parametrize("key", ["dmd2", "denoising"])
def test_a_healthy_run_passes_everything(key: str) -> None:
    task = made() if key == "dmd2" else made(teachers=[])
    found = preflight(task, find(key), {})
    assert [f.name for f in found] == list(CHECKS)
    assert [f for f in found if f.status in ("failed", "warning")] == []
    skipped = {f.name for f in found if f.status == "skipped"}
    of_teachers = {"teacher's capabilities", "direction of time", "labels", "repeatable teacher",
                   "worth of the teacher", "frozen teacher", "zero at equality"}  # fmt: skip
    assert skipped == ({"falling loss"} if key == "dmd2" else of_teachers)


def test_a_guided_run_is_looked_at_without_guidance_at_equality() -> None:
    assert look("zero at equality", made(), guidance=3.0).status == "ok"


@pytest.mark.parametrize(
    ("check", "ask", "said"),
    [
        ("direction of time", lambda net, x, t, y: net(x, 1 - t, y), "told 1 - t"),
        ("direction of time", lambda net, x, t, y: -net(x, t, y), "from t = 0.2 to 0 changes"),
        ("consistent predictions", lambda net, x, t, y: net(x, t, y) * torch.nan, "NaN"),
        ("worth of the teacher", lambda net, x, t, y: 0 * net(x, t, y), "mean image"),
        ("repeatable teacher", lambda net, x, t, y: nn.functional.dropout(net(x, t, y), 0.2), "differ by"),
        ("labels", lambda net, x, t, y: net(x, t, torch.where(y == 10, 10, (y + 1) % 10)), "another order"),
        ("labels", lambda net, x, t, y: net(x, t, torch.full_like(y, 10)), "no difference"),
    ],
)
def test_planted_in_the_teacher(check: str, ask: Callable[..., Tensor], said: str) -> None:
    assert look(check, made()).status == "ok"
    found = look(check, made(spoilt(ask)))
    assert found.status == ("warning" if said == "no difference" else "failed") and said in str(found), found


class Swapped(Denoiser):
    """Its ``eps`` is another sample's."""

    def forward(self, *given: Any) -> Denoised:
        said = super().forward(*given)
        return said._replace(eps=said.eps.roll(1, 0))


class Backwards(Flow):
    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - t


def test_predictions_that_do_not_give_the_state_back() -> None:
    model = teacher()
    model.__class__ = Swapped
    found = look("consistent predictions", made(model))
    assert found.status == "failed" and "alpha x0 + sigma eps" in found.measured


def test_a_path_that_runs_backwards() -> None:
    model = teacher()
    model.path = Backwards()
    found = look("direction of time", made(model))
    assert found.status == "failed" and "give t, not 1 - t" in found.fix


def test_guidance_by_the_other_convention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "guide", lambda m, x, t, y, w: guide(m, x, t, y, w, "from_conditional"))
    found = look("labels", made())
    assert found.status == "failed" and "guided at scale 1" in found.measured


def test_a_teacher_without_a_null_label() -> None:
    model = teacher()
    model.net.null = False
    assert look("labels", made(model)).status == "warning"


@pytest.mark.parametrize(("scale", "shift"), [(0.5, 0.5), (127.5, 127.5), (torch.nan, 0.0)])
def test_samples_in_another_range(scale: float, shift: float) -> None:
    task = made()
    x = task.samples.take(torch.arange(len(task.train))).x * scale + shift
    vars(task)["samples"] = SampleSet(x.nan_to_num(0.0), task.train.labels, task.train.classes)
    if scale != scale:
        task.samples.x[:] = torch.nan
    assert look("range of the samples", task).status == "failed"
    assert look("range of the samples", made()).status == "ok"


def test_training_samples_among_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look("train and test", made(test=DIGITS.train)).status == "failed"
    one = DIGITS.test.subset([0])
    few = replace(DIGITS.train, images=torch.cat([DIGITS.train.images, one.images]),
                  labels=torch.cat([DIGITS.train.labels, one.labels]))  # fmt: skip
    assert look("train and test", made(train=few)).status == "warning"
    monkeypatch.setattr(memory, "_free", lambda device: 1000)
    assert look("memory", made()).status == "failed"


def test_rows_that_are_numbered_by_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    real = SampleBatches.make

    def make(self: SampleBatches, index: Tensor) -> Samples:
        return real(self, index)._replace(index=torch.arange(len(index)))

    monkeypatch.setattr(SampleBatches, "make", make)
    assert look("sample index", made()).status == "failed"


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[str], Said]]:
    """Puts a bug into ``dmd2``."""

    def method(name: str, wrong: Callable[..., Any]) -> Callable[[str], Said]:
        monkeypatch.setattr(DMD2, name, wrong)
        return lambda check: look(check, made())

    return method


def test_a_teacher_that_learns(plant: Callable[..., Callable[[str], Said]]) -> None:
    build = DMD2.__post_init__

    def thawed(self: DMD2) -> None:
        build(self)
        vars(self.teacher).pop("limbeck_frozen", None)
        self.teacher.train().requires_grad_(True)

    found = plant("__post_init__", thawed)("frozen teacher")
    assert found.status == "failed" and "training mode" in found.measured


def test_a_critic_that_sees_another_time_is_no_equality(plant: Callable[..., Callable[[str], Said]]) -> None:
    def late(self: DMD2, x: Tensor, y: Tensor) -> Tensor:
        t = uniform_times(x, self.t_min, self.t_max)
        with torch.no_grad():
            x_t = self.teacher.path.noised(x, torch.randn_like(x), t)
            real, fake = self.guided(x_t, t, y).x0, self.critic(x_t, t * 0.9, y).x0
        return follow(x, (fake - real) / distance(x, real)).mean()

    found = plant("matching", late)("zero at equality")
    assert found.status == "failed" and "matching has a gradient" in found.measured


def test_a_loss_that_is_not_finite_or_reaches_nobody(plant: Callable[..., Callable[[str], Said]]) -> None:
    real = DMD2.updates

    def lost(self: DMD2, batch: Samples, clock: Clock) -> Any:
        for update in real(self, batch, clock):
            terms = {k: v.detach() * (torch.nan if k == "matching" else 1) for k, v in update.terms.items()}
            yield Update(terms, update.player)

    look_at = plant("updates", lost)
    assert look_at("finite terms").status == "failed" and look_at("gradient").status == "failed"
