"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module

from limbeck import __version__
from limbeck.errors import InputError, nearest
from limbeck.run.usage import COMMANDS, overview


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 (it failed), 2 (bad input) or 130 (interrupted)."""
    words = sys.argv[1:] if arguments is None else arguments
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=UserWarning, module="limbeck")
        warnings.showwarning = lambda message, *_: _say(f"warning: {message}")
        return _main(words)


def _main(words: list[str]) -> int:
    try:
        if not words or words[0] in ("-h", "--help"):
            print(overview())
        elif words[0] == "--version":
            print(f"limbeck {__version__}")
        elif words[0] not in COMMANDS:
            raise InputError("command", words[0], "is not known" + nearest(words[0], COMMANDS))
        else:
            getattr(import_module("limbeck.run.commands"), words[0])(words[1:])
        sys.stdout.flush()
        return 0
    except InputError as error:
        _say(f"error: {error}")
        return 2
    except KeyboardInterrupt as interrupted:
        _say("; ".join(("interrupted", *map(str, interrupted.args))))
        return 130
    except SystemExit as finished:  # argparse, after --help
        return int(finished.code or 0)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("LIMBECK_DEBUG"):
            raise
        _say(f"error: {type(error).__name__}: {error} (LIMBECK_DEBUG=1 shows where)")
        return 1


def _say(text: str) -> None:
    line = " ".join(text.split())
    print("limbeck: " + "".join(c if c.isprintable() else "?" for c in line), file=sys.stderr)
