"""Whatever a run file or the flags hold, it is a valid run or one line and exit status 2."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limbeck.cli import main
from limbeck.core.card import cards
from limbeck.run import commands
from limbeck.run.spec import RunSpec, make_spec, values_model, write_yaml

NAMES = [
    *RunSpec.model_fields,
    *(f"method.{name}" for name in values_model("kd").model_fields),
    "config",
    "out",
    "force",
]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=4), st.dates(),
    st.sampled_from(["kd", "digits", "mlp-16", "Linear(0, 1)", "Cosine()", "Piecewise({0.5: 1})", "1e-3", "yes"]),
)  # fmt: skip
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3))
FILES = st.dictionaries(st.sampled_from([*RunSpec.model_fields, "nonsense"]) | st.text(max_size=5), TREES, max_size=8)
WORDS = st.text(st.characters(exclude_characters="\x00"), max_size=8)  # no process is ever given a null byte
CHECKED = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What would be run is kept instead."""
    asked: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "_distil", lambda spec, *_, **__: asked.append(spec))
    return asked


def check(words: list[str], asked: list[Any]) -> None:
    """One line and status 2, or a run that its own run file describes."""
    before, out, err = len(asked), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    if status == 0 and len(asked) == before:
        assert "usage: limbeck" in out.getvalue(), "help was asked for"
    elif status == 0:
        assert make_spec(yaml.safe_load(write_yaml(asked[-1]))) == asked[-1]
    else:
        assert status == 2, err.getvalue()
        assert err.getvalue().startswith("limbeck: error: ") and err.getvalue().count("\n") == 1
        assert err.getvalue()[:-1].isprintable() and len(asked) == before
    assert not any(path.name == "runs" for path in Path.cwd().iterdir())


@CHECKED
@given(content=st.text(max_size=200) | st.binary(max_size=200))
def test_any_bytes_as_a_run_file(content: str | bytes, nothing_runs: list[Any]) -> None:
    Path("run.yaml").write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    check(["run", "--config", "run.yaml"], nothing_runs)


@CHECKED
@given(file=FILES, whole=st.booleans())
def test_any_yaml_as_a_run_file(file: dict[str, Any], whole: bool, nothing_runs: list[Any]) -> None:
    good: dict[str, Any] = {"method": "kd", "student": "mlp-16", "teacher": "t", "data": "digits"} if whole else {}
    Path("run.yaml").write_text(yaml.safe_dump({**good, **file}), encoding="utf-8")
    check(["run", "--config", "run.yaml"], nothing_runs)


@CHECKED
@given(
    flags=st.lists(
        st.tuples(
            st.sampled_from(["--" + name for name in NAMES]) | st.text(max_size=8).map("--".__add__),
            st.text(max_size=12) | SCALARS.map(str),
            st.booleans(),
        ),
        max_size=6,
    ),
    method=st.sampled_from([*cards(), "", "kdd", "--student"]) | st.text(max_size=5),
)
def test_any_flags(flags: list[tuple[str, str, bool]], method: str, nothing_runs: list[Any]) -> None:
    words = ["run", method, "--student", "mlp-16", "--teacher", "t", "--data", "digits"]
    for flag, value, joined in flags:
        words += [f"{flag}={value}"] if joined else [flag, value]
    check(words, nothing_runs)


@CHECKED
@given(words=st.lists(WORDS | st.sampled_from(["run", "resume", "show", "compare", "report"]), max_size=4))
def test_any_words(words: list[str], nothing_runs: list[Any]) -> None:
    check(words, nothing_runs)


@settings(CHECKED, max_examples=60)
@given(
    field=st.sampled_from(["student", "teacher", "data", "augment", "device"]),
    value=st.text(st.characters(codec="utf-8"), min_size=1, max_size=16)
    | st.sampled_from(
        ["mlp-", "mlp-0", "cnn-99999999999", "resnet9", "a:b", "os:getcwd", "mlp-16@x", "/", "..", "x.npz"]
    ),
)
def test_any_reference(field: str, value: str, nothing_runs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("limbeck.run.pipeline.examine", lambda _: [])
    words = {"student": "mlp-16", "teacher": "mlp-16", "data": "digits", field: value}
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["preflight", "kd", *(w for name, held in words.items() for w in (f"--{name}={held}",))])
    assert status in (0, 2), err.getvalue()
    assert "Traceback" not in err.getvalue() and err.getvalue().count("limbeck: error") == (status == 2)
