"""ResNet-56 to ResNet-8 on real CIFAR-10 images, three seeds, with its control.

    python recipes/cifar_resnet.py DIR

DIR holds ``cifar10_train.parquet`` and ``cifar10_test.parquet`` (columns ``image``, encoded, and ``label``) and
``cifar10_resnets/resnet56.safetensors``, a ResNet-56 of He et al. (2015) trained by others. Under 40 minutes on two
cores; a killed run goes on where it was. The result of the run that the README shows is in the README.
"""

from __future__ import annotations

import sys
from pathlib import Path

from limbeck.cli import main

RUN = (
    "run kd --student resnet8 --augment cifar --batch 128 --optimizer sgd --lr 0.1 --steps 1000 --eval-every 200 "
    "--seeds 3 --method.tau 4 --out runs/cifar"
)


def recipe(folder: Path) -> int:
    """Run it, or go on with it."""
    if Path("runs/cifar/run.yaml").is_file():
        return main(["resume", "runs/cifar"])
    data = ",".join(str(folder / f"cifar10_{part}.parquet") for part in ("train", "test"))
    teacher = f"resnet56@{folder / 'cifar10_resnets' / 'resnet56.safetensors'}"
    return main([*RUN.split(), "--data", data, "--teacher", teacher])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(recipe(Path(sys.argv[1])))
