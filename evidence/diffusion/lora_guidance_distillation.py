"""LoRA guidance distillation on digits: what one call with merged adapters keeps of the accuracy that two guided
calls have."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import accuracy_of, batches, digits, digits_teacher, distilled, fid, judge
from limbeck.methods.diffusion.lora_guidance_distillation import LoRAGuidanceDistillation
from limbeck.models.denoiser import Guided
from limbeck.models.sampling import Ode
from limbeck.run.evidence import Result

CLAIM = (
    "With adapters that learnt what guidance says, one call a step recovers at least nine tenths of what two guided "
    "calls "
    "gain in the accuracy of the asked class."
)
SCALE, STEPS, BUDGET = 3.0, 20, 500


def evidence(seed: int, data: Path | None = None) -> Result:
    """The baseline is the unguided accuracy and nine tenths of the way to the guided one."""
    teacher, eyes, real = digits_teacher(data, seed), judge(data), digits(data)
    torch.manual_seed(seed)
    student = distilled(
        LoRAGuidanceDistillation, lambda: teacher, teacher, batches(real, seed, 128), BUDGET, 2e-3,
        guidance=SCALE, rank=8,
    )  # fmt: skip
    noise, y = teacher.noise(2000, torch.Generator().manual_seed(seed)), torch.arange(2000) % len(teacher.classes)

    def accuracy(model: object) -> float:
        with torch.no_grad():
            return accuracy_of(eyes, Ode(STEPS)(model, noise, y), y)  # type: ignore[arg-type]

    plain, guided = accuracy(teacher), accuracy(Guided(teacher, SCALE))
    return Result(
        metric="accuracy of the asked class by a digit classifier, one call a step, %",
        baseline=plain + 0.9 * (guided - plain),
        method=accuracy(student),
        higher_is_better=True,
        versus="nine tenths of the way from unguided to guided",
        extra={
            "unguided, %": plain,
            "guided, two calls, %": guided,
            "trained share of the weights, %": _share(teacher),
            "Frechet distance": fid(student, eyes, real, seed, Ode(STEPS)),
            "Frechet distance, unguided": fid(teacher, eyes, real, seed, Ode(STEPS)),
        },
    )


def _share(teacher: object) -> float:
    from limbeck.models.low_rank import adapted

    model = adapted(teacher, 8)  # type: ignore[arg-type]
    learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return 100.0 * learnt / sum(p.numel() for p in model.parameters())
