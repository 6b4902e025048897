"""Where the parts of a transformer are."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NoReturn

from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.models.causal_lm import CausalLM

__all__ = ["config", "duplicate", "linears", "matrix", "plain", "refuse", "turned"]


def refuse(model: CausalLM, why: str) -> NoReturn:
    """In one line that names the architecture."""
    raise InputError("model", type(model.net).__name__, why)


def plain(model: CausalLM) -> Any:
    """Its transformers network, without adapters.

    Raises:
        InputError: for a model with a peft adapter on it.
    """
    if hasattr(model.net, "peft_config"):
        refuse(model, "has an adapter on it; merge it first (limbeck.models.surgery.adapters.merge)")
    return model.net


def config(net: Any) -> Any:
    """The part of the configuration that describes the text network."""
    return net.config.get_text_config()


def duplicate(model: CausalLM, memo: dict[int, Any] | None = None) -> Any:
    """A copy of the network that can be trained, whatever froze the original; tied weights stay tied."""
    net = copy.deepcopy(plain(model), memo if memo is not None else {})
    return net.requires_grad_(True)


def linears(model: CausalLM) -> Iterator[tuple[str, nn.Module]]:
    """Every linear layer inside the blocks, with its path from ``model``: not the embeddings, norms and head."""
    for block in model.blocks:
        for path, module in model.get_submodule(block).named_modules():
            if isinstance(module, nn.Linear) or turned(module):
                yield f"{block}.{path}", module


def matrix(layer: nn.Module) -> Tensor:
    """A linear layer's weight as (out, in)."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.T if turned(layer) else weight


def turned(layer: nn.Module) -> bool:
    """Whether a layer holds its weight as (in, out), as GPT-2's do."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, Conv1D)
