"""Fewer neurons and attention heads: what adds least to the residual stream is cut out, in every block.

    importance(c)^2 = E[a_c^2] ||W_out[:, c]||^2            with text: the mean squared addition of channel c
    importance(c)^2 = ||W_in[c]||^2 ||W_out[:, c]||^2       without: what feeds the channel and what it feeds

c is an input channel of the layer that writes to the residual stream: a neuron of the MLP, or a channel of a head.
Heads go in groups that share a key and value head, whose importances add up; a gated neuron is fed by two rows, whose
norms multiply. Importance zero means that nothing changes when the channel is cut. Activations as a measure:
Muralidharan et al. (2024), Compact Language Models via Pruning and Knowledge Distillation,
https://arxiv.org/abs/2407.14679.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.core.modules import Taps, eval_mode
from limbeck.data.tokens import Tokens
from limbeck.errors import InputError, brief
from limbeck.models.causal_lm import CausalLM
from limbeck.models.surgery._anatomy import config, duplicate, matrix, refuse, turned

__all__ = ["group_importance", "narrow", "neuron_importance"]

MLPS = (("gate_proj", "up_proj", "down_proj"), ("c_fc", "c_proj"))
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def narrow(
    model: CausalLM, *, neurons: int | None = None, groups: int | None = None, batches: Iterable[Tokens] = ()
) -> CausalLM:
    """A copy that keeps, in every block, the most important neurons and groups of heads.

    Args:
        model: a Llama-like network (also Qwen, Mistral, Gemma, SmolLM); GPT-2 for neurons alone.
        neurons: of an MLP to keep; all when None.
        groups: key and value heads to keep, each with the query heads that read it; all when None.
        batches: text that importance is measured on; by the weights alone where there is none.

    Raises:
        InputError: for more than there are, none, a number of heads that the architecture does not allow, and for
            blocks that are built otherwise, by the name of the network.
    """
    batches = list(batches)
    kept = {
        kind: [score.topk(_within(kind, n, len(score))).indices.sort().values for score in measure(model, batches)]
        for kind, n, measure in (("neurons", neurons, neuron_importance), ("groups", groups, group_importance))
        if n is not None
    }
    net = duplicate(model)
    for k, block in enumerate(model.blocks):
        inner = net.get_submodule(block.removeprefix("net."))
        if neurons is not None:
            *sources, out = (inner.get_submodule(path) for path in _mlp(model, block))
            for layer in sources:
                _cut(layer, kept["neurons"][k], "out")
            _cut(out, kept["neurons"][k], "in")
        if groups is not None:
            attention = inner.get_submodule(_attention(model, block).path)
            _cut_heads(attention, kept["groups"][k], model)
    _state(net, neurons, groups)
    return CausalLM(net, model.tokenizer)


def neuron_importance(model: CausalLM, batches: Iterable[Tokens] = ()) -> list[Tensor]:
    """The importance of every neuron of every block's MLP: (neurons,) float32 each."""
    parts = [[model.get_submodule(f"{block}.{path}") for path in _mlp(model, block)] for block in model.blocks]
    outs = [f"{block}.{_mlp(model, block)[-1]}" for block in model.blocks]
    size = _energies(model, outs, batches)
    found = []
    for path, (*sources, out) in zip(outs, parts, strict=True):
        fed = size[path] if size else torch.stack([_norms(layer) for layer in sources]).prod(0)
        found.append(fed * matrix(out).detach().float().norm(dim=0))
    return found


def group_importance(model: CausalLM, batches: Iterable[Tokens] = ()) -> list[Tensor]:
    """The importance of every key-value head of every block, with the query heads that read it: (groups,) float32 each.

    Without text a channel is fed by its row of the value projection.
    """
    shapes = [_attention(model, block) for block in model.blocks]
    outs = [f"{block}.{shape.path}.o_proj" for block, shape in zip(model.blocks, shapes, strict=True)]
    size = _energies(model, outs, batches)
    found = []
    for path, shape in zip(outs, shapes, strict=True):
        value = _norms(model.get_submodule(path.replace("o_proj", "v_proj"))).view(shape.groups, 1, shape.channels)
        fed = size[path].view(shape.groups, -1) if size else value.expand(-1, shape.readers, -1).flatten(1)
        out = matrix(model.get_submodule(path)).detach().float().norm(dim=0).view(shape.groups, -1)
        found.append((fed * out).norm(dim=1))
    return found


class _Heads(NamedTuple):
    """Where a block's attention is; its key-value heads, the query heads that read each, and the channels of a head."""

    path: str
    groups: int
    readers: int
    channels: int


def _within(kind: str, wanted: int, there: int) -> int:
    if not 1 <= wanted <= there:
        raise InputError(kind, wanted, f"must be from 1 to {there}")
    return wanted


def _mlp(model: CausalLM, block: str) -> list[str]:
    """Paths below the block of the layers that feed its neurons, and last the one that they feed."""
    names = {path for path, _ in model.get_submodule(block).named_modules()}
    for layers in MLPS:
        if all(f"mlp.{layer}" in names for layer in layers):
            return [f"mlp.{layer}" for layer in layers]
    refuse(model, f"has blocks without an MLP of {' or '.join('/'.join(part) for part in MLPS)}; it cannot be narrowed")


def _attention(model: CausalLM, block: str) -> _Heads:
    settings = config(model.net)
    attention: Any = getattr(model.get_submodule(block), "self_attn", None)
    if attention is None or not all(isinstance(getattr(attention, name, None), nn.Linear) for name in ATTENTION):
        refuse(model, f"has no attention of {'/'.join(ATTENTION)}, so no heads can be cut; cut neurons or blocks")
    channels = attention.head_dim
    groups = attention.v_proj.out_features // channels
    return _Heads("self_attn", groups, settings.num_attention_heads // groups, channels)


def _norms(layer: nn.Module) -> Tensor:
    """||W[c]|| of every output, its bias included: zero only where it is always zero."""
    rows = matrix(layer).detach().float()
    bias = getattr(layer, "bias", None)
    return rows.norm(dim=1) if bias is None else (rows.square().sum(1) + bias.detach().float().square()).sqrt()


@torch.no_grad()
def _energies(model: CausalLM, paths: list[str], batches: Iterable[Tokens]) -> dict[str, Tensor]:
    """The root mean square over tokens of what enters these layers; nothing where there is no text."""
    taps, total, count = Taps(*(f"{path}:in" for path in paths)), dict[str, Tensor](), 0
    with eval_mode(model):
        for batch in batches:
            _, found = taps(model, batch)
            valid = batch.segment > 0
            count += int(valid.sum())
            for path, a in zip(paths, found, strict=True):
                total[path] = total.get(path, 0) + a[valid].float().square().sum(0)
    return {path: (part / max(count, 1)).sqrt() for path, part in total.items()}


def _cut(layer: Any, index: Tensor, side: Literal["in", "out"]) -> None:
    """Keep some inputs or outputs of a linear layer, whichever way around it holds its weight."""
    other = turned(layer)
    index = index.to(layer.weight.device)
    layer.weight = nn.Parameter(layer.weight.detach().index_select(int((side == "in") != other), index))
    if side == "out" and layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach()[index])
    names = {"in": ("in_features", "nx"), "out": ("out_features", "nf")}[side]
    setattr(layer, names[other], len(index))


def _cut_heads(attention: Any, kept: Tensor, model: CausalLM) -> None:
    channels = attention.head_dim
    readers = config(model.net).num_attention_heads // (attention.v_proj.out_features // channels)
    keys = (kept[:, None] * channels + torch.arange(channels)).flatten()
    queries = (kept[:, None] * readers * channels + torch.arange(readers * channels)).flatten()
    for name, index, side in (
        ("q_proj", queries, "out"), ("k_proj", keys, "out"), ("v_proj", keys, "out"), ("o_proj", queries, "in"),
    ):  # fmt: skip
        _cut(getattr(attention, name), index, side)
    for name, count in (("num_heads", len(kept) * readers), ("num_key_value_heads", len(kept))):
        if hasattr(attention, name):
            setattr(attention, name, count)


def _state(net: Any, neurons: int | None, groups: int | None) -> None:
    """The configuration of what was cut."""
    settings = config(net)
    if neurons is not None:
        setattr(settings, "n_inner" if hasattr(settings, "n_inner") else "intermediate_size", neurons)
    if groups is not None:
        readers = settings.num_attention_heads // settings.num_key_value_heads
        settings.head_dim = next(m.head_dim for m in net.modules() if hasattr(m, "q_proj"))
        settings.num_attention_heads, settings.num_key_value_heads = groups * readers, groups
        try:
            settings.validate()
        except Exception as error:  # of huggingface_hub's strict dataclasses
            said = f"leave a number of heads that {type(net).__name__} does not allow: {brief(error)}"
            raise InputError("groups", groups, said) from None
