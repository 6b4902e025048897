"""Models by reference: a small network's name, a folder, the Hugging Face Hub, a function of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from limbeck.models.classifier import Classifier

__all__ = ["load_classifier", "save_classifier"]


def load_classifier(
    reference: str, *, shape: Sequence[int] | None = None, classes: int | Sequence[str] | None = None, seed: int = 0
) -> Classifier:
    """The classifier that a reference names."""
    raise NotImplementedError(reference)


def save_classifier(model: Classifier, folder: Path, *, reference: str | None = None, card_text: str = "") -> None:
    """Write a classifier so that ``load_classifier(folder)`` reads back the same, bit for bit."""
    raise NotImplementedError(reference)
