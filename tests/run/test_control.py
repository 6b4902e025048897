"""The control is paid for once, and only a control of exactly this student, data and budget is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.methods.classification.supervised import Supervised
from limbeck.run.control import control, control_key
from limbeck.run.folder import Log, RunFolder
from limbeck.run.outcome import Arm
from limbeck.run.progress import Show
from limbeck.run.resolve import resolve
from limbeck.run.spec import make_spec
from limbeck.run.training import Run, Training
from limbeck.run.vision.evaluation import log_probabilities

Settings = dict[str, Any]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever a control is trained."""
    real, seen = Supervised.distil, list[int]()

    def counted(*arguments: Any) -> Any:
        seen.append(1)
        return real(*arguments)

    monkeypatch.setattr(Supervised, "distil", counted)
    return seen


@pytest.fixture
def make(settings: Settings, tmp_path: Path, cache: Path) -> Callable[..., Arm]:
    numbers = iter(range(100))

    def made(cached: bool = True, seed: int = 0, **changed: Any) -> Arm:
        task = resolve(make_spec({**settings, **changed}))
        folder = RunFolder(tmp_path / str(next(numbers)))
        folder.root.mkdir()
        targets = log_probabilities(task.teacher, task.test) if task.teacher is not None else None
        run = Run(task, folder, Log(folder.metrics), Show(quiet=True))
        return control(Training(run, seed, "control"), targets, cache if cached else None)

    return made


def test_a_second_run_does_not_pay_again(make: Callable[..., Arm], trained: list[int]) -> None:
    first, second = make(), make()
    assert len(trained) == 1 and (first.cached, second.cached) == (False, True)
    assert second == first.model_copy(update={"cached": True})
    assert make(cached=False).cached is False and len(trained) == 2


def test_the_teacher_is_no_part_of_the_control_but_its_comparison_is(
    make: Callable[..., Arm], trained: list[int]
) -> None:
    first, other = make(), make(teacher="mlp-16", method="rkd", seeds=9, values={})
    assert len(trained) == 1 and other.cached and other.evaluation.accuracy == first.evaluation.accuracy
    assert other.evaluation.agreement != first.evaluation.agreement
    assert other.evaluation == make(teacher="mlp-16", cached=False).evaluation


CHANGES: list[Settings] = [
    {"student": "mlp-16x2"}, {"steps": 21}, {"lr": 0.01}, {"batch": 32}, {"augment": "flip"}, {"clip": 1.0},
    {"optimizer": "sgd"}, {"weight_decay": 0.0}, {"schedule": "constant"}, {"accumulate": 2}, {"size": 9},
    {"precision": "bf16"}, {"eval_every": 5}, {"limit": 500}, {"label_noise": 0.2},
    {"augment": "flip", "teacher_view": "separate"},
]  # fmt: skip


def test_whatever_matters_is_in_the_key(settings: Settings) -> None:
    settings = {**settings, "method": "supervised", "teacher": []}
    tasks = [resolve(make_spec({**settings, **changed})) for changed in ({}, *CHANGES)]
    keys = [control_key(task, 0) for task in tasks] + [control_key(tasks[0], 1)]
    assert len(set(keys)) == len(keys)
    assert control_key(resolve(make_spec(settings)), 0) == keys[0]


def test_another_version_of_torch_or_of_the_code_is_another_control(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = resolve(make_spec(settings))
    before = control_key(task, 0)
    with monkeypatch.context() as patched:
        patched.setattr("limbeck.run.control.CODE", ("core",))
        assert control_key(task, 0) != before
    monkeypatch.setattr("torch.__version__", "0.0")
    assert control_key(task, 0) != before


def test_a_students_own_code_is_in_the_key(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from torch import nn\nclass Net(nn.Sequential):\n    scale = {scale}\n    def forward(self, x):\n"
    code += "        return super().forward(x) * self.scale\n"
    code += "def made(shape, num_classes):\n    return Net(nn.Flatten(), nn.Linear(64, num_classes))\n"
    monkeypatch.syspath_prepend(tmp_path)
    keys: list[str] = []
    for name, scale in (("one", 1), ("two", 2)):
        (tmp_path / f"{name}.py").write_text(code.format(scale=scale))
        keys.append(control_key(resolve(make_spec({**settings, "student": f"{name}:made"})), 0))
    assert keys[0] != keys[1]


@pytest.mark.parametrize("file", ["student.safetensors", "control.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "swapped"])
def test_a_damaged_control_is_trained_again(
    make: Callable[..., Arm], trained: list[int], cache: Path, file: str, damage: str
) -> None:
    first = make()
    [path] = cache.glob(f"*/{file}")
    held = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(held[: len(held) // 2])
        case "flipped" if file == "student.safetensors":
            path.write_bytes(held[:-3] + bytes([held[-3] ^ 64]) + held[-2:])
        case "gone":
            path.unlink()
        case _:
            path.write_bytes(b"{}")
    with pytest.warns(UserWarning, match="trained again"):
        again = make()
    assert len(trained) == 2 and not again.cached and again.evaluation == first.evaluation
    assert make().cached, "the damaged one was replaced"


def test_a_cache_that_cannot_be_written_stops_nobody(make: Callable[..., Arm], cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="was not cached"):
        assert not make().cached
