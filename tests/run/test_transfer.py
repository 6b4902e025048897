"""What else a distilled set is tried for: ranks of architectures, and the memory of classes that come in turn."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr

from limbeck.cli import main
from limbeck.data.load import load_data
from limbeck.diagnostics.ranks import spearman
from limbeck.models import use
from limbeck.models.load import load_classifier
from limbeck.models.synthetic import SyntheticSet, initial
from limbeck.models.use import Descent, InOrder, Staged, descend
from limbeck.run.dataset import transfer
from limbeck.run.dataset.evaluation import trained
from limbeck.run.folder import RunFolder
from limbeck.run.pipeline import run
from limbeck.run.progress import Show
from limbeck.run.resolve import resolve
from limbeck.run.spec import make_spec
from limbeck.run.trials import Trials

DIGITS = load_data("digits")


def network(seed: int) -> torch.nn.Module:
    return load_classifier("mlp-16", shape=DIGITS.train.shape, classes=DIGITS.train.classes, seed=seed)


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One network a turn."""
    monkeypatch.setattr(transfer, "NETS", 1)


def measured(what: str, makes: dict) -> list[float]:
    return [make() for make in makes.values()]


def test_spearman_is_scipys() -> None:
    a, b = torch.randint(0, 6, (2, 30), generator=torch.Generator().manual_seed(0)).tolist()
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman(a, [-x for x in a]) == pytest.approx(-1)
    assert spearman([1, 1, 1], [1, 2, 3]) is None


def test_the_memory_is_what_was_seen_and_nothing_else(once: None) -> None:
    """After four of ten classes: a network that was trained on these by hand, and knows of no other."""
    made = initial(DIGITS.train, 2, use=Descent(steps=20))
    part = transfer.first(made, 4)
    assert part.y.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and torch.equal(part(), made()[:8])
    found = transfer.continual(made, network, DIGITS.test, measured)
    assert found.classes == [2, 4, 6, 8, 10] and found.accuracy[0] > found.accuracy[-1]
    rows = ((DIGITS.test.labels >= 0) & (DIGITS.test.labels < 4)).nonzero().squeeze(1)
    x, y = DIGITS.test.take(rows)
    net = trained(part, network(0), 0)
    right = net(x)[:, :4].argmax(1) == y
    assert found.accuracy[1] == pytest.approx(float(right.double().mean()))


@pytest.mark.parametrize("way", [InOrder(epochs=2), Staged(stages=2, steps=2)])
def test_sets_with_steps_or_stages_of_their_own_serve_as_memory(way: InOrder | Staged, once: None) -> None:
    whole = initial(DIGITS.train, 2, use=way, rates=[0.02] * 4)
    assert min(transfer.continual(whole, network, DIGITS.test, measured).accuracy) > 0


def test_the_pick_is_the_sets_first_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "GRID", ("mlp-16", "mlp-8", "convnet-8x4"))
    made = initial(DIGITS.train, 1, use=Descent(steps=5))
    on_all = {"mlp-16": 0.9, "mlp-8": 0.8}
    found = transfer.search(made, DIGITS.test, lambda net: on_all[net.reference], measured, measured)
    assert found is not None and found.names == ["mlp-16", "mlp-8"], "four stages leave nothing of 8x8"
    assert found.picked == on_all[found.pick] == found.by_all[found.by_set.index(max(found.by_set))]
    assert found.correlation == (1 if found.pick == "mlp-16" else -1)
    fixed: SyntheticSet = initial(DIGITS.train, 1, use=InOrder(1, network(0)), rates=[0.02])
    assert transfer.search(fixed, DIGITS.test, lambda net: 1.0, measured, measured) is None


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    done: list[str] = []

    def make(name: str) -> float:
        if name == "c" and not done.count("c"):
            done.append("c")
            raise KeyboardInterrupt
        done.append(name)
        return 0.5

    trials = Trials(tmp_path / "trials.json", Show(quiet=True), "seed 0  kd")
    with pytest.raises(KeyboardInterrupt):
        trials("search", {name: partial(make, name) for name in "abcd"})
    assert trials("search", {name: partial(make, name) for name in "abcd"}) == [0.5] * 4
    assert done == ["a", "b", "c", "c", "d"]


def test_damaged_numbers_are_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "trials.json"
    path.write_text("{half of", encoding="utf-8")
    with pytest.warns(UserWarning, match="trials.json is damaged"):
        assert Trials(path, Show(), "seed 0")("search", {"a": lambda: 0.5}) == [0.5]
    assert Trials(path, Show(), "seed 0")("search", {"a": lambda: 1.0}) == [0.5]


def test_a_run_shows_both_and_takes_them_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, once: None) -> None:
    monkeypatch.setattr(transfer, "GRID", ("mlp-16", "mlp-8"))
    monkeypatch.setattr(transfer, "TURNS", 2)
    monkeypatch.setattr("limbeck.run.dataset.task.FULL_STEPS", 5)
    monkeypatch.setattr(use, "descend", lambda *given, steps, **named: descend(*given, steps=3, **named))
    task = resolve(make_spec({
        "method": "datadam", "student": "convnet-4x1", "data": "digits", "limit": 100, "steps": 2, "seeds": 1,
        "values": {"per_class": 1, "batch": 4}, "transfer": ["search", "continual"],
    }))  # fmt: skip
    folder, show = tmp_path / "run", Show(quiet=True)
    found = run(task, RunFolder(folder), show, check=lambda task: [])
    mine, real = (arms[0].evaluation.made for arms in (found.distilled, found.control))
    assert mine.search.by_all == real.search.by_all and len(mine.search.by_set) == 2
    assert mine.continual.accuracy[-1] == pytest.approx(mine.networks[0]), "all classes seen"
    page = (folder / "report.html").read_text()
    assert "Choosing a network by the set" in page and "Accuracy as classes come in turn" in page
    held = json.loads((folder / "trials.json").read_text())
    assert len(held) == 2 + 2 * (2 + 2)
    (folder / "trials.json").write_text(json.dumps({name: 0.25 for name in held}))
    (folder / "arms" / "seed-0-datadam.json").unlink()
    (folder / "report.json").unlink()
    again = run(task, RunFolder(folder), show, check=lambda task: [])
    assert again.distilled[0].evaluation.made.continual.accuracy == [0.25] * 2


def test_models_are_not_tried_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["run", "supervised", "--student", "mlp-8", "--data", "digits", "--transfer", "search"]
    assert main([*given, "--out", f"{tmp_path}/r"]) == 2
    assert "makes no data set" in capsys.readouterr().err
