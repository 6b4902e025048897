"""What the last attention of a network compares: queries, keys and values, rotated and normalised as it has them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.data.tokens import Tokens
from limbeck.errors import InputError
from limbeck.models.causal_lm import CausalLM

__all__ = ["Attended", "attended", "relation", "visible"]

NAME = "limbeck_heard"  # under which transformers finds the function that listens


class Attended(NamedTuple):
    """Of H heads, keys and values repeated where several queries read the same."""

    query: Tensor
    """(B, H, T, d)."""
    key: Tensor
    """(B, H, T, d)."""
    value: Tensor
    """(B, H, T, d)."""
    scale: float
    """What the inner products are multiplied by."""


def attended(model: CausalLM, batch: Tokens) -> Attended:
    """One pass, heard in the last block.

    Raises:
        InputError: for a network that does not attend by transformers' own functions.
    """
    heard = list[Attended]()
    with _listening(model, heard):
        model(batch)
    if not heard:
        raise InputError("model", type(model.net).__name__, "does not say what its attention compares")
    return heard[-1]


def relation(a: Tensor, b: Tensor, scale: float, seen: Tensor) -> Tensor:
    """``log softmax(a b^T scale)`` over what a token sees: (B, H, T, d), twice -> (B, H, T, T) in float32.

    Args:
        a: rows.
        b: columns.
        scale: of the inner products.
        seen: (B, T, T) bool; every row sees something.
    """
    scores = (a.float() @ b.float().transpose(-1, -2)) * scale
    return scores.masked_fill(~seen[:, None], -torch.inf).log_softmax(-1)


def visible(batch: Tokens) -> Tensor:
    """(B, T, T) bool: the words of a token's own document up to itself; padding sees itself alone."""
    same = (batch.segment[:, :, None] == batch.segment[:, None, :]).tril()
    alone = torch.eye(batch.x.shape[1], dtype=torch.bool, device=batch.x.device)
    return torch.where((batch.segment > 0)[:, :, None], same, alone)


@contextmanager
def _listening(model: CausalLM, heard: list[Attended]) -> Generator[None]:
    """The last block's attention works as always, and what it was given is kept."""
    from transformers import AttentionInterface, AttentionMaskInterface

    inside, config = set(model.get_submodule(model.blocks[-1]).modules()), model.net.config
    before = config._attn_implementation
    used = before if before in AttentionInterface() else "sdpa"  # eager attention is each network's own function

    def listen(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
        if module in inside:
            if options.get("softcap"):
                raise InputError("model", type(model.net).__name__, "caps its attention, which is then no softmax")
            readers, scale = query.shape[1] // key.shape[1], options.get("scaling") or query.shape[-1] ** -0.5
            heard.append(Attended(query, *(x.repeat_interleave(readers, 1) for x in (key, value)), scale))
        return AttentionInterface()[used](module, query, key, value, mask, **options)

    AttentionInterface.register(NAME, listen)
    AttentionMaskInterface.register(NAME, AttentionMaskInterface()[used])
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
