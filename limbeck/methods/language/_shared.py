"""Small pieces of several methods: answers of the student's own, the divergence between the two KLs."""

from __future__ import annotations

from torch import Tensor, nn

from limbeck.core.method import Setting
from limbeck.core.modules import unwrap
from limbeck.data.tokens import Tokens, continued, prompts
from limbeck.errors import InputError
from limbeck.losses.vocabulary import JSD, ForwardKL, ReverseKL
from limbeck.models.causal_lm import CausalLM

__all__ = ["answers", "divergence", "matched", "mean", "original"]


def answers(model: nn.Module, batch: Tokens, *, longest: int, tau: float = 1.0) -> Tokens:
    """The batch's prompts, each with an answer sampled from the model at temperature ``tau``, all of it to be learnt.

    Args:
        model: a :class:`CausalLM`, wrapped or not; sampled in eval mode, without gradient.
        batch: not packed, and without a view of another tokenizer.
        longest: tokens of an answer at most, also held by the model's context.
        tau: temperature of sampling; 0 is greedy.
    """
    inner = unwrap(model)
    assert isinstance(inner, CausalLM)
    ids, mask = prompts(batch, inner.pad)
    room = max(1, min(longest, inner.context - ids.shape[1]))
    said = inner.generate(ids, mask, longest=room, tau=tau)
    return continued(ids, mask, said, eos=inner.eos, pad=inner.pad)


def divergence(beta: float) -> ForwardKL | JSD | ReverseKL:
    """GKD's family by its number: forward KL at 0, generalised JSD between, reverse KL at 1."""
    return ForwardKL() if beta == 0 else ReverseKL() if beta == 1 else JSD(beta)


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
