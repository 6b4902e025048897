"""What a model or a store says of words: hidden states with a head, the likeliest words, drawn words.

None of them is a table of logits: ``losses/vocabulary.py`` makes those a few tokens at a time.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses._numeric import product, wide

__all__ = ["IGNORE", "Sampled", "Signal", "TopK", "Words", "cut", "multiplied_in"]

IGNORE = -100
"""In the place of a label, where there is none."""


class Words(NamedTuple):
    """The word distributions of a language model, not yet evaluated: hidden states and the head that reads them."""

    hidden: Tensor
    """(..., D) last hidden states; with ``weight`` None, the logits themselves (..., V)."""
    weight: Tensor | None
    """(V, D) output head, a leaf or not; it may have more rows than there are words."""
    bias: Tensor | None = None
    """(V,)."""
    scale: float = 1.0
    """Logits are multiplied by it."""
    softcap: float | None = None
    """``cap tanh(logits / cap)``, after the scale."""
    size: int | None = None
    """Number of words, V when None: the columns behind it are padding, which no distribution sees."""

    @property
    def words(self) -> int:
        """Number of words.

        Raises:
            InputError: when the head has fewer rows.
        """
        rows = self.hidden.shape[-1] if self.weight is None else len(self.weight)
        if self.size is not None and not 0 < self.size <= rows:
            raise InputError("size", self.size, f"must be in 1 to {rows}, the rows of the head")
        return rows if self.size is None else self.size

    def logits(self) -> Tensor:
        """(..., size) in float32 at least, all at once: the plain form. Padding is left out, as if ``-inf``."""
        words = self.words
        if self.weight is None:
            z = wide(self.hidden[..., :words])
        else:
            dtype = multiplied_in(self)
            z = wide(product(self.hidden.to(dtype), self.weight[:words].to(dtype).T))
            z = z if self.bias is None else z + self.bias[:words].to(z)
        z = z * self.scale
        return z if self.softcap is None else self.softcap * (z / self.softcap).tanh()

    def log_probs(self, tau: float = 1.0) -> Tensor:
        """(..., size) natural log-probabilities of ``logits / tau``."""
        return (self.logits() / tau).log_softmax(-1)

    def rows(self, keep: Tensor) -> Words:
        """(N, D): the tokens of a mask of the leading shape, or of indices into the tokens laid end to end."""
        return self._replace(hidden=cut(self.hidden, keep, 1))


class TopK(NamedTuple):
    """The k likeliest words of each token, as a store keeps them."""

    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    """(..., k) int64, no word twice in a row."""
    log_prob: Tensor
    """(..., k) natural, at temperature 1."""
    size: int
    """Number of words."""
    tail: Literal["uniform", "none"] = "uniform"
    """``uniform`` spreads the mass that is left evenly over the other words; ``none`` renormalises the k."""

    def log_probs(self, tau: float = 1.0) -> Tensor:
        """(..., size), dense: the plain form."""
        room = self.log_prob.new_empty((*self.index.shape[:-1], self.size), dtype=wide(self.log_prob).dtype)
        return (self.fill(room) / tau).log_softmax(-1)

    def fill(self, room: Tensor) -> Tensor:
        """Write log-probabilities, up to a constant a row, into ``room`` (..., size)."""
        log_prob, k = wide(self.log_prob), self.index.shape[-1]
        left = (1 - log_prob.exp().sum(-1, keepdim=True)).clamp_min(0) / max(self.size - k, 1)
        room.copy_((left if self.tail == "uniform" else torch.zeros_like(left)).log().expand_as(room))
        return room.scatter_(-1, self.index, log_prob.to(room))

    def rows(self, keep: Tensor) -> TopK:
        """(N, k): as ``Words.rows``."""
        return self._replace(index=cut(self.index, keep, 1), log_prob=cut(self.log_prob, keep, 1))


class Sampled(NamedTuple):
    """Words drawn from each token's distribution: ``E[sum_i weight_i onehot(index_i)] = p``, at temperature 1."""

    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    """(..., k) int64; a word may come twice."""
    weight: Tensor
    """(..., k)."""
    size: int
    """Number of words."""

    def probs(self) -> Tensor:
        """(..., size), dense: an unbiased estimate of p, not a distribution."""
        room = torch.zeros((*self.index.shape[:-1], self.size), dtype=torch.float32, device=self.index.device)
        return room.scatter_add_(-1, self.index, self.weight.to(room))

    def rows(self, keep: Tensor) -> Sampled:
        """(N, k): as ``Words.rows``."""
        return self._replace(index=cut(self.index, keep, 1), weight=cut(self.weight, keep, 1))


Signal = Words | TopK | Sampled


def cut(x: Tensor, keep: Tensor, tail: int) -> Tensor:
    """Rows of ``x`` (..., *tail axes) by a mask of its leading shape or by indices into its tokens."""
    if keep.dtype == torch.bool and keep.shape != x.shape[: x.ndim - tail]:
        raise InputError("keep", tuple(keep.shape), f"must have the shape of the tokens, {tuple(x.shape[:-tail])}")
    flat = x.reshape(-1, *x.shape[x.ndim - tail :])
    return flat[keep.flatten()] if keep.dtype == torch.bool else flat.index_select(0, keep)


def multiplied_in(words: Words) -> torch.dtype:
    """Autocast's dtype where it is on, else the wider one of hidden states and head."""
    device = words.hidden.device.type
    own = words.hidden.dtype
    own = own if words.weight is None else torch.promote_types(own, words.weight.dtype)
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) and own != torch.float64 else own
