"""What a language model costs to run: size, operations and time a word on this machine."""

from __future__ import annotations

import torch

from limbeck.data.tokens import Tokens
from limbeck.models.causal_lm import CausalLM
from limbeck.run.cost import bytes_of, flops_of, latency_of
from limbeck.run.evaluation import evaluating
from limbeck.run.outcome import Cost

__all__ = ["lm_cost"]

LONGEST = 256  # words of the row that is read
WRITTEN = 8  # words that are written to time one


def lm_cost(model: CausalLM, context: int) -> Cost:
    """Measure a model in eval mode; it is left in the mode it was in.

    Args:
        model: where its tokens shall be.
        context: words of a row that is read, 256 at most.

    Returns:
        ``flops`` are those of a row by its words, the head included; ``latency_ms`` is the time of one more word with a
        key-value cache; ``per_second`` are words read.
    """
    length = max(2, min(context, model.context - WRITTEN, LONGEST))
    x = (torch.arange(length, device=model.device) % model.size)[None]
    row = Tokens(x, x, torch.ones_like(x), x[:, 0] * 0 - 1, x[:, 0] * 0)
    with evaluating(model):
        flops = flops_of(lambda: model(row).logits())
        read = latency_of(lambda: model(row).logits(), model.device)
        both = latency_of(lambda: _write(model, x), model.device)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        flops=round(flops / length),
        latency_ms=max(0.0, both - read) / WRITTEN or read / length,
        memory_mb=bytes_of(model) / 1e6,
        per_second=1e3 * length / read,
    )


def _write(model: CausalLM, x: torch.Tensor) -> None:
    """Read a row and write a few words after it, whatever they are."""
    said = model.net(input_ids=x, use_cache=True)
    for _ in range(WRITTEN):
        word = said.logits[:, -1:].argmax(-1)
        said = model.net(input_ids=word, past_key_values=said.past_key_values, use_cache=True)
