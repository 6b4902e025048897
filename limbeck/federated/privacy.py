"""Differential privacy of rounds: what a client can change is bounded, noise hides it, and the budget is accounted.

Learning Differentially Private Recurrent Language Models (McMahan, Ramage, Talwar, Zhang, 2018),
https://arxiv.org/abs/1710.06963, which Flower's strategies with fixed clipping and its client mods follow too. A client
takes part in a round with probability q, by a coin of its own, and

    Delta_k = (w^k - w) min(1, S / ||w^k - w||)
    w <- w + 1 / (q K) (sum_k Delta_k + N(0, z^2 S^2 I)).

Every client counts alike and the divisor is fixed: weights by rows, and a mean of those who answered, would let one
client move the sum by more than S. A dropped client is one with Delta_k = 0; noise is added even if nobody answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.core.privacy import Mechanism
from limbeck.errors import InputError
from limbeck.federated.payload import Payload
from limbeck.federated.rounds import Reply, expected

__all__ = ["Privacy", "clipped", "noisy"]

Where = Literal["server", "client", "local"]


@dataclass(frozen=True)
class Privacy:
    """What the fields ``privacy``, ``clipping_norm``, ``noise_multiplier`` and ``delta`` of a method ask for.

    Args:
        where: ``server``: the server clips, and adds noise to the mean; ``client``: clients clip, and are trusted to,
            the server adds noise. Both hide from whoever sees the shared models whether a client took part, and trust
            the server.
            ``local``: each client clips, and adds noise of standard deviation z S before it sends.
        norm: S.
        noise: z, standard deviation of the noise in units of S.
        delta: of (epsilon, delta)-privacy, between 0 and 1.
        population: K.
        each: q K, clients expected in a round.
        paths: the parameters that clients train: all that travels back.
    """

    where: Where
    norm: float
    noise: float
    delta: float
    population: int
    each: int
    paths: frozenset[str]

    @classmethod
    def of(cls, method: Any) -> Privacy | None:
        """From a method's fields; ``None`` without privacy.

        Raises:
            InputError: for a ``delta`` out of range, noise without a bound, and a shared model with batch norm: its
                running statistics are sums over the clients' images that no clipping of weights covers.
        """
        if method.privacy == "none":
            return None
        if method.noise_multiplier and math.isinf(method.clipping_norm):
            raise InputError("clipping_norm", method.clipping_norm, "leaves noise without a measure; give a number")
        for module in method.student.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
                raise InputError(
                    "privacy", method.privacy, "does not cover batch norm's running statistics; take a student "
                    "without, such as convnet-32x2 or mlp-64x2",
                )  # fmt: skip
        made = cls(
            method.privacy, method.clipping_norm, method.noise_multiplier, method.delta, method.population,
            expected(method.population, method.participation),
            frozenset(path for path, p in method.student.named_parameters() if p.requires_grad),
        )  # fmt: skip
        made._mechanism()
        return made

    def covered(self, payload: Payload) -> Payload:
        """The trained weights among what a payload has: no loss, no buffers."""
        return {name: value for name, value in payload.items() if name.removeprefix("student/") in self.paths}

    def sent(self, reply: Payload, got: Payload) -> Payload:
        """At a client: what leaves it, of the reply that it would send without privacy."""
        weights = self.covered(reply)
        if self.where == "server":
            return weights
        weights = clipped(weights, got, self.norm)
        return noisy(weights, self.noise, self.norm) if self.where == "local" else weights

    def mean(self, replies: Sequence[Reply], sent: Payload) -> Payload:
        """At the server: the new weights, from those that were ``sent`` and all replies, perhaps none."""
        start = self.covered(sent)
        total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in start.items()}
        for reply in replies:
            given = clipped(reply.payload, start, self.norm) if self.where == "server" else reply.payload
            for name, value in total.items():
                value.add_(given[name].double() - start[name].double())
        if self.where != "local":
            total = noisy(total, self.noise, self.norm)
        return {name: (start[name].double() + v / self.each).to(start[name].dtype) for name, v in total.items()}

    def epsilon(self, rounds: int) -> float:
        """What is spent after so many rounds; infinite without noise.

        ``server`` and ``client``: for adding or removing a client, with the sampling of clients accounted. ``local``:
        for any change of a client's rows, which moves its clipped weights by up to 2 S, if it is asked in every round.

        Raises:
            InputError: when opacus is missing.
        """
        return self._mechanism().epsilon(rounds)

    def _mechanism(self) -> Mechanism:
        if self.where == "local":
            return Mechanism(1, 1.0, self.noise / 2, self.delta)
        return Mechanism(self.population, self.each, self.noise, self.delta)

    def logs(self, rounds: int) -> dict[str, Tensor]:
        """``epsilon`` after so many rounds, where there is noise, and opacus to account for it."""
        try:
            return {"epsilon": torch.tensor(self.epsilon(rounds))} if self.noise else {}
        except InputError:
            return {}


@torch.no_grad()
def clipped(payload: Payload, start: Payload, norm: float) -> Payload:
    """start + (payload - start) min(1, norm / ||payload - start||), over all its tensors as one vector.

    What is within the norm is left as it is, bit for bit.
    """
    change = {name: value.double() - start[name].double() for name, value in payload.items()}
    length = float(torch.stack([v.norm() for v in change.values()]).norm())
    if length <= norm:
        return payload
    return {name: (start[name].double() + v * (norm / length)).to(payload[name].dtype) for name, v in change.items()}


@torch.no_grad()
def noisy(payload: Payload, multiplier: float, norm: float) -> Payload:
    """Every number with Gaussian noise of standard deviation ``multiplier * norm``, from torch's global generator."""
    if multiplier == 0:  # also where the norm is infinite
        return payload
    return {name: value + multiplier * norm * torch.randn_like(value) for name, value in payload.items()}
