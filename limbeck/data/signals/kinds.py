"""What a store keeps of a teacher's words, and how it gives them back: three kinds.

``Hidden``: final hidden states h times an orthogonal matrix R, rounded to b bits with one scale a token,

    c = round(h R / s),  s = max |h R| / (2^(b-1) - 1),    z = W h = (W R)(s c) + rounding,

with the head W R kept once. The rotation (Ashkboos et al., 2024, QuaRot, https://arxiv.org/abs/2404.00456) spreads the
few large channels of a language model over all of them, so that one scale a token is enough.
``Likeliest``: the k likeliest words. ``Drawn``: k words drawn without bias (Anshumann et al., 2025, Sparse Logit
Sampling, https://arxiv.org/abs/2503.16870), here by systematic sampling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses.vocabulary import Sampled, Signal, TopK, Words, sample_words, top_k_words

__all__ = ["Drawn", "Hidden", "Kind", "Likeliest", "rotation"]

LEAST = 1e-6
"""Mass that is left to the other words at least, so that none of them is impossible; single precision can see it."""
HALF_LOWEST = torch.finfo(torch.float16).min


def rotation(width: int, seed: int) -> Tensor:
    """A random orthogonal matrix (D, D), uniformly distributed; the same for the same seed."""
    drawn = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(drawn)
    return (q * r.diagonal().sign()).float()


@dataclass(frozen=True, eq=False)
class Hidden:
    """Rotated hidden states in ``bits`` bits. ``head`` has the rotated weight, and nothing hidden."""

    bits: Literal[6, 8]
    head: Words
    turn: Tensor | None = None
    """(D, D); only where signals are captured."""

    name = "hidden"

    def encode(self, signal: Signal, lengths: Sequence[int], keys: Sequence[int]) -> dict[str, Tensor]:
        """Words over n tokens -> ``code`` (n, bytes) and ``scale`` (n,)."""
        assert isinstance(signal, Words)
        assert self.turn is not None
        turned = signal.hidden.float() @ self.turn.to(signal.hidden.device)
        if not bool(turned.isfinite().all()):
            raise InputError("teacher", "NaN or infinity", "is in its hidden states; check its weights and precision")
        most = 2 ** (self.bits - 1) - 1
        # bfloat16 has the range; codes are made with the rounded scale, so that it costs no precision
        scale = (turned.abs().amax(-1) / most).clamp_min(1e-30).bfloat16()
        code = (turned / scale.float()[:, None]).round().clamp(-most, most).to(torch.int8)
        return {"code": code.view(torch.uint8) if self.bits == 8 else _pack(code), "scale": scale}

    def decode(self, parts: Mapping[str, Tensor]) -> Words:
        """``code`` (..., bytes) and ``scale`` (...) -> words over (...)."""
        code = parts["code"]
        code = code.view(torch.int8) if self.bits == 8 else _unpack(code, self._width)
        return self.head._replace(hidden=code.float().mul_(parts["scale"].float()[..., None]))

    @property
    def blank(self) -> dict[str, Tensor]:
        """What stands where nothing is stored: a hidden state of zeros."""
        width = self._width if self.bits == 8 else -(-self._width // 4) * 3
        return {"code": torch.zeros(width, dtype=torch.uint8), "scale": torch.zeros((), dtype=torch.bfloat16)}

    @property
    def _width(self) -> int:
        assert self.head.weight is not None
        return self.head.weight.shape[1]


@dataclass(frozen=True)
class Likeliest:
    """The ``k`` likeliest of ``size`` words and their log-probabilities in half precision."""

    k: int
    size: int
    tail: Literal["uniform", "none"]

    name = "topk"

    def encode(self, signal: Signal, lengths: Sequence[int], keys: Sequence[int]) -> dict[str, Tensor]:
        """Words, or another's likeliest words, over n tokens -> ``index`` (n, k), ``log_prob`` (n, k)."""
        if isinstance(signal, Words):
            found = top_k_words(signal, self.k, tail=self.tail)
            index, log_prob = found.index, found.log_prob
        elif isinstance(signal, TopK) and signal.index.shape[-1] >= self.k:
            log_prob, order = signal.log_prob.topk(self.k, -1)
            index = signal.index.gather(-1, order)
        else:
            given = signal.index.shape[-1]
            raise InputError("k", self.k, f"is more than the {given} words a token that the teacher gives")
        if bool(log_prob.isnan().any()):
            raise InputError("teacher", "NaN", "is in its log-probabilities; check its weights and precision")
        said = {"index": _narrow(index, self.size), "log_prob": log_prob.clamp_min(HALF_LOWEST).half()}
        # half precision makes of a sure word a certain one: what is left for the others is kept beside them
        left = (-torch.expm1(log_prob.double().logsumexp(-1))).clamp_min(LEAST)
        return said | ({"left": left.log().half()} if self.tail == "uniform" else {})

    def decode(self, parts: Mapping[str, Tensor]) -> TopK:
        """``index`` and ``log_prob`` (..., k) -> the k words of (...)."""
        index, log_prob = _wide(parts["index"]), parts["log_prob"].float()
        if self.tail == "uniform" and self.k < self.size:
            held = torch.log1p(-parts["left"].float().exp()) - log_prob.logsumexp(-1)
            log_prob.add_(held[..., None])
        return TopK(index, log_prob, self.size, self.tail)

    @property
    def blank(self) -> dict[str, Tensor]:
        """What stands where nothing is stored: the first k words, all words equally likely."""
        even, left = -math.log(self.size), math.log(max(1 - self.k / self.size, LEAST))
        said = {
            "index": _narrow(torch.arange(self.k), self.size),
            "log_prob": torch.full((self.k,), even, dtype=torch.float16),
        }
        return said | ({"left": torch.tensor(left, dtype=torch.float16)} if self.tail == "uniform" else {})


@dataclass(frozen=True)
class Drawn:
    """``k`` words a token with weight 1 / k each; the draw depends on ``seed`` and the row alone."""

    k: int
    size: int
    seed: int

    name = "sampled"

    def encode(self, signal: Signal, lengths: Sequence[int], keys: Sequence[int]) -> dict[str, Tensor]:
        """Words over n tokens, ``lengths`` of them of each row -> ``index`` (n, k)."""
        assert isinstance(signal, Words)
        drawn, begin = list[Tensor](), 0
        for length, key in zip(lengths, keys, strict=True):
            rows = signal._replace(hidden=signal.hidden[begin : begin + length])
            generator = torch.Generator(signal.hidden.device).manual_seed((key + self.seed) % 2**63)
            drawn.append(sample_words(rows, self.k, generator).index)
            begin += length
        return {"index": _narrow(torch.cat(drawn), self.size)}

    def decode(self, parts: Mapping[str, Tensor]) -> Sampled:
        """``index`` (..., k) -> the drawn words of (...)."""
        index = _wide(parts["index"])
        return Sampled(index, torch.full((1,), 1 / self.k, device=index.device).expand(index.shape), self.size)

    @property
    def blank(self) -> dict[str, Tensor]:
        """What stands where nothing is stored: word 0."""
        return {"index": _narrow(torch.zeros(self.k, dtype=torch.int64), self.size)}


Kind = Hidden | Likeliest | Drawn


def _narrow(index: Tensor, size: int) -> Tensor:
    """Word ids in two bytes where they fit, as the bits of int16."""
    return index.to(torch.int32) if size > 2**16 else (index - 2**16 * (index >= 2**15)).to(torch.int16)


def _wide(index: Tensor) -> Tensor:
    return index.to(torch.int64) if index.dtype == torch.int32 else index.view(torch.uint16).to(torch.int64)


def _pack(code: Tensor) -> Tensor:
    """(n, D) integers in -31 to 31 -> (n, ceil(D / 4) * 3) bytes: four of them in three."""
    n, width = code.shape
    v = torch.nn.functional.pad(code + 32, (0, -width % 4)).view(torch.uint8).view(n, -1, 4)
    a, b, c, d = v.unbind(-1)
    return torch.stack([a | (b << 6), (b >> 2) | (c << 4), (c >> 4) | (d << 2)], -1).flatten(1)


def _unpack(packed: Tensor, width: int) -> Tensor:
    """(..., bytes) -> (..., D)."""
    a, b, c = packed.unflatten(-1, (-1, 3)).unbind(-1)
    v = torch.stack([a & 63, (a >> 6) | ((b & 15) << 2), (b >> 4) | ((c & 3) << 4), c >> 2], -1)
    return v.flatten(-2)[..., :width].view(torch.int8) - 32
