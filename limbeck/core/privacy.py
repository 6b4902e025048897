"""Differential privacy of training: each record's gradient clipped, noise added, the budget accounted.

Deep learning with differential privacy (Abadi et al., 2016), https://arxiv.org/abs/1607.00133: records are drawn
independently with probability q, each record's gradient g_i is cut to norm C, and

    g = 1 / (q N) (sum_i g_i min(1, C / ||g_i||) + N(0, sigma^2 C^2 I))

is (epsilon, delta)-private over some steps, with epsilon by Renyi accounting (opacus).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from limbeck.errors import InputError

__all__ = ["Mechanism", "Private", "private_gradient"]


@dataclass(frozen=True)
class Mechanism:
    """The subsampled Gaussian mechanism.

    Args:
        records: N, at least 1.
        batch: records expected a step, q N; at most ``records``.
        noise: sigma, standard deviation of the noise in units of the clipping norm; 0 is not private.
        delta: of (epsilon, delta)-privacy, between 0 and 1.

    Raises:
        InputError: for a batch or a delta out of range.
    """

    records: int
    batch: float
    noise: float
    delta: float

    def __post_init__(self) -> None:
        if not 0 < self.batch <= self.records:
            raise InputError("batch", self.batch, f"records a step must be above 0 and at most all {self.records}")
        if not 0 < self.delta < 1:
            raise InputError("delta", self.delta, "must be between 0 and 1")

    @classmethod
    def within(cls, epsilon: float, delta: float, *, records: int, batch: float, steps: int) -> Self:
        """The one with the least noise that spends at most ``epsilon`` in ``steps`` steps.

        Raises:
            InputError: when no noise is enough, or opacus is missing.
        """
        cls(records, batch, 0.0, delta)  # what no noise can mend is refused first
        search: Any = _opacus("opacus.accountants.utils").get_noise_multiplier
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of coarse orders: the bound still holds
                noise = search(
                    target_epsilon=epsilon, target_delta=delta, sample_rate=batch / records, steps=steps,
                    accountant="rdp",
                )  # fmt: skip
        except ValueError:
            raise InputError("epsilon", epsilon, f"cannot be kept over {steps} steps; allow more") from None
        return cls(records, batch, float(noise), delta)

    def epsilon(self, steps: int) -> float:
        """What is spent after ``steps`` steps; infinite without noise."""
        if steps == 0 or self.noise == 0:
            return 0.0 if steps == 0 else torch.inf
        analysis = _opacus("opacus.accountants.analysis.rdp")
        orders, each = _renyi(self.batch / self.records, self.noise)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spent = analysis.get_privacy_spent(orders=orders, rdp=each * steps, delta=self.delta)
        return float(spent[0])


class Private(NamedTuple):
    """A private gradient, and two facts of the records that are not private themselves."""

    gradient: list[Tensor]
    """One tensor a parameter."""
    loss: Tensor
    """Mean loss of the records, 0 when none was drawn."""
    clipped: Tensor
    """Share of the records whose gradient was cut."""


def private_gradient(
    losses: Iterable[Tensor], parameters: Sequence[nn.Parameter], norm: float, mechanism: Mechanism
) -> Private:
    """Differentiate one record after another.

    Args:
        losses: a scalar a record, each with its own graph; made one at a time, so that one graph is held.
        parameters: what is trained; one that is used twice counts once.
        norm: C.
        mechanism: the noise and the expected number of records.
    """
    total = [torch.zeros_like(p) for p in parameters]
    device = parameters[0].device
    found, cut, count = torch.zeros((), device=device), torch.zeros((), device=device), 0
    for loss in losses:
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        length = torch.stack([g.float().norm() for g in gradients]).norm()
        share = (norm / length.clamp(min=1e-12)).clamp(max=1.0)
        for into, g in zip(total, gradients, strict=True):
            into.add_(g * share)
        found, cut, count = found + loss.detach(), cut + (length > norm), count + 1
    for into in total:
        into.add_(torch.randn_like(into), alpha=mechanism.noise * norm).div_(mechanism.batch)
    return Private(total, found / max(count, 1), cut / max(count, 1))


@cache
def _renyi(rate: float, noise: float) -> tuple[list[float], Any]:
    """Orders, and the divergence of one step at each; it adds up over steps."""
    orders: list[float] = _opacus("opacus.accountants").RDPAccountant.DEFAULT_ALPHAS
    return orders, _opacus("opacus.accountants.analysis.rdp").compute_rdp(
        q=rate, noise_multiplier=noise, steps=1, orders=orders
    )


def _opacus(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise InputError("opacus", "missing", "is needed for privacy; pip install 'limbeck[privacy]'") from None
