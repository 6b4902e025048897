"""What the checks of a run on text look at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from limbeck.data.tokens import TokenBatches, Tokens, TokenSet
from limbeck.models.causal_lm import CausalLM
from limbeck.run.checks.bench import Bench
from limbeck.run.language.rows import spread
from limbeck.run.language.task import TextTask

__all__ = ["TextBench"]

TRIED = 256  # words a training step is tried with, in two to four rows: a real network takes seconds for them
PROBED = 1024  # held-out words that the models are tried on


@dataclass(frozen=True, eq=False)
class TextBench(Bench):
    """A run on text under examination."""

    task: TextTask

    @cached_property
    def student(self) -> CausalLM:
        return self.task.student(self.task.spec.first_seed)

    @cached_property
    def batches(self) -> TokenBatches:
        return self.task.batches(self.task.spec.first_seed)

    @cached_property
    def data(self) -> TokenBatches:
        """Small batches of the first rows, in the run's order; numbered within them, with the keys they have."""
        run, count = self.batches, min(16, len(self.task.train))
        view = None if run.view is None else run.view.subset(range(count))
        few = self.task.train.subset(range(count))
        rows = min(4, max(2, TRIED // max(len(row.ids) for row in few.rows)))
        return TokenBatches(few, max(1, min(run.batch, rows, count)), seed=run.seed, view=view)

    @cached_property
    def batch(self) -> Tokens:
        return next(iter(self.data)).to(self.task.device)

    @cached_property
    def probe(self) -> TokenSet:
        """A few held-out rows."""
        return spread(self.task.test, PROBED)

    @cached_property
    def teacher(self) -> CausalLM | None:
        """The first teacher, when it is a network in memory."""
        found = self.task.teachers[0] if self.task.teachers else None
        return found if isinstance(found, CausalLM) else None

    @property
    def double(self) -> nn.Module:
        """The teacher where it reads the student's tokens, else the student."""
        same = self.teacher is not None and self.task.view is None
        return self.teacher if same and self.teacher is not None else self.student

    @property
    def growth(self) -> float:
        longest = max(len(row.ids) for row in self.task.train.rows)
        return self.batches.batch * longest / self.batch.y.numel()
