"""Training on synthetic data, unrolled, with gradients to the data and the step sizes; in memory that does not grow.

    v_{n+1} = mu v_n + grad_theta CE(f(x_n; theta_n), y_n),        theta_{n+1} = theta_n - alpha_n v_{n+1}

:func:`unroll` keeps the graph of every step. :func:`replay` keeps the parameters of every step and no graph: going
backwards it makes one step's graph at a time and carries the adjoint of (theta, v) through it, which gives the same
gradient, exactly, for one more forward and backward pass a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

__all__ = ["Parameters", "State", "StepData", "distance", "parameters_of", "replay", "start", "unroll"]

Parameters = dict[str, Tensor]


class State(NamedTuple):
    """Parameters and momentum, by name."""

    theta: Parameters
    v: Parameters


class StepData(NamedTuple):
    """What one step trains on: images (B, C, H, W), targets (B,) int64 or (B, K) probabilities, and the step size."""

    x: Tensor
    y: Tensor
    rate: Tensor


def parameters_of(net: nn.Module) -> Parameters:
    """Copies of a network's parameters, without gradient."""
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def start(theta: Parameters) -> State:
    """These parameters, at rest."""
    return State(theta, {name: torch.zeros_like(p) for name, p in theta.items()})


def step(net: nn.Module, state: State, data: StepData, momentum: float = 0.0, *, graph: bool = True) -> State:
    """One step of gradient descent with heavy-ball momentum; with ``graph`` its result is a function of everything."""
    names = list(state.theta)
    loss = F.cross_entropy(functional_call(net, state.theta, (data.x,)), data.y)
    slopes = torch.autograd.grad(loss, [state.theta[n] for n in names], create_graph=graph)
    v = {n: momentum * state.v[n] + g for n, g in zip(names, slopes, strict=True)}
    return State({n: state.theta[n] - data.rate * v[n] for n in names}, v)


def unroll(net: nn.Module, state: State, data: Sequence[StepData], momentum: float = 0.0) -> list[State]:
    """The states of all steps, the first of which is ``state``, with the graph of the whole way."""
    states = [State({n: p.requires_grad_() for n, p in state.theta.items()}, state.v)]
    for each in data:
        states.append(step(net, states[-1], each, momentum))
    return states


def replay(
    net: nn.Module, state: State, data: Sequence[StepData], objective: Callable[[list[Parameters]], Tensor],
    momentum: float = 0.0,
) -> Tensor:  # fmt: skip
    """``objective`` of the parameters after every step, as a scalar whose gradient reaches the data and the step sizes.

    Args:
        net: whose structure is used; its own parameters are not.
        state: where training starts; constant.
        data: a step each.
        objective: of the parameters at the start and after every step; it may look at as many of them as it likes.
        momentum: mu.
    """
    flat = [part for each in data for part in (each.x, each.rate)]
    return _Replay.apply(net, state, [each.y for each in data], objective, momentum, *flat)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        net, state, ys, objective, momentum, *flat = inputs
        xs, rates = flat[::2], flat[1::2]
        states = [state]
        for x, y, rate in zip(xs, ys, rates, strict=True):
            with torch.enable_grad():
                now = State({n: p.detach().requires_grad_() for n, p in states[-1].theta.items()}, states[-1].v)
                after = step(net, now, StepData(x.detach(), y, rate.detach()), momentum, graph=False)
            theta, v = ({n: p.detach() for n, p in part.items()} for part in after)
            states.append(State(theta, v if momentum else state.v))  # without momentum it is not looked at again
        ctx.run = (net, states, ys, objective, momentum)
        ctx.save_for_backward(*flat)
        with torch.no_grad():
            return objective([s.theta for s in states])

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        net, states, ys, objective, momentum = ctx.run
        flat, names = ctx.saved_tensors, list(states[0].theta)
        with torch.enable_grad():
            leaves = [{n: p.detach().requires_grad_() for n, p in s.theta.items()} for s in states]
            asked = [p for theta in leaves for p in theta.values()]
            slopes = torch.autograd.grad(objective(leaves), asked, outer[0], allow_unused=True)
        direct = [
            dict(zip(names, slopes[k * len(names) : (k + 1) * len(names)], strict=True)) for k in range(len(states))
        ]
        last = max((k for k, slope in enumerate(direct) if any(g is not None for g in slope.values())), default=0)
        theta_bar = [_or_zero(direct[last][n], states[last].theta[n]) for n in names]
        v_bar = [torch.zeros_like(states[last].v[n]) for n in names]
        found: list[Tensor | None] = [None] * len(flat)
        for k in reversed(range(last)):  # later steps lead to nothing that the objective looked at
            with torch.enable_grad():
                theta = {n: p.detach().requires_grad_() for n, p in states[k].theta.items()}
                v = {n: p.detach().requires_grad_() for n, p in states[k].v.items()}
                x, rate = (flat[2 * k + j].detach().requires_grad_() for j in (0, 1))
                after = step(net, State(theta, v), StepData(x, ys[k], rate), momentum)
                outputs = [*(after.theta[n] for n in names), *(after.v[n] for n in names)]
                back = torch.autograd.grad(
                    outputs, [*theta.values(), *v.values(), x, rate], [*theta_bar, *v_bar], allow_unused=True
                )
            found[2 * k], found[2 * k + 1] = back[-2], back[-1]
            theta_bar = [
                _or_zero(g, states[k].theta[n]) + _or_zero(direct[k][n], states[k].theta[n])
                for n, g in zip(names, back, strict=False)
            ]
            v_bar = [_or_zero(g, states[k].v[n]) for n, g in zip(names, back[len(names) : 2 * len(names)], strict=True)]
        return (None, None, None, None, None, *found)


def _or_zero(g: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if g is None else g


def distance(a: Parameters, b: Parameters) -> Tensor:
    """The squared distance of two parameter vectors, all layers together, a scalar."""
    return torch.stack([(a[name] - b[name]).square().sum() for name in a]).sum()
