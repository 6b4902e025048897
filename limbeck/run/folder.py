"""A run's folder: what is in it, who may write to it, and the log of its trainings."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from limbeck.core.checkpoint import write_atomic
from limbeck.errors import InputError
from limbeck.run.outcome import Finding
from limbeck.run.spec import RunSpec, make_spec, read_yaml

__all__ = ["FitId", "Log", "RunFolder"]

UNFINISHED = re.compile(r"^\.(.+)\.part-\d+$")  # what a process was writing when it was killed: see core.checkpoint


class FitId(NamedTuple):
    """One of a run's trainings."""

    seed: int
    arm: str  # "control" or the method's key
    fit: str


class RunFolder:
    """The files of a run. A folder belongs to one run for good, and to one process at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run_file = root / "run.yaml"
        self.environment = root / "environment.json"
        self.preflight = root / "preflight.json"
        self.metrics = root / "metrics.jsonl"
        self.trials = root / "trials.json"
        self.report = root / "report.json"
        self.student = root / "student"
        self._lock: IO[str] | None = None

    def arm(self, seed: int, arm: str) -> Path:
        """Where a finished training's result is kept."""
        return self.root / "arms" / f"seed-{seed}-{arm}.json"

    def checkpoints(self, which: FitId) -> Path:
        """Where a training's checkpoints are kept."""
        return self.root / "checkpoints" / f"seed-{which.seed}" / which.arm / which.fit

    def check_new(self) -> None:
        """Refuse a folder that holds something.

        Raises:
            InputError: naming what to do instead.
        """
        if self.run_file.exists():
            raise InputError("--out", str(self.root), "holds another run; `limbeck resume` it or name another folder")
        ours = {self.environment.name, self.preflight.name, self.run_file.name, ".lock"}  # of a run killed as it began
        if self.root.exists() and not (
            self.root.is_dir() and {UNFINISHED.sub(r"\1", p.name) for p in self.root.iterdir()} <= ours
        ):
            raise InputError("--out", str(self.root), "is not an empty folder; name another")

    def begin(self, run_file: str, facts: Mapping[str, Any], findings: list[Finding]) -> None:
        """Take possession of a new folder. The run file comes last: it says that the rest is there.

        Raises:
            InputError: when another process was faster, or nothing can be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError("--out", str(self.root), f"cannot be made ({error.strerror}); name another") from None
        self.lock()
        self.check_new()
        write_atomic(self.environment, json.dumps(facts, indent=1) + "\n")
        write_atomic(self.preflight, json.dumps([f.model_dump() for f in findings], indent=1) + "\n")
        write_atomic(self.run_file, run_file)

    def go_on(self, spec: RunSpec, facts: Mapping[str, Any]) -> list[Finding]:
        """Take possession of the folder of this very run; gives what its preflight found.

        Raises:
            InputError: when the run or its data is another, or the folder is damaged.
        """
        if make_spec(read_yaml(self.run_file)) != spec:
            raise InputError("--out", str(self.root), "holds another run; `limbeck resume` it or name another folder")
        try:
            before = json.loads(self.environment.read_text(encoding="utf-8"))["data"]
            findings = [Finding(**f) for f in json.loads(self.preflight.read_text(encoding="utf-8"))]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError("folder", str(self.root), "is damaged; start anew in another") from None
        if before != facts["data"]:
            raise InputError("data", str(self.root), "has changed since this run began; start anew in another folder")
        self.lock()
        return findings

    def check_run(self) -> None:
        """Refuse a folder that holds no run.

        Raises:
            InputError: naming it.
        """
        if not self.run_file.is_file():
            raise InputError("folder", str(self.root), "holds no run (it has no run.yaml)")

    def lock(self) -> None:
        """Keep other processes out until this one ends, however it ends.

        Raises:
            InputError: when another process is at work here.
        """
        try:
            from fcntl import LOCK_EX, LOCK_NB, flock  # not on Windows: there, nobody is kept out
        except ImportError:
            return
        try:
            self._lock = (self.root / ".lock").open("w")
            flock(self._lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise InputError("folder", str(self.root), "is in use by another process; wait for it or end it") from None
        except OSError as error:
            raise InputError("folder", str(self.root), f"cannot be written ({error.strerror})") from None
        for path in [path for path in self.root.rglob(".*.part-*") if UNFINISHED.match(path.name)]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def unlock(self) -> None:
        """Let others in."""
        if self._lock is not None:
            self._lock.close()


class Log:
    """``metrics.jsonl``: one row for some steps of a training. After a resume it is as if nothing had happened.

    Args:
        path: the file; read when it is there.
        write: whether this process is the one that writes it.
    """

    def __init__(self, path: Path, *, write: bool = True) -> None:
        self.path, self.writes = path, write
        self.rows: list[dict[str, Any]] = []
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for line in text.splitlines():
            try:
                self.rows.append(json.loads(line))
            except ValueError:  # a line that was being written when the process was killed
                break
        if write and text != self._text():
            write_atomic(path, self._text())

    def of(self, which: FitId) -> list[dict[str, Any]]:
        """The rows of a training."""
        return [row for row in self.rows if (row["seed"], row["arm"], row["fit"]) == which]

    def rewind(self, which: FitId, step: int) -> None:
        """Forget what a training logged after a step: it is about to do those steps again."""
        kept = [r for r in self.rows if (r["seed"], r["arm"], r["fit"]) != which or r["step"] <= step]
        if len(kept) < len(self.rows):
            self.rows = kept
            if self.writes:
                write_atomic(self.path, self._text())

    def write(self, which: FitId, row: Mapping[str, Any]) -> None:
        """Append a row.

        Raises:
            InputError: when the disk is full.
        """
        self.rows.append({**which._asdict(), **row})
        if not self.writes:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.rows[-1]) + "\n")
        except OSError as error:
            raise InputError("output", str(self.path), f"cannot be written ({error.strerror}); free space") from None

    def _text(self) -> str:
        return "".join(json.dumps(row) + "\n" for row in self.rows)
