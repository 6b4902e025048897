"""The control of distilled data sets: as many real images, chosen at random, used in the same way.

    S = {x_i in T_k : i drawn without replacement},  per_class of every class k

What a distilled set is worth is what it does beyond this, with the same labels and the same augmentation, which Li et
al. (2024, DD-Ranking, https://github.com/NUS-HPC-AI-Lab/DD-Ranking) showed to be most of it for some methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any

from limbeck.core.card import Card
from limbeck.core.method import Count, Method, Setting
from limbeck.data.images import ImageSet
from limbeck.methods.dataset._shared import begun, real_images
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.use import Descent

CARD = Card(
    key="real_subset",
    title="A random subset",
    authors="folklore",
    year=2024,
    url="https://github.com/NUS-HPC-AI-Lab/DD-Ranking",
    family="dataset",
    summary="As many real images, chosen at random: the control of every distilled set.",
    modality="dataset",
    teacher="none",
    signal="none",
    loop="training_free",
)


class RealSubset(Method):
    """Random real images.

    Args:
        real: the images to choose from.
    """

    real: ImageSet
    _: KW_ONLY
    per_class: Count = 10
    """Images a class."""
    factor: Count = 1
    """Side of the square of smaller images that a stored one holds."""
    augment: str = "shift+rotate"
    """Of training on them."""

    def __post_init__(self) -> None:
        use = Descent(augment=self.augment)
        self.student: SyntheticSet = begun(self.real, self.per_class, factor=self.factor, use=use)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> SyntheticSet:
        return cls(real_images(setting), **values).student
