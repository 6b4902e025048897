"""Runs in rounds: images are shared out to clients, federated averaging in as many rounds is the control."""

from pathlib import Path

import pytest

from limbeck.cli import main
from limbeck.run.pipeline import distil
from limbeck.run.report import sentence
from limbeck.run.spec import typed_values

SETTINGS = {
    "method": "fedprox", "student": "mlp-16", "data": "digits", "limit": 200, "steps": 3, "seeds": 1,
    "values": {"population": 4, "participation": 0.5, "split": "iid", "epochs": 1},
}  # fmt: skip


def test_a_run_has_its_rounds_and_its_control(tmp_path: Path) -> None:
    found = distil(SETTINGS, tmp_path / "run")
    assert "federated averaging" in sentence(found)
    assert found.distilled[0].curve.steps[-1] == 3 == found.control[0].curve.steps[-1]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "4 clients with 50 to 50 images" in page and "2 clients answered" in page
    assert distil(SETTINGS, tmp_path / "run").distilled == found.distilled


def test_a_private_run_says_what_it_spends(tmp_path: Path) -> None:
    values = {**SETTINGS["values"], "privacy": "server", "delta": 0.01}
    distil({**SETTINGS, "method": "fedavg", "values": values}, tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "hides whether a client took part, with epsilon" in page and "at delta 0.01 after 3 rounds" in page


def test_a_method_that_sends_logits_has_no_privacy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["run", "fedmd", "--student", "mlp-16", "--data", "digits", "--out", f"{tmp_path}/r"]
    assert main([*given, "--method.privacy", "server"]) == 2
    assert "--method.privacy" in (error := capsys.readouterr().err) and len(error.strip().splitlines()) == 1


def test_the_report_shows_who_has_which_images(tmp_path: Path) -> None:
    from limbeck.run.resolve import resolve
    from limbeck.run.spec import make_spec

    values = {**SETTINGS["values"], "split": "shards-2"}
    found = distil({**SETTINGS, "values": values}, tmp_path / "run")
    task = resolve(make_spec({**SETTINGS, "values": values}))
    assert [sum(own[c] for own in found.shares) for c in range(10)] == task.train.labels.bincount().tolist()
    page = (tmp_path / "run" / "report.html").read_text()
    chart = page[page.index('aria-labelledby="clients-title"') :]
    chart = chart[: chart.index("</svg>")]
    assert chart.count("<circle") == sum(n > 0 for own in found.shares for n in own) < 40
    assert "4 clients hold 50 images each" in page and ">client<" in chart
    public = resolve(make_spec({**SETTINGS, "method": "feddf", "values": {**values, "share": 0.5}}))
    assert sum(map(sum, public.shares())) == pytest.approx(100, abs=5), "what the server keeps is nobody's"


def test_the_control_has_the_same_clients(tmp_path: Path) -> None:
    from limbeck.run.resolve import resolve
    from limbeck.run.spec import make_spec

    task = resolve(make_spec(SETTINGS))
    values = {**typed_values(task.spec)}
    assert {k: task.control_values[k] for k in SETTINGS["values"]} == {k: values[k] for k in SETTINGS["values"]}
    assert "mu" not in task.control_values and resolve(make_spec({**SETTINGS, "steps": None})).spec.steps == 50


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--method.split", "uneven"], "split"),
        (["--method.population", "5000"], "population"),
        (["--method.participation", "1.5"], "participation"),
        (["--method.privacy", "everybody"], "privacy"),
        (["--method.privacy", "server", "--method.clipping-norm", "-1"], "clipping_norm"),
        (["--method.privacy", "server", "--student", "cnn-8-16"], "batch norm"),
    ],
)
def test_bad_input_is_one_line(flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["run", "fedprox", "--student", "mlp-16", "--data", "digits", "--steps", "2", "--out", f"{tmp_path}/r"]
    assert main([*given, *flags]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "r" / "run.yaml").exists()
