"""Shift invariance, which the student has neither from its architecture nor from its images: the paper's toy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from evidence._shared import accuracy, images, train
from limbeck.data.batches import Batches
from limbeck.data.images import ImageSet
from limbeck.data.noise import resized, shifted
from limbeck.methods.classification.hard_aug import HardAug
from limbeck.methods.classification.kd import KD
from limbeck.methods.classification.supervised import Supervised
from limbeck.models.augmentor import affine
from limbeck.models.classifier import Classifier
from limbeck.models.tiny import cnn, mlp
from limbeck.run.evidence import Result

CLAIM = (
    "From a convolutional teacher trained on shifted images, an MLP distilled on centred images with learnt "
    "augmentations recognises shifted test images better than one distilled on the centred images as they are."
)
STEPS, SMALLEST = 700, 12  # pixels: in smaller images a shift by half a pixel is a blur that the teacher never saw


def framed(data: ImageSet) -> ImageSet:
    """In a black frame of a quarter of the size, in which a shift loses nothing."""
    data = resized(data, max(SMALLEST, data.shape[1]))
    return replace(data, images=F.pad(data.images, [data.shape[1] // 4] * 4))


def evidence(seed: int, data: Path | None = None) -> Result:
    """Same first weights, data order, steps and optimiser in every arm."""
    pair = images(data)
    train_set, test = framed(pair.train), framed(pair.test)
    shape, classes = train_set.shape, len(train_set.classes)
    moved = shifted(test, shape[1] // 6, seed)  # as far as the frame reaches

    def shift(x: Tensor) -> Tensor:
        a = torch.zeros(len(x), 6)
        a[:, 4:] = (2 * torch.rand(len(x), 2) - 1) / 3
        return affine(x, a)

    def batches(augment: bool) -> Batches:
        return Batches(train_set, 64, seed=seed, augment=shift if augment else None)

    def student() -> Classifier:
        torch.manual_seed(seed + 1)
        return mlp(128, 128, shape=shape, classes=classes)

    torch.manual_seed(seed)
    teacher = cnn(8, 16, 32, shape=shape, classes=classes)
    train(Supervised(teacher), batches(True), STEPS, lr=1e-2)
    plain, ideal, hard = KD(student(), teacher), KD(student(), teacher), HardAug(student(), teacher)
    for method in (plain, ideal, hard):
        train(method, batches(method is ideal), STEPS)
    pixels = shape[1] / 2 * hard.augmentor.sigma[4:].mean()
    return Result(
        metric="accuracy on shifted test images, %",
        baseline=accuracy(plain.student, moved),
        method=accuracy(hard.student, moved),
        higher_is_better=True,
        versus="KD on the centred images",
        extra={
            "KD with random shifts": accuracy(ideal.student, moved),
            "on centred test images": accuracy(hard.student, test),
            "on centred test images, KD": accuracy(plain.student, test),
            "teacher": accuracy(teacher, moved),
            "learnt standard deviation of the shift, pixels": float(pixels.detach()),
        },
    )
