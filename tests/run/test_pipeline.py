"""A whole run: what it leaves in its folder is true, and a run that cannot be right is refused."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from limbeck.core.card import find, method_class
from limbeck.core.method import Setting
from limbeck.errors import InputError
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.load import load_classifier
from limbeck.run import pipeline
from limbeck.run.folder import FitId, Log, RunFolder
from limbeck.run.outcome import Finding
from limbeck.run.pipeline import distil, run
from limbeck.run.progress import Show
from limbeck.run.report import read_outcome
from limbeck.run.resolve import resolve
from limbeck.run.spec import make_spec, read_yaml
from limbeck.run.training import Run, Training
from limbeck.run.vision.evaluation import evaluate, log_probabilities
from tests.run.conftest import Said

Settings = dict[str, Any]


def without_preflight(settings: Settings, out: Path, **options: Any) -> Any:
    """Most tests are about something else."""
    return run(resolve(make_spec(settings)), RunFolder(out), Show(quiet=True), check=lambda _: [], **options)


def training(settings: Settings, folder: Path, arm: str, seed: int = 0) -> Training:
    task = resolve(make_spec(settings))
    return Training(Run(task, RunFolder(folder), Log(folder / "metrics.jsonl"), Show(quiet=True)), seed, arm)


def test_a_run_leaves_everything_it_promises(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = distil({**settings, "seeds": 2}, out)
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert names == {
        "arms", "checkpoints", "environment.json", "metrics.jsonl", "preflight.json", "report.html", "report.json",
        "run.yaml", "student",
    }  # fmt: skip
    assert make_spec(read_yaml(out / "run.yaml")).model_dump(mode="json") == outcome.spec
    assert read_outcome(out).gain == outcome.gain
    assert [arm.seed for arm in outcome.distilled] == [arm.seed for arm in outcome.control] == [0, 1]
    assert all(arm.curve.steps == [10, 20] for arm in (*outcome.control, *outcome.distilled))
    assert all(finding.status != "failed" for finding in outcome.preflight)
    gains = [100 * (m.evaluation.accuracy - c.evaluation.accuracy) for m, c in zip(outcome.distilled, outcome.control)]
    assert outcome.gain.per_seed == pytest.approx(gains)
    card = (out / "student" / "README.md").read_text()
    assert outcome.command in card and find("kd").url in card and "Limitations" in card


def test_the_saved_student_is_the_first_seeds(settings: Settings, tmp_path: Path) -> None:
    outcome = without_preflight({**settings, "seeds": 2, "first_seed": 5}, tmp_path / "run")
    task = resolve(make_spec(settings))
    student = load_classifier(str(tmp_path / "run" / "student"))
    assert task.teacher is not None
    targets = log_probabilities(task.teacher, task.test)
    assert evaluate(student, task.test, targets) == outcome.distilled[0].evaluation
    assert outcome.teacher == evaluate(task.teacher, task.test)


def test_a_run_is_a_function_of_its_seed(settings: Settings, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = without_preflight({**settings, "augment": "flip"}, tmp_path / "a", cache=False)
    torch.manual_seed(2)
    torch.rand(7)
    second = without_preflight({**settings, "augment": "flip"}, tmp_path / "b", cache=False)
    other = without_preflight({**settings, "augment": "flip", "first_seed": 1}, tmp_path / "c", cache=False)
    for one, two, three in (
        (first.control, second.control, other.control),
        (first.distilled, second.distilled, other.distilled),
    ):
        assert one[0].evaluation == two[0].evaluation and one[0].curve == two[0].curve
        assert one[0].evaluation != three[0].evaluation


def test_control_and_method_start_alike_and_see_the_same_batches(settings: Settings, tmp_path: Path) -> None:
    arms = [training(settings, tmp_path, name).setting() for name in ("control", "kd")]
    (a, b), (c, d) = [[setting.student() for _ in range(2)] for setting in arms]
    assert equal(a, c) and equal(b, d) and not equal(a, b)
    assert all(torch.equal(x.index, y.index) for x, y in zip(arms[0].data, arms[1].data, strict=True))
    other = training(settings, tmp_path, "kd", seed=1).setting()
    assert not equal(a, other.student())
    assert not torch.equal(
        next(iter(other.data)).index, next(iter(training(settings, tmp_path, "kd").setting().data)).index
    )


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_supervised_equals_its_control(settings: Settings, tmp_path: Path) -> None:
    outcome = without_preflight({**settings, "method": "supervised"}, tmp_path / "run", cache=False)
    assert outcome.gain.per_seed == [0.0]
    assert outcome.control[0].evaluation == outcome.distilled[0].evaluation


def test_generations_and_players_are_reported_whole(settings: Settings, tmp_path: Path) -> None:
    outcome = without_preflight({**settings, "method": "ban", "teacher": []}, tmp_path / "ban")
    fits = {row["fit"] for row in Log(tmp_path / "ban" / "metrics.jsonl").rows if row["arm"] == "ban"}
    assert len(fits) > 1 and outcome.distilled[0].curve.steps[-1] == 20 * len(fits)
    assert any(f"{20 * (len(fits) - 1)} steps more" in note for note in outcome.notes)
    outcome = without_preflight({**settings, "method": "bd_kd"}, tmp_path / "bd")
    logs = Log(tmp_path / "bd" / "metrics.jsonl").of(FitId(0, "bd_kd", "student"))[-1]["logs"]
    assert any("/" in name for name in logs) and "loss" in logs
    assert not any("steps more" in note for note in outcome.notes)


def test_the_log_holds_means_and_curve_of_every_step(settings: Settings, tmp_path: Path) -> None:
    made = training({**settings, "steps": 600, "eval_every": 300}, tmp_path, "control")
    Supervised.distil(made.setting(), {})
    rows = made.of.log.of(FitId(0, "control", "student"))
    assert [row["step"] for row in rows] == list(range(3, 601, 3))
    assert [row["step"] for row in rows if "accuracy" in row] == [300, 600]
    curve = made.curve()
    first = [row["logs"]["loss"] for row in rows[:100]]
    assert curve.loss[0] == pytest.approx(sum(first) / 100) and curve.loss[1] < curve.loss[0]
    assert 0 < made.seconds() == rows[-1]["seconds"]


def test_two_fits_of_one_name_are_a_mistake(settings: Settings, tmp_path: Path) -> None:
    setting: Setting = training(settings, tmp_path, "kd").setting()
    setting.fit(Supervised(setting.student()), name="a", steps=1)
    with pytest.raises(ValueError, match="'a'"):
        setting.fit(Supervised(setting.student()), name="a", steps=1)


def test_several_teachers_are_evaluated_as_their_mean(settings: Settings, tmp_path: Path, teacher: str) -> None:
    task = resolve(make_spec({**settings, "teacher": [teacher, "mlp-16"]}))
    assert task.teacher is not None
    x = task.test.take(torch.arange(5))[0]
    mean = torch.stack([member(x).softmax(1) for member in task.teachers]).mean(0)
    torch.testing.assert_close(task.teacher(x).exp(), mean)
    torch.testing.assert_close(task.teacher(x).exp().sum(1), torch.ones(5))
    assert evaluate(task.teacher, task.test).count == len(task.test)


def test_optimiser_settings_reach_the_optimiser(settings: Settings) -> None:
    from limbeck.run.training import make_optimizer, make_schedule

    spec = resolve(make_spec({**settings, "optimizer": "sgd", "weight_decay": 0.01, "schedule": "step"})).spec
    made = make_optimizer(spec)([nn.Parameter(torch.zeros(1))])
    group = made.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.1, 0.9, 0.01, False)
    schedule = make_schedule(spec)
    assert schedule is not None
    from limbeck.core.method import Clock

    assert [schedule(Clock(step, 8)) for step in (0, 3, 4, 6)] == [1.0, 1.0, 0.1, 0.01]


def test_epochs_become_steps(settings: Settings) -> None:
    free = {name: held for name, held in settings.items() if name not in ("steps", "eval_every")}
    task = resolve(make_spec({**free, "epochs": 2, "batch": 50, "accumulate": 3}))
    batches = len(task.train) // 50
    assert task.spec.steps == 2 * -(-batches // 3) and task.spec.epochs is None
    assert resolve(make_spec(task.spec.model_dump())).spec == task.spec, "a resolved file resolves to itself"


def test_trackers_get_the_numbers(settings: Settings, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    without_preflight({**settings, "trackers": ["tensorboard"]}, tmp_path / "run")
    [file] = (tmp_path / "run" / "limbeck").glob("events.*")
    seen = events.EventAccumulator(str(file))
    seen.Reload()
    rows = [r for r in Log(tmp_path / "run" / "metrics.jsonl").of(FitId(0, "kd", "student"))]
    assert [s.value for s in seen.Scalars("0/kd/student/loss")] == pytest.approx([r["logs"]["loss"] for r in rows])


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Finding(name="n", status="failed", measured="m", fix="f")]
    monkeypatch.setattr(pipeline, "preflight", lambda *_: found)


@pytest.mark.usefixtures("wrong")
def test_a_failed_preflight_stops_the_run(settings: Settings, tmp_path: Path, limbeck: Callable[..., Said]) -> None:
    words = [w for name in ("student", "teacher", "data", "steps", "seeds") for w in (f"--{name}", str(settings[name]))]
    said = limbeck("run", "kd", *words, "--out", str(tmp_path / "run"))
    assert said.status == 2 and "preflight, n: 'm'" in said.err and not (tmp_path / "run").exists()
    assert limbeck("preflight", "kd", *words).status == 2
    said = limbeck("run", "kd", *words, "--out", str(tmp_path / "run"), "--force", "--quiet")
    assert said.status == 0 and not said.err
    assert any("forced" in note for note in read_outcome(tmp_path / "run").notes)
    said = limbeck("run", "kd", *words, "--out", str(tmp_path / "other"), "--no-preflight")
    assert said.status == 0 and read_outcome(tmp_path / "other").preflight == []


def test_a_folder_belongs_to_one_run(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = without_preflight(settings, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    for other in ({"batch": 32}, {"values": {"tau": 2}}, {"method": "supervised"}):
        with pytest.raises(InputError, match="holds another run"):
            without_preflight({**settings, **other}, out)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert without_preflight(settings, out).gain == first.gain
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    for taken in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex"):
        with pytest.raises(InputError, match="not an empty folder"):
            without_preflight(settings, taken)
    with pytest.raises(InputError, match="--out"):
        without_preflight(settings, tmp_path / "mine" / "thesis.tex" / "run")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_two_processes_do_not_share_a_folder(settings: Settings, tmp_path: Path) -> None:
    without_preflight(settings, tmp_path / "run")
    other = RunFolder(tmp_path / "run")
    other.lock()
    with pytest.raises(InputError, match="in use by another process"):
        without_preflight(settings, tmp_path / "run")
    other.unlock()
    without_preflight(settings, tmp_path / "run")


def test_other_data_under_the_same_name_are_noticed(settings: Settings, tmp_path: Path) -> None:
    without_preflight(settings, tmp_path / "run")
    facts = tmp_path / "run" / "environment.json"
    facts.write_text(facts.read_text().replace(json.loads(facts.read_text())["data"]["train"], "0" * 16))
    with pytest.raises(InputError, match="has changed since"):
        without_preflight(settings, tmp_path / "run")


@pytest.mark.parametrize("moment", [1, 3, 6, 10, 16, 22])
def test_a_full_disk_is_one_line_and_the_run_can_go_on(
    settings: Settings, tmp_path: Path, limbeck: Callable[..., Said], moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, [0]

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] >= moment:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    words = [w for name in ("student", "teacher", "data", "steps", "seeds") for w in (f"--{name}", str(settings[name]))]
    words = ["run", "kd", *words, "--no-preflight", "--no-control-cache", "--quiet", "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        said = limbeck(*words)
    assert said.status == 2 and "No space left on device" in said.err
    assert limbeck(*words).status == 0
    whole = without_preflight({**settings, "eval_every": None}, tmp_path / "whole", cache=False)
    assert read_outcome(tmp_path / "run").distilled[0].evaluation == whole.distilled[0].evaluation
    assert not list((tmp_path / "run").rglob("*.part-*"))


def test_a_real_write_error_is_one_line(settings: Settings, tmp_path: Path, limbeck: Callable[..., Said]) -> None:
    resource = pytest.importorskip("resource")
    words = [w for name in ("student", "teacher", "data", "steps", "seeds") for w in (f"--{name}", str(settings[name]))]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # bytes of a file: a checkpoint has more
    try:
        said = limbeck("run", "kd", *words, "--no-preflight", "--quiet", "--out", str(tmp_path / "run"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert said.status == 2 and said.err.startswith("limbeck: error: output") and said.err.count("\n") == 1
    assert not list((tmp_path / "run").rglob("*.part-*"))


def test_a_method_that_makes_no_classifier_is_a_bug_of_the_method(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method_class(find("kd")), "distil", classmethod(lambda *_: nn.Linear(1, 1)))
    with pytest.raises(TypeError, match="Linear"):
        without_preflight(settings, tmp_path / "run")


def test_two_processes_are_one(settings: Settings, tmp_path: Path) -> None:
    """What ``accelerate launch -m limbeck run`` starts: one run, written by the first process."""
    words = [w for name in ("student", "teacher", "data", "steps", "seeds") for w in (f"--{name}", str(settings[name]))]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "limbeck"]
    done = subprocess.run(
        [*launcher, "run", "kd", *words, "--no-preflight", "--out", "two"], cwd=tmp_path, capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "ACCELERATE_USE_CPU": "true"},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report ") == 1
    one = without_preflight({**settings, "eval_every": None}, tmp_path / "one")
    students = [load_classifier(str(tmp_path / name / "student")).state_dict() for name in ("one", "two")]
    torch.testing.assert_close(students[0], students[1], rtol=1e-4, atol=1e-5)
    two = read_outcome(tmp_path / "two")
    assert two.distilled[0].curve.steps == one.distilled[0].curve.steps
    assert two.distilled[0].curve.loss == pytest.approx(one.distilled[0].curve.loss, rel=1e-4)
    rows = Log(tmp_path / "two" / "metrics.jsonl").rows
    assert [(row["arm"], row["step"]) for row in rows] == [(arm, s) for arm in ("kd", "control") for s in range(1, 21)]
