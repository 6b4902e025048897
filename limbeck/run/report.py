"""The report of a run: ``report.json`` for programs, ``report.html`` for people.

The page is one file: no script, no font, no image and no request beyond it, which its own content security policy
enforces. Class names, commands and file names come from users, so everything is escaped.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from limbeck import __version__
from limbeck.core.checkpoint import write_atomic
from limbeck.errors import InputError
from limbeck.run.outcome import TAGS, VERSION, Outcome
from limbeck.run.redact import redact, redact_command
from limbeck.run.words import sentence

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

__all__ = ["read_outcome", "render", "sentence", "write_report"]


def write_report(outcome: Outcome, folder: Path) -> Path:
    """Write ``report.json`` and ``report.html`` into a run's folder, each whole or not at all, without secrets.

    Returns:
        The path of the page.

    Raises:
        InputError: when the folder cannot be written.
    """
    from limbeck.run.view import view

    clean = cleaned(outcome)
    page = render("report.html", **view(clean))
    write_atomic(folder / "report.json", clean.model_dump_json(indent=1) + "\n")
    write_atomic(folder / "report.html", page)
    return folder / "report.html"


def cleaned(outcome: Outcome) -> Outcome:
    """The outcome without secrets."""
    plain = redact(outcome.model_dump())
    return Outcome.model_validate({**plain, "command": redact_command(outcome.command), "classes": outcome.classes})


def read_outcome(folder: Path) -> Outcome:
    """What a run found.

    Raises:
        InputError: when the folder holds no finished run, the file is damaged, or a newer limbeck wrote it.
    """
    path = folder / "report.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        fix = "finish the run with `limbeck resume`" if (folder / "run.yaml").exists() else "name the folder of a run"
        raise InputError("run", str(folder), f"holds no report.json; {fix}") from None
    except OSError as error:
        raise InputError("run", str(path), f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise InputError("run", str(path), "is damaged: it is not JSON; run again into another folder") from None
    version = facts.get("version") if isinstance(facts, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise InputError("run", str(path), f"has version {version}, newer than {VERSION}; upgrade limbeck")
    try:
        return Outcome.model_validate(facts)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"] if part not in TAGS) or "the whole"
        raise InputError("run", str(path), f"is damaged at {where}; run again into another folder") from None


def render(template: str, **values: object) -> str:
    """A page from the templates beside this file."""
    return _environment().get_template(template).render(version=__version__, **values)


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(nice=nice, ticked=ticked, link=link)
    return made


def nice(text: str) -> str:
    """Typography of numbers and sentences: a true minus, and no break within an interval or before a unit."""
    text = re.sub(r"(?<![\w.\-])-(?=\d)", "\N{MINUS SIGN}", text).replace("'", "\N{RIGHT SINGLE QUOTATION MARK}")
    text = re.sub(r"(?<=\[)([^\]\s]+), ([^\]\s]+)(?=\])", "\\1,\N{NO-BREAK SPACE}\\2", text)
    return re.sub(r"(?<=\d) (?=%|(?:points|seeds?|ms|µs|[kMGT]B?)\b)", "\N{NO-BREAK SPACE}", text)


def ticked(text: str) -> Markup:
    """Escaped text whose `backticks` are code, ending with a full stop."""
    from markupsafe import Markup, escape

    text = text if text.endswith((".", "!", "?")) or not text else text + "."
    parts = [escape(part) for part in text.split("`")]
    code = Markup("<code>{}</code>")
    return Markup("").join(code.format(part) if i % 2 and i < len(parts) - 1 else part for i, part in enumerate(parts))


def link(url: object) -> str:
    """The address when it leads to the web, else nothing: a card cannot bring a script into the page."""
    return str(url) if re.match(r"https?://", str(url)) else ""
