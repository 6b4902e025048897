"""The engine of ``losses/vocabulary.py``: one sweep over the tokens that never holds all logits.

A chunk of tokens is multiplied with the output heads, its losses and the gradient at its logits are computed in place,
and that gradient is multiplied back at once: when the forward ends, the gradients of hidden states and head are ready.
Chunks are as long as the matrix products need, the blocks of a chunk as short as the processor's cache wants them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from limbeck.errors import InputError
from limbeck.losses.objectives import InPlace, Objective
from limbeck.losses.signals import IGNORE, Sampled, Signal, TopK, Words

CHUNK, BLOCK = 24 << 20, 3 << 19
"""Bytes of the logits of a chunk and of a block, on a processor."""
ACCELERATOR = 512 << 20
"""Bytes of both elsewhere: a launch costs more than a pass."""
ONE_DNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
INFINITE = 1e30
"""What no finite value reaches: a word that the other side lacks stands at the lowest finite number."""


@dataclass(frozen=True)
class Job:
    """What a sweep needs to know, cut to the N tokens that count."""

    objective: Objective
    teacher: Signal
    student: Words
    weight: Tensor
    """(N,)."""
    extra: tuple[Tensor, ...]
    tau: float
    labels: Tensor | None
    label_weight: Tensor | None
    dtypes: tuple[torch.dtype, torch.dtype]
    """What the heads of teacher and student are multiplied in."""
    wanted: tuple[bool, bool, bool, bool]
    """Whether a gradient is wanted for the student's hidden states, weight, bias, and the teacher's hidden states."""


class Swept(NamedTuple):
    """Per-token values and the gradients of ``sum(weight values) + sum(label_weight ces)``, None when not wanted."""

    values: Tensor
    ces: Tensor
    gradients: tuple[Tensor | None, ...]


def lengths(tokens: int, words: int, device: torch.device) -> tuple[int, int]:
    """Tokens of a chunk and of a block."""
    chunk, block = (CHUNK, BLOCK) if device.type == "cpu" else (ACCELERATOR, ACCELERATOR)
    chunk = min(max(chunk // (4 * words), 1), max(tokens, 1))
    return chunk, min(max(block // (4 * words), 1), chunk)


def sweep(job: Job) -> Swept:
    """Go through the tokens once, in the precision that the job names whatever autocast says by now."""
    with torch.autocast(job.student.hidden.device.type, enabled=False):
        return _sweep(job)


def _sweep(job: Job) -> Swept:
    student, teacher, words = job.student, job.teacher, job.student.words
    device, n = student.hidden.device, len(student.hidden)
    kind = torch.float64 if job.dtypes[1] == torch.float64 else torch.float32
    chunk, block = lengths(n, words, device)
    room = torch.empty((3, block, words), dtype=kind, device=device)
    stored = torch.empty((block, words), dtype=kind, device=device) if isinstance(teacher, TopK) else None
    values, ces = torch.zeros((2, n), dtype=kind, device=device)
    factor = job.weight[:, None].to(kind) / job.tau
    if isinstance(job.objective, InPlace) and not job.wanted[3]:
        factor = factor * job.objective.gain
    ours = _Gradient(student, job.dtypes[1], job.wanted[:3], kind)
    theirs = None
    if isinstance(teacher, Words) and job.wanted[3]:
        theirs = _Gradient(teacher, job.dtypes[0], (True, False, False), kind)
    for begin in range(0, n, chunk):
        end = min(begin + chunk, n)
        q = logits(student, begin, end, job.dtypes[1], kind)
        p = logits(teacher, begin, end, job.dtypes[0], kind) if isinstance(teacher, Words) else None
        for first in range(begin, end, block):
            at = slice(first, min(first + block, end))
            here, m = slice(at.start - begin, at.stop - begin), at.stop - at.start
            if isinstance(teacher, TopK) and stored is not None:
                one = TopK(teacher.index[at], teacher.log_prob[at], teacher.size, teacher.tail).fill(stored[:m])
            else:
                one = None if p is None else p[here]
            values[at], ces[at] = _block(job, at, (one, q[here]), room[:, :m], factor[at])
        ours.add(q, begin, end, None if job.labels is not None else factor[begin:end])
        if theirs is not None and p is not None:
            theirs.add(p, begin, end, factor[begin:end])
        p = q = one = None  # freed before the next chunk's are made
    return Swept(values, ces, (*ours.done(), None if theirs is None else theirs.done()[0]))


def logits(words: Words, begin: int, end: int, dtype: torch.dtype, kind: torch.dtype) -> Tensor:
    """(end - begin, V), new, of some tokens: with bias, scale and cap."""
    hidden, V = words.hidden[begin:end], words.words
    if words.weight is None:
        z = hidden[:, :V].to(kind, copy=True)
    else:
        z = _linear(hidden.to(dtype), words.weight[:V].to(dtype)).to(kind)
    if words.bias is not None:
        z.add_(words.bias[:V].to(z))
    if words.scale != 1:
        z.mul_(words.scale)
    if words.softcap is not None:
        z.div_(words.softcap).tanh_().mul_(words.softcap)
    return z


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T``. With few rows, oneDNN's kernel is up to a third faster than the BLAS that ``mm`` calls."""
    if ONE_DNN is not None and x.device.type == "cpu" and x.dtype == torch.float32 and len(x):
        return ONE_DNN(x, weight, None, "none", [], "")
    return x @ weight.T


def _block(
    job: Job, at: slice, both: tuple[Tensor | None, Tensor], room: Tensor, factor: Tensor
) -> tuple[Tensor, Tensor]:
    """Values and cross-entropies of a block; ``q``, and ``p`` where wanted, become the gradient at the logits.

    It lacks ``factor`` unless there are labels: a factor of each token is cheaper on the hidden states.

    Args:
        job: the job.
        at: the block's tokens.
        both: (n, V) logits of the teacher, p, None when it was sampled; and of the student, q.
        room: (3, n, V).
        factor: (n, 1) what the gradient of each value is multiplied by.
    """
    (p, q), teacher, tau = both, job.teacher, job.tau
    slope = _slope(job.student, q)
    ces, ce_gradient = q.new_zeros(len(q)), None
    if job.labels is not None and job.label_weight is not None:
        labels = job.labels[at, None]
        blank, labels = labels == IGNORE, labels.clamp_min(0)
        label_weight = job.label_weight[at, None].to(q).masked_fill(blank, 0)
        ce_gradient = q.log_softmax(-1)
        ces = -ce_gradient.gather(-1, labels).masked_fill(blank, 0)[:, 0]
        ce_gradient.exp_().mul_(label_weight).scatter_add_(-1, labels, -label_weight)
    if p is None:
        values = _sampled(job, at, q, room[0])
    elif isinstance(job.objective, InPlace) and not job.wanted[3]:
        _normalise(q, tau, job.student, room[1])
        _normalise(p, tau, teacher, room[0])
        values = job.objective.in_place(p, q, *room)
        values.masked_fill_(values > INFINITE, torch.inf)
    else:
        their_slope = _slope(teacher, p) if job.wanted[3] and isinstance(teacher, Words) else None
        values = _any(job, at, p, q)
        if their_slope is not None:
            p.mul_(their_slope)
    if ce_gradient is not None:
        q.masked_fill_(factor == 0, 0)  # 0 times an infinite gradient: only the label counts there
        torch.addcmul(ce_gradient, q, factor, out=q)
    if slope is not None:
        q.mul_(slope)
    return values, ces


def _slope(words: Words, z: Tensor) -> Tensor | None:
    """The derivative of the cap at capped logits, ``1 - (z / cap)^2``."""
    return None if words.softcap is None else z.div(words.softcap).square_().neg_().add_(1)


def _any(job: Job, at: slice, p: Tensor, q: Tensor) -> Tensor:
    """Any objective, by autograd over the block."""
    with torch.enable_grad():
        z = q.detach().clone().requires_grad_(job.wanted[0] or job.wanted[1] or job.wanted[2])
        y = p.detach().clone().requires_grad_(job.wanted[3])
        values = job.objective(
            (y / job.tau).log_softmax(-1), (z / job.tau).log_softmax(-1), *(x[at] for x in job.extra)
        )
        if values.shape != q.shape[:1]:
            raise InputError("objective", tuple(values.shape), f"must return one value a token, {tuple(q.shape[:1])}")
        roots = [(x, into) for x, into in ((z, q), (y, p)) if x.requires_grad]
        if roots and values.requires_grad:
            found = torch.autograd.grad(values.sum(), [x for x, _ in roots], allow_unused=True, materialize_grads=True)
            for gradient, (_, into) in zip(found, roots):
                torch.mul(gradient, job.tau, out=into)
        else:
            q.zero_()
            p.zero_()
    return values.detach()


def _sampled(job: Job, at: slice, q: Tensor, mass: Tensor) -> Tensor:
    """``- sum_i w_i q_{index_i}``; ``q`` becomes its gradient."""
    assert isinstance(job.teacher, Sampled)
    index, weight = job.teacher.index[at], job.teacher.weight[at].to(q)
    _normalise(q, 1, job.student, mass)
    values = -(weight * q.gather(-1, index)).sum(-1)
    torch.mul(mass, weight.sum(-1, keepdim=True), out=q).scatter_add_(-1, index, -weight)
    return values


def _normalise(z: Tensor, tau: float, source: Signal, mass: Tensor) -> None:
    """``mass`` becomes ``softmax(z / tau)`` and ``z`` its logarithm.

    The largest entry gives the normaliser without another exponential. A masked word gets the lowest finite number,
    since 0 times that is 0.
    """
    if tau != 1:
        z.div_(tau)
    torch.softmax(z, -1, out=mass)
    z.sub_(z.amax(-1, keepdim=True)).add_(mass.amax(-1, keepdim=True).log_())  # one by one: large logits keep digits
    if not isinstance(source, Words) or source.weight is None:  # a head makes no -inf
        z.clamp_(min=torch.finfo(z.dtype).min)


class _Gradient:
    """Sums what the logits of each chunk give the hidden states and the head."""

    def __init__(self, words: Words, dtype: torch.dtype, wanted: tuple[bool, bool, bool], kind: torch.dtype) -> None:
        self.words, self.dtype = words, dtype
        self.hidden = torch.zeros_like(words.hidden) if wanted[0] else None
        self.weight = None if words.weight is None or not wanted[1] else torch.zeros_like(words.weight, dtype=kind)
        self.bias = None if words.bias is None or not wanted[2] else torch.zeros_like(words.bias, dtype=kind)

    def add(self, z: Tensor, begin: int, end: int, factor: Tensor | None) -> None:
        """The gradient at a chunk's scaled logits, to be multiplied by ``factor`` (n, 1)."""
        words, V, dtype = self.words, self.words.words, self.dtype
        factor = z.new_ones((len(z), 1)) if factor is None else factor
        factor = factor * words.scale
        if words.weight is None:
            if self.hidden is not None:
                self.hidden[begin:end, :V] = z * factor
            return
        if self.bias is not None:
            self.bias[:V] += factor[:, 0] @ z
        z = z.to(dtype)
        if self.hidden is not None:
            self.hidden[begin:end] = _linear(z, words.weight[:V].to(dtype).T) * factor
        if self.weight is not None:
            hidden = (words.hidden[begin:end] * factor).to(dtype)
            if dtype == self.weight.dtype:
                self.weight[:V].addmm_(z.T, hidden)
            else:
                self.weight[:V] += z.T @ hidden

    def done(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """In the dtypes of what they belong to."""
        head, bias = self.words.weight, self.words.bias
        weight = None if self.weight is None or head is None else self.weight.to(head.dtype)
        return self.hidden, weight, None if self.bias is None or bias is None else self.bias.to(bias.dtype)


class Chunked(torch.autograd.Function):
    """``(total, ce, values)`` with the gradient computed in the forward.

    What is kept is the gradient of ``total + ce``. Where the two are not scaled alike afterwards, the backward sweeps
    again.
    """

    @staticmethod
    def forward(ctx: Any, job: Job, *inputs: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs: the student's hidden states, weight and bias, and the teacher's hidden states, as in ``job``."""
        found = sweep(job)
        ctx.job = None if job.labels is None else job
        ctx.save_for_backward(*found.gradients, *(() if job.labels is None else inputs))
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(found.values)
        ce = found.ces if job.label_weight is None else job.label_weight.to(found.ces) * found.ces
        total = (job.weight.to(found.values) * found.values).masked_fill(job.weight == 0, 0)
        return total.sum(), ce.sum(), found.values

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """The gradients that the forward kept, scaled."""
        total, ce, _ = grad_outputs
        gradients, scale, job = ctx.saved_tensors[:4], total, ctx.job
        if job is not None and not (total is not None and ce is not None and bool(total == ce)):
            hidden, weight, bias, teacher = ctx.saved_tensors[4:]  # by way of torch, which sees if they have changed
            job = replace(
                job,
                student=job.student._replace(hidden=hidden, weight=weight, bias=bias),
                teacher=job.teacher if teacher is None else job.teacher._replace(hidden=teacher),
                weight=job.weight * (0 if total is None else total),
                label_weight=job.label_weight * (0 if ce is None else ce),
            )
            gradients, scale = sweep(job).gradients, None
        if scale is not None and bool(scale != 1):
            gradients = [None if g is None else g * scale.to(g) for g in gradients]
        return None, *gradients
