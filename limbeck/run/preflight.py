"""The preflight: proves in seconds that a run is not one of the silent failures that the field knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from limbeck.core.card import Card
from limbeck.core.checkpoint import restore_rng, rng_state
from limbeck.errors import InputError
from limbeck.run.checks.bench import Bench
from limbeck.run.checks.said import Said
from limbeck.run.outcome import Finding
from limbeck.run.task import Task

__all__ = ["preflight"]

GATES = ("teacher's capabilities", "vocabulary")  # behind one that failed, no step can be tried


def preflight(task: Task, card: Card, values: Mapping[str, Any]) -> list[Finding]:
    """Examine a run before it starts. Nothing of the run is changed: not its models, not a random generator.

    Args:
        task: the models and data of the run.
        card: the method's card.
        values: the method's hyper-parameters.

    Returns:
        One finding a check, in the order of the task's checks; a teacher that cannot serve the method, or has other
        words, ends it at once.

    Raises:
        InputError: when the method cannot be built from these models and values.
    """
    return list(_findings(task.bench(card, values)))


def _findings(bench: Bench) -> Iterator[Finding]:
    for name, check in bench.task.checks.items():
        kept = rng_state()
        try:
            with torch.enable_grad():
                said = check(bench)
        except InputError:
            raise
        except Exception as error:  # a method or a network of the user's may raise anything; that is the finding
            said = Said("failed", f"{type(error).__name__}: {error}"[:300], "The run would stop here too.")
        finally:
            restore_rng(kept)
        yield Finding(name=name, status=said.status, measured=said.measured, fix=said.fix)
        if name in GATES and said.status == "failed":
            return
