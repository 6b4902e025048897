"""Secrets never reach a report: what looks like one is replaced before anything is written."""

from __future__ import annotations

import re
import shlex
from typing import Any

__all__ = ["REDACTED", "redact", "redact_command", "redact_text"]

REDACTED = "[redacted]"

# Words that end the name of a secret, and the "..._token" that are vocabulary, not credentials.
_SECRET = {
    "apikey", "auth", "authorization", "credential", "credentials", "passphrase", "passwd", "password", "pwd", "secret",
    "sig", "signature",
}  # fmt: skip
_KEYS = {"access", "account", "api", "encryption", "private", "secret", "signing"}
_VOCABULARY = {"bos", "cls", "eos", "image", "mask", "pad", "sep", "special", "start", "stop", "unk"}

_SHAPES = re.compile(
    r"""-----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?(?:-----END[ ][A-Z ]*PRIVATE[ ]KEY-----|\Z)
    | (?<=://)(?:[^\s/:@]*:(?!\d+/)\S*|(?!git@)[^\s/]+)(?=@)  # user:password@host
    | (?<![\w-])(?:
        hf_\w{16,} | npm_\w{20,} | gh[opsur]_\w{16,} | github_pat_\w{16,} | glpat-[\w-]{16,} | pypi-[\w-]{32,}
      | (?:sk|rk|pk)[-_][\w-]{16,} | xox[abeprs]-[\w-]{10,} | (?:AKIA|ASIA)[0-9A-Z]{16} | AIza[\w-]{30,}
      | eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?                 # a JSON web token
      )
    | (?<=Bearer[ ])[^\s'"]+ | (?<=Basic[ ])[A-Za-z0-9+/=]{12,}
    """,
    re.VERBOSE | re.DOTALL,
)
# name=value, in a query, an environment or a flag; and --name value.
_ASSIGNED = re.compile(r"""([A-Za-z][\w.-]*)(=)('[^']*'|"[^"]*"|[^\s&#'"]+)""")
_FLAG = re.compile(r"""(?<!\S)--([A-Za-z][\w.-]*)(\s+)(?!--)('[^']*'|"[^"]*"|\S+)""")


def _is_secret(name: str) -> bool:
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    words = words[:-1] if words[-1:] == ["id"] and words[-2:-1] == ["key"] else words
    *before, last = words or [""]
    if last in {"key", "token"}:
        previous = before[-1] if before else ""
        return previous in _KEYS if last == "key" else previous not in _VOCABULARY
    return last in _SECRET


def _hide(found: re.Match[str]) -> str:
    name, between, held = found[1], found[2], found[3]
    hidden = _is_secret(name) and held not in {REDACTED, "''", '""'}
    return found[0][: -len(between + held)] + between + (REDACTED if hidden else held)


def redact_text(text: str) -> str:
    """A text without what looks like a token, a key or a password."""
    return _FLAG.sub(_hide, _ASSIGNED.sub(_hide, _SHAPES.sub(REDACTED, text)))


def redact_command(command: str) -> str:
    """A command line without secrets, still one: taken apart where that is safe, so that quoting hides nothing."""
    try:
        words = shlex.split(command)
        if shlex.join(words) == command:
            return " ".join(_redact_words(words))
    except ValueError:
        pass
    return redact_text(command)


def _redact_words(words: list[str]) -> list[str]:
    shown: list[str] = []
    named = False  # the word before was the flag of a secret
    for word in words:
        name, equals, _ = word.partition("=")
        if named and not word.startswith("--"):
            shown.append(REDACTED)
        elif equals and re.fullmatch(r"-{0,2}[A-Za-z][\w.-]*", name) and _is_secret(name):
            shown.append(f"{name}={REDACTED}")
        else:
            clean = _ASSIGNED.sub(_hide, _SHAPES.sub(REDACTED, word))
            shown.append(clean if clean == REDACTED else shlex.quote(clean))
        named = word.startswith("--") and not equals and _is_secret(word)
    return shown


def redact(tree: Any, name: str = "") -> Any:
    """A tree of plain data with every secret replaced: by its shape anywhere, by its name in mappings."""
    match tree:
        case dict():
            return {k: redact(v, k if isinstance(k, str) and _is_secret(k) else name) for k, v in tree.items()}
        case list() | tuple():
            return [redact(v, name) for v in tree]
        case bool() | None:
            return tree
        case _ if name and tree != "":
            return REDACTED
        case str():
            return redact_text(tree)
        case _:
            return tree
