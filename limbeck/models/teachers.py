"""Teachers of language models behind one interface: called with a batch of tokens, they answer with a signal.

A frozen :class:`limbeck.models.causal_lm.CausalLM` is one. Here are an ensemble, the student without its adapter, a
network in 8 bits, one whose weights wait in memory or on disk, and one behind a server
(:class:`limbeck.models.served.ServedTeacher`); a stored one is :class:`limbeck.data.signals.StoredTeacher`, a moving
average :class:`limbeck.core.modules.Ema`. Each declares what a method may ask of it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.modules import eval_mode, freeze
from limbeck.data.signals import teacher_hash, tokenizer_hash, weights_hash
from limbeck.data.tokens import Tokens
from limbeck.errors import InputError
from limbeck.losses.vocabulary import Words
from limbeck.models.causal_lm import CausalLM
from limbeck.models.served import ServedTeacher

__all__ = [
    "CAPABILITIES", "Ensemble", "Int8Linear", "SelfTeacher", "ServedTeacher", "capabilities", "mean_logits",
    "mean_probabilities", "offload", "to_int8",
]  # fmt: skip

CAPABILITIES = frozenset({"text", "sampled_logprobs", "topk", "logits", "hidden", "gradients", "weights"})
"""Everything that a network in memory can be asked for: text it writes, log-probabilities of given words, the likeliest
words with theirs, whole distributions, hidden states, gradients of its input, its weights."""


def capabilities(teacher: object) -> frozenset[str]:
    """What a method may ask of a teacher; of a network that says nothing, everything."""
    declared = getattr(teacher, "capabilities", None)
    return CAPABILITIES if declared is None else declared


class Ensemble(nn.Module):
    """The mean of teachers with one tokenizer.

    ``probabilities``: ``p = 1/M sum_m p_m``, at temperature 1, for all (B, T, V): no head says a mixture.
    ``logits``: ``z = 1/M sum_m z_m``, the geometric mean up to a constant, which costs no more than its teachers.

    Args:
        teachers: at least one; frozen.
        average: of what.

    Raises:
        InputError: for none, and for teachers with different tokenizers.
    """

    capabilities = frozenset({"sampled_logprobs", "topk", "logits", "gradients"})

    def __init__(
        self, teachers: Sequence[CausalLM], average: Literal["probabilities", "logits"] = "probabilities"
    ) -> None:
        super().__init__()
        if not teachers:
            raise InputError("teachers", 0, "make no ensemble; name one or more")
        if average not in ("probabilities", "logits"):
            raise InputError("average", average, "is not one of probabilities, logits")
        first = tokenizer_hash(teachers[0].tokenizer)
        for teacher in teachers[1:]:
            if tokenizer_hash(teacher.tokenizer) != first:
                raise InputError("teachers", teacher.reference, "has another tokenizer than the first; leave it out")
        self.teachers = nn.ModuleList(freeze(teacher) for teacher in teachers)
        self.average = average
        self.tokenizer, self.size = teachers[0].tokenizer, teachers[0].size
        self.context = min(teacher.context for teacher in teachers)
        self.reference = f"mean {average} of " + ", ".join(teacher.reference for teacher in teachers)

    @property
    def device(self) -> torch.device:
        """Where it wants its batches."""
        return next(self.parameters()).device

    def forward(self, batch: Tokens) -> Words:
        """(B, T) tokens to words over (B, T)."""
        said = [teacher(batch) for teacher in self.teachers]
        return mean_logits(said) if self.average == "logits" else mean_probabilities(said)


def mean_logits(teachers: Sequence[Words]) -> Words:
    """Words whose logits are the mean: what the heads side by side say of the hidden states side by side.

    Raises:
        InputError: where a soft cap bends the logits, so that no head has their mean.
    """
    M = len(teachers)
    if any(t.softcap is not None or t.weight is None for t in teachers):
        raise InputError("average", "logits", "has no linear head under a soft cap; choose probabilities")
    size = teachers[0].words
    hidden = torch.cat([t.hidden * (t.scale / M) for t in teachers], -1)
    weight = torch.cat([t.weight[:size] for t in teachers if t.weight is not None], 1)
    biases = [t.bias[:size] * (t.scale / M) for t in teachers if t.bias is not None]
    return Words(hidden, weight, torch.stack(biases).sum(0) if biases else None)


def mean_probabilities(teachers: Sequence[Words], tau: float = 1.0, chunk: int = 256) -> Words:
    """Words whose distribution at ``tau`` is the mean of the teachers' distributions at ``tau``.

    The mean takes (..., V) in float32; the teachers' own distributions are made ``chunk`` tokens at a time.
    """
    shape = teachers[0].hidden.shape[:-1]
    flat = [t._replace(hidden=t.hidden.flatten(0, -2)) for t in teachers]
    even, parts = torch.tensor(float(len(teachers))).log(), list[Tensor]()
    for begin in range(0, len(flat[0].hidden), chunk):
        logs = [t._replace(hidden=t.hidden[begin : begin + chunk]).log_probs(tau) for t in flat]
        mean = logs[0]
        for log in logs[1:]:
            mean = torch.logaddexp(mean, log)
        parts.append((mean - even) * tau)
    return Words(torch.cat(parts).view(*shape, -1), None)


class SelfTeacher(nn.Module):
    """A student without its peft adapter, as it was before it learnt: one network in memory for both roles.

    The student is no part of this module: to freeze, move or save the teacher leaves the student alone.

    Raises:
        InputError: for a student without an adapter.
    """

    capabilities = frozenset({"text", "sampled_logprobs", "topk", "logits", "gradients"})

    def __init__(self, student: CausalLM) -> None:
        super().__init__()
        if not hasattr(student.net, "disable_adapter"):
            raise InputError("student", student.reference, "has no adapter to switch off; use lora-8@MODEL")
        self._student = (student,)
        self.tokenizer, self.size, self.context = student.tokenizer, student.size, student.context
        self.reference = f"{student.reference} without its adapter"

    @property
    def device(self) -> torch.device:
        """Where it wants its batches."""
        return self._student[0].device

    @property
    def fingerprint(self) -> str:
        """Of the weights under the adapter."""
        weights = self._student[0].state_dict()
        return weights_hash({name: weight for name, weight in weights.items() if "lora_" not in name})

    def forward(self, batch: Tokens) -> Words:
        """(B, T) tokens to words over (B, T), with dropout off."""
        with self._switched_off() as student:
            return student(batch)

    def generate(self, ids: Tensor, mask: Tensor, **options: Any) -> Tensor:
        """As :meth:`limbeck.models.causal_lm.CausalLM.generate`."""
        with self._switched_off() as student:
            return student.generate(ids, mask, **options)

    @contextmanager
    def _switched_off(self) -> Generator[CausalLM]:
        [student] = self._student
        with eval_mode(student), student.net.disable_adapter():  # type: ignore[operator]
            yield student


class Int8Linear(nn.Module):
    """A linear layer whose weight is kept in 8 bits with a scale an output channel.

    y = s * (x Q^T) + b,  Q = round(W / s),  s_c = max |W_c| / 127   (Dettmers et al., 2022,
    https://arxiv.org/abs/2208.07339, without its outlier columns: activations keep their precision)

    Args:
        weight: (out, in).
        bias: (out,) or none.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        scale = (weight.detach().float().abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        self.register_buffer("weight", (weight.detach().float() / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        y = F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def to_int8(model: CausalLM) -> CausalLM:
    """Keep the linear layers of a teacher's blocks in 8 bits, in place: a quarter of the memory of float32.

    Embeddings, norms and head stay as they are.

    Raises:
        InputError: for a model with an adapter on it.
    """
    from limbeck.models.surgery._anatomy import linears, matrix, plain

    plain(model)
    for path, layer in list(linears(model)):
        parent, _, name = path.rpartition(".")
        bias = layer.bias
        assert bias is None or isinstance(bias, Tensor)
        setattr(model.get_submodule(parent), name, Int8Linear(matrix(layer), bias))
    vars(model)["capabilities"] = CAPABILITIES - {"weights"}
    return freeze(model)


def offload(model: CausalLM, folder: Path | str | None = None, *, device: torch.device | str | None = None) -> CausalLM:
    """Keep the weights of a teacher's blocks in the host's memory, or in a folder, until their block runs; in place.

    Embeddings, norms and head stay on the device.

    Args:
        model: the teacher.
        folder: where the weights go; ``None`` for the host's memory.
        device: where it runs; where it is, when ``None``.
    """
    from accelerate import cpu_offload, disk_offload

    vars(model)["fingerprint"] = teacher_hash(model)  # while its weights are at hand
    freeze(model)
    model.to(device if device is not None else model.device)
    for number, path in enumerate(model.blocks):
        block = model.get_submodule(path)
        if folder is None:
            cpu_offload(block, execution_device=model.device)
        else:
            disk_offload(block, Path(folder) / str(number), execution_device=model.device)
    vars(model)["capabilities"] = CAPABILITIES - {"weights", "gradients"}
    return model
