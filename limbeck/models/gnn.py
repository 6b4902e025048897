"""A small network that passes messages, GINE (Hu et al., 2020), https://arxiv.org/abs/1905.12265.

h_v^0 = e(kind_v),   h_v^{l+1} = MLP_l( h_v^l + sum_{u -> v} relu(h_u^l + e_l(kind_uv)) )
logits = MLP( mean of h_v^L over the roots )
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.data.graphs import Graphs

__all__ = ["GraphClassifier", "gin"]


class GraphClassifier(nn.Module):
    """Batches of graphs to logits (B, K); it has no norm over a batch, so that a node's embedding is a function of its
    computation tree.

    Args:
        width, depth: of the embedding, and how many hops a node hears.
        kinds, edge_kinds: how many there are of nodes and of edges.
        classes: the classes' names.
    """

    def __init__(self, width: int, depth: int, *, kinds: int, edge_kinds: int, classes: Sequence[str]) -> None:
        super().__init__()
        self.depth, self.classes = depth, tuple(classes)
        self.nodes = nn.Embedding(kinds, width)
        self.edges = nn.ModuleList(nn.Embedding(edge_kinds, width) for _ in range(depth))
        self.layers = nn.ModuleList(_mlp(width, width) for _ in range(depth))
        self.head = _mlp(width, len(self.classes))

    def embed(self, batch: Graphs) -> Tensor:
        """h^L of every node, (N, width)."""
        h = self.nodes(batch.kinds)
        source, target = batch.edges
        for edges, layer in zip(self.edges, self.layers, strict=True):
            said = (h[source] + edges(batch.edge_kinds)).relu()
            h = layer(h + torch.zeros_like(h).index_add(0, target, said))
        return h

    def forward(self, batch: Graphs) -> Tensor:
        h, of = self.embed(batch)[batch.roots], batch.owner[batch.roots]
        sums = h.new_zeros(len(batch.y), h.shape[1]).index_add(0, of, h)
        return self.head(sums / torch.bincount(of, minlength=len(batch.y)).clamp(min=1)[:, None])


def _mlp(width: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))


def gin(width: int = 32, depth: int = 2, *, kinds: int, edge_kinds: int, classes: Sequence[str]) -> GraphClassifier:
    """A fresh one."""
    return GraphClassifier(width, depth, kinds=kinds, edge_kinds=edge_kinds, classes=classes)
