"""Every check: a healthy run passes it, and the bug it is for is planted and seen."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card, find
from limbeck.core.method import Clock, Method, Update
from limbeck.core.modules import freeze
from limbeck.data.batches import Batches, Images
from limbeck.data.images import ImageSet
from limbeck.errors import InputError
from limbeck.losses.divergence import distil_kl, kl, soft_log
from limbeck.models.classifier import Classifier
from limbeck.models.tiny import cnn
from limbeck.run.checks import bench, memory
from limbeck.run.checks.said import Said
from limbeck.run.preflight import preflight
from limbeck.run.spec import make_spec
from limbeck.run.vision.bench import ImageBench as Bench
from limbeck.run.vision.checks import CHECKS
from limbeck.run.vision.task import ImageTask as Task
from tests.worlds import CLASSES, SHAPE, vision_world


def made(**changed: Any) -> Task:
    """A healthy run of the toy world, with something changed."""
    world = vision_world()
    spec = make_spec({"method": "kd", "student": "cnn-6-10", "teacher": "x", "data": "digits", "batch": 16})
    given: dict[str, Any] = {
        "student": world.student,
        "teachers": list(world.teachers),
        "train": world.train,
        "test": world.test,
        "batches": lambda seed: Batches(changed.get("train", world.train), 16, seed=seed),
        "classes": CLASSES,
        "spec": spec,
    }
    return Task(**(given | changed))


def batches(**options: Any) -> Callable[[int], Batches]:
    return lambda seed: Batches(vision_world().train, 16, seed=seed, **options)


def look(check: str, task: Task, key: str = "kd", **values: Any) -> Said:
    return CHECKS[check](Bench(task, find(key), values))


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[str], Said]]:
    """Puts a method with a bug in the place of ``kd``."""

    def method(cls: type[Method], task: Task | None = None, **facts: Any) -> Callable[[str], Said]:
        monkeypatch.setattr(bench, "method_class", lambda card: cls)
        card = replace(find("kd"), **facts)
        return lambda check: CHECKS[check](Bench(task or made(), card, {}))

    return method


# Healthy runs


@pytest.mark.parametrize("view", ["same", "separate", "clean"])
@pytest.mark.parametrize("key", ["kd", "supervised"])
def test_a_healthy_run_passes_everything(key: str, view: str) -> None:
    task = made(
        batches=batches(augment="crop", teacher_view=view), teachers=[] if key == "supervised" else made().teachers
    )
    found = preflight(task, find(key), {})
    assert [f.name for f in found] == list(CHECKS)
    assert [f for f in found if f.status in ("failed", "warning")] == []
    skipped = {f.name for f in found if f.status == "skipped"}
    of_teachers = {"teacher's capabilities", "repeatable teacher", "class order", "worth of the teacher"}
    of_teachers |= {"frozen teacher", "one view", "zero at equality"}
    assert skipped == (of_teachers if key == "supervised" else set())
    assert all(f.measured for f in found)


def test_nothing_of_the_run_is_changed() -> None:
    world = vision_world()
    teacher = world.teachers[0].train()  # a caller may hand in anything; it gets it back as it was
    task = made(teachers=[teacher], batches=batches(augment="crop"))
    state = copy.deepcopy(teacher.state_dict())
    modes, needs = [m.training for m in teacher.modules()], [p.requires_grad for p in teacher.parameters()]
    drawn = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    preflight(task, find("kd"), {})
    assert torch.equal(torch.get_rng_state(), drawn[0]) and random.getstate() == drawn[1]
    assert np.random.get_state()[1].tolist() == drawn[2]  # noqa: NPY002
    assert [m.training for m in teacher.modules()] == modes
    assert [p.requires_grad for p in teacher.parameters()] == needs
    assert all(torch.equal(v, state[k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())


def test_a_preflight_says_the_same_twice() -> None:
    task = made(batches=batches(augment="crop"))
    first, second = (preflight(task, find("kd"), {}) for _ in range(2))
    assert [f for f in first if f.name != "memory"] == [f for f in second if f.name != "memory"]  # free memory moves


# Data


def reordered(teacher: Classifier, order: list[int]) -> Classifier:
    """The same network, whose logit k is now what logit order[k] was."""
    head = teacher.get_submodule(teacher.head)
    with torch.no_grad():
        head.weight.copy_(head.weight[order])
        head.bias.copy_(head.bias[order])
    return teacher


@pytest.mark.parametrize("order", [[1, 2, 3, 4, 5, 0], [0, 1, 3, 2, 4, 5]])
def test_shifted_or_swapped_classes_are_seen(order: list[int]) -> None:
    teacher = reordered(vision_world().teachers[0], order)
    said = look("class order", made(teachers=[teacher]))
    assert said.status == "failed"
    assert "is labelled" in said.measured
    k = next(i for i, j in enumerate(order) if i != j)
    assert f"{CLASSES[k]!r} is labelled {CLASSES[order[k]]!r}" in said.measured


def test_sorted_test_images_do_not_hide_the_class_order() -> None:
    test = vision_world().test
    by_class = test.subset(test.labels.argsort(stable=True))
    teacher = reordered(vision_world().teachers[0], [1, 2, 3, 4, 5, 0])
    assert look("class order", made(test=by_class, teachers=[teacher])).status == "failed"
    assert look("class order", made(test=by_class)).status == "ok"


def test_no_class_order_is_found_by_chance() -> None:
    """A teacher that guesses, with many classes and few images: the best order fits the images it was chosen by."""
    names = tuple(f"c{k}" for k in range(100))
    draws = torch.Generator().manual_seed(0)
    data = ImageSet(torch.rand(400, *SHAPE, generator=draws), torch.randint(100, (400,), generator=draws), names)
    torch.manual_seed(0)
    teacher = cnn(8, shape=SHAPE, classes=names).eval()
    assert look("class order", made(train=data, test=data, classes=names, teachers=[teacher])).status == "ok"


def test_different_class_lists_are_seen() -> None:
    teacher = vision_world().teachers[0]
    teacher.classes = (*CLASSES[1:], CLASSES[0])
    assert look("classes", made(teachers=[teacher])).status == "failed"


def test_missing_labels_are_seen_where_a_method_needs_them(plant: Any) -> None:
    train = vision_world().train
    labels = train.labels.clone()
    labels[:3] = -1
    task = made(train=replace(train, labels=labels))
    said = look("classes", task)
    assert (said.status, said.measured) == ("failed", "3 of 144 training images have no label")
    assert plant(Leaky, task, data="unlabelled")("classes").status == "ok"


def test_an_empty_class_and_a_rare_one_are_seen() -> None:
    train = vision_world().train
    empty = look("class balance", made(train=train.subset((train.labels != 2).nonzero()[:, 0])))
    assert empty.status == "warning" and "cat" in empty.measured
    first = int((train.labels == 2).nonzero()[0])
    rare = [*(train.labels != 2).nonzero()[:, 0].tolist(), first]
    assert look("class balance", made(train=train.subset(rare))).status == "warning"


@pytest.mark.parametrize(("leaked", "status"), [(0, "ok"), (1, "warning"), (30, "failed")])
def test_test_images_in_the_training_set_are_seen(leaked: int, status: str) -> None:
    """One in 101 is a slip, thirty in 130 a leak."""
    train, test = vision_world().train, vision_world().test
    more = torch.cat([test.images, (test.images[:5] + 1).clamp(max=254), train.images[:leaked]])
    labels = torch.cat([test.labels, test.labels[:5], train.labels[:leaked]])
    said = look("train and test", made(test=replace(test, images=more, labels=labels)))
    assert said.status == status and said.measured.startswith(f"{leaked} of ")


def test_equal_images_with_different_labels_are_seen() -> None:
    train = vision_world().train
    images, labels = torch.cat([train.images, train.images[:1]]), torch.cat([train.labels, train.labels[1:2]])
    said = look("labels of duplicates", made(train=replace(train, images=images, labels=labels)))
    assert said.status == "warning" and "0, 144" in said.measured
    same = replace(train, images=images, labels=torch.cat([train.labels, train.labels[:1]]))
    assert look("labels of duplicates", made(train=same)).status == "ok"


@pytest.mark.parametrize(
    "spoil", [lambda x: x * 255, lambda x: x / 255, lambda x: x - 0.5, lambda x: torch.where(x > 0.9, torch.nan, x)]
)
def test_pixels_of_a_wrong_scale_and_nan_are_seen(spoil: Callable[[Tensor], Tensor]) -> None:
    assert look("pixels", made(batches=batches(augment=spoil))).status == "failed"


def test_a_normalisation_in_the_wrong_unit_is_seen() -> None:
    teacher = vision_world().teachers[0]
    teacher.mean.fill_(127.5)
    teacher.std.fill_(127.5)
    said = look("pixels", made(teachers=[teacher]))
    assert said.status == "failed" and "teacher" in said.fix


class Misnumbered(Batches):
    """The cache's bug: samples numbered by their place in the stream."""

    def make(self, index: Tensor) -> Images:
        return super().make(index)._replace(index=torch.arange(len(index)))


class Outside(Batches):
    def make(self, index: Tensor) -> Images:
        return super().make(index)._replace(index=index + len(self.dataset))


@pytest.mark.parametrize("wrong", [Misnumbered, Outside])
@pytest.mark.parametrize("options", [{}, {"augment": "crop"}, {"augment": "crop", "teacher_view": "clean"}])
def test_an_index_that_is_not_the_sample_is_seen(wrong: type[Batches], options: dict[str, str]) -> None:
    task = made(batches=lambda seed: wrong(vision_world().train, 16, seed=seed, **options))
    assert look("sample index", task).status == "failed"
    assert look("sample index", made(batches=batches(**options))).status == "ok"


def test_a_lonely_image_under_batch_normalisation_is_seen() -> None:
    train = vision_world().train.subset(range(129))
    assert look("last batch", made(train=train)).status == "warning"
    dropping = made(train=train, batches=lambda seed: Batches(train, 16, seed=seed, drop_last=True))
    assert look("last batch", dropping).status == "ok"


# Teacher


def test_a_teacher_that_cannot_serve_the_method_is_refused_with_alternatives() -> None:
    teacher = vision_world().teachers[0]
    teacher.serves = ("labels", "probabilities")
    found = preflight(made(teachers=[teacher]), find("kd"), {})
    assert [f.status for f in found] == ["failed"]
    assert "kd needs logits" in found[0].measured


class Restless(nn.Module):
    """Dropout that does not know of eval mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.inner(x), 0.1)


def test_dropout_that_is_on_in_eval_mode_is_seen() -> None:
    teacher = vision_world().teachers[0]
    teacher.net = Restless(teacher.net)
    assert look("repeatable teacher", made(teachers=[teacher])).status == "failed"


def test_an_untrained_teacher_is_seen() -> None:
    said = look("worth of the teacher", made(teachers=[freeze(vision_world().student(7))]))
    assert said.status == "failed" and "nothing to teach" in said.fix


def test_a_student_larger_than_its_teacher_is_pointed_at() -> None:
    said = look("worth of the teacher", made(student=lambda seed: cnn(32, 32, shape=SHAPE, classes=CLASSES)))
    assert said.status == "warning" and "swapped" in said.fix


def test_a_weak_teacher_is_pointed_at() -> None:
    """Half of its head is wrong: right on three of six classes and a little more than chance elsewhere."""
    teacher, train = vision_world().teachers[0], vision_world().train
    noisy = replace(vision_world().test, labels=vision_world().test.labels.roll(1))
    keep = torch.rand(len(noisy), generator=torch.Generator().manual_seed(0)) < 0.35
    labels = torch.where(keep, vision_world().test.labels, noisy.labels)
    said = look("worth of the teacher", made(teachers=[teacher], train=train, test=replace(noisy, labels=labels)))
    assert said.status == "warning" and "weak" in said.fix


# Training steps


class Leaky(Method):
    """Forgets to freeze its teacher."""

    student: nn.Module
    teacher: nn.Module

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        return {"kd": distil_kl(self.student(batch.x), self.teacher(batch.teacher_x), 4.0).mean()}


class Trained(Method):
    """Freezes nothing and hides the gradient: the teacher's batch norm still learns."""

    student: nn.Module
    teacher: nn.Module

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters())}

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            t = self.teacher(batch.teacher_x)
        return {"kd": distil_kl(self.student(batch.x), t, 4.0).mean()}

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.teacher.eval()  # looks frozen ...
        return self

    def updates(self, batch: Images, clock: Clock) -> Any:
        self.teacher.train()  # ... and is not
        yield Update(self.loss(batch, clock))


class Attached(Method):
    """The teacher is in eval mode and no player, and still gets gradients in every step."""

    student: nn.Module
    teacher: nn.Module

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters())}

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.teacher.eval()
        return self

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        return {"kd": distil_kl(self.student(batch.x), self.teacher(batch.teacher_x), 4.0).mean()}


@pytest.mark.parametrize(
    ("method", "words"),
    [(Leaky, "training mode"), (Trained, "change in two steps"), (Attached, "gets gradients")],
)
def test_a_teacher_that_is_not_frozen_is_seen(plant: Any, method: type[Method], words: str) -> None:
    teacher = vision_world().teachers[0]
    task = made(teachers=[teacher.requires_grad_(True).train()])
    said = plant(method, task)("frozen teacher")
    assert said.status == "failed" and words in said.measured
    assert plant(method, task, teacher="trainable")("frozen teacher").status == "skipped"


def test_a_frozen_student_is_seen() -> None:
    task = made(student=lambda seed: vision_world().student(seed).requires_grad_(False))
    said = look("gradient", task)
    assert said.status == "failed" and "no trainable parameter" in said.measured


def test_a_layer_without_gradient_is_named() -> None:
    def student(seed: int) -> Classifier:
        model = vision_world().student(seed)
        model.spare = nn.Linear(2, 2)
        return model

    said = look("gradient", made(student=student))
    assert said.status == "warning" and "spare.weight" in said.measured


class Detached(Method):
    student: nn.Module
    teacher: nn.Module

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        s = self.student(batch.x)
        return {"ce": F.cross_entropy(s.detach(), batch.y) + 0 * s.sum()}


class LogOfZero(Method):
    """Finite at first; infinite once a schedule has moved."""

    student: nn.Module
    teacher: nn.Module

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        late = torch.tensor(clock.fraction < 0.9).float()
        return {"ce": F.cross_entropy(self.student(batch.x), batch.y), "log": -late.log()}


class Rising(Method):
    student: nn.Module
    teacher: nn.Module

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(self.student(batch.x.detach()), batch.y), "spin": self._spin()}

    def _spin(self) -> Tensor:
        """A value that grows while its gradient says it falls: the wrong sign of a detached part."""
        total = sum((p.abs().sum() for p in self.student.parameters()), torch.zeros(()))
        first = self.__dict__.setdefault("first", total.detach())
        return total - 1e3 * (total.detach() - first)


def test_a_loss_that_does_not_reach_the_student_is_seen(plant: Any) -> None:
    assert plant(Detached)("gradient").status == "failed"


def test_a_term_that_is_infinite_late_in_the_run_is_seen(plant: Any) -> None:
    said = plant(LogOfZero)("finite terms")
    assert said.status == "failed" and "log = inf at step 99" in said.measured


def test_a_loss_that_rises_is_seen(plant: Any) -> None:
    assert plant(Rising)("falling loss").status == "warning"


class Flipped(Method):
    student: nn.Module
    teacher: nn.Module

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        return {"kd": distil_kl(self.student(batch.x), self.teacher(batch.x.flip(3)), 4.0).mean()}


class OwnView(Method):
    """Shows the teacher the student's view whatever the run asks for."""

    student: nn.Module
    teacher: nn.Module

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        return {"kd": distil_kl(self.student(batch.x), self.teacher(batch.x), 4.0).mean()}


class MixedUp(Method):
    """Function matching: both see the same mixture."""

    student: nn.Module
    teacher: nn.Module

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        x = (batch.x + batch.x.flip(0)) / 2
        return {"kd": distil_kl(self.student(x), self.teacher(x), 4.0).mean()}


def test_a_teacher_that_sees_other_pixels_is_seen(plant: Any) -> None:
    assert plant(Flipped)("one view").status == "failed"
    assert plant(MixedUp)("one view").status == "ok"
    assert plant(OwnView)("one view").status == "ok"
    assert plant(OwnView, made(batches=batches(augment="crop", teacher_view="separate")))("one view").status == "failed"
    assert plant(Flipped, loop="alternating")("one view").status == "skipped"  # a generator's images are its own
    assert plant(OwnView, loop="alternating")("one view").status == "ok"


# Equality


class OneSided(Method):
    """Temperature on the teacher only."""

    student: nn.Module
    teacher: nn.Module

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        p = soft_log(self.teacher(batch.teacher_x), 4.0)
        return {"kd": kl(p, soft_log(self.student(batch.x))).mean()}


class Shifted(Method):
    """The teacher's answer to the next sample."""

    student: nn.Module
    teacher: nn.Module

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        return {"kd": distil_kl(self.student(batch.x), self.teacher(batch.teacher_x).roll(1, 0), 4.0).mean()}


class Slanted(Method):
    """Zero at equality, with a gradient: a term that pushes the student off its teacher."""

    student: nn.Module
    teacher: nn.Module

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        return {"kd": (self.student(batch.x) - self.teacher(batch.teacher_x))[:, 0].mean()}


class SoftTargets(Method):
    """Cross-entropy to the teacher: stationary at equality, though not zero. Its weight grows from nothing."""

    student: nn.Module
    teacher: nn.Module

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        p, q = soft_log(self.teacher(batch.teacher_x)), soft_log(self.student(batch.x))
        return {"kd": -clock.fraction * (p.exp() * q).sum(1).mean()}


@pytest.mark.parametrize("method", [OneSided, Shifted, Slanted])
def test_a_term_that_does_not_vanish_at_equality_is_seen(plant: Any, method: type[Method]) -> None:
    assert plant(method, vanishes=("kd",))("zero at equality").status == "failed"


def test_a_stationary_term_may_have_a_value_but_no_gradient(plant: Any) -> None:
    assert plant(SoftTargets, vanishes=(), stationary=("kd",))("zero at equality").status == "ok"
    assert plant(SoftTargets, vanishes=("kd",))("zero at equality").status == "failed"
    assert plant(OneSided, vanishes=(), stationary=("kd",))("zero at equality").status == "failed"


def test_a_term_that_is_always_zero_proves_nothing() -> None:
    said = look("zero at equality", made(), alpha=0.0)
    assert said.status == "skipped" and "stayed zero" in said.measured


class Optional(Method):
    """With ``soften``, a target that is not the teacher's own answer: a choice, not a bug."""

    student: nn.Module
    teacher: nn.Module
    soften: float = 1.0

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        p = soft_log(self.teacher(batch.teacher_x), self.soften)
        return {"kd": kl(p, soft_log(self.student(batch.x))).mean()}


def test_values_that_break_the_promise_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "method_class", lambda card: Optional)
    said = CHECKS["zero at equality"](Bench(made(), find("kd"), {"soften": 3.0}))
    assert said.status == "warning" and "default values" in said.measured


# Memory, and what goes wrong in a check


def predicted(task: Task) -> float:
    """The megabytes a finding names."""
    return float(look("memory", task, "supervised").measured.split()[1].replace(",", ""))


def test_memory_is_that_of_weights_optimiser_and_activations() -> None:
    """A linear layer keeps its input, the normalised images its cast; adamw adds a gradient and two states."""

    def student(seed: int) -> Classifier:
        net = nn.Sequential(nn.Flatten(), nn.Linear(768, 1000), nn.ReLU(), nn.Linear(1000, 6))
        return Classifier(net, shape=SHAPE, classes=CLASSES)

    small, large = (predicted(made(student=student, batches=batches_of(n), teachers=[])) for n in (16, 1600))
    weights = 4 * 4 * (769 * 1000 + 1001 * 6) / 1e6
    kept = 4 * (768 + 1000 + 6) / 1e6  # inputs of both layers, log-probabilities, of one image
    assert small == pytest.approx(weights + 16 * kept, rel=0.02)
    assert large - small == pytest.approx(1584 * kept, rel=0.3)


def batches_of(n: int) -> Callable[[int], Batches]:
    return lambda seed: Batches(vision_world().train, n, seed=seed)


@pytest.mark.parametrize(("share", "status"), [(0.5, "failed"), (1.1, "warning"), (10.0, "ok")])
def test_too_little_memory_is_seen(monkeypatch: pytest.MonkeyPatch, share: float, status: str) -> None:
    needed = predicted(made())
    monkeypatch.setattr(memory, "_free", lambda device: int(share * needed * 1e6))
    assert look("memory", made(), "supervised").status == status


class Crashes(Method):
    student: nn.Module
    teacher: nn.Module

    def loss(self, batch: Images, clock: Clock) -> dict[str, Tensor]:
        return {"kd": self.student(batch.x) @ self.teacher(batch.x)}


def test_a_method_that_raises_is_a_finding_and_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "method_class", lambda card: Crashes)
    found = {f.name: f for f in preflight(made(), find("kd"), {})}
    assert found["finite terms"].status == "failed" and "RuntimeError" in found["finite terms"].measured
    assert found["class order"].status == "ok"


def test_bad_values_are_the_one_line_that_a_run_would_end_with() -> None:
    with pytest.raises(InputError, match="tau"):
        preflight(made(), find("kd"), {"tau": -1.0})
    with pytest.raises(InputError, match="exactly one"):
        preflight(made(teachers=[]), find("kd"), {})


def test_every_check_explains_itself() -> None:
    assert all(check.__doc__ for check in CHECKS.values())
    assert isinstance(find("kd"), Card)
