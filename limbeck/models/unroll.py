"""Training on synthetic data, unrolled, with gradients to the data and the step sizes; in memory that does not grow.

    g_n     = grad_theta CE(f(x_n; theta_n), y_n)
    v_{n+1} = mu v_n + g_n,        theta_{n+1} = theta_n - alpha_n v_{n+1}

:func:`unroll` keeps the graph of every step. :func:`replay` keeps the parameters of every step and, as far as a fixed
number of bytes goes, the graphs of the first ones. Going backwards it makes the others again, one at a time, for one
more forward and backward pass a step, and carries the derivatives (bars) of the objective L through them: the plain
unroll's, exactly.

    u           = vbar_{n+1} - alpha_n thetabar_{n+1}
    thetabar_n  = thetabar_{n+1} + d<g_n, u> / d theta_n + dL / d theta_n,         vbar_n = mu u
    xbar       += d<g_n, u> / d x,                              alphabar_n = -<thetabar_{n+1}, v_{n+1}>

A second backward pass through g_n gives the derivatives of <g_n, u>. (One pass of forward mode through it would need
no graph, but takes longer: instance norm's is made of many small steps.)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.nn import functional as F

__all__ = ["KEEP", "Parameters", "State", "StepData", "Steps", "distance", "parameters_of", "replay", "start", "unroll"]

Parameters = dict[str, Tensor]
KEEP = 2**30  # bytes: ten steps of the field's usual network then take within 1.1 times the whole graph's time


class State(NamedTuple):
    """Parameters and momentum, by name."""

    theta: Parameters
    v: Parameters


class StepData(NamedTuple):
    """What one step trains on: images (B, C, H, W), targets (B,) int64 or (B, K) probabilities, and the step size."""

    x: Tensor
    y: Tensor
    rate: Tensor


@dataclass(frozen=True)
class Steps:
    """The data of so many steps, each made when it is asked for, and as often.

    Args:
        x: what the images of all steps are made of, such as (S, C, H, W) pixels.
        rates: what their step sizes are made of, (R,) or a scalar.
        count: N.
        make: step n's data, n = 0 ... N - 1, as a function of n, ``x`` and ``rates``; the same one whenever it is
            called, so that what is random about it is drawn before.
    """

    x: Tensor
    rates: Tensor
    count: int
    make: Callable[[int, Tensor, Tensor], StepData]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, n: int) -> StepData:
        return self.make(n, self.x, self.rates)

    def __iter__(self) -> Iterator[StepData]:
        return (self[n] for n in range(self.count))


def parameters_of(net: nn.Module) -> Parameters:
    """Copies of a network's parameters, without gradient."""
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def start(theta: Parameters) -> State:
    """These parameters, at rest."""
    return State(theta, {name: torch.zeros_like(p) for name, p in theta.items()})


def slopes(net: nn.Module, theta: Parameters, data: StepData, *, graph: bool) -> Parameters:
    """g_n by name; with ``graph`` a function of everything."""
    loss = F.cross_entropy(functional_call(net, theta, (data.x,)), data.y)
    return dict(zip(theta, torch.autograd.grad(loss, list(theta.values()), create_graph=graph), strict=True))


def moved(state: State, g: Parameters, rate: Tensor, momentum: float) -> State:
    """The state after a step along these slopes."""
    v = {n: momentum * state.v[n] + g[n] for n in g}
    return State({n: p - rate * v[n] for n, p in state.theta.items()}, v)


def step(net: nn.Module, state: State, data: StepData, momentum: float = 0.0, *, graph: bool = True) -> State:
    """One step of gradient descent with heavy-ball momentum; with ``graph`` its result is a function of everything."""
    return moved(state, slopes(net, state.theta, data, graph=graph), data.rate, momentum)


def unroll(net: nn.Module, state: State, data: Iterable[StepData], momentum: float = 0.0) -> list[State]:
    """The states of all steps, the first of which is ``state``, with the graph of the whole way."""
    states = [State({n: p.requires_grad_() for n, p in state.theta.items()}, state.v)]
    for each in data:
        states.append(step(net, states[-1], each, momentum))
    return states


def replay(
    net: nn.Module, state: State, data: Steps, objective: Callable[[list[Parameters]], Tensor], momentum: float = 0.0,
    *, keep: int = KEEP,
) -> Tensor:  # fmt: skip
    """``objective`` of the parameters after every step, as a scalar whose gradient reaches ``data.x`` and
    ``data.rates``.

    Args:
        net: whose structure is used; its own parameters are not.
        state: where training starts; constant.
        data: of the steps.
        objective: of the parameters at the start and after every step; it may look at as many of them as it likes.
        momentum: mu.
        keep: bytes that graphs of steps may take which are kept rather than made again; 0 for the least memory.
    """
    return _Replay.apply(net, state, data, objective, momentum, keep, data.x, data.rates)


class _Graph(NamedTuple):
    """One step's g_n and step size, as functions of theta_n, x and rates, which are leaves."""

    leaves: list[Tensor]
    g: Parameters
    rate: Tensor

    @classmethod
    def of(cls, net: nn.Module, theta: Parameters, data: Steps, n: int) -> _Graph:
        with torch.enable_grad():
            theta = {name: p.detach().requires_grad_() for name, p in theta.items()}
            x, rates = data.x.detach().requires_grad_(), data.rates.detach().requires_grad_()
            now = data.make(n, x, rates)
            return cls([*theta.values(), x, rates], slopes(net, theta, now, graph=True), now.rate)

    def back(self, u: Sequence[Tensor], rate_bar: Tensor) -> list[Tensor]:
        """``d (<g_n, u> + rate rate_bar)`` by the leaves; the graph is used up."""
        outputs = [*self.g.values(), self.rate]
        found = list[Tensor | None](torch.autograd.grad(outputs, self.leaves, [*u, rate_bar], allow_unused=True))
        return [torch.zeros_like(p) if d is None else d for d, p in zip(found, self.leaves, strict=True)]


@contextmanager
def _weighed() -> Generator[dict[int, int]]:
    """Gathers the bytes of every storage that graphs hold which are made in this context."""
    sizes: dict[int, int] = {}

    def kept(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(kept, lambda tensor: tensor):
        yield sizes


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        net, state, data, objective, momentum, room, x, rates = inputs
        data = replace(data, x=x.detach(), rates=rates.detach())
        states, graphs = [state], dict[int, _Graph]()
        for n in range(len(data)):
            theta = states[-1].theta
            if room > 0:
                with _weighed() as sizes:
                    graphs[n] = _Graph.of(net, theta, data, n)
                g, rate = {name: p.detach() for name, p in graphs[n].g.items()}, graphs[n].rate.detach()
                room -= sum(sizes.values())
                if room < 0:
                    del graphs[n]
            else:
                now = data[n]
                with torch.enable_grad():
                    leaves = {name: p.detach().requires_grad_() for name, p in theta.items()}
                    g, rate = slopes(net, leaves, now, graph=False), now.rate
            after = moved(states[-1], g, rate, momentum)
            states.append(after if momentum else State(after.theta, state.v))  # without momentum v is not kept
        ctx.save_for_backward(x, rates)
        ctx.run, ctx.graphs = (net, data, states, objective, momentum), graphs
        with torch.no_grad():
            return objective([s.theta for s in states])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        net, data, states, objective, momentum = ctx.run
        x, rates = ctx.saved_tensors
        with torch.enable_grad():
            leaves = [{n: p.detach().requires_grad_() for n, p in s.theta.items()} for s in states]
            asked = [p for theta in leaves for p in theta.values()]
            found = list[Tensor | None](torch.autograd.grad(objective(leaves), asked, outer[0], allow_unused=True))
        names = list(states[0].theta)
        direct = [found[k : k + len(names)] for k in range(0, len(found), len(names))]
        last = max((k for k, part in enumerate(direct) if any(d is not None for d in part)), default=0)
        theta_bar = [torch.zeros_like(p) for p in states[last].theta.values()]
        v_bar = [torch.zeros_like(bar) for bar in theta_bar]
        x_bar, rates_bar = torch.zeros_like(x), torch.zeros_like(rates)
        for n in reversed(range(last)):  # later steps lead to nothing that the objective looked at
            theta_bar = [bar if d is None else bar + d for bar, d in zip(theta_bar, direct[n + 1], strict=True)]
            graph = ctx.graphs.pop(n, None) or _Graph.of(net, states[n].theta, data, n)
            v = [momentum * states[n].v[name] + graph.g[name] for name in names]
            rate_bar = -torch.stack([(bar * p).sum() for bar, p in zip(theta_bar, v, strict=True)]).sum()
            u = [a - graph.rate * b for a, b in zip(v_bar, theta_bar, strict=True)]
            *by_theta, by_x, by_rates = graph.back(u, rate_bar)
            theta_bar = [bar + d for bar, d in zip(theta_bar, by_theta, strict=True)]
            v_bar = [momentum * bar for bar in u]
            x_bar += by_x
            rates_bar += by_rates
        return (None,) * 6 + (x_bar, rates_bar)


def distance(a: Parameters, b: Parameters) -> Tensor:
    """The squared distance of two parameter vectors, all layers together, a scalar."""
    return torch.stack([(a[name] - b[name]).square().sum() for name in a]).sum()
