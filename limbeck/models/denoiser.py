"""The face of diffusion and flow models: a state, a time and a condition in; what is clean and what is noise out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.core.modules import eval_mode
from limbeck.errors import InputError
from limbeck.models.path import Path, Prediction, check_prediction, wide

if TYPE_CHECKING:
    from limbeck.models.sampling import Sampler

__all__ = ["Denoised", "Denoiser", "GuidanceRule", "Guided", "Told", "guide"]

GuidanceRule = Literal["from_unconditional", "from_conditional"]


class Denoised(NamedTuple):
    """What a model says of a state ``x_t``, in every form.

    Args:
        x0: (B, ...) the clean sample it sees.
        eps: (B, ...) the noise it sees; ``x_t = alpha x0 + sigma eps`` holds exactly.
        t: (B,) the time.
        path: of the model.
    """

    x0: Tensor
    eps: Tensor
    t: Tensor
    path: Path

    def at(self, s: Tensor | float) -> Tensor:
        """Along the straight line of this prediction to the time s, forwards or backwards: a DDIM step.

        ``alpha_s x0 + sigma_s eps`` (Song et al., 2021, https://arxiv.org/abs/2010.02502); an Euler step of a flow, and
        of EDM in sigma.
        """
        s = times(s, self.x0)
        return wide(self.path.alpha(s), self.x0) * self.x0 + wide(self.path.sigma(s), self.x0) * self.eps

    @property
    def v(self) -> Tensor:
        """``alpha eps - sigma x0``."""
        alpha, sigma = (wide(c, self.x0) for c in (self.path.alpha(self.t), self.path.sigma(self.t)))
        return alpha * self.eps - sigma * self.x0

    @property
    def velocity(self) -> Tensor:
        """``dx_t / dt = alpha' x0 + sigma' eps``: noise-ward, because t is."""
        slope, rise = (wide(c, self.x0) for c in self.path.rates(self.t))
        return slope * self.x0 + rise * self.eps

    @property
    def score(self) -> Tensor:
        """``grad log p_t(x_t) = -eps / sigma``."""
        return -self.eps / wide(self.path.sigma(self.t), self.x0)


class Denoiser(nn.Module):
    """A diffusion or flow model: teacher, student, critic and generator alike.

    Args:
        net: ``net(x, t, y, extra)``: states (B, *shape), times (B,) in [0, 1], labels (B,) int64 where ``classes``
        is the
            null label (``None`` without classes), further numbers (B, extras) or ``None``; answers (B, *shape).
        shape: of one sample.
        path: its noise path.
        prediction: what the network's answer is.
        classes: the classes' names, or how many; 0 for an unconditional model.
        data: standard deviation of the data, for ``edm``.
        sampler: how it is sampled; by default fifty DDIM steps.

    Raises:
        InputError: for a kind of prediction that is not known.
    """

    def __init__(
        self, net: nn.Module, *, shape: Sequence[int], path: Path, prediction: Prediction,
        classes: int | Sequence[str] = 0, data: float = 0.5, sampler: Sampler | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        from limbeck.models.sampling import Ode

        self.net, self.path, self.prediction = net, path, check_prediction(prediction)
        self.shape, self.data = tuple(shape), data
        self.classes = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
        self.sampler: Sampler = Ode() if sampler is None else sampler
        self.reference = ""

    def __setattr__(self, name: str, value: Any) -> None:
        """A sampler may be a plain value or, with fitted numbers, a module; either takes the other's place."""
        if name == "sampler":
            self.__dict__.pop(name, None)
            self.__dict__.get("_modules", {}).pop(name, None)
        super().__setattr__(name, value)

    @property
    def extras(self) -> int:
        """How many further numbers the network is told: a target time, a guidance scale, a sign."""
        return int(getattr(self.net, "extras", 0))

    @property
    def middle(self) -> str:
        """The submodule whose output discriminators read, as a path of :class:`limbeck.core.modules.Taps`."""
        return f"net.{self.net.middle}" if hasattr(self.net, "middle") else ""

    def forward(self, x: Tensor, t: Tensor | float, y: Tensor | None = None, extra: Tensor | None = None) -> Denoised:
        """What the model sees in states (B, *shape) at times (B,) for labels (B,), where -1 or ``None`` is no label."""
        t = times(t, x)
        x0, eps = self.path.solve(x, self.predicted(x, t, y, extra), t, self.prediction, self.data)
        return Denoised(x0, eps, t, self.path)

    def predicted(self, x: Tensor, t: Tensor | float, y: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        """The network's own answer (B, *shape), which is the ``prediction``; arguments as in a call."""
        t = times(t, x)
        if self.prediction == "edm":
            ratio = self.path.ratio(t)
            x = x * wide(1 / (self.path.alpha(t) * (ratio.square() + self.data**2).sqrt()), x)
        return self.net(x, t, self._labels(y, x), self._extra(extra, x))

    def _labels(self, y: Tensor | None, x: Tensor) -> Tensor | None:
        if not self.classes:
            return None
        null = len(self.classes)
        return x.new_full((len(x),), null, dtype=torch.int64) if y is None else torch.where(y < 0, null, y)

    def _extra(self, extra: Tensor | None, x: Tensor) -> Tensor | None:
        return x.new_zeros(len(x), self.extras) if extra is None and self.extras else extra

    def told(self, extras: int) -> Denoiser:
        """A copy whose network is told so many further numbers; it begins as it was, whatever it is told.

        Raises:
            InputError: for a network that has no place for them (no ``told(extras)``), or is told some already.
        """
        if self.extras or not hasattr(self.net, "told"):
            name = type(self.net).__name__
            raise InputError("student", name, "cannot be told further numbers: a target time, a guidance scale, an id")
        made = copy.deepcopy(self)
        made.net = self.net.told(extras)  # type: ignore[operator]
        return made

    def prior(self, noise: Tensor, t: Tensor | float = 1.0) -> Tensor:
        """The state of pure noise at time t: ``sigma_t`` times standard normal noise."""
        return wide(self.path.sigma(times(t, noise)), noise) * noise

    def noise(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal noise (count, *shape) on the model's device; drawn on the CPU, so that a seed is a seed."""
        place = next((p.device for p in (*self.parameters(), *self.buffers())), torch.device("cpu"))
        return torch.randn(count, *self.shape, generator=generator).to(place)

    @torch.no_grad()
    def generate(
        self, noise: Tensor, y: Tensor | None = None, *, sampler: Sampler | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Samples (B, *shape) from standard normal noise, by the model's own sampler or another, in eval mode."""
        with eval_mode(self):
            return (sampler or self.sampler)(self, noise, y, generator)


class _Around(nn.Module):
    """A model that is called through another: path, shape, classes and the like are those of the ``model`` inside."""

    model: nn.Module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    generate = Denoiser.generate  # through the outer call, not that of the model inside


class Guided(_Around):
    """Classifier-free guidance as a model (Ho & Salimans, 2022, https://arxiv.org/abs/2207.12598).

    Args:
        model: a conditional model that was also trained without labels.
        scale: the strength, one number or one a sample (B,).
        rule: ``from_unconditional``: ``u + w (c - u)``, off at 1; ``from_conditional``: ``c + w (c - u)``, off at 0.
            The two differ by one in w, and both are found in papers and code.

    Raises:
        InputError: for a guidance of a model that has no classes.
    """

    def __init__(self, model: nn.Module, scale: float | Tensor, rule: GuidanceRule = "from_unconditional") -> None:
        super().__init__()
        off = 1.0 if rule == "from_unconditional" else 0.0
        self.off = not isinstance(scale, Tensor) and scale == off
        if not self.off and not model.classes:
            raise InputError("guidance", scale, "needs a conditional model; this one has no classes")
        self.model, self.scale, self.rule = model, scale, rule

    def forward(self, x: Tensor, t: Tensor | float, y: Tensor | None = None, extra: Tensor | None = None) -> Denoised:
        if self.off or y is None:
            return self.model(x, t, y, extra)
        return guide(self.model, x, t, y, self.scale, self.rule, extra)


class Told(_Around):
    """A model with its further numbers fixed, as a model that is told none: one of many teachers, say.

    Args:
        model: with ``extras`` further numbers.
        extra: those.
    """

    def __init__(self, model: Denoiser, *extra: float) -> None:
        super().__init__()
        if len(extra) != model.extras:
            raise InputError("extra", len(extra), f"numbers were given; the network is told {model.extras}")
        self.model, self.extra = model, extra

    def forward(self, x: Tensor, t: Tensor | float, y: Tensor | None = None, extra: Tensor | None = None) -> Denoised:
        return self.model(x, t, y, x.new_tensor(self.extra).expand(len(x), -1))


def guide(  # noqa: PLR0917 (the order of a call to the model, then how it is guided)
    model: nn.Module, x: Tensor, t: Tensor | float, y: Tensor, scale: float | Tensor,
    rule: GuidanceRule = "from_unconditional", extra: Tensor | None = None,
) -> Denoised:  # fmt: skip
    """One guided call: condition and null in one batch, then :class:`Guided`'s rule."""
    t = times(t, x)
    both = model(
        torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, torch.full_like(y, -1)]),
        None if extra is None else torch.cat([extra, extra]),
    )  # fmt: skip
    (c0, u0), (ce, ue) = both.x0.chunk(2), both.eps.chunk(2)
    w = wide(scale, x) if isinstance(scale, Tensor) else scale
    w = w if rule == "from_unconditional" else w + 1
    return Denoised(u0 + w * (c0 - u0), ue + w * (ce - ue), t, both.path)


def times(t: Tensor | float, x: Tensor) -> Tensor:
    """One time a sample, (B,), where one number was given for all; in x's precision but never below float32."""
    kind = torch.promote_types(x.dtype, torch.float32)
    if isinstance(t, Tensor) and t.ndim:
        return t.to(kind)
    return torch.as_tensor(t, dtype=kind, device=x.device).expand(len(x))
