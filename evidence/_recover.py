"""Teachers with batch norm for the methods that recover images from them: trained once on the whole data, and kept."""

from __future__ import annotations

import torch
from torch import nn

from evidence._shared import fresh, kept
from limbeck.data.images import ImageSet
from limbeck.models.classifier import Classifier
from limbeck.models.load import load_classifier
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.use import StaticLogits, TeacherLabels, descend

__all__ = ["SHAKEN", "brief", "teacher"]

SHAKEN: dict[str, object] = {"lower": 0.5, "flip": False, "tau": 4.0}
"""On 8x8 digits: no crop of a few pixels, none turned around, and labels of ten classes at a lower temperature."""


def brief(made: SyntheticSet) -> SyntheticSet:
    """The same set, whose networks are trained for 200 steps."""
    assert isinstance(made.use, TeacherLabels | StaticLogits)
    made.use.steps = 200
    return made


def teacher(data: ImageSet, number: int, kind: str = "cnn-16-32-32") -> Classifier:
    """Trained on shifted and rotated images."""

    def learn(net: nn.Module) -> None:
        x, y = data.take(torch.arange(len(data)))
        descend(net, x, y, steps=600, rate=0.05, batch=64, augment="shift+rotate")

    net = fresh(1000 + number, lambda: load_classifier(kind, shape=data.shape, classes=data.classes))
    return kept(net, f"recover {kind} {data.fingerprint} {number}", number, learn)
