"""limbeck: distillation of models, samplers and data, with a preflight, a control and a report.

The names below are loaded on first use, so that ``import limbeck`` and ``limbeck --help`` stay instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.core.card import Card as Card
    from limbeck.core.fit import fit as fit
    from limbeck.core.fit import iterate as iterate
    from limbeck.core.method import Clock as Clock
    from limbeck.core.method import Method as Method
    from limbeck.core.method import Update as Update
    from limbeck.core.modules import Ema as Ema
    from limbeck.core.modules import freeze as freeze

__version__ = "0.1.0"

_HOMES = {
    "Card": "card",
    "Clock": "method",
    "Ema": "modules",
    "Method": "method",
    "Update": "method",
    "fit": "fit",
    "freeze": "modules",
    "iterate": "fit",
}
__all__ = ["Card", "Clock", "Ema", "Method", "Update", "fit", "freeze", "iterate"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"limbeck.core.{_HOMES[name]}"), name)
