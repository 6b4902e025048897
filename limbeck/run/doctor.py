"""What this machine offers: versions, devices, extras, space."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from limbeck import __version__

__all__ = ["checks", "environment", "extras", "installed"]

CORE = ("torch", "numpy", "safetensors", "accelerate", "torchdata", "pydantic", "rich", "jinja2", "matplotlib")


def installed(name: str) -> str | None:
    """A distribution's version, or ``None``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def extras() -> dict[str, list[str]]:
    """For each extra of limbeck, the distributions that are missing: none when it works."""
    try:
        wanted = requires("limbeck") or []
    except PackageNotFoundError:  # run from a source tree that is not installed
        return {}
    missing: dict[str, list[str]] = {}
    for text in wanted:
        found = re.fullmatch(r"([\w.-]+).*;\s*extra == ['\"]([\w-]+)['\"]", text)
        if found and found[1] != "limbeck":
            missing.setdefault(found[2], []).extend([] if installed(found[1]) else [found[1]])
    return missing


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
        "versions": {name: found for name in CORE if (found := installed(name))},
    }


def checks() -> list[tuple[str, str, str]]:
    """Rows of (what, found, fix); a fix is empty where all is well."""
    facts = environment()
    python = "" if sys.version_info >= (3, 11) else "limbeck needs Python 3.11 or newer"
    rows = [("limbeck", facts["limbeck"], ""), ("python", facts["python"], python)]
    rows += [(name, installed(name) or "missing", "" if installed(name) else f"pip install {name}") for name in CORE]
    rows += [("processor", f"{facts['cores']} cores, {facts['threads']} torch threads, {facts['system']}", "")]
    rows += [("accelerator", "; ".join(facts["accelerators"]) or "none: everything runs on the processor", "")]
    from limbeck.run.control import cache_folder

    for name, path in (("disk here", Path.cwd()), ("control cache", cache_folder())):
        at = next(p for p in (path, *path.parents) if p.exists())
        free = shutil.disk_usage(at).free / 2**30
        writable = "" if os.access(at, os.W_OK) else f"{at} cannot be written"
        rows.append((name, f"{free:.0f} GiB free in {path}", writable or ("" if free > 1 else "free some space")))
    for name, lacking in extras().items():
        rows.append((f"extra {name}", ", ".join(lacking) + " missing" if lacking else "complete", ""))
        if lacking:
            rows[-1] = (rows[-1][0], rows[-1][1], f"pip install 'limbeck[{name}]' if you need it")
    return rows
