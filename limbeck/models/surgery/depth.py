"""Fewer blocks: copies of some, and which to choose.

    d(l, n) = mean_i 1/pi arccos( <h_l, h_{l+n}> / (|h_l| |h_{l+n}|) )         (angular distance)
    influence(l) = 1 - mean_i cos(h_l, h_{l+1})                                (block influence)

h_l is the residual stream before block l. Gromov et al. (2024), The Unreasonable Ineffectiveness of the Deeper Layers,
https://arxiv.org/abs/2403.17887; Men et al. (2024), ShortGPT, https://arxiv.org/abs/2403.03853.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.core.modules import Taps, eval_mode
from limbeck.data.tokens import Tokens
from limbeck.errors import InputError
from limbeck.models.causal_lm import CausalLM
from limbeck.models.surgery._anatomy import config, duplicate, plain, refuse

__all__ = ["angular_distances", "block_influence", "least_important_run", "spaced", "truncate"]


def truncate(model: CausalLM, keep: Sequence[int]) -> CausalLM:
    """A copy with these blocks, their indices renewed, which can be trained, saved, and generates with its cache.

    Args:
        model: a network whose blocks depend on each other through the residual stream alone.
        keep: blocks, counted from 0, in rising order.

    Raises:
        InputError: for blocks that do not exist, repeat or fall; for a network with an adapter, or one whose blocks
            know their depth or share keys and values.
    """
    blocks, depth = [int(k) for k in keep], model.depth
    if not blocks or blocks != sorted(set(blocks)) or not 0 <= blocks[0] <= blocks[-1] < depth:
        raise InputError("keep", str(blocks), f"must name some of the blocks 0 to {depth - 1}, each once, rising")
    net = plain(model)
    if getattr(net.config, "scale_attn_by_inverse_layer_idx", False):
        refuse(model, "divides its attention by the number of the block, so none can be left out")
    if getattr(config(net), "num_kv_shared_layers", 0):
        refuse(model, "has blocks that share the keys and values of earlier ones, so none can be left out")
    memo: dict[int, Any] = {}
    stack = model.get_submodule(model.blocks[0].rpartition(".")[0])
    assert isinstance(stack, nn.ModuleList)
    kept = nn.ModuleList(copy.deepcopy(stack[k], memo) for k in blocks)
    memo[id(stack)] = kept  # what is left out is never copied
    made = duplicate(model, memo)
    for number, block in enumerate(kept):
        for module in block.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number  # type: ignore[assignment]
    _shorten(config(made), blocks, depth)
    return CausalLM(made, model.tokenizer)


def spaced(depth: int, n: int) -> list[int]:
    """``n`` of ``depth`` blocks as far from each other as possible, the first and the last among them.

    Raises:
        InputError: unless 1 <= n <= depth.
    """
    if not 1 <= n <= depth:
        raise InputError("n", n, f"must be from 1 to {depth}")
    return [0] if n == 1 else [round(k * (depth - 1) / (n - 1)) for k in range(n)]


def angular_distances(
    model: CausalLM, batches: Iterable[Tokens], n: int, tokens: Literal["last", "all"] = "last"
) -> Tensor:
    """d(l, n) for every start l: (depth - n + 1,) float64, in [0, 1].

    Args:
        model: read in eval mode.
        batches: calibration text.
        n: blocks that would be deleted together.
        tokens: the last of every row, as published, or all of them.

    Raises:
        InputError: unless 1 <= n <= depth, and for no batches.
    """
    if not 1 <= n <= model.depth:
        raise InputError("n", n, f"must be from 1 to {model.depth}")
    return _mean_over_tokens(model, batches, n, tokens).acos_mean / math.pi


def block_influence(model: CausalLM, batches: Iterable[Tokens]) -> Tensor:
    """1 - cosine of every block's input and output, the mean over tokens: (depth,) float64, in [0, 2].

    Raises:
        InputError: for no batches.
    """
    return 1 - _mean_over_tokens(model, batches, 1, "all").cosine_mean


def least_important_run(model: CausalLM, batches: Iterable[Tokens], n: int) -> range:
    """The n consecutive blocks whose deletion turns the residual stream least; never the first or the last block.

    Raises:
        InputError: unless 1 <= n <= depth - 2, and for no batches.
    """
    if not 1 <= n <= model.depth - 2:
        raise InputError("n", n, f"must be from 1 to {model.depth - 2}: the first and the last block stay")
    start = int(angular_distances(model, batches, n)[1:-1].argmin()) + 1
    return range(start, start + n)


class _Turns(NamedTuple):
    """Means over tokens, (starts,) each."""

    acos_mean: Tensor
    cosine_mean: Tensor


@torch.no_grad()
def _mean_over_tokens(model: CausalLM, batches: Iterable[Tokens], n: int, tokens: Literal["last", "all"]) -> _Turns:
    """How far n blocks turn the residual stream."""
    taps = Taps(*(f"{block}:in" for block in model.blocks), model.blocks[-1])
    angles = cosines = torch.zeros(model.depth - n + 1, dtype=torch.float64)
    count = 0
    with eval_mode(model):
        for batch in batches:
            _, stream = taps(model, batch)
            chosen = batch.segment > 0
            if tokens == "last":
                chosen &= torch.arange(chosen.shape[1], device=chosen.device) == chosen.sum(1, keepdim=True) - 1
            h = torch.stack([part[chosen].double() for part in stream])  # (depth + 1, tokens, D)
            cosine = torch.cosine_similarity(h[:-n], h[n:], dim=-1).clamp(-1, 1).cpu()
            angles, cosines = angles + cosine.acos().sum(1), cosines + cosine.sum(1)
            count += cosine.shape[1]
    if not count:
        raise InputError("batches", 0, "are too few to measure blocks on")
    return _Turns(angles / count, cosines / count)


def _shorten(settings: Any, keep: Sequence[int], depth: int) -> None:
    """The configuration of the shorter network: the depth, and every list that has an entry a block."""
    settings.num_hidden_layers = len(keep)
    for name, entries in list(vars(settings).items()):
        if ("layer" in name or "pattern" in name) and isinstance(entries, list | tuple) and len(entries) == depth:
            setattr(settings, name, [entries[k] for k in keep])
