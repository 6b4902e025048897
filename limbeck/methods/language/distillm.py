"""DistiLLM: towards streamlined distillation for large language models (Ko et al., 2024).
https://arxiv.org/abs/2402.03898

    SKL_a(p, q) = KL(p || a p + (1 - a) q),    SRKL_a(p, q) = KL(q || (1 - a) p + a q),    p teacher, q student
    L = 1/N sum_t SRKL_a at the words of an answer, which is, with probability
        phi (1 - s / S)     the student's own, written now and put into a buffer   (phi until the buffer is full),
        phi s / S           an older one from the buffer,
        1 - phi             the data's
    phi <- min(phi + 0.1, 1) and L_prev <- L_val  when the validation loss L_val >= L_prev + eps

The mixture keeps ratios of probabilities, and so gradients, bounded. Writing is slow, so it is done early and rarely,
and only once the data's own answers no longer help; replay takes over as the student changes less.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, Update, roles
from limbeck.core.modules import freeze, unwrap
from limbeck.data.buffer import Replay
from limbeck.data.tokens import Tokens, prompts
from limbeck.errors import InputError
from limbeck.losses.vocabulary import SkewKL, SkewReverseKL, token_loss
from limbeck.methods.language._shared import answers, drawn_alike, held_out_loss
from limbeck.models.causal_lm import CausalLM

CARD = Card(
    key="distillm",
    title="DistiLLM: Towards Streamlined Distillation for Large Language Models",
    authors="Jongwoo Ko, Sungnyun Kim, Tianyi Chen, Se-Young Yun",
    year=2024,
    url="https://arxiv.org/abs/2402.03898",
    repo="https://github.com/jongwooko/distillm",
    family="language",
    summary="A bounded divergence, and the student's own answers, written rarely and used again.",
    modality="text",
    teacher="frozen",
    signal="logits",
    loop="on_policy",
    needs=("logits",),
    vanishes=("skew",),
    notes="L_val is the cross-entropy on rows held out of the training data, an epoch apart, as in the released code. "
    "Start from a supervised student. The paper adds a loss on pre-training text, which is left out. The buffer is the "
    "same in every process. Rows must not be packed.",
)
GAIN = 0.1


class DistiLLM(Method):
    """Skewed KL on a moving mixture of the data's answers and the student's own, new and old."""

    student: nn.Module
    teacher: nn.Module
    held: Sequence[Tokens] = ()
    _: KW_ONLY
    divergence: Literal["skew_reverse_kl", "skew_kl"] = "skew_reverse_kl"
    """Of student and mixture, or of teacher and mixture."""
    alpha: Positive = 0.1
    """Share of the first argument in the mixture, below 1. Paper: 0.1; 0.01 to 0.3 do as well."""
    phi: Fraction = 0.0
    """Share of batches with the student's own answers at the beginning."""
    eps: NonNegative = 0.1
    """Rise of the validation loss that raises phi."""
    capacity: Count = 1000
    """Rows of the buffer."""
    held_out: Fraction = 0.05
    """Share of the rows whose loss steers phi, and which are not trained on. 0: phi stays as it is."""
    every: Count | None = None
    """Steps between two looks at them; None for an epoch."""
    sample_tau: Positive = 1.0
    """Temperature at which answers are sampled."""
    longest: Count = 128
    """Words of an answer at most."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.objective = {"skew_kl": SkewKL, "skew_reverse_kl": SkewReverseKL}[self.divergence](self.alpha)
        self.replay = Replay(self.capacity)
        place = next(iter(self.student.parameters()), torch.empty(0)).device
        self.register_buffer("share", torch.tensor(self.phi, device=place))
        self.register_buffer("previous", torch.tensor(-1.0, device=place))

    def updates(self, batch: Tokens, clock: Clock) -> Generator[Update, bool, None]:
        """One step; phi is looked at between steps."""
        if clock.step == 0 and (self.phi or self.held):
            prompts(batch, 0)  # refuses packed rows now, not when the first answer is due
        if self.held and self.previous < 0:
            self.previous = held_out_loss(self.student, self.held)
        batch, fresh = self.chosen(batch, clock)
        with torch.no_grad():
            signal = self.teacher(batch.teacher_view)
        found = token_loss(self.objective, signal, self.student(batch), batch.weight).total
        taken = yield Update({"skew": found}, logs={"phi": self.share, "written": self.share.new_tensor(fresh)})
        if taken and self.held and self.every and (clock.step + 1) % self.every == 0:
            self.steer(held_out_loss(self.student, self.held))

    def chosen(self, batch: Tokens, clock: Clock) -> tuple[Tokens, float]:
        """The data's batch, the student's answers to it, or older ones; and whether answers were written now."""
        [drawn] = drawn_alike(1, self.share.device)
        phi = float(self.share)
        if drawn < phi * (1 - clock.fraction) or (drawn < phi and not self.replay.full):
            batch = answers(self.student, batch, longest=self.longest, tau=self.sample_tau)
            self.replay.add(batch)
            return batch, 1.0
        if drawn < phi:
            student = unwrap(self.student)
            assert isinstance(student, CausalLM)
            return self.replay.sample(len(batch.x), student.pad).to(batch.x.device), 0.0
        return batch, 0.0

    def steer(self, loss: Tensor) -> None:
        """Raise phi when the validation loss has risen by eps since phi was last raised, or since the beginning."""
        if loss >= self.previous + self.eps:
            self.share, self.previous = (self.share + GAIN).clamp(max=1.0), loss

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        """Hold rows out, and fit once."""
        method = cls(**roles(cls, setting), **values)
        data: Any = setting.data
        rows = data.dataset
        count = round(method.held_out * len(rows))
        if count:
            if count == len(rows):
                raise InputError("held_out", method.held_out, f"leaves none of {len(rows)} rows to train on")
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
            method.held = [rows.take(part) for part in order[:count].split(data.batch)]
            data = data.with_data(rows.subset(order[count:].sort().values.tolist()))
        method.every = method.every or len(data)
        setting.fit(method, data=data)
        return method.student
