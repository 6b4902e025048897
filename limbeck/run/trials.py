"""Numbers that a run measures beside its trainings, each of them once: a kill costs the one that was being measured."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from limbeck.core.checkpoint import write_atomic
from limbeck.run.progress import Show

__all__ = ["Trials"]


@dataclass(frozen=True)
class Trials:
    """Measures, keeps what was measured in a file of the run's folder, and shows how far it is.

    Args:
        path: the file, JSON.
        show: what a person sees.
        of: what is tried, such as a seed and an arm: the same names of others are other numbers.
        write: whether this process is the one that writes.
    """

    path: Path
    show: Show
    of: str
    write: bool = True

    def __call__(self, what: str, makes: Mapping[str, Callable[[], float]]) -> list[float]:
        """The number of every name: what the file says, else what its function gives. Accuracies, in [0, 1]."""
        known = self._known()
        keys = {name: f"{self.of}, {what}, {name}" for name in makes}
        have = sum(key in known for key in keys.values())
        self.show.begin(f"{self.of}  {what}", have, len(makes))
        for name, make in makes.items():
            if keys[name] in known:
                continue
            known[keys[name]], have = make(), have + 1
            if self.write:
                write_atomic(self.path, json.dumps(known, indent=1) + "\n")
            self.show.step(have, {"logs": {}, "accuracy": known[keys[name]]})
        self.show.end()
        return [known[key] for key in keys.values()]

    def _known(self) -> dict[str, float]:
        if not self.path.is_file():
            return {}
        try:
            return {str(key): float(value) for key, value in json.loads(self.path.read_bytes()).items()}
        except (ValueError, AttributeError, TypeError) as error:
            warnings.warn(f"{self.path.name} is damaged ({error}); its numbers are measured again", stacklevel=3)
            return {}
