"""Bad input, said in one line that names the field, the value and the fix."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Something the user gave cannot be used.

    The command line prints it as one line and exits with status 2; in Python it is a ``ValueError``.

    Args:
        field: what was wrong, as the user wrote it: ``method.tau``, ``--data``, a file's path.
        value: what it held.
        fix: what is wrong with it and what to do instead, in a few words.
    """

    def __init__(self, field: str, value: object, fix: str) -> None:
        self.field, self.value, self.fix = field, value, fix
        shown = str(value) if isinstance(value, str | int | float | bool) else repr(value)
        shown = " ".join(shown.split())
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        super().__init__(" ".join(f"{field}: {shown!r} {fix}".split()))


def brief(error: BaseException) -> str:
    """What an exception of another library says, in one line of bearable length."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= 200 else said[:197] + "..."


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'tau'?"``, or the known names when nothing is near."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" if names else ""
