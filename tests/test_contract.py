"""What every method promises, held against every card: a new method is covered the moment its file exists."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from limbeck.core.card import cards, field_docs, method_class
from limbeck.core.checkpoint import Checkpoint
from limbeck.core.fit import fit
from limbeck.core.method import Method, Setting, hyperparameters
from limbeck.data.batches import Batches
from limbeck.data.graphs import GraphBatches
from limbeck.data.images import ImageSet
from limbeck.data.samples import SampleBatches
from limbeck.errors import InputError
from tests.worlds import (
    SGD,
    TOKENS,
    DiffusionWorld,
    GraphWorld,
    LanguageWorld,
    VisionWorld,
    diffusion_world,
    graph_world,
    language_world,
    vision_world,
)  # fmt: skip

ROOT = Path(__file__).parents[1]
KEYS = sorted(cards())
TRAINED = [k for k in KEYS if cards()[k].loop != "training_free"]
STEPS = 6


class Stopped(Exception):
    """Stands for a kill at a step boundary."""


class Run:
    """A whole procedure on the toy world, observed."""

    def __init__(
        self, key: str, folder: Path | None = None, stop: int = 0, batch: int = 16, labels: bool = True
    ) -> None:
        self.card = cards()[key]
        self.world = world_of(key, batch)
        self.folder, self.stop, self.taken, self.made, self.labels = folder, stop, 0, 0, labels
        self.fitted: list[Method] = []
        self.records: list[dict[str, float]] = []
        self.data = self.batches(labels)
        self.teachers = () if self.card.teacher in ("none", "previous") else self.world.teachers

    def batches(self, labels: bool = True) -> Any:
        """Fresh batches of the training set, perhaps without its labels."""
        if isinstance(self.world, LanguageWorld):
            return self.world.batches(self.world.data.batch, seed=3)
        if isinstance(self.world, DiffusionWorld):
            seen = self.world.train if labels else replace(self.world.train, y=torch.full_like(self.world.train.y, -1))
            return SampleBatches(seen, self.world.data.batch, seed=3)
        if isinstance(self.world, GraphWorld):
            return GraphBatches(self.world.train, self.world.data.batch, seed=3)
        train = self.world.train
        if not labels:
            train = ImageSet(train.images, torch.full_like(train.labels, -1), train.classes, train.name)
        return Batches(train, self.world.data.batch, seed=3)

    def student(self) -> nn.Module:
        self.made += 1
        return self.world.student(self.made)

    def fit(self, method: Method, *, name: str = "fit", data: Iterable[Any] | None = None, steps: int = STEPS) -> None:
        def see(record: Any) -> None:
            self.records.append(record.floats())
            self.taken += 1
            if self.taken == self.stop:
                raise Stopped

        kept = Checkpoint(self.folder / name, every=1, seconds=0) if self.folder is not None else None
        self.fitted.append(method)
        source = self.batches(self.labels) if data is None else data
        fit(method, source, SGD, steps=steps, every=1, report=see, checkpoint=kept)

    def __call__(self) -> nn.Module:
        torch.manual_seed(7)
        setting = Setting(self.student, self.teachers, self.data, STEPS, self.fit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return method_class(self.card).distil(setting, {}).eval()


def world_of(key: str, batch: int) -> VisionWorld | LanguageWorld | DiffusionWorld | GraphWorld:
    """The toy world of a method's modality."""
    card, teachers = cards()[key], 2 if "teachers" in wanted(key) else 1
    if card.modality == "text":
        return language_world(0, teachers=teachers, batch=batch, crossed=card.tokenizers == "any")
    if card.modality == "diffusion":
        return diffusion_world(0, teachers=teachers, batch=batch)
    if card.modality == "graph":
        return graph_world(0, batch=batch)
    plain = card.modality == "dataset"
    return vision_world(0, teachers=teachers, batch=batch, plain=plain, tokens=key in TOKENS)


def outputs(run: Run, student: nn.Module) -> torch.Tensor:
    """What a student says of four samples, one row a decision."""
    batch = run.world.batch(4)
    if isinstance(run.world, LanguageWorld):
        words = student(batch)
        assert words.hidden.shape[:2] == batch.x.shape
        return words.logits()[batch.mask][:, : words.size]
    if isinstance(run.world, DiffusionWorld):
        made = student.generate(torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0)), batch.y)
        assert made.shape == (4, 1, 4, 4)
        return made
    if isinstance(run.world, GraphWorld):
        drawn = student.sample(4, torch.Generator().manual_seed(0))
        assert student.classes == run.world.train.classes
        return run.world.student()(drawn)
    if run.card.modality == "dataset":
        made = student()
        assert made.shape[1:] == run.world.train.shape and student.classes == run.world.train.classes
        return made
    logits = student(batch.x)
    assert logits.shape == (4, len(run.world.train.classes))
    return logits


def wanted(key: str) -> list[str]:
    return [f for f in method_class(cards()[key]).__dataclass_fields__]  # type: ignore[attr-defined]


def same(a: nn.Module, b: nn.Module) -> bool:
    return alike(a.state_dict(), b.state_dict())


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, dict):  # such as the personal states of clients
        return one.keys() == other.keys() and all(alike(v, other[k]) for k, v in one.items())
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def everything(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("key", KEYS)
def test_learns_finitely_and_leaves_its_teachers_alone(key: str) -> None:
    run = Run(key)
    before = [everything(teacher) for teacher in run.teachers]
    student = run()
    assert run.records or key not in TRAINED
    assert all(v == v and abs(v) < float("inf") for r in run.records for v in r.values())
    assert torch.isfinite(outputs(run, student)).all()
    starts = [run.world.student(k) for k in range(1, run.made + 1)] or run.teachers  # some are cut out of a teacher
    assert key not in TRAINED or any(not same(student, start) for start in starts), "the student never moved"
    assert not any(getattr(m, "limbeck_frozen", False) for m in student.modules()) or run.card.loop in (
        "generations", "training_free",
    ) or run.card.modality == "dataset"  # fmt: skip  # a set may carry the network that labels it
    if run.card.teacher not in ("online", "trainable"):
        for teacher, held in zip(run.teachers, before, strict=True):
            assert all(torch.equal(v, held[k]) for k, v in teacher.state_dict().items()), "a frozen teacher moved"
            assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("key", KEYS)
def test_same_seed_same_student(key: str) -> None:
    assert same(Run(key)(), Run(key)())


@pytest.mark.parametrize("key", TRAINED)
def test_a_killed_procedure_resumes_bit_for_bit(key: str, tmp_path: Path) -> None:
    straight = Run(key, tmp_path / "straight")
    whole = straight()
    for stop in {1, max(straight.taken // 2, 1), straight.taken - 1}:
        folder = tmp_path / f"killed-{stop}"
        with pytest.raises(Stopped):
            Run(key, folder, stop=stop)()
        assert same(Run(key, folder)(), whole), f"killed after step {stop}"


@pytest.mark.parametrize("key", KEYS)
def test_small_batches_and_odd_last_ones(key: str) -> None:
    for batch in (2, 5):
        run = Run(key, batch=batch)
        run()
        assert all(v == v for r in run.records for v in r.values())


@pytest.mark.parametrize("key", [k for k in KEYS if cards()[k].data == "unlabelled" and cards()[k].modality == "image"])
def test_without_labels_when_the_card_says_so(key: str) -> None:
    assert same(Run(key)(), Run(key, labels=False)()), "labels were used"


@pytest.mark.parametrize("key", KEYS)
def test_fields(key: str) -> None:
    run = Run(key)
    run()
    kind = method_class(run.card)
    if key in TRAINED:
        own = next(m for m in reversed(run.fitted) if isinstance(m, kind))
        assert same(copy.deepcopy(own), own)
    docs = field_docs(run.card)
    assert set(hyperparameters(kind)) == set(docs), "every hyper-parameter has a docstring, and nothing else"
    setting = Setting(run.student, run.teachers, run.data, STEPS, run.fit)
    with pytest.raises(TypeError):
        kind.distil(setting, {"no_such_field": 1})
    bounded = [n for n, f in hyperparameters(kind).items() if str(f.type) in ("Positive", "NonNegative", "Fraction")]
    for name in bounded:
        with pytest.raises(InputError, match=name):
            kind.distil(setting, {name: -1.0})


@pytest.mark.parametrize("key", [k for k in KEYS if cards()[k].vanishes or cards()[k].stationary])
def test_terms_vanish_when_the_student_is_the_teacher(key: str) -> None:
    run = Run(key)
    seen: list[tuple[str, float, float]] = []

    def watch(method: Method, *, name: str = "fit", data: Any = None, steps: int = STEPS) -> None:
        if not isinstance(method, method_class(run.card)):
            return
        twin = method.student
        assert isinstance(twin, nn.Module)
        for update in method.eval().updates(run.world.batch(16), run_clock(steps)):
            for term in (*run.card.vanishes, *run.card.stationary):
                if term in update.terms and update.player == "student":
                    found = torch.autograd.grad(
                        update.terms[term], list(twin.parameters()), retain_graph=True, allow_unused=True
                    )
                    largest = max((float(g.abs().max()) for g in found if g is not None), default=0.0)
                    seen.append((term, float(update.terms[term]), largest))

    def twin_student() -> nn.Module:
        made = copy.deepcopy(run.world.teachers[0]).requires_grad_(True)
        vars(made).pop("limbeck_frozen", None)
        return made

    teachers = tuple(run.world.teachers[0] for _ in run.teachers)
    method_class(run.card).distil(Setting(twin_student, teachers, run.data, STEPS, watch), {})
    assert {term for term, _, _ in seen} == {*run.card.vanishes, *run.card.stationary}
    for term, size, slope in seen:
        assert slope < 1e-4, f"{term} pulls at the teacher itself: gradient {slope}"
        assert term in run.card.stationary or abs(size) < 1e-4, f"{term} = {size} at equality"


def run_clock(steps: int) -> Any:
    from limbeck.core.schedule import Clock

    return Clock(steps - 1, steps)


@pytest.mark.parametrize("key", KEYS)
def test_a_method_is_whole(key: str) -> None:
    card = cards()[key]
    source = ROOT / "limbeck" / "methods" / card.family / f"{key}.py"
    assert (source.parent.name, source.stem) == (card.family, card.key)
    assert card.summary.endswith(".") and card.url.startswith("https://") and card.authors
    assert card.url in source.read_text() and str(card.year)
    tests = (ROOT / "tests" / "methods" / card.family / f"test_{key}.py").read_text()
    assert tests.count("def test_") >= 2, "two to four tests pin the equation"
    evidence = (ROOT / "evidence" / card.family / f"{key}.py").read_text()
    assert "CLAIM" in evidence and "def evidence(seed: int, data: Path | None = None) -> Result" in evidence
