"""NASA, negative-away steer attention: a negative prompt for generators of one or a few steps (Nguyen et al., 2024).
https://arxiv.org/abs/2412.02687

    Z+ = softmax(Q K+^T / sqrt d) V+        Z- = softmax(Q K-^T / sqrt d) V-        Z = Z+ - alpha Z-

in every cross-attention, with the same queries for both prompts. It is used at sampling alone, costs an attention a
layer and no second pass, and acts on features, where subtracting whole images of one step would blend them.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from limbeck.errors import InputError

__all__ = ["away", "steered"]


def away(
    query: Tensor, positive: tuple[Tensor, Tensor], negative: tuple[Tensor, Tensor], alpha: float,
    mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """``Z+ - alpha Z-`` from queries (..., N, D) and two pairs of keys and values (..., M, D).

    Args:
        mask: added to the positive scores, or False where they do not count.
    """
    z = scaled_dot_product_attention(query, *positive, attn_mask=mask)
    return z - alpha * scaled_dot_product_attention(query, *negative)


class Away:
    """A processor of diffusers' ``Attention``: :func:`away` in cross-attention."""

    def __init__(self, negative: Tensor, alpha: float) -> None:
        self.negative, self.alpha = negative, alpha

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None, temb: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        assert encoder_hidden_states is not None
        rows, skip = len(hidden_states), hidden_states
        told = self.negative.expand(rows, -1, -1).to(hidden_states)

        mask = attention_mask
        if mask is not None:  # of the positive prompt's words
            words = encoder_hidden_states.shape[1]
            mask = attn.prepare_attention_mask(mask, words, rows).unflatten(0, (rows, attn.heads))

        def heads(x: Tensor, norm: nn.Module | None = None) -> Tensor:
            x = x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            return x if norm is None else norm(x)

        def pair(states: Tensor) -> tuple[Tensor, Tensor]:
            if attn.norm_cross:
                states = attn.norm_encoder_hidden_states(states)
            return heads(attn.to_k(states), attn.norm_k), heads(attn.to_v(states))

        query = heads(attn.to_q(hidden_states), attn.norm_q)
        z = away(query, pair(encoder_hidden_states), pair(told), self.alpha, mask)
        z = attn.to_out[1](attn.to_out[0](z.transpose(1, 2).flatten(2)))
        return (z + skip if attn.residual_connection else z) / attn.rescale_output_factor


@contextmanager
def steered(net: nn.Module, negative: Tensor, alpha: float = 0.3) -> Generator[None]:
    """Inside, every cross-attention of a diffusers network is steered away from a negative prompt.

    Args:
        net: a UNet or transformer of diffusers.
        negative: (1 or B, M, C) the prompt's encoding, as the network is given the positive one's.
        alpha: 0 changes nothing; above about 0.5 detail is lost.

    Raises:
        InputError: for a network without cross-attention.
    """
    from diffusers.models.attention_processor import Attention

    found = [m for m in net.modules() if isinstance(m, Attention) and m.is_cross_attention]
    if not found:
        raise InputError("net", type(net).__name__, "has no cross-attention to steer")
    before = [m.processor for m in found]
    try:
        for m in found:
            m.set_processor(Away(negative, alpha))  # type: ignore[arg-type]
        yield
    finally:
        for m, processor in zip(found, before, strict=True):
            m.set_processor(processor)
