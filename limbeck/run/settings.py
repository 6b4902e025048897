"""Settings as a report shows them: values, nested facts, the command over several lines, the run file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

__all__ = ["broken", "flat", "run_file", "shown"]


def shown(value: object) -> str:
    """A setting's value as one would write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested facts as dotted names."""
    found: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return found


def broken(command: str) -> str:
    """A command over several lines that a shell still takes as one; left alone where taking it apart changes it."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    if shlex.join(words) != command.replace("[redacted]", "'[redacted]'"):
        return command
    parts = [shlex.quote(word) for word in words]
    return " ".join(f"\\\n  {part}" if word.startswith("--") else part for word, part in zip(words, parts, strict=True))


def run_file(tree: Mapping[str, Any]) -> str:
    """As YAML, in the order given."""
    import yaml

    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)
