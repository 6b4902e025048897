"""Run files: what goes in comes out, and what is wrong is said in one line."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from limbeck.core.card import cards, method_class
from limbeck.core.method import Clock, hyperparameters
from limbeck.errors import InputError
from limbeck.run.flags import run_settings
from limbeck.run.parser import parser_of
from limbeck.run.spec import LARGEST, command, make_spec, read_yaml, typed_values, values_model, write_yaml

SMALL: dict[str, Any] = {"method": "kd", "student": "mlp-16", "teacher": "t", "data": "digits"}


def refused(given: dict[str, Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        make_spec({**SMALL, **given})
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_run_file_is_complete_and_reads_back_the_same(tmp_path: Path) -> None:
    spec = make_spec({**SMALL, "values": {"alpha": "linear(0, 1)"}, "epochs": "2.5", "clip": 1})
    (tmp_path / "run.yaml").write_text(write_yaml(spec))
    said = read_yaml(tmp_path / "run.yaml")
    assert set(said) == set(type(spec).model_fields)
    assert set(said["values"]) == set(hyperparameters(method_class(cards()["kd"])))
    assert make_spec(said) == spec
    assert spec.epochs == 2.5 and spec.teacher == ["t"]


def test_schedules_survive_as_text() -> None:
    text = make_spec({**SMALL, "values": {"alpha": "Linear(0, 1)"}}).values["alpha"]
    alpha = typed_values(make_spec({**SMALL, "values": {"alpha": text}}))["alpha"]
    assert [alpha(Clock(step, 11)) for step in (0, 5, 10)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("key", sorted(cards()))
def test_every_method_runs_with_its_defaults_and_takes_them_as_values(key: str) -> None:
    spec = make_spec({**SMALL, "method": key})
    fields = hyperparameters(method_class(cards()[key]))
    assert set(typed_values(spec)) == set(fields)
    again = make_spec({**SMALL, "method": key, "values": spec.values})
    assert again == spec
    assert all(field.description for field in values_model(key).model_fields.values()), "a field without a docstring"


@pytest.mark.parametrize(
    ("given", "field", "hint"),
    [
        ({"method": "kdd"}, "method", "'kd'"),
        ({"values": {"tua": 2}}, "method.tua", "'tau'"),
        ({"values": {"tau": -1}}, "method.tau", "greater than 0"),
        ({"values": {"tau": "nan"}}, "method.tau", "finite"),
        ({"values": {"tau": True}}, "method.tau", "yes or no"),
        ({"values": {"alpha": "Lineal(0, 1)"}}, "method.alpha", "'Linear'"),
        ({"values": {"alpha": [1]}}, "method.alpha", ""),
        ({"values": 3}, "values", "dictionary"),
        ({"studnet": "x"}, "studnet", "'student'"),
        ({"student": None}, "student", "string"),
        ({"student": "a\x1b[2Jb"}, "student", "printed"),
        ({"teacher": ["a", "b\x00"]}, "teacher", "printed"),
        ({"batch": 0}, "batch", "greater than or equal to 1"),
        ({"batch": "many"}, "batch", "integer"),
        ({"seeds": True}, "seeds", "yes or no"),
        ({"steps": 10**30}, "steps", "1000000000"),
        ({"steps": 5, "epochs": 2}, "steps", "epochs"),
        ({"lr": float("inf")}, "lr", "finite"),
        ({"optimizer": "adam"}, "optimizer", "'adamw'"),
        ({"device": "cuda:"}, "device", "pattern"),
        ({"version": 2}, "version", "newer"),
        ({"version": "one"}, "version", "1"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], field: str, hint: str) -> None:
    error = refused(given)
    assert error.field == field and hint in str(error)


def test_a_missing_field_says_what_it_is_for() -> None:
    with pytest.raises(InputError, match="student: '' is missing; what is trained"):
        make_spec({"method": "kd", "data": "digits"})


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("method: kd\nmethod: rkd\n", "'method' is there twice"),
        ("values: {tau: 1, tau: 2}\n", "'tau' is there twice"),
        ("a: &a [1]\nb: *a\n", "alias"),
        ("method: !!python/object/apply:os.system ['true']\n", "constructor"),
        ("- kd\n", "names and values"),
        ("1: kd\n", "names and values"),
        ("", "names and values"),
        ("method: [kd\n", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("x: " + "9" * 5000, "not YAML"),
        ("a: 2020-13-45\n", "not YAML"),
        ("? [a, b]\n: 1\n", "unhashable"),
        ("method: kd\n" + "#" * LARGEST, "bytes"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, hint: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=hint):
        read_yaml(path)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00method")
    for path in (tmp_path / "binary", tmp_path / "missing", tmp_path):
        with pytest.raises(InputError, match="run file"):
            read_yaml(path)


def test_the_command_repeats_the_run() -> None:
    spec = make_spec(
        {
            **SMALL, "teacher": ["a b", "c"], "values": {"alpha": "Cosine(1, 0)", "tau": 2}, "teacher_view": "clean",
            "augment": "flip", "steps": 7, "seeds": 2,
        }
    )  # fmt: skip
    words = shlex.split(command(spec, "runs/x y"))
    assert words[:3] == ["limbeck", "run", "kd"]
    parser = parser_of("run", "")
    parser.add_argument("--out")
    again, given = run_settings(parser, words[2:])
    assert again == spec and given["out"] == "runs/x y"
