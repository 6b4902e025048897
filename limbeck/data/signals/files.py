"""The files of a store: read from anywhere, appended to so that a kill leaves whole lines and at most one torn one."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, brief

__all__ = ["FORMAT", "alone", "append", "as_line", "fetch", "manifest", "remote"]

FORMAT = 1


def as_line(shard: Mapping[str, Any]) -> bytes:
    """What says that a shard is whole."""
    return json.dumps(shard).encode() + b"\n"


def append(path: Path, line: bytes) -> None:
    """Add a line, on disk when this returns.

    Raises:
        InputError: when the disk is full or the file cannot be written.
    """
    try:
        with path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError("store", str(path), f"cannot be written ({error.strerror}); free space, then go on") from None


def manifest(folder: str) -> dict[str, Any]:
    """What a store says of itself.

    Raises:
        InputError: for no store, a damaged one and an unknown format.
    """
    try:
        held = json.loads(fetch(folder, "manifest.json"))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError("store", folder, "has a damaged manifest.json; capture to another folder") from None
    if held.get("format") != FORMAT:
        raise InputError("store", folder, f"has format {held.get('format')}, not {FORMAT}; capture it again")
    return held


def remote(folder: str) -> bool:
    """Whether its files must be fetched."""
    return "://" in folder


def fetch(folder: str, name: str, missing: bytes | None = None) -> bytes:
    """A file of a store; ``missing`` where there is none."""
    where = f"{folder.rstrip('/')}/{name}"
    try:
        if not remote(folder):
            return Path(where).read_bytes()
        if folder.startswith(("http://", "https://")):
            return _got(where)
        import fsspec

        with fsspec.open(where, "rb") as file:
            return file.read()  # type: ignore[union-attr]
    except Exception as error:  # every file system has exceptions of its own
        absent = isinstance(error, FileNotFoundError) or getattr(error, "code", 0) == 404
        if absent and missing is not None:
            return missing
        fix = "is no store: it has no manifest.json; capture one" if absent and name == "manifest.json" else ""
        raise InputError("store", folder, fix or f"gives no {name} ({brief(error)})") from None


def _got(url: str) -> bytes:
    """Over HTTP, in three tries."""
    for pause in (0.5, 2.0, 0.0):
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310
                return answer.read()
        except (OSError, http.client.HTTPException) as error:
            if pause == 0.0 or getattr(error, "code", 503) in (401, 403, 404):
                raise
            time.sleep(pause)
    raise AssertionError


@contextmanager
def alone(folder: Path) -> Generator[None]:
    """One process captures into a folder; the lock goes with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError("store", str(folder), f"cannot be written ({error.strerror}); choose another folder") from None
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows
            pass
        except OSError:
            raise InputError("store", str(folder), "is being captured by another process; wait for it") from None
        yield
