"""Low-rank adapters (Hu et al., 2021, LoRA, https://arxiv.org/abs/2106.09685), through peft: W + (alpha / r) B A, B = 0
at first."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.errors import InputError
from limbeck.models.causal_lm import CausalLM
from limbeck.models.surgery._anatomy import linears, plain, turned

__all__ = ["lora", "merge"]


def lora(
    model: CausalLM, rank: int, targets: Sequence[str] = (), *, alpha: float = 0.0, dropout: float = 0.0
) -> CausalLM:
    """The same network with adapters, which alone can be trained; it says the same until they are.

    The network given is not copied: its weights are frozen and belong to both.

    Args:
        model: without an adapter.
        rank: r >= 1.
        targets: names of linear layers, such as ``q_proj``; none for every linear layer in the blocks.
        alpha: the adapters' scale is ``alpha / rank``; 0 for ``2 rank``.
        dropout: on the adapters' input.

    Raises:
        InputError: for a rank below 1 or targets that name no layer.
    """
    from peft import LoraConfig, get_peft_model

    if rank < 1:
        raise InputError("rank", rank, "must be at least 1")
    known = {path.rpartition(".")[2]: turned(layer) for path, layer in linears(model)}
    for target in targets:
        if target not in known:
            raise InputError("targets", target, f"names no linear layer of a block; known: {', '.join(sorted(known))}")
    settings = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=alpha or 2 * rank, lora_dropout=dropout,
        target_modules=list(targets or known), fan_in_fan_out=any(known.values()),
    )  # fmt: skip
    return CausalLM(get_peft_model(plain(model), settings), model.tokenizer)  # type: ignore[arg-type]


def merge(model: CausalLM) -> CausalLM:
    """The network with its adapters added to its weights, all of which can be trained again.

    Raises:
        InputError: for a network without adapters.
    """
    if not hasattr(model.net, "peft_config"):
        raise InputError("model", type(model.net).__name__, "has no adapter to merge")
    net = model.net.merge_and_unload()  # type: ignore[operator]
    return CausalLM(net.requires_grad_(True), model.tokenizer)
