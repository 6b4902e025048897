"""A UNet that makes scikit-learn's digits in fifty steps, distilled into one that makes them in one.

    python recipes/digits_diffusion.py

Needs ``limbeck[vision,diffusion]``. The teacher, 1.1 M parameters on the cosine schedule, is trained with a tenth of
the labels left out, so that it can be guided, and written as a pipeline of diffusers: under four minutes on one core.
DMD2 then takes longer. The student is a pipeline too, and runs/digits-dmd2/report.html shows its digits beside the
teacher's at 1, 2, 4, 8 and 50 steps, from the same noise. A killed recipe goes on where it was.

Measured, one seed, beside other work: a Frechet distance of 1.02 in one step, in a digit classifier's features; the
control, trained as long without the teacher, 7.87 in one step; the teacher 7.67 in one step, 0.94 in four, 0.28 in
fifty.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

from limbeck import fit
from limbeck.cli import main
from limbeck.core.checkpoint import Checkpoint
from limbeck.core.schedule import Cosine
from limbeck.data.load import load_data
from limbeck.data.samples import SampleBatches, SampleSet
from limbeck.methods.diffusion.denoising import Denoising
from limbeck.models.load_denoiser import load_denoiser
from limbeck.models.save_denoiser import save_denoiser

TEACHER, OUT = Path("runs/digits-teacher"), Path("runs/digits-dmd2")
STEPS, BATCH = 1500, 64
DISTIL = f"run dmd2 --teacher {TEACHER} --data digits --steps 1000 --batch 64 --lr 0.0002 --seeds 1 --out {OUT}"


def teacher(folder: Path, steps: int = STEPS) -> None:
    """Train it, or go on where an earlier run stopped, and write the pipeline."""
    train = load_data("digits").train
    model = load_denoiser("unet-32-64-64", shape=train.shape, classes=train.classes)
    torch.manual_seed(0)
    fit(
        Denoising(model, target="v", unlabelled=0.1),
        SampleBatches(SampleSet.of(train), BATCH, drop_last=True),
        partial(torch.optim.AdamW, lr=2e-3, weight_decay=0.0, betas=(0.9, 0.99)),
        steps=steps, lr=Cosine(), clip=1.0, checkpoint=Checkpoint(folder.with_name(folder.name + "-part")),
    )  # fmt: skip
    save_denoiser(model, folder, card_text="Digits of 8x8 pixels, trained on scikit-learn's.")


if __name__ == "__main__":
    if not TEACHER.is_dir():
        teacher(TEACHER)
    sys.exit(main(["resume", str(OUT)] if OUT.joinpath("run.yaml").is_file() else DISTIL.split()))
