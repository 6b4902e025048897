"""What this machine offers: versions, devices, extras, space."""

from __future__ import annotations

import os
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from limbeck import __version__
from limbeck.run.outcome import Finding

__all__ = ["checks", "environment", "installed"]


def installed(name: str) -> str | None:
    """A distribution's version, or ``None``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def wanted() -> dict[str, list[str]]:
    """The distributions that limbeck asks for, by extra; those that it cannot do without under ``""``."""
    try:
        asked = requires("limbeck") or []
    except PackageNotFoundError:  # run from a source tree that is not installed
        return {"": ["torch"]}
    found: dict[str, list[str]] = {"": []}
    for text in asked:
        read = re.fullmatch(r"([\w.-]+)[^;]*(?:;\s*extra == ['\"]([\w-]+)['\"])?", text)
        if read and read[1] != "limbeck":
            found.setdefault(read[2] or "", []).append(read[1])
    return found


def environment() -> dict[str, Any]:
    """Versions and devices, as a run's ``environment.json`` keeps them."""
    import torch

    accelerators: list[str] = []
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            accelerators.append(f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    elif torch.backends.mps.is_available():
        accelerators.append("Apple GPU (mps)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "limbeck": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores,
        "threads": torch.get_num_threads(),
        "accelerators": accelerators,
        "versions": {name: found for name in wanted()[""] if (found := installed(name))},
    }


def checks() -> list[Finding]:
    """What is fine here, and what is not."""
    from limbeck.run.control import cache_folder

    facts = environment()
    rows = [_row("limbeck", facts["limbeck"]), _row("python", facts["python"])]
    for name in wanted()[""]:
        rows.append(_row(name, installed(name) or "missing", "" if installed(name) else f"pip install {name}"))
    rows.append(_row("processor", f"{facts['cores']} cores, {facts['threads']} torch threads, {facts['system']}"))
    rows.append(_row("accelerator", "; ".join(facts["accelerators"]) or "none: everything runs on the processor"))
    for name, path in (("disk here", Path.cwd()), ("control cache", cache_folder())):
        at = next(p for p in (path, *path.parents) if p.exists())
        free = shutil.disk_usage(at).free / 2**30
        fix = f"make {at} writable" if not os.access(at, os.W_OK) else "free some space" if free < 1 else ""
        rows.append(_row(name, f"{free:.0f} GiB free in {path}", fix))
    for name, asked in sorted(wanted().items()):
        if not name:
            continue
        lacking = [distribution for distribution in asked if installed(distribution) is None]
        said = f"{', '.join(lacking)} missing; pip install 'limbeck[{name}]' if needed" if lacking else "complete"
        rows.append(Finding(name=f"extra {name}", status="skipped" if lacking else "ok", measured=said))
    return rows


def _row(name: str, measured: str, fix: str = "") -> Finding:
    return Finding(name=name, status="failed" if fix else "ok", measured=measured, fix=fix)
