"""Divergences over the vocabulary of a language model, from hidden states and output heads.

The logits of N tokens over V words take N V numbers, and a divergence computed plainly a dozen times that. Here tokens
are taken in chunks, and the gradient is computed in the forward (the idea of Hsu et al., 2024, Liger Kernel,
https://arxiv.org/abs/2410.10989), so that nothing of size N x V is held. Softmax is in float32. Which equation each
objective computes is said in ``losses/objectives.py``; what is compared, in ``losses/signals.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from limbeck.errors import InputError
from limbeck.losses._chunks import Chunked, Job, lengths
from limbeck.losses.divergence import entropy
from limbeck.losses.objectives import (
    JSD,
    CrossEntropy,
    Decoupled,
    ForwardKL,
    InPlace,
    Objective,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    TotalVariation,
    decoupled,
)  # fmt: skip
from limbeck.losses.signals import IGNORE, Sampled, Signal, TopK, Words, cut, multiplied_in

__all__ = [
    "JSD",
    "CrossEntropy",
    "Decoupled",
    "ForwardKL",
    "ReverseKL",
    "Sampled",
    "Signal",
    "SkewKL",
    "SkewReverseKL",
    "TokenLoss",
    "TopK",
    "TotalVariation",
    "Words",
    "decoupled",
    "sample_words",
    "token_loss",
    "token_values",
    "top_k_words",
    "word_entropy",
    "word_log_probs",
]


class TokenLoss(NamedTuple):
    """What ``token_loss`` found."""

    total: Tensor
    """``sum_n weight_n value_n``, with its gradient."""
    values: Tensor
    """The objective at each token, detached; 0 where the weight is 0."""
    ce: Tensor | None
    """``sum_n label_weight_n CE(label_n)`` at temperature 1, with its own gradient; None without labels."""


def token_loss(
    objective: Objective,
    teacher: Signal,
    student: Words,
    weight: Tensor,
    *extra: Tensor,
    tau: float = 1.0,
    labels: Tensor | None = None,
    label_weight: Tensor | None = None,
    teacher_gradient: bool = False,
) -> TokenLoss:
    """``sum_n weight_n objective(p_n, q_n)``, p the teacher and q the student, in chunks of tokens.

    A mean is a weight: ``mask / mask.sum()``. The factor tau^2 is the caller's. Weigh ``total`` against ``ce`` through
    the weights too: when the two are scaled unequally afterwards, the backward sweeps a second time.

    Args:
        objective: one of this module's, or ``(p, q, *extra) -> (n,)`` of natural log-probabilities (n, V) at ``tau``,
            whose rows must not depend on each other. It may be called with any number of rows.
        teacher: live words, or a stored signal. Gets no gradient unless ``teacher_gradient``.
        student: its hidden states, head and bias get gradients where they ask for them.
        weight: one a token, of the tokens' shape. Tokens of weight 0 are dropped first. Gets no gradient.
        extra: more tensors that begin with the tokens' shape, handed to ``objective``. Get no gradient.
        tau: temperature of both, > 0.
        labels: int64 next words of the tokens' shape, -100 where there is none, for ``ce``.
        label_weight: one a token; ``weight`` when None.
        teacher_gradient: whether the hidden states of a live teacher get a gradient as well.

    Raises:
        InputError: for numbers of words or shapes that differ, a signal that the objective cannot use, labels that are
            not words.
    """
    if not tau > 0:
        raise InputError("tau", tau, "must be positive")
    words, shape = student.words, student.hidden.shape[:-1]
    _check(objective, teacher, words, tau, teacher_gradient)
    for name, x in (
        ("teacher", _leading(teacher)),
        ("weight", weight),
        ("labels", labels),
        ("label_weight", label_weight),
    ):
        if x is not None and x.shape != shape:
            raise InputError(name, tuple(x.shape), f"must have the tokens' shape, {tuple(shape)}")
    label_weight = None if labels is None else (weight if label_weight is None else label_weight)
    counts = weight != 0
    if labels is not None and label_weight is not None:
        counts = counts | ((label_weight != 0) & (labels != IGNORE))
        _are_words(labels, words)
    keep = counts.flatten().nonzero()[:, 0]
    student, teacher, extra = (
        student.rows(keep),
        teacher.rows(keep),
        tuple(cut(x, keep, x.ndim - len(shape)).detach() for x in extra),
    )
    live = teacher if isinstance(teacher, Words) else None
    inputs = (student.hidden, student.weight, student.bias, live.hidden if live and teacher_gradient else None)
    job = Job(
        objective, teacher, student, cut(weight, keep, 0).detach(), extra, tau,
        None if labels is None else cut(labels, keep, 0),
        None if label_weight is None else cut(label_weight, keep, 0).detach(),
        (multiplied_in(live or student), multiplied_in(student)),
        (
            torch.is_grad_enabled() and inputs[0].requires_grad,
            torch.is_grad_enabled() and inputs[1] is not None and inputs[1].requires_grad,
            torch.is_grad_enabled() and inputs[2] is not None and inputs[2].requires_grad,
            torch.is_grad_enabled() and inputs[3] is not None and inputs[3].requires_grad,
        ),
    )  # fmt: skip
    total, ce, found = Chunked.apply(job, *inputs)
    values = found.new_zeros(counts.numel()).index_copy_(0, keep, found.masked_fill(job.weight == 0, 0))
    return TokenLoss(total, values.view(shape), None if labels is None else ce)


@torch.no_grad()
def top_k_words(
    words: Words, k: int, chunk: int | None = None, *, tail: Literal["uniform", "none"] = "uniform"
) -> TopK:
    """The k likeliest words of each token, in chunks of ``chunk`` tokens (by memory when None).

    Raises:
        InputError: when ``k`` is not in 1 to the number of words.
    """
    V, shape = words.words, words.hidden.shape[:-1]
    if not 1 <= k <= V:
        raise InputError("k", k, f"must be in 1 to {V}")
    found = [q.topk(k, -1) for q in _log_prob_chunks(words, chunk)]
    value, index = (torch.cat(x).view(*shape, k) for x in zip(*found))
    return TopK(index, value, V, tail)


@torch.no_grad()
def sample_words(words: Words, k: int, generator: torch.Generator | None = None, chunk: int | None = None) -> Sampled:
    """k words of each token with weight 1/k, by systematic sampling: word w comes floor or ceil of ``k p_w`` times.

    Each is drawn from p by one shift of k evenly spaced points of the cumulated distribution, which is unbiased and
    varies less than independent draws; the weights of a token sum to one.

    Raises:
        InputError: when ``k`` is not positive.
    """
    V, shape = words.words, words.hidden.shape[:-1]
    if k < 1:
        raise InputError("k", k, "must be positive")
    device = words.hidden.device
    points = torch.arange(k, dtype=torch.float64, device=device)
    drawn: list[Tensor] = []
    for q in _log_prob_chunks(words, chunk):
        shift = torch.rand((len(q), 1), dtype=torch.float64, generator=generator, device=device)
        below = q.double().exp().cumsum(-1)
        drawn.append(torch.searchsorted(below, (points + shift) / k * below[:, -1:], right=True).clamp_max(V - 1))
    index = torch.cat(drawn).view(*shape, k)
    return Sampled(index, torch.full_like(index, 1 / k, dtype=torch.float32), V)


def word_log_probs(words: Words, labels: Tensor, tau: float = 1.0) -> Tensor:
    """``log q_n(label_n)``, differentiable and in chunks: (...) int64 -> (...); 0 where the label is -100.

    The logits of a chunk are computed a second time in the backward.

    Raises:
        InputError: for labels that are not words or not of the tokens' shape.
    """
    if labels.shape != words.hidden.shape[:-1]:
        raise InputError(
            "labels", tuple(labels.shape), f"must have the tokens' shape, {tuple(words.hidden.shape[:-1])}"
        )
    _are_words(labels, words.words)
    flat = labels.flatten()

    def chosen(q: Tensor, at: slice) -> Tensor:
        return q.gather(-1, flat[at, None].clamp_min(0))[:, 0].masked_fill(flat[at] == IGNORE, 0)

    return token_values(words, chosen, tau)


def word_entropy(words: Words, tau: float = 1.0) -> Tensor:
    """``H(q_n)`` in nats, differentiable and in chunks as ``word_log_probs``: -> (...)."""
    return token_values(words, lambda q, _: entropy(q), tau)


def token_values(words: Words, f: Callable[[Tensor, slice], Tensor], tau: float = 1.0) -> Tensor:
    """Any function of each token's distribution, differentiable, in chunks recomputed in the backward: -> (...).

    Args:
        words: over (...) tokens.
        f: ``(q, at) -> (n,)`` of natural log-probabilities (n, V) at ``tau``, those of the tokens ``at`` of all tokens
            laid end to end.
        tau: temperature.
    """
    flat = words.hidden.flatten(0, -2)

    def part(hidden: Tensor, weight: Tensor | None, bias: Tensor | None, at: slice) -> Tensor:
        return f(words._replace(hidden=hidden[at], weight=weight, bias=bias).log_probs(tau), at)

    step, _ = lengths(len(flat), words.words, flat.device)
    spans = [slice(begin, begin + step) for begin in range(0, len(flat), step)]
    done = [checkpoint(part, flat, words.weight, words.bias, at, use_reentrant=False) for at in spans]
    return (torch.cat(done) if done else flat.sum(-1)).view(words.hidden.shape[:-1])


def _log_prob_chunks(words: Words, chunk: int | None) -> Iterator[Tensor]:
    """(n, V) a chunk."""
    flat = words.hidden.flatten(0, -2)
    step = chunk or lengths(len(flat), words.words, flat.device)[0]
    for begin in range(0, max(len(flat), 1), step):
        yield words._replace(hidden=flat[begin : begin + step]).log_probs()


def _leading(signal: Signal) -> Tensor:
    """Something of the tokens' shape."""
    return (signal.hidden if isinstance(signal, Words) else signal.index)[..., 0]


def _are_words(labels: Tensor, words: int) -> None:
    real = labels[labels != IGNORE]
    if real.numel() and (int(real.min()) < 0 or int(real.max()) >= words):
        span = f"{int(real.min())} to {int(real.max())}"
        raise InputError("labels", span, f"must lie in 0 to {words - 1}, or be {IGNORE} where there is none")


def _check(objective: Objective, teacher: Signal, words: int, tau: float, teacher_gradient: bool) -> None:
    """Refuse what would train towards something else."""
    theirs = teacher.words if isinstance(teacher, Words) else teacher.size
    if theirs != words:
        fix = f"must be the student's, {words}: say with size= how many rows of a padded head are words"
        raise InputError("teacher's number of words", theirs, fix)
    if teacher_gradient and not isinstance(teacher, Words):
        raise InputError("teacher_gradient", True, "needs a live teacher, not a stored signal")
    if isinstance(teacher, Sampled):
        if not (isinstance(objective, InPlace) and objective.linear):
            fix = "is not linear in the teacher: drawn words serve ForwardKL() and CrossEntropy(); store TopK or hidden"
            raise InputError("objective", objective, fix)
        if tau != 1:
            raise InputError("tau", tau, "must be 1 with drawn words: they say what is likely at temperature 1")
