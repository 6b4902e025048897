"""Runs that make data sets: judged by fresh networks, beside random real images that are used alike."""

from pathlib import Path

import pytest
import torch

from limbeck.cli import main
from limbeck.models.load_set import load_set
from limbeck.models.use import InOrder
from limbeck.run.outcome import Outcome
from limbeck.run.pipeline import distil
from limbeck.run.report import sentence

SETTINGS = {
    "method": "datadam", "student": "convnet-8x2", "data": "digits", "limit": 200, "steps": 20, "seeds": 2,
    "values": {"per_class": 1, "batch": 8},
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("sets") / "run"
    return folder, distil(SETTINGS, folder)


def test_the_set_is_kept_and_judged_by_what_it_teaches(finished: tuple[Path, Outcome]) -> None:
    folder, outcome = finished
    made, control = (arms[0].evaluation.made for arms in (outcome.distilled, outcome.control))
    assert made.stored == control.stored == 10 and made.real == 200 and len(made.networks) == 3
    assert outcome.distilled[0].evaluation.accuracy == pytest.approx(sum(made.networks) / 3)
    assert made.png != control.png and made.full > 0.8
    kept = load_set(folder / "student")
    assert kept().shape == (10, 1, 8, 8) and kept.use.augment == "shift+rotate"
    assert "over those trained alike" in sentence(outcome) or "against those" in sentence(outcome)
    page = (folder / "report.html").read_text()
    assert "The distilled set" in page and "Random real images" in page


def test_it_is_a_function_of_its_settings_and_goes_on(finished: tuple[Path, Outcome], tmp_path: Path) -> None:
    _, outcome = finished
    settings = {**SETTINGS, "seeds": 1}
    again = distil(settings, tmp_path / "again")
    assert again.distilled[0].evaluation == outcome.distilled[0].evaluation
    assert again.control[0].evaluation == outcome.control[0].evaluation
    (tmp_path / "again" / "arms" / "seed-0-control.json").unlink()
    (tmp_path / "again" / "report.json").unlink()
    assert distil(settings, tmp_path / "again").control[0].evaluation == outcome.control[0].evaluation


def test_a_set_with_steps_of_its_own_is_used_so_by_its_control(tmp_path: Path) -> None:
    values = {"weights": "fixed", "inits": 1, "epochs": 2, "batch": 4}
    found = distil(
        {**SETTINGS, "method": "dd_wang", "student": "mlp-16x1", "seeds": 1, "values": values}, tmp_path / "r"
    )
    kept = load_set(tmp_path / "r" / "student")
    assert isinstance(kept.use, InOrder) and kept.use.begin is not None and kept.rates.shape == (2,)
    assert found.distilled[0].evaluation.made.rates == 2
    assert torch.isfinite(torch.tensor(found.gain.mean))


def test_the_control_alone(tmp_path: Path) -> None:
    found = distil({**SETTINGS, "method": "real_subset", "values": {"per_class": 2}, "seeds": 1}, tmp_path / "r")
    assert "this run is the control" in sentence(found) and found.gain.mean == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--method.per_class", "5000"], "per_class"),
        (["--student", "convnet-8x9"], "pixels away"),
        (["--student", "nothing"], "nothing"),
    ],
)
def test_bad_input_is_one_line(flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["run", "datadam", "--student", "convnet-8x2", "--data", "digits", "--steps", "2", "--out", f"{tmp_path}/r"]
    assert main([*given, *flags]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "r" / "run.yaml").exists()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("teacher") / "run"
    distil({"method": "supervised", "student": "cnn-8-16", "data": "digits", "steps": 60, "seeds": 1}, folder)
    return str(folder / "student")


@pytest.mark.parametrize("method", ["cda", "infer_ufc", "krr_st"])
def test_labels_of_a_teacher_are_the_controls_too(method: str, teacher: str, tmp_path: Path) -> None:
    changed = {"method": method, "teacher": [teacher], "steps": 2, "seeds": 1, "values": {"per_class": 2}}
    found = distil({**SETTINGS, **changed}, tmp_path / "run")
    kept, made = load_set(tmp_path / "run" / "student"), found.control[0].evaluation.made
    assert made.stored == kept.budget.images and found.teacher is not None
    assert method != "krr_st" or made.labels == kept.budget.labels > 20, "the encoder's features, of real images"


def test_training_on_a_set_with_labels_of_its_own_is_the_same_after_reading_it(teacher: str, tmp_path: Path) -> None:
    changed = {"method": "cda", "teacher": [teacher], "steps": 2, "seeds": 1, "values": {"per_class": 1}}
    found = distil({**SETTINGS, **changed}, tmp_path / "run")
    from limbeck.run.resolve import resolve
    from limbeck.run.spec import make_spec

    task = resolve(make_spec({**SETTINGS, **changed}))
    assert task.evaluate(task.load(tmp_path / "run" / "student")).made.networks == pytest.approx(
        found.distilled[0].evaluation.made.networks, abs=0.02
    )
