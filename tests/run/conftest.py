"""A small trained teacher on disk, a cache of controls that is not the user's, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from limbeck.cli import main
from limbeck.core.fit import fit
from limbeck.data.batches import Batches
from limbeck.data.load import load_data
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.load import load_classifier, save_classifier


class Said(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a teacher of digits."""
    digits = load_data("digits").train
    network = load_classifier("mlp-64x2", shape=digits.shape, classes=digits.classes)
    fit(Supervised(network), Batches(digits, 64), partial(torch.optim.AdamW, lr=3e-3), steps=150)
    folder = tmp_path_factory.mktemp("teacher") / "net"
    save_classifier(network, folder)
    return str(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has its own cache."""
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "controls"


@pytest.fixture
def settings(teacher: str) -> dict[str, Any]:
    """A run that takes a moment."""
    return {
        "method": "kd", "student": "mlp-16", "teacher": teacher, "data": "digits", "steps": 20, "seeds": 1,
        "eval_every": 10,
    }  # fmt: skip


@pytest.fixture
def limbeck(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """The command line: ``limbeck("show", "kd")``. Whatever is asked, there is never a traceback."""

    def call(*words: str) -> Said:
        capfd.readouterr()
        status = main(list(words))
        said = Said(status, *capfd.readouterr())
        assert "Traceback" not in said.err
        if status == 2:
            errors = [line for line in said.err.splitlines() if line.startswith("limbeck: error: ")]
            assert len(errors) == 1 and said.err.endswith(errors[0] + "\n")
        return said

    return call
