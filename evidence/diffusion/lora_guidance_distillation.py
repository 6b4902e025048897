"""LoRA guidance distillation on digits: how near one call with merged adapters comes to two guided calls."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._diffusion import accuracy_of, batches, digits, digits_teacher, distilled, features, judge
from limbeck.diagnostics.generation import frechet
from limbeck.methods.diffusion.lora_guidance_distillation import LoRAGuidanceDistillation
from limbeck.models.denoiser import Guided
from limbeck.models.sampling import Ode
from limbeck.run.evidence import Result

CLAIM = (
    "With adapters that learnt what guidance says, one call a step covers at least nine tenths of the Frechet distance "
    "between the samples of one unguided call and those of two guided calls a step."
)
SCALE, STEPS, BUDGET = 3.0, 20, 700


def evidence(seed: int, data: Path | None = None) -> Result:
    """The baseline is a tenth of the distance between unguided and guided samples, from the same noise."""
    teacher, eyes, real = digits_teacher(data, seed), judge(data), digits(data)
    torch.manual_seed(seed)
    student = distilled(
        LoRAGuidanceDistillation, lambda: teacher, teacher, batches(real, seed, 128), BUDGET, 2e-3,
        guidance=SCALE, rank=16,
    )  # fmt: skip
    noise, y = teacher.noise(2000, torch.Generator().manual_seed(seed)), torch.arange(2000) % len(teacher.classes)

    @torch.no_grad()
    def draw(model: object) -> torch.Tensor:
        return Ode(STEPS)(model, noise, y)  # type: ignore[arg-type]

    guided, plain, one = (draw(model) for model in (Guided(teacher, SCALE), teacher, student))
    wanted = features(eyes, guided)
    return Result(
        metric="Frechet distance to the guided sampler's samples in a digit classifier's features",
        baseline=frechet(features(eyes, plain), wanted) / 10,
        method=frechet(features(eyes, one), wanted),
        higher_is_better=False,
        versus="a tenth of the unguided sampler's distance",
        extra={
            "accuracy of the asked class unguided, %": accuracy_of(eyes, plain, y),
            "accuracy guided, two calls, %": accuracy_of(eyes, guided, y),
            "accuracy with adapters, one call, %": accuracy_of(eyes, one, y),
            "trained share of the weights, %": _share(teacher),
        },
    )


def _share(teacher: object) -> float:
    from limbeck.models.low_rank import adapted

    model = adapted(teacher, 16)  # type: ignore[arg-type]
    learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return 100.0 * learnt / sum(p.numel() for p in model.parameters())
