"""The evidence harness: does a method do what its paper says, on seeds nobody tuned on?

``evidence/<family>/<key>.py`` defines ``CLAIM``, one sentence, and ``evidence(seed, data=None) -> Result``. This module
runs the seeds, decides by a rule fixed beforehand, and writes ``evidence/results/<key>.json``.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from limbeck import __version__
from limbeck.core.card import find
from limbeck.errors import InputError
from limbeck.run.outcome import interval

__all__ = ["Result", "Verdict", "gather", "recorded", "verdict"]

Verdict = Literal["holds", "does not hold", "inconclusive"]


@dataclass(frozen=True)
class Result:
    """One seed of an evidence experiment.

    Args:
        metric: what is measured, with its unit: ``"test accuracy, %"``.
        baseline: the value of what the method is claimed to beat, under the same budget.
        method: the method's value.
        higher_is_better: the direction of the metric.
        margin: how much better the method must be, in the metric's unit; negative for "not worse than".
        versus: what the baseline is.
        extra: further numbers worth keeping.
    """

    metric: str
    baseline: float
    method: float
    higher_is_better: bool
    margin: float = 0.0
    versus: str = "the same student without the teacher"
    extra: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def gain(self) -> float:
        """How much better the method is, positive for better."""
        return (self.method - self.baseline) * (1.0 if self.higher_is_better else -1.0)


def verdict(gains: Sequence[float], margin: float) -> Verdict:
    """``holds`` when the 95 % t interval of the mean gain lies above the margin, ``does not hold`` when the mean gain
    does not reach it, and ``inconclusive`` between the two or with fewer than three seeds."""
    found = interval(gains)
    if len(gains) < 3 or found is None:
        return "inconclusive"
    mean, low, _ = found
    if low > margin:
        return "holds"
    return "does not hold" if mean <= margin else "inconclusive"


def home() -> Path:
    """The folder of the evidence scripts: evidence belongs to the source tree, not to the installed package."""
    for root in (Path(__file__).parents[2], Path.cwd()):
        if (root / "evidence" / "results").is_dir():
            return root / "evidence"
    raise InputError("evidence", str(Path.cwd()), "is not a limbeck source tree; clone the project and run it there")


def load(key: str) -> tuple[str, Callable[..., Result]]:
    """A method's claim and its experiment."""
    card = find(key)
    path = home() / card.family / f"{key}.py"
    if not path.is_file():
        raise InputError("evidence", key, "has no experiment yet")
    root = str(home().parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    made = importlib.util.spec_from_file_location(f"evidence.{card.family}.{key}", path)
    assert made is not None and made.loader is not None
    module = importlib.util.module_from_spec(made)
    sys.modules[made.name] = module  # where a dataclass, hence a method of the script's own, looks for its module
    made.loader.exec_module(module)
    return module.CLAIM, module.evidence


def gather(key: str, seeds: Iterable[int], data: Path | None = None) -> Iterable[tuple[int, Result, float]]:
    """Run a method's experiment: (seed, result, seconds), one by one."""
    _, experiment = load(key)
    for seed in seeds:
        begun = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = experiment(seed, data)
        yield seed, result, time.perf_counter() - begun


def record(key: str, runs: Sequence[tuple[int, Result, float]], data: Path | None, *, write: bool) -> dict[str, object]:
    """Judge the runs and, for the experiment's own data, keep them beside the script."""
    import torch

    from limbeck.core.checkpoint import write_atomic

    claim, _ = load(key)
    results = [result for _, result, _ in runs]
    gains = [result.gain for result in results]
    found = interval(gains)
    kept: dict[str, object] = {
        "key": key,
        "claim": claim,
        "metric": results[0].metric,
        "versus": results[0].versus,
        "margin": results[0].margin,
        "verdict": verdict(gains, results[0].margin),
        "gain": {"mean": found[0], "low": found[1], "high": found[2]} if found else {"mean": gains[0]},
        "data": "the script's own" if data is None else data.name,
        "seeds": [{"seed": s, "seconds": round(t, 2), **asdict(r)} for s, r, t in runs],
        "versions": {"limbeck": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    if write and data is None:
        write_atomic(home() / "results" / f"{key}.json", json.dumps(kept, indent=1) + "\n")
    return kept


def recorded(key: str) -> dict[str, object] | None:
    """The evidence on record for a method, if any."""
    try:
        path = home() / "results" / f"{key}.json"
    except InputError:
        return None
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
