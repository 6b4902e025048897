"""Unstructured sparsity: the smallest weights of every linear layer in the blocks are zero, and stay zero.

    W <- W * M,  M = 1 where |W| is among the largest (1 - share) of its matrix             (after every update)

Embeddings, norms and the head stay dense. The weights themselves are zero, so that checkpoints and ``save_pretrained``
need nothing special; :class:`Masks`, part of a method, keeps M in its checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.models.causal_lm import CausalLM
from limbeck.models.surgery._anatomy import linears

__all__ = ["Masks", "sparsify", "sparsity"]


class Masks(nn.Module):
    """Which weights of a model may be other than zero.

    Args:
        model: what is masked; it is not kept.
        share: of the weights of each linear layer in the blocks that is zero, in [0, 1).
    """

    def __init__(self, model: CausalLM, share: float) -> None:
        super().__init__()
        self.paths = [path for path, _ in linears(model)]
        for number, (_, layer) in enumerate(linears(model)):
            self.register_buffer(str(number), _largest(_weight(layer), share))

    @torch.no_grad()
    def put_on(self, model: nn.Module) -> None:
        """W <- W * M: call it after every step of the optimiser, whose momentum would bring weights back."""
        for number, path in enumerate(self.paths):
            _weight(model.get_submodule(path)).mul_(self.get_buffer(str(number)))


def sparsify(model: CausalLM, share: float) -> Masks:
    """Set the smallest weights to zero, in place, and return what keeps them there.

    Args:
        model: without an adapter; a network that is sparse already gets sparser, since zeros are smallest.
        share: of the weights of each linear layer in the blocks, in [0, 1).

    Raises:
        InputError: for a share outside that range.
    """
    if not 0 <= share < 1:
        raise InputError("share", share, "must be at least 0 and less than 1")
    masks = Masks(model, share)
    masks.put_on(model)
    return masks


def sparsity(model: CausalLM) -> float:
    """The share of zeros among the weights of the linear layers in the blocks."""
    weights = [_weight(layer) for _, layer in linears(model)]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight.detach()


def _largest(weight: Tensor, share: float) -> Tensor:
    """A bool mask without the ``share`` smallest magnitudes, exactly so many whatever is equal."""
    mask = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    mask[weight.abs().flatten().argsort(stable=True)[: round(share * weight.numel())]] = False
    return mask.view_as(weight)
