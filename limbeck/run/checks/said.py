"""What a check says."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["Said", "failed", "ok", "skipped", "warning"]


class Said(NamedTuple):
    """What a check found, and what to do about it."""

    status: Literal["ok", "warning", "failed", "skipped"]
    measured: str
    fix: str = ""


def ok(measured: str) -> Said:
    """Nothing to do."""
    return Said("ok", measured)


def warning(measured: str, fix: str) -> Said:
    """The run may go on, and its result may disappoint."""
    return Said("warning", measured, fix)


def failed(measured: str, fix: str) -> Said:
    """The run would be wrong."""
    return Said("failed", measured, fix)


def skipped(why: str) -> Said:
    """The check does not apply here."""
    return Said("skipped", why)
