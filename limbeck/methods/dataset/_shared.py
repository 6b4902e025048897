"""What the methods that make data sets share: the real images of a run, the set they begin with, networks to unroll."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.method import Method, Setting
from limbeck.core.modules import Taps, eval_mode, freeze
from limbeck.data.augment import augmentation
from limbeck.data.batches import images_behind
from limbeck.data.by_class import ClassBatches
from limbeck.data.images import ImageSet
from limbeck.data.representatives import representatives
from limbeck.errors import InputError
from limbeck.models.classifier import Classifier
from limbeck.models.synthetic import SyntheticSet, initial
from limbeck.models.use import Use

__all__ = ["alike", "begun", "distilled", "drawn_seed", "fitted", "real_images", "representative", "unrollable"]


def real_images(setting: Setting) -> ImageSet:
    """The images behind a run's batches, those with a label.

    Raises:
        InputError: when the batches come from no set of images.
    """
    data = images_behind(setting.data)
    known = data.labels >= 0
    return data if bool(known.all()) else data.subset(known.nonzero().squeeze(1))


def drawn_seed() -> int:
    """A seed from torch's global generator, so that one seed decides everything."""
    return int(torch.randint(2**31, ()))


def begun(
    real: ImageSet, per_class: int, *, how: str = "real", factor: int = 1, rates: Sequence[float] = (),
    use: Use | None = None,
) -> SyntheticSet:  # fmt: skip
    """The set that a method begins with; the choice of images follows torch's global generator."""
    return initial(real, per_class, how=how, factor=factor, seed=drawn_seed(), rates=rates, use=use)


def distilled(cls: type[Method], setting: Setting, values: Mapping[str, Any], per_class: int) -> SyntheticSet:
    """The procedure of most of them: the method on the run's images and one of its networks, fitted once on batches of
    ``per_class`` real images of every class."""
    return fitted(cls, setting, values, per_class).student


def fitted(cls: type[Method], setting: Setting, values: Mapping[str, Any], per_class: int) -> Any:
    """The method itself after that procedure."""
    real = real_images(setting)
    method: Any = cls(real, setting.student(), **values)  # type: ignore[call-arg]
    setting.fit(method, data=ClassBatches(real, per_class, seed=drawn_seed()))
    return method


def alike(change: str, shape: tuple[int, int, int]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """An augmentation that draws once for both of its arguments and all of their images (Zhao and Bilen 2021,
    https://arxiv.org/abs/2102.08259): real and synthetic images are turned alike, and the gradient passes."""
    drawn = augmentation(change, shape, same=True)

    def apply(real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        if drawn is None:
            return real, made
        both = drawn(torch.cat([real, made]))
        return both[: len(real)], both[len(real) :]

    return apply


def unrollable(net: nn.Module) -> nn.Module:
    """The network, frozen: its structure is used with parameters of an unrolled training.

    Raises:
        InputError: when it keeps statistics of batches, which are no function of parameters.
    """
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules()):
        raise InputError("student", type(net).__name__, "has batch norm, whose statistics cannot be unrolled; "
                         "take a network without, such as convnet-32x2")  # fmt: skip
    return freeze(net)


@torch.no_grad()
def representative(real: ImageSet, net: Classifier, per_class: int) -> Tensor:
    """The rows of so many images of every class that are nearest to the centres of its clusters, by a network's last
    features; a class with no more than that is taken whole. The first centres follow torch's global generator."""
    found, last = list[Tensor](), Taps(f"{net.head}:in")
    with eval_mode(net):
        for k in range(len(real.classes)):
            own = (real.labels == k).nonzero().squeeze(1)
            parts = (real.take(part)[0].to(net.mean.device) for part in own.split(512))
            features = torch.cat([last(net, x)[1][0].flatten(1) for x in parts])
            found.append(own[representatives(features, per_class, drawn_seed())])
    return torch.cat(found)
