"""What is known of a method, as a literal beside its code.

A card is read from the source with :mod:`ast`, so that listing hundreds of methods imports none of them.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from limbeck.errors import InputError, nearest

if TYPE_CHECKING:
    from limbeck.core.method import Method

__all__ = ["Card", "cards", "field_docs", "find", "method_class"]

METHODS = Path(__file__).parent.parent / "methods"


@dataclass(frozen=True, kw_only=True)
class Card:
    """The facts of one published method. Every value in the source is a literal.

    Args:
        key: its name in commands, files and the catalogue.
        title, authors, year, url: the source. ``repo`` is the official code, when there is some.
        family: the folder it lives in.
        summary: one plain sentence for people who have not read the paper.
        teacher: what plays the teacher.
        data: what a training sample must carry.
        signal: what is read from the teacher.
        loop: the shape of the procedure; ``training_free`` where no optimiser takes a step.
        needs: what the teacher must serve.
        tokenizers: whether a language model's teacher may have another one.
        makes: what comes out, where that is no student of the kind that went in; such a method is used from Python.
        vanishes: terms that are zero, with zero gradient, when student and teacher are the same network.
        stationary: terms whose gradient is zero then, though their value is not.
        fidelity: ``paper`` when every equation is the source's; ``reconstruction`` when some had to be assumed.
        notes: what was assumed, where paper and released code disagree, what the method costs.
    """

    key: str
    title: str
    authors: str
    year: int
    url: str
    family: str
    summary: str
    repo: str = ""
    modality: str = "any"
    teacher: Literal["none", "frozen", "online", "ensemble", "previous", "black_box", "trainable"]
    data: Literal["labelled", "unlabelled", "none"] = "labelled"
    signal: Literal["none", "logits", "features", "relations", "probabilities", "labels", "weights"]
    loop: Literal[
        "supervised", "self", "online", "alternating", "generations", "pipeline", "on_policy", "training_free"
    ] = "supervised"
    needs: tuple[
        Literal["labels", "probabilities", "logits", "features", "input_gradients", "weights", "topk", "text"], ...
    ] = ()
    tokenizers: Literal["same", "any"] = "same"
    makes: str = ""
    vanishes: tuple[str, ...] = ()
    stationary: tuple[str, ...] = ()
    fidelity: Literal["paper", "reconstruction"] = "paper"
    notes: str = ""


def _literal(path: Path) -> Card | None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "CARD":
            assert isinstance(node.value, ast.Call)
            return Card(**{k.arg: ast.literal_eval(k.value) for k in node.value.keywords if k.arg})
    return None


@cache
def cards() -> dict[str, Card]:
    """Every method's card by key, in the order of family and key."""
    found = (_literal(path) for path in sorted(METHODS.glob("*/[!_]*.py")))
    return {card.key: card for card in found if card is not None}


def find(key: str) -> Card:
    """The card of a method.

    Raises:
        InputError: naming the nearest key when there is none of that name.
    """
    known = cards()
    if key not in known:
        raise InputError("method", key, "is not known" + nearest(key, known))
    return known[key]


def module_of(card: Card) -> ModuleType:
    """The module that holds a card's method."""
    return import_module(f"limbeck.methods.{card.family}.{card.key}")


def method_class(card: Card) -> type[Method]:
    """The one public :class:`Method` that a card's module defines."""
    from limbeck.core.method import Method

    module = module_of(card)
    found = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Method) and c is not Method]
    [own] = [c for c in found if c.__module__ == module.__name__]
    return own


def field_docs(card: Card) -> dict[str, str]:
    """The docstrings below a method's fields, by field name."""
    own = method_class(card)
    tree = ast.parse((METHODS / card.family / f"{card.key}.py").read_text(encoding="utf-8"))
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == own.__name__]
    docs: dict[str, str] = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
            text = after.value
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                docs[node.target.id] = " ".join(text.value.split())
    return docs
