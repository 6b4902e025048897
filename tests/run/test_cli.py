"""The command line: help, listings, one line for what is wrong, and nothing heavy before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.cli import main
from limbeck.core.card import cards
from limbeck.run import commands
from limbeck.run.evidence import Result
from limbeck.run.usage import COMMANDS, EXAMPLES
from tests.run.conftest import Said

Limbeck = Callable[..., Said]


def test_help_names_every_command_and_shows_examples(limbeck: Limbeck) -> None:
    said = limbeck("--help")
    assert said.status == 0 and all(f"  {name} " in said.out for name in COMMANDS)
    for name in COMMANDS:
        own = limbeck(name, "--help")
        assert own.status == 0 and EXAMPLES[name] in own.out, name


def test_the_help_of_a_run_shows_the_methods_own_flags(limbeck: Limbeck) -> None:
    said = " ".join(limbeck("run", "kd", "--help").out.split())
    assert "--method.tau float Temperature of both distributions" in said
    assert "(> 0, default 4.0)" in said and "--teacher-view same|separate|clean" in said
    assert "--method.tau float" not in limbeck("run", "supervised", "--help").out


@pytest.mark.parametrize("words", [["--help"], ["methods"], ["methods", "--json"], ["--version"], ["metods"]])
def test_listing_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from limbeck.cli import main; main(sys.argv[1:]); "
        "print('HEAVY', *({'torch', 'transformers', 'numpy', 'matplotlib', 'accelerate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY"


def test_methods_are_listed_with_their_evidence(limbeck: Limbeck) -> None:
    listed = json.loads(limbeck("methods", "--json").out)
    assert {m["key"] for m in listed} == set(cards())
    assert all("evidence" in m and m["url"].startswith("http") for m in listed)
    table = limbeck("methods", "--grep", "SOFTENED class").out
    assert "kd" in table and "supervised" not in table
    assert {m["family"] for m in json.loads(limbeck("methods", "--family", "classification", "--json").out)} == {
        "classification"
    }


def test_show_says_all(limbeck: Limbeck) -> None:
    out = " ".join(limbeck("show", "kd").out.split())
    assert "Hinton" in out and "--method.tau" in out and "limbeck run kd --teacher" in out


def test_doctor_reports_versions(limbeck: Limbeck) -> None:
    import torch

    said = limbeck("doctor")
    assert said.status == 0 and torch.__version__ in said.out and "extra" in said.out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["metods"], "did you mean 'methods'"),
        (["run"], "METHOD"),
        (["run", "kdd"], "did you mean 'kd'"),
        (["run", "kd", "--method.tua", "3"], "did you mean '--method.tau'"),
        (["run", "kd", "--stuent", "x"], "did you mean '--student'"),
        (["run", "kd", "more"], "one word too many"),
        (["run", "kd", "--seeds"], "--seeds"),
        (["run", "kd", "--student", "mlp-16", "--data", "digits", "--method.tau", "0"], "method.tau"),
        (["run", "kd", "--student", "mlp-16", "--data", "digits"], "teacher: '' is missing"),
        (["run", "kd", "--student", "mlp-16", "--data", "digits", "--teacher", "nowhere"], "teacher: 'nowhere'"),
        (["run", "supervised", "--student", "mlpp-16", "--data", "digits"], "student: 'mlpp-16'"),
        (["run", "supervised", "--student", "mlp-16", "--data", "nowhere.parquet"], "nowhere.parquet"),
        (["run", "supervised", "--student", "mlp-16", "--data", "digits", "--augment", "cropp"], "augment"),
        (["run", "supervised", "--student", "mlp-16", "--data", "digits", "--device", "cuda:99"], "device"),
        (["run", "supervised", "--student", "mlp-16", "--data", "digits", "--trackers", "wandb"], "pip install wandb"),
        (["run", "mend", "--student", "llama-32x1", "--teacher", "t", "--data", "manual"], "a compressor of prompts"),
        (["run", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["resume", "nowhere"], "holds no run"),
        (["report", "nowhere"], "report.json"),
        (["compare", "nowhere"], "report.json"),
        (["methods", "--family", "clasification"], "did you mean 'classification'"),
        (["evidence", "kd", "--seeds", "0"], "--seeds"),
        (["evidence", "nothing"], "method"),
        (["preflight", "kd", "--lr", "-1", "--student", "s", "--data", "digits"], "lr"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_trace(
    limbeck: Limbeck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], hint: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    said = limbeck(*words)
    assert said.status == 2 and hint in said.err and not said.out
    assert not list(empty.iterdir())


def test_flags_override_a_run_file(limbeck: Limbeck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(commands, "_distil", lambda spec, out, **_: seen.append((spec, out)))
    file = tmp_path / "run.yaml"
    file.write_text("method: kd\nstudent: mlp-16\nteacher: t\ndata: digits\nepochs: 3\nvalues: {tau: 2, alpha: 0.5}\n")
    config = ["--config", str(file), "--out", str(tmp_path / "out")]
    assert limbeck("run", *config, "--method.tau", "8", "--steps", "5", "--teacher_view", "clean").status == 0
    assert limbeck("run", "rkd", *config).status == 0
    (spec, out), (other, _) = seen
    assert (spec.values["tau"], spec.values["alpha"], spec.teacher_view) == (8.0, 0.5, "clean")
    assert (spec.steps, spec.epochs, out) == (5, None, tmp_path / "out")
    assert other.method == "rkd" and "alpha" not in other.values and other.epochs == 3


def test_unexpected_errors_are_one_line_unless_asked_for(limbeck: Limbeck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limbeck.core.card.find", lambda _: 1 // 0)
    said = limbeck("show", "kd")
    assert said.status == 1 and said.err.count("\n") == 1 and "LIMBECK_DEBUG=1" in said.err
    monkeypatch.setenv("LIMBECK_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["show", "kd"])


def test_an_interrupt_says_how_to_go_on(
    limbeck: Limbeck, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from limbeck.run import pipeline

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "control", interrupted)
    words = [w for name in ("student", "teacher", "data") for w in (f"--{name}", settings[name])]
    said = limbeck("run", "kd", *words, "--out", str(tmp_path / "x"), "--no-preflight")
    assert said.status == 130
    assert said.err.splitlines()[-1] == f"limbeck: interrupted; go on with: limbeck resume {tmp_path / 'x'}"
    monkeypatch.setattr("limbeck.run.resolve.resolve", interrupted)
    said = limbeck("run", "kd", *words, "--out", str(tmp_path / "y"))
    assert (said.status, said.err) == (130, "limbeck: interrupted; nothing was written\n")


def test_a_closed_pipe_is_quiet() -> None:
    code = f"{sys.executable} -m limbeck methods --json | head -c 10 >/dev/null"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_evidence_runs_the_seeds_it_is_told(limbeck: Limbeck, monkeypatch: pytest.MonkeyPatch) -> None:
    def experiment(seed: int, data: Path | None) -> Result:
        assert data is None
        return Result("accuracy, %", 90.0, 91.0 + seed / 100, higher_is_better=True)

    monkeypatch.setattr("limbeck.run.evidence.load", lambda key: (f"{key} helps.", experiment))
    said = limbeck("evidence", "kd", "--seeds", "4", "--first-seed", "100", "--json", "--no-write")
    facts = json.loads(said.out)
    assert facts["verdict"] == "holds" and [s["seed"] for s in facts["seeds"]] == [100, 101, 102, 103]
    assert "kd helps." in limbeck("evidence", "kd", "--no-write").out
