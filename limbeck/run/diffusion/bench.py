"""What the checks of a run on samples look at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from limbeck.data.samples import SampleBatches, Samples
from limbeck.models.denoiser import Denoiser
from limbeck.run.checks.bench import Bench
from limbeck.run.diffusion.task import SampleTask

__all__ = ["SampleBench"]

TRIED = 16  # samples a training step is tried with
PROBED = 64  # held-out samples that the models are tried on


@dataclass(frozen=True, eq=False)
class SampleBench(Bench):
    """A run on samples under examination."""

    task: SampleTask

    @cached_property
    def student(self) -> Denoiser:
        return self.task.student(self.task.spec.first_seed)

    @cached_property
    def batches(self) -> SampleBatches:
        return self.task.batches(self.task.spec.first_seed)

    @cached_property
    def data(self) -> SampleBatches:
        """Small batches of a few samples; rows are numbered within them."""
        run = self.batches
        few = run.data.subset(torch.arange(min(4 * TRIED, len(run.data))))
        return SampleBatches(few, max(1, min(run.batch, TRIED, len(few))), seed=run.seed, drop_last=True)

    @cached_property
    def batch(self) -> Samples:
        return next(iter(self.data)).to(self.task.device)

    @cached_property
    def probe(self) -> Samples:
        """A few dozen held-out samples, where the models are."""
        test = self.task.test
        rows = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:PROBED]
        return self.task.units(test.subset(rows)).take(torch.arange(len(rows))).to(self.task.device)

    @cached_property
    def noise(self) -> torch.Tensor:
        """For the probe."""
        return torch.randn(self.probe.x.shape, generator=torch.Generator().manual_seed(1)).to(self.task.device)
