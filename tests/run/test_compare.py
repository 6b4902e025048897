"""Runs are compared where they can be, and refused where they cannot."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import InputError
from limbeck.run.compare import Comparison, compare, compare_command
from limbeck.run.outcome import Outcome
from limbeck.run.report import write_report
from limbeck.run.words import span
from tests.run.fakes import outcome

SMALL = {"images": 1500, "points": 3}


def runs(folder: Path, **made: dict[str, Any] | Outcome) -> list[Path]:
    """A folder of a run for every name."""
    for name, how in made.items():
        write_report(how if isinstance(how, Outcome) else outcome(**{**SMALL, **how}), folder / name)
    return [folder / name for name in made]


def changed(**settings: Any) -> Outcome:
    """A run that differs in settings only."""
    made = outcome(**SMALL)
    return made.model_copy(update={"spec": {**made.spec, **settings}})


def test_runs_of_one_setting_are_comparable_and_sorted_by_gain(tmp_path: Path) -> None:
    found = compare(runs(tmp_path, low={"skill": 0.85}, kd={}, dot={"skill": 1.03, "method": "dot"}))
    assert [run.folder for run in found.runs] == ["dot", "kd", "low"]
    assert found.comparable and found.same_control and found.same_data and found.warnings == []
    kd, made = found.runs[1], outcome(**SMALL)
    assert kd.gain == made.gain and kd.teacher == "teachers/cifar10-resnet56" and kd.seeds == [0, 1, 2]
    assert kd.accuracy == pytest.approx(sum(arm.evaluation.accuracy for arm in made.distilled) / 3)
    assert kd.accuracy - kd.control == pytest.approx(made.gain.mean / 100)
    assert kd.seconds == pytest.approx(sum(arm.seconds for arm in made.distilled) / 3)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"world": 1}, "Not comparable: the runs were trained or judged on different data."),
        (changed(student="cnn-8-16"), "Not comparable: different student (resnet8: kd; cnn-8-16: other)."),
        (changed(steps=300), "Not comparable: different steps (4000: kd; 300: other)."),
        (changed(lr=0.5), "Not comparable: different lr (0.1: kd; 0.5: other)."),
        (changed(clip=1.0), "Not comparable: different clip (None: kd; 1.0: other)."),
    ],
)
def test_what_makes_runs_incomparable(tmp_path: Path, other: dict[str, Any] | Outcome, said: str) -> None:
    found = compare(runs(tmp_path, kd={}, other=other))
    assert not found.comparable and said in found.warnings


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"seeds": 2}, "Different seeds: part of the difference between gains may be theirs."),
        ({"seeds": 1}, "other has one seed: its gain may be chance."),
        (changed(teacher=["t/other"]), "Different teachers (teachers/cifar10-resnet56: kd; t/other: other)."),
    ],
)
def test_what_is_said_of_comparable_runs(tmp_path: Path, other: dict[str, Any] | Outcome, said: str) -> None:
    found = compare(runs(tmp_path, kd={}, other=other))
    assert found.comparable and said in found.warnings


def test_a_method_without_a_teacher_compares_with_one_that_has_one(tmp_path: Path) -> None:
    alone = outcome(**SMALL).model_copy(update={"spec": {**outcome(**SMALL).spec, "teacher": []}})
    assert compare(runs(tmp_path, kd={}, ban=alone)).warnings == []


def test_settings_of_its_own_do_not_matter(tmp_path: Path) -> None:
    own = changed(method="dot", values={"tau": 2.0}, eval_every=7, device="cuda", trackers=["wandb"])
    assert compare(runs(tmp_path, kd={}, other=own)).warnings == []


def test_controls_that_differ_for_no_reason_are_reported(tmp_path: Path) -> None:
    made = outcome(**SMALL)
    worse = made.control[0].evaluation.model_copy(update={"accuracy": 0.5})
    control = [made.control[0].model_copy(update={"evaluation": worse}), *made.control[1:]]
    found = compare(runs(tmp_path, kd={}, other=made.model_copy(update={"control": control})))
    assert not found.same_control and found.comparable
    assert found.warnings == ["Different controls though the settings agree: other versions or another machine."]


def test_table_and_json_say_the_same(tmp_path: Path) -> None:
    folders = runs(tmp_path, kd={}, loss={"skill": 0.85}, other={"world": 1})
    table = compare_command(folders, as_json=False, out=None)
    told = Comparison.model_validate_json(compare_command(folders, as_json=True, out=None))
    assert told == compare(folders)
    lines = table.splitlines()
    for entry in told.runs:
        [line] = [line for line in lines if line.strip().startswith(entry.folder + " ")]
        assert span(entry.gain) in line and f"{100 * entry.accuracy:.1f} %" in line
    for warning in told.warnings:
        assert f"! {warning}" in lines
    assert "\x1b" not in table


def test_the_page(tmp_path: Path) -> None:
    folders = runs(tmp_path, **{"kd": {}, "dot": {"skill": 1.03}, "<b>evil": {"skill": 0.85}})
    said = compare_command(folders, as_json=False, out=tmp_path / "out")
    assert str(tmp_path / "out" / "compare.html") in said
    html = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert "<b>evil" not in html and "&lt;b&gt;evil" in html and "<script" not in html
    assert "2 of 3 runs gain clearly over the control; most of all dot, " in html and "1 run clearly loses." in html
    assert html.count('<i class="mean"') == 3 and "All runs have the same control." in html
    json.loads(compare_command(folders, as_json=True, out=tmp_path / "named.html"))
    assert (tmp_path / "named.html").is_file()


def test_a_page_of_runs_that_cannot_be_compared_says_so_first(tmp_path: Path) -> None:
    compare_command(runs(tmp_path, kd={}, other={"world": 1}), as_json=True, out=tmp_path)
    html = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert re.search(r'class="lead">These runs cannot be compared', html)


def test_names_are_not_taken_for_styles(tmp_path: Path) -> None:
    [folder] = runs(tmp_path, **{"[red]x": {}})
    assert "[red]x" in compare_command([folder], as_json=False, out=None)


def test_two_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = runs(tmp_path / "a", kd={}) + runs(tmp_path / "b", kd={"skill": 0.9})
    assert {run.folder for run in compare(folders).runs} == {str(folder) for folder in folders}


def test_a_run_named_twice_is_shown_once(tmp_path: Path) -> None:
    [folder] = runs(tmp_path, kd={})
    assert len(compare([folder, folder, folder / "." / "../kd"]).runs) == 1


def test_a_report_with_secrets_written_by_hand_is_cleaned(tmp_path: Path) -> None:
    [folder] = runs(tmp_path, kd={})
    facts = json.loads((folder / "report.json").read_text())
    facts["spec"]["student"] = "https://me:hunter2@example.org/net"
    (folder / "report.json").write_text(json.dumps(facts))
    assert "hunter2" not in compare_command([folder], as_json=True, out=tmp_path)
    assert "hunter2" not in (tmp_path / "compare.html").read_text()


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are missing"):
        compare([])
    with pytest.raises(InputError, match=r"holds no report\.json"):
        compare([*runs(tmp_path, kd={}), tmp_path])
    with pytest.raises(InputError, match="cannot be written"):
        compare_command(runs(tmp_path, kd={}), as_json=True, out=tmp_path / "kd" / "report.json" / "x")
