"""A frozen language model that reads vectors, made by a small one, in the place of a long prompt."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from limbeck.data.tokens import Tokens
from limbeck.errors import InputError
from limbeck.losses.vocabulary import Words
from limbeck.models.causal_lm import CausalLM

__all__ = ["Compressor", "Parts"]


class Parts(NamedTuple):
    """Rows in two.

    Args:
        head: (B, H) ids of what is compressed, padded at the left.
        head_mask: (B, H), 1 where a token is.
        tail: (B, R) ids of the rest, padded at the right.
        tail_mask: (B, R), 1 where a token is.
        begin: (B,), how many tokens the head has.
    """

    head: Tensor
    head_mask: Tensor
    tail: Tensor
    tail_mask: Tensor
    begin: Tensor


class Compressor(nn.Module):
    """``Compressor(small, model, 16)(batch)`` is what the model says of every row when 16 vectors stand for its head.

    The small network reads the head followed by learnt embeddings, at first those of random words; its final hidden
    states there, through a linear layer and tanh where widths differ, are the vectors.

    Args:
        hyper: the small network.
        model: the frozen one. It is kept out of ``parameters``, ``state_dict`` and ``to``: it belongs to somebody else.
        vectors: how many.
        query: tokens before the first word to learn that are in the tail.
        cut: the head's share of a row that is learnt from its beginning.
    """

    def __init__(self, hyper: CausalLM, model: CausalLM, vectors: int, *, query: int = 0, cut: float = 0.5) -> None:
        super().__init__()
        self.hyper, self._model, self.query, self.cut = hyper, (model,), query, cut
        drawn = torch.randint(hyper.size, (vectors,)).to(hyper.device)
        self.places = nn.Parameter(hyper.embed(drawn).detach().clone())
        width = model.embed(torch.tensor([model.eos], device=model.device)).shape[-1]
        through = nn.Sequential(nn.Linear(hyper.width, width), nn.Tanh())
        self.adapter = nn.Identity() if hyper.width == width else through.to(hyper.device)

    def forward(self, batch: Tokens) -> Words:
        """(B, T) tokens to words over (B, T): those of the tail, and of the head's last token, for which the last
        vector speaks. At the head's other tokens hidden states are zero.

        Raises:
            InputError: for packed rows, and where vectors and tokens do not fit the contexts.
        """
        [model], parts = self._model, self.split(batch)
        soft, (B, R) = self.vectors(parts), parts.tail.shape
        room = model.context - R
        if soft.shape[1] > room:
            raise InputError("vectors", soft.shape[1], f"are more than the {room} that a tail of {R} tokens leaves")
        mask = torch.cat([parts.tail_mask.new_ones(B, soft.shape[1]), parts.tail_mask], 1)
        rest = model.embed(parts.tail)
        found = model.read(torch.cat([soft.to(rest), rest], 1), mask)[:, soft.shape[1] - 1 :]
        at = torch.arange(batch.x.shape[1], device=found.device) - parts.begin[:, None] + 1  # 0: the last vector
        hidden = found.gather(1, at.clamp(0, R)[..., None].expand(-1, -1, found.shape[-1]))
        return model.words(hidden.masked_fill((at < 0)[..., None], 0))

    def vectors(self, parts: Parts) -> Tensor:
        """(B, l, E): what stands for the heads."""
        (B, H), count = parts.head.shape, len(self.places)
        if H + count > self.hyper.context:
            room = self.hyper.context - H
            raise InputError("vectors", count, f"are more than the {room} that a prompt of {H} tokens leaves")
        read = torch.cat([self.hyper.embed(parts.head), self.places.expand(B, -1, -1)], 1)
        mask = torch.cat([parts.head_mask, parts.head_mask.new_ones(B, count)], 1)
        return self.adapter(self.hyper.read(read, mask)[:, -count:])

    def split(self, batch: Tokens) -> Parts:
        """The head ends ``query`` tokens before the first word to learn, or at the cut; it has a token at least.

        Raises:
            InputError: for packed rows.
        """
        if batch.packed:
            raise InputError("pack", True, "rows have no prompts to compress; use --no-pack")
        n, first = (batch.segment > 0).sum(1), batch.mask.int().argmax(1) + 1
        begin = torch.where(first > 1, first - self.query, (self.cut * n).long()).clamp(min=1)
        longest = int(begin.max())
        head = torch.arange(longest, device=n.device) - longest + begin[:, None]
        tail = torch.arange(int((n - begin).max()), device=n.device) + begin[:, None]
        x, y = (batch.x.gather(1, at.clamp(0, batch.x.shape[1] - 1)) for at in (head, tail))
        return Parts(x, (head >= 0).long(), y, (tail < n[:, None]).long(), begin)
