"""A mined set of graphs: frequent sets of computation trees with their support, to sample and to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.data.graphs import Graph, Graphs, joined

__all__ = ["MinedSet", "PatternDescent"]


class MinedSet(nn.Module):
    """Patterns of every class: each is a forest of distinct computation trees and how many graphs have them all.

    Args:
        trees: every tree once, as a graph whose node 0 is its root.
        patterns: the trees of every pattern.
        support: (P,) int64.
        y: (P,) int64, a pattern's class.
        prior: (K,), the share of every class among the graphs.
        classes: the classes' names.
        hops: of the trees: no network that is trained on them may hear further.
        use: how networks are trained on the set.
        name: what messages and reports call it.
    """

    kinds: Tensor
    sources: Tensor
    targets: Tensor
    edge_kinds: Tensor
    nodes: Tensor
    items: Tensor
    lengths: Tensor
    support: Tensor
    y: Tensor
    prior: Tensor

    def __init__(
        self, trees: Sequence[Graph], patterns: Sequence[Sequence[int]], *, support: Tensor, y: Tensor, prior: Tensor,
        classes: Sequence[str], hops: int, use: PatternDescent | None = None, name: str = "mined",
    ) -> None:  # fmt: skip
        super().__init__()
        self.classes, self.hops, self.name, self.use = tuple(classes), hops, name, use or PatternDescent()
        held = {
            "kinds": torch.cat([t.kinds for t in trees]),
            "sources": torch.cat([t.edges[0] for t in trees]),
            "targets": torch.cat([t.edges[1] for t in trees]),
            "edge_kinds": torch.cat([t.edge_kinds for t in trees]),
            "nodes": torch.tensor([len(t.kinds) for t in trees]),
            "items": torch.tensor([item for pattern in patterns for item in pattern]),
            "lengths": torch.tensor([len(pattern) for pattern in patterns]),
            "support": support, "y": y, "prior": prior,
        }  # fmt: skip
        for name_, tensor in held.items():
            self.register_buffer(name_, tensor)

    def __len__(self) -> int:
        return len(self.support)

    @property
    def stored(self) -> int:
        """Numbers kept: a kind a node, two ends and a kind an edge, a pattern's trees and support."""
        return len(self.kinds) + 3 * len(self.edge_kinds) + len(self.items) + 2 * len(self.support)

    def tree(self, number: int) -> Graph:
        """One tree; a tree of n nodes has n - 1 edges."""
        before = self.nodes[:number]
        node, edge = int(before.sum()), int(before.sum()) - number
        n = int(self.nodes[number])
        ends = torch.stack([self.sources[edge : edge + n - 1], self.targets[edge : edge + n - 1]])
        return Graph(self.kinds[node : node + n], ends, self.edge_kinds[edge : edge + n - 1])

    def take(self, rows: Tensor) -> Graphs:
        """Some patterns as a batch, whose roots are those of their trees."""
        bounds = [0, *self.lengths.cumsum(0).tolist()]
        spans = list(pairwise(bounds))
        forests, roots = [], []
        for row in rows.tolist():
            parts = [self.tree(k) for k in self.items[slice(*spans[row])].tolist()]
            forest = joined(parts, rows[:0], rows[:0])
            first = torch.ones(len(forest.owner), dtype=torch.bool)
            first[1:] = forest.owner[1:] != forest.owner[:-1]
            forests.append(Graph(forest.kinds, forest.edges, forest.edge_kinds))
            roots.append(first)
        return joined(forests, self.y[rows], rows, roots)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Graphs:
        """Patterns with replacement: a class by its prior, then one of its patterns by its support."""
        weights = self.support.double()
        totals = torch.zeros(len(self.classes), dtype=torch.float64).index_add(0, self.y, weights)
        return self.take(
            torch.multinomial(weights / totals[self.y] * self.prior[self.y], count, True, generator=generator)
        )


@dataclass(frozen=True)
class PatternDescent:
    """AdamW with a cosine on sampled patterns, cross-entropy.

    Args:
        steps: optimiser steps.
        rate, weight_decay: of AdamW.
        batch: patterns a step.
    """

    steps: int = 300
    rate: float = 5e-3
    weight_decay: float = 1e-4
    batch: int = 32

    def __call__(self, net: nn.Module, made: MinedSet) -> None:
        optimizer = torch.optim.AdamW(net.parameters(), self.rate, weight_decay=self.weight_decay)
        plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(self.steps, 1))
        net.train()
        for _ in range(self.steps):
            batch = made.sample(self.batch)
            F.cross_entropy(net(batch), batch.y).backward()
            optimizer.step()
            optimizer.zero_grad()
            plan.step()
        net.eval()
