"""A network of diffusers in the words of this library.

What it is told, and what comes out, is the network's own: weights are not touched. A scheduler's betas are a
:class:`Discrete` path, on which the network is told ``t T - 1``; flow matching is the straight path, on which it is
told ``t T``; on EDM's it is told ``log(sigma) / 4``. :mod:`limbeck.models.diffusers_read` and
:mod:`limbeck.models.diffusers_write` have pipelines and schedulers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.models.denoiser import Denoiser
from limbeck.models.path import EDM, Discrete, Path, Prediction

__all__ = ["DiffusersNet", "cosine", "embeddings", "unet"]


class DiffusersNet(nn.Module):
    """A ``UNet2DModel`` or ``DiTTransformer2DModel`` as ``net(x, t, y, extra)``.

    Args:
        model: of diffusers.
        path: its scheduler's noise path.
        steps: T of its scheduler; a table's own length where the path is one.
        classes: how many there are; the null label is the embedding after the last, where there is one.
        betas: the scheduler's settings that its table is made of; empty where there is no table.
    """

    extras = 0

    def __init__(
        self, model: nn.Module, path: Path, *, steps: int = 1000, classes: int = 0,
        betas: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.path, self.classes = model, path, classes
        self.steps = len(path.alphas_cumprod) if isinstance(path, Discrete) else steps
        self.betas = dict(betas or {})
        self.null = embeddings(model) > classes
        blocks = getattr(model, "transformer_blocks", None)
        self.middle = "model.mid_block" if blocks is None else f"model.transformer_blocks.{(len(blocks) - 1) // 2}"
        for module in model.modules():  # its own random dropping of labels in training mode: methods decide on that
            if type(module).__name__ == "LabelEmbedding":
                module.dropout_prob = 0.0
            if type(module).__name__ == "Attention":  # torch's group norm has no forward derivative of channels last
                module.register_forward_hook(_contiguous)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        if isinstance(self.path, EDM):
            told = self.path.sigma(t).log() / 4
        else:
            told = (t * self.steps - int(isinstance(self.path, Discrete))).clamp(min=0)
        if getattr(self.model.config, "time_embedding_type", None) == "learned":
            told = told.round().long().clamp(max=self.steps - 1)
        if y is not None and not self.null and bool((y >= self.classes).any()):
            raise InputError("labels", "none", "cannot be left out: this model has no embedding for the null label")
        said = self.model(x, told, class_labels=y, return_dict=False)[0]
        return said[:, : x.shape[1]]  # what follows in DiT is a variance


def _contiguous(module: nn.Module, given: Any, out: Tensor) -> Tensor:
    return out.contiguous()


def embeddings(model: nn.Module) -> int:
    """How many labels a network has an embedding of, the null label included."""
    found = [m.weight.shape[0] for name, m in model.named_modules()
             if isinstance(m, nn.Embedding) and ("class_embed" in name or "embedding_table" in name)]  # fmt: skip
    return found[0] if found else 0


def cosine(steps: int = 1000) -> dict[str, Any]:
    """The settings of the cosine schedule (Nichol & Dhariwal, 2021, https://arxiv.org/abs/2102.09672)."""
    return {"num_train_timesteps": steps, "beta_schedule": "squaredcos_cap_v2"}


def unet(
    widths: Sequence[int], *, shape: Sequence[int], classes: int | Sequence[str] = 0, layers: int = 1,
    path: Path | None = None, prediction: Prediction | None = None, betas: Mapping[str, Any] | None = None,
) -> Denoiser:  # fmt: skip
    """A fresh UNet of images through diffusers; a width a resolution, with attention at the lowest.

    By default on the cosine schedule, predicting v; with a null label beside the classes, so that it can be guided.

    Raises:
        InputError: for an image that cannot be halved so often.
    """
    from diffusers import UNet2DModel

    channels, height, width = shape
    halvings = 2 ** (len(widths) - 1)
    if height != width or height % halvings:
        fix = f"is the size; this UNet halves a square {len(widths) - 1} times: resize the images, or name fewer widths"
        raise InputError("model", f"{height}x{width}", fix)
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if g <= min(widths) // 4 and all(w % g == 0 for w in widths))
    plain = len(widths) - 1
    count = classes if isinstance(classes, int) else len(classes)
    net = UNet2DModel(
        sample_size=height, in_channels=channels, out_channels=channels, layers_per_block=layers,
        block_out_channels=tuple(widths), norm_num_groups=groups, attention_head_dim=None,
        down_block_types=(*["DownBlock2D"] * plain, "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", *["UpBlock2D"] * plain),
        num_class_embeds=count + 1 if count else None,
    )  # fmt: skip
    if path is None:
        betas = cosine() if betas is None else betas
        path = _table(betas)
    inner = DiffusersNet(net, path, classes=count, betas=betas)
    kind = prediction or ("v" if isinstance(path, Discrete) else "velocity")
    return Denoiser(inner, shape=shape, path=path, prediction=kind, classes=classes)


def _table(betas: Mapping[str, Any]) -> Discrete:
    from diffusers import DDIMScheduler

    return Discrete(tuple(DDIMScheduler(**betas).alphas_cumprod.tolist()))
