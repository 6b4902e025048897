"""Small pieces of several methods: answers of the student's own, the divergence between the two KLs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from limbeck.core.method import Setting
from limbeck.core.modules import eval_mode, gather, unwrap
from limbeck.data.tokens import IGNORE, Tokens, continued, prompts
from limbeck.errors import InputError
from limbeck.losses.vocabulary import JSD, ForwardKL, ReverseKL, word_log_probs
from limbeck.models.causal_lm import CausalLM

__all__ = [
    "Verifier", "answers", "divergence", "drawn_alike", "each_row", "exact", "held_out_loss", "matched", "mean",
    "original", "repeated",
]  # fmt: skip

Verifier = Callable[[Tokens, Tokens], Tensor]
"""Answers (B rows) and the batch that has their prompts and completions, row by row, to rewards (B,) float."""


def answers(model: nn.Module, batch: Tokens, *, longest: int, tau: float = 1.0) -> Tokens:
    """The batch's prompts, each with an answer sampled from the model at temperature ``tau``, all of it to be learnt.

    Args:
        model: a :class:`CausalLM`, wrapped or not; sampled in eval mode, without gradient.
        batch: not packed, and without a view of another tokenizer.
        longest: tokens of an answer at most, also held by the model's context.
        tau: temperature of sampling; 0 is greedy.

    Raises:
        InputError: for what is no model in memory: a store or a server writes nothing here.
    """
    inner = unwrap(model)
    if not isinstance(inner, CausalLM):
        raise InputError("answers", type(inner).__name__, "cannot write any; give a model in memory")
    ids, mask = prompts(batch, inner.pad)
    room = max(1, min(longest, inner.context - ids.shape[1]))
    said = inner.generate(ids, mask, longest=room, tau=tau)
    return continued(ids, mask, said, eos=inner.eos, pad=inner.pad)


def drawn_alike(count: int, device: torch.device) -> list[float]:
    """Numbers in [0, 1), the same in all processes: where one of them answers a batch itself, all do."""
    return gather(torch.rand(count).to(device)[None])[0].tolist()


def divergence(beta: float) -> ForwardKL | JSD | ReverseKL:
    """GKD's family by its number: forward KL at 0, generalised JSD between, reverse KL at 1."""
    return ForwardKL() if beta == 0 else ReverseKL() if beta == 1 else JSD(beta)


@torch.no_grad()
def held_out_loss(model: nn.Module, batches: Iterable[Tokens]) -> Tensor:
    """Cross-entropy of the words to learn, nats a word, in eval mode: a scalar that is equal in all processes."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))  # a stored teacher has no parameters
    total, count = torch.zeros(1, device=device), 0
    with eval_mode(model):
        for batch in batches:
            batch = batch.to(device)
            total, count = total - word_log_probs(model(batch), batch.y).sum(), count + int(batch.mask.sum())
    return gather(total)[0] / count


def mean(values: Tensor, batch: Tokens) -> Tensor:
    """The mean over the words to learn of values (B, T)."""
    return (batch.weight * values).sum()


def original(setting: Setting) -> CausalLM:
    """The one network that a student is cut out of.

    Raises:
        InputError: unless the run has exactly one teacher, and that is a network in memory.
    """
    if len(setting.teachers) != 1:
        raise InputError("teacher", len(setting.teachers), "teachers were given; the student is cut out of exactly one")
    [found] = setting.teachers
    if not isinstance(found, CausalLM):
        raise InputError("teacher", type(found).__name__, "has no weights to copy; give a model in memory")
    return found


def matched(student: int, teacher: int, layers: str = "skip") -> list[tuple[int, int]]:
    """Blocks that learn from each other, (student's, teacher's), as many pairs as the shallower has.

    Args:
        student: blocks.
        teacher: blocks.
        layers: ``skip`` spreads them evenly and ends with the last of both; ``last`` takes the last ones.
    """
    n = min(student, teacher)
    if layers == "last":
        return [(student - n + k, teacher - n + k) for k in range(n)]
    return [(round(k * student / n) - 1, round(k * teacher / n) - 1) for k in range(1, n + 1)]


def each_row(batch: Tokens) -> Tensor:
    """(B, T) weights under which a sum is the mean over rows of the mean over a row's words to learn."""
    mask = batch.mask
    return mask / mask.sum(1, keepdim=True).clamp(min=1) / len(mask)


def repeated(batch: Tokens, count: int, of: Tensor | None = None) -> Tokens:
    """Every row ``count`` times, one after another, or those rows that ``of`` (B,) says; without bytes and view."""
    rows = torch.arange(len(batch.x), device=batch.x.device)
    return batch.rows((rows if of is None else rows[of]).repeat_interleave(count))


def exact(said: Tokens, batch: Tokens) -> Tensor:
    """The verifier that needs nothing else: 1 where an answer is the row's completion, word for word, else 0."""
    rows = zip(said.y, batch.y, strict=True)
    return torch.tensor([float(a[a != IGNORE].equal(b[b != IGNORE])) for a, b in rows], device=batch.y.device)
