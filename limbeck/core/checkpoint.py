"""Checkpoints that survive ``kill -9``: written beside, synced, renamed; checksummed; no pickle.

A checkpoint is a folder ``step-00000200`` with ``tensors.safetensors`` (every tensor of the state), ``state.json``
(the rest) and ``sha256`` (of both). The newest whole one is loaded; a damaged one is skipped with a warning.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from limbeck.errors import InputError

__all__ = ["Checkpoint", "atomic_folder", "restore_rng", "rng_state", "write_atomic"]

TIME_EVERY = 16  # steps between looks at the clock where several processes must agree on what it says


class Checkpoint:
    """Where a fit keeps its state, and how often.

    Args:
        folder: made when the first checkpoint is written.
        every: steps between two checkpoints; 0 for none by steps.
        seconds: seconds between two checkpoints; 0 for none by time. The last step is always kept.
        keep: how many of the newest stay on disk; at least 2, so that a damaged one has a predecessor.
    """

    def __init__(self, folder: Path | str, *, every: int = 0, seconds: float = 30.0, keep: int = 2) -> None:
        self.folder, self.every, self.seconds, self.keep = Path(folder), every, seconds, max(keep, 2)
        self._last = time.monotonic()

    def due(self, step: int, steps: int, agree: Callable[[bool], bool] | None = None) -> bool:
        """Whether the state after ``step`` of ``steps`` steps should be written.

        ``agree`` makes one process's answer everybody's, where several run with clocks of their own.
        """
        by_steps = self.every > 0 and step % self.every == 0
        by_time = self.seconds > 0 and time.monotonic() - self._last >= self.seconds
        if agree is not None and self.seconds > 0:
            by_time = step % TIME_EVERY == 0 and agree(by_time)
        return step == steps or by_steps or by_time

    def save(self, step: int, state: Mapping[str, Any], *, write: bool = True) -> None:
        """Write the state after ``step`` steps, whole or not at all.

        Tensors that are spread over processes are gathered, so every process calls this, one with ``write``.

        Raises:
            InputError: when the disk is full or the folder cannot be written.
        """
        tensors: dict[str, Tensor] | None = {} if write else None
        plain = _flatten(dict(state), "", tensors)
        self._last = time.monotonic()
        if tensors is None:
            return
        for abandoned in self.folder.glob(".step-*.part-*"):  # by a process that was killed while it wrote
            shutil.rmtree(abandoned, ignore_errors=True)
        with atomic_folder(self.folder / f"step-{step:08d}") as part:
            save_file(tensors, part / "tensors.safetensors")
            (part / "state.json").write_text(json.dumps(plain), encoding="utf-8")
            (part / "sha256").write_text(_digest(part), encoding="utf-8")
        written = sorted(self.folder.glob("step-*"))
        later = [path for path in written if _step(path) > step]  # damaged, or the run would have gone on from there
        for old in later + [path for path in written if path not in later][: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """The newest whole checkpoint as (steps done, state), or ``None`` when there is none."""
        for path in sorted(self.folder.glob("step-????????"), reverse=True):
            try:
                if (path / "sha256").read_text(encoding="utf-8") != _digest(path):
                    raise ValueError("its checksum fails")
                plain, tensors = json.loads((path / "state.json").read_bytes()), load_file(path / "tensors.safetensors")
                return _step(path), _restore(plain, tensors)
            except (OSError, ValueError, KeyError) as error:
                warnings.warn(f"checkpoint {path.name} is damaged ({error}); using the one before it", stacklevel=2)
        return None


class atomic_folder:
    """``with atomic_folder(target) as part:`` fills a folder beside ``target`` and renames it when all went well."""

    def __init__(self, target: Path) -> None:
        self.target, self.part = target, target.with_name(f".{target.name}.part-{os.getpid()}")

    def __enter__(self) -> Path:
        try:
            shutil.rmtree(self.part, ignore_errors=True)
            self.part.mkdir(parents=True)
        except OSError as error:
            raise _unwritable(self.target, error) from None
        return self.part

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            if kind is None:
                for path in [*self.part.rglob("*"), self.part]:
                    _sync(path)
                shutil.rmtree(self.target, ignore_errors=True)
                self.part.rename(self.target)
                _sync(self.target.parent)
                return
        except OSError as failed:
            error = failed
        shutil.rmtree(self.part, ignore_errors=True)
        if isinstance(error, OSError) or "SafetensorError" in type(error).__name__:
            raise _unwritable(self.target, error) from None


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file's content, whole or not at all.

    Raises:
        InputError: when the disk is full or the folder cannot be written.
    """
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        _sync(part)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):  # where a file stands in the folder's place, even this fails
            part.unlink()
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: BaseException | None) -> InputError:
    reason = getattr(error, "strerror", None) or str(error)
    return InputError("output", str(path), f"cannot be written ({reason}); free space or choose another folder")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(folder: Path) -> str:
    digests: list[str] = []
    for name in ("tensors.safetensors", "state.json"):
        with (folder / name).open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return "\n".join(digests)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _flatten(tree: Any, path: str, tensors: dict[str, Tensor] | None) -> Any:
    """JSON of a tree, its tensors put aside under their paths; tuples and integer keys survive the round trip.

    Without ``tensors`` they are gathered from all processes and dropped.
    """
    match tree:
        case Tensor():
            whole: Tensor = getattr(tree, "full_tensor", lambda: tree)()
            if tensors is None:
                return None
            name = path if path not in tensors else f"{path}#{len(tensors)}"
            tensors[name] = whole.detach().cpu().clone().contiguous()
            return {"$tensor": name}
        case tuple():
            return {"$tuple": [_flatten(v, f"{path}/{i}", tensors) for i, v in enumerate(tree)]}
        case list():
            return [_flatten(v, f"{path}/{i}", tensors) for i, v in enumerate(tree)]
        case Mapping():
            return {"$dict": [[k, _flatten(v, f"{path}/{k}", tensors)] for k, v in tree.items()]}
        case np.ndarray():
            return {"$array": _flatten(torch.from_numpy(tree.copy()), path, tensors)}
        case np.generic():
            return tree.item()
        case bool() | int() | float() | str() | None:
            return tree
        case _:
            raise TypeError(f"{path}: a {type(tree).__name__} cannot be kept in a checkpoint")


def _restore(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(plain, list):
        return [_restore(v, tensors) for v in plain]
    if not isinstance(plain, dict):
        return plain
    [(kind, held)] = plain.items()
    match kind:
        case "$tensor":
            return tensors[held]
        case "$tuple":
            return tuple(_restore(v, tensors) for v in held)
        case "$array":
            return _restore(held, tensors).numpy()
        case _:
            return {k: _restore(v, tensors) for k, v in held}


def rng_state() -> dict[str, Any]:
    """The state of every global random generator: torch, CUDA, NumPy, Python."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda, "numpy": np.random.get_state(), "python": random.getstate()}  # noqa: NPY002


def restore_rng(state: Mapping[str, Any]) -> None:
    """Put the global random generators back."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])
