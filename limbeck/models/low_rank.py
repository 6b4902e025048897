"""Low-rank adapters on a denoiser's linear and convolution layers (Hu et al., 2021), through peft.
https://arxiv.org/abs/2106.09685

    W + (alpha / r) B A,   B = 0 at first
"""

from __future__ import annotations

import copy

from torch import nn

from limbeck.errors import InputError
from limbeck.models.denoiser import Denoiser

__all__ = ["adapted", "merged"]

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def adapted(model: Denoiser, rank: int, alpha: float = 0.0) -> Denoiser:
    """The same model with adapters, which alone can be trained; it says the same until they are.

    The weights are the model's own, not copies of them, and are frozen: a second model costs its adapters alone.

    Args:
        model: with at least one linear or convolution layer.
        rank: r >= 1.
        alpha: the adapters' scale is ``alpha / rank``; 0 for ``rank``, a scale of one.

    Raises:
        InputError: for a rank below 1, or a network without such layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if rank < 1:
        raise InputError("rank", rank, "must be at least 1")
    layers = [name for name, layer in model.net.named_modules() if isinstance(layer, LAYERS)]
    if not layers:
        raise InputError("model", type(model.net).__name__, "has no linear or convolution layer to adapt")
    weights = {id(t): t for t in (*model.parameters(), *model.buffers())}
    made = copy.deepcopy(model, dict(weights))  # new modules around the same tensors
    for module in made.modules():
        vars(module).pop("limbeck_frozen", None)
    settings = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=layers)  # type: ignore[arg-type]
    inject_adapter_in_model(settings, made.net)
    return made.train()


def merged(model: Denoiser) -> Denoiser:
    """A copy without adapters: they are added to its weights, all of which can be trained again.

    Raises:
        InputError: for a model without adapters.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    made = copy.deepcopy(model)  # the weights are copied with it: the model's own stay as they are
    layers = [(name, m) for name, m in made.named_modules() if isinstance(m, BaseTunerLayer)]
    if not layers:
        raise InputError("model", type(model.net).__name__, "has no adapter to merge")
    for name, layer in layers:
        layer.merge()
        parent, _, own = name.rpartition(".")
        setattr(made.get_submodule(parent), own, layer.get_base_layer())
    return made.requires_grad_(True)
