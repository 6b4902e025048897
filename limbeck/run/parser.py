"""The argument parser of every command: argparse with one-line errors."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from limbeck.errors import InputError, nearest
from limbeck.run.usage import COMMANDS, EXAMPLES

__all__ = ["Parser", "dashed", "parser_of", "whole"]


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are :class:`InputError`: one line, with the nearest name."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def parse_all(self, arguments: list[str]) -> dict[str, Any]:
        """Every flag that was given, by its destination."""
        found, rest = self.parse_known_args([dashed(word) for word in arguments])
        if rest:
            flags = [flag for action in self._actions for flag in action.option_strings]
            name = rest[0].split("=")[0]
            if name.startswith("-"):
                raise InputError(name, " ".join(rest[1:2]), "is no flag of this command" + nearest(name, flags))
            raise InputError(self.prog, name, "is one word too many; flags begin with --")
        return vars(found)

    def error(self, message: str) -> NoReturn:
        """Argparse's own complaints, as one of ours."""
        field, _, fix = message.removeprefix("argument ").partition(": ")
        raise InputError(field if fix else self.prog, "", fix or message)


def parser_of(command: str, usage: str) -> Parser:
    """The parser of a command, with what it is for and its examples."""
    what = COMMANDS[command]
    return Parser(
        prog=f"limbeck {command}", usage=f"limbeck {command} {usage}", description=what[0].upper() + what[1:] + ".",
        epilog=f"examples:\n{EXAMPLES[command]}",
    )  # fmt: skip


def dashed(word: str) -> str:
    """``--teacher_view`` is ``--teacher-view``: a flag is its field, whichever way it is written."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def whole(flag: str, text: str, low: int) -> int:
    """The whole number that a flag was given.

    Raises:
        InputError: for anything else, and for less than ``low``.
    """
    if not text.isdecimal() or int(text) < low:
        raise InputError(flag, text, f"must be a whole number, {low} or more")
    return int(text)
