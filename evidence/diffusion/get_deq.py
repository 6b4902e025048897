"""GET on images of a few pixels: one tied block, iterated six times, and the same block run once."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import TEACHER, batches, digits, digits_teacher, distilled, fid, judge, made
from limbeck.methods.diffusion.get_deq import GetDEQ
from limbeck.models.tiny_denoiser import mlp
from limbeck.run.evidence import Result

CLAIM = (
    "An equilibrium transformer whose block is iterated six times comes nearer to where its teacher ends, from noise "
    "it has not seen, than a transformer of the same weights that runs its block once, trained as often on the same "
    "pairs."
)
STEPS, PAIRS = 400, 2000


def evidence(seed: int, data: Path | None = None) -> Result:
    """Both see the same pairs in the same order."""
    real, teacher, eyes = digits(data), digits_teacher(data, seed), judge(data)
    ends = made(teacher, 1000, seed, sampler=TEACHER)[0]

    def arm(iterations: int) -> tuple[float, float]:
        torch.manual_seed(seed + 1)
        student = distilled(
            GetDEQ, lambda: mlp(8, 1, shape=teacher.shape), teacher, batches(real, seed, 64), STEPS, lr=3e-3,
            pairs=PAIRS, steps=9, patch=4, iterations=iterations,
        )  # fmt: skip
        return float((made(student, 1000, seed)[0] - ends).abs().mean()), fid(student, eyes, real, seed)

    (six, near), (one, far) = arm(6), arm(1)
    return Result(
        metric="mean absolute distance to the teacher's fifty steps from the same noise, one step",
        baseline=one,
        method=six,
        higher_is_better=False,
        versus="the same weights and pairs, the block run once",
        extra={"Frechet distance in a digit classifier's features": near, "that of the block run once": far},
    )
