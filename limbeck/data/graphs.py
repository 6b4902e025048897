"""Graphs in memory, their batches as one graph of many parts, and their computation trees in canonical form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limbeck.data.stream import Stream
from limbeck.errors import InputError

__all__ = ["Graph", "GraphBatches", "GraphSet", "Graphs", "Trees", "from_geometric", "joined", "motifs"]


class Graph(NamedTuple):
    """One graph, or a forest.

    Args:
        kinds: (n,) int64, the kind of every node.
        edges: (2, e) int64, from a node to the one that hears it; an undirected edge stands twice.
        edge_kinds: (e,) int64.
    """

    kinds: Tensor
    edges: Tensor
    edge_kinds: Tensor


class Graphs(NamedTuple):
    """One batch.

    Args:
        kinds, edges, edge_kinds: of all nodes; edges number the nodes of the batch.
        owner: (N,) int64, the graph of every node, ascending.
        roots: (N,) bool, the nodes that a graph's embedding is pooled over: all of an ordinary graph's.
        y: (B,) int64.
        index: (B,) int64, the graph's row in its set.
    """

    kinds: Tensor
    edges: Tensor
    edge_kinds: Tensor
    owner: Tensor
    roots: Tensor
    y: Tensor
    index: Tensor

    def to(self, device: torch.device | str) -> Graphs:
        """The same batch on a device."""
        return Graphs(*(part.to(device) for part in self))


def joined(graphs: Sequence[Graph], y: Tensor, index: Tensor, roots: Sequence[Tensor] | None = None) -> Graphs:
    """Graphs as the parts of one; ``roots`` are masks of nodes, all of them when left out."""
    sizes = torch.tensor([len(g.kinds) for g in graphs])
    first = sizes.cumsum(0) - sizes
    edges = torch.cat([g.edges + start for g, start in zip(graphs, first, strict=True)], 1)
    owner = torch.arange(len(graphs)).repeat_interleave(sizes)
    chosen = torch.ones(len(owner), dtype=torch.bool) if roots is None else torch.cat(list(roots))
    kinds, edge_kinds = torch.cat([g.kinds for g in graphs]), torch.cat([g.edge_kinds for g in graphs])
    return Graphs(kinds, edges, edge_kinds, owner, chosen, y, index)


@dataclass(frozen=True, eq=False)
class GraphSet:
    """Graphs with a class each.

    Args:
        graphs: with at least one node each.
        labels: (G,) int64, a row of ``classes`` each.
        classes: the classes' names.
        kinds, edge_kinds: how many there are of nodes and of edges.
        name: what messages and reports call it.

    Raises:
        InputError: naming what is wrong and in which row.
    """

    graphs: tuple[Graph, ...]
    labels: Tensor
    classes: tuple[str, ...]
    kinds: int
    edge_kinds: int = 1
    name: str = "graphs"

    def __post_init__(self) -> None:
        if self.labels.shape != (len(self.graphs),) or not len(self.graphs):
            raise InputError(self.name, list(self.labels.shape), f"are the labels of {len(self.graphs)} graphs")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= len(self.classes):
            raise InputError(self.name, int(self.labels.max()), f"is no label of {len(self.classes)} classes, from 0")
        for row, (kinds, edges, edge_kinds) in enumerate(self.graphs):
            where, n = f"{self.name}, row {row}", len(kinds)
            if not n or edges.shape != (2, len(edge_kinds)):
                raise InputError(where, f"{n} nodes, {list(edges.shape)} edges", "is no graph; edges are (2, E)")
            if len(edge_kinds) and (int(edges.min()) < 0 or int(edges.max()) >= n):
                raise InputError(where, int(edges.max()), f"is in an edge; there are {n} nodes, from 0")
            for numbers, most in ((kinds, self.kinds), (edge_kinds, self.edge_kinds)):
                if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= most):
                    raise InputError(where, int(numbers.max()), f"is a kind; there are {most}, from 0")

    def __len__(self) -> int:
        return len(self.graphs)

    @property
    def stored(self) -> int:
        """Numbers that the graphs take: a kind a node, two ends and a kind an edge."""
        return sum(len(g.kinds) + 3 * len(g.edge_kinds) for g in self.graphs)

    def subset(self, rows: Iterable[int]) -> GraphSet:
        """The given rows in the given order."""
        chosen = list(rows)
        graphs = tuple(self.graphs[row] for row in chosen)
        return GraphSet(graphs, self.labels[chosen], self.classes, self.kinds, self.edge_kinds, self.name)


class GraphBatches(Stream[Graphs]):
    """Shuffled batches of a set of graphs; every ``iter`` is the next epoch."""

    def __init__(self, data: GraphSet, batch: int = 32, *, seed: int = 0, shuffle: bool = True) -> None:
        super().__init__(len(data), batch, seed=seed, shuffle=shuffle, drop_last=False)
        self.dataset = data

    def make(self, index: Tensor) -> Graphs:
        return joined([self.dataset.graphs[k] for k in index.tolist()], self.dataset.labels[index], index)

    def plain(self, batch: int = 256) -> GraphBatches:
        """The same graphs in their own order."""
        return GraphBatches(self.dataset, batch, shuffle=False)


class Trees:
    """The computation trees of nodes, numbered so that equal trees, and only those, have one number.

        T_v^0 = kind_v,    T_v^l = (kind_v, { (kind_uv, T_u^{l-1}) : u -> v })

    A tree is kept as its root's kind and the sorted numbers of its branches, each of which is kept once. What a network
    of L layers that pass messages makes of a node is a function of T_v^L.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[int, tuple[tuple[int, int], ...]], int] = {}
        self.held: list[tuple[int, tuple[tuple[int, int], ...]]] = []

    def of(self, graph: Graph, hops: int) -> list[int]:
        """The number of every node's tree of so many hops."""
        kinds = graph.kinds.tolist()
        heard: list[list[tuple[int, int]]] = [[] for _ in kinds]
        for u, v, kind in zip(*graph.edges.tolist(), graph.edge_kinds.tolist(), strict=True):
            heard[v].append((u, kind))
        now = [self._number(kind, ()) for kind in kinds]
        for _ in range(hops):
            now = [self._number(kind, tuple(sorted((e, now[u]) for u, e in heard[v]))) for v, kind in enumerate(kinds)]
        return now

    def _number(self, kind: int, branches: tuple[tuple[int, int], ...]) -> int:
        tree = (kind, branches)
        if tree not in self.known:
            self.known[tree] = len(self.held)
            self.held.append(tree)
        return self.known[tree]

    def grown(self, number: int) -> Graph:
        """A tree as a graph, whose node 0 is the root; edges lead from branches to what they hang on."""
        kinds, edges, edge_kinds = [self.held[number][0]], list[tuple[int, int]](), list[int]()
        level = [(0, number)]
        while level:
            below: list[tuple[int, int]] = []
            for node, tree in level:
                for edge, branch in self.held[tree][1]:
                    below.append((len(kinds), branch))
                    edges.append((len(kinds), node))
                    edge_kinds.append(edge)
                    kinds.append(self.held[branch][0])
            level = below
        ends = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).T
        return Graph(torch.tensor(kinds), ends, torch.tensor(edge_kinds, dtype=torch.int64))


def from_geometric(data: Iterable[Any], classes: Sequence[str] | int, name: str = "graphs") -> GraphSet:
    """Graphs of PyTorch Geometric (``Data`` with ``edge_index``, ``y``, and perhaps ``x`` and ``edge_attr``).

    Different rows of ``x`` are different kinds of nodes, and so are rows of ``edge_attr`` kinds of edges: continuous
    features must be put into bins first.
    """
    given = list(data)

    def kinds(parts: list[Tensor]) -> tuple[list[Tensor], int]:
        rows = torch.cat([part[:, None] if part.ndim == 1 else part.flatten(1) for part in parts])
        distinct, which = rows.unique(dim=0, return_inverse=True)
        return list(which.split([len(part) for part in parts])), max(len(distinct), 1)

    def ones(count: int) -> Tensor:
        return torch.zeros(count, 1)

    x = [d.x if getattr(d, "x", None) is not None else ones(d.num_nodes) for d in given]
    e = [d.edge_attr if getattr(d, "edge_attr", None) is not None else ones(d.edge_index.shape[1]) for d in given]
    (nodes, most), (edges, most_edges) = kinds(x), kinds(e)
    graphs = tuple(Graph(n, d.edge_index, k) for n, d, k in zip(nodes, given, edges, strict=True))
    labels = torch.tensor([int(d.y) for d in given])
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
    return GraphSet(graphs, labels, names, most, most_edges, name)


MOTIFS = {"ring": [(0, 1), (1, 2), (2, 3), (3, 0)], "path": [(0, 2), (2, 1), (1, 3)], "star": [(0, 1), (0, 2), (0, 3)]}


def motifs(count: int, seed: int = 0, name: str = "motifs") -> GraphSet:
    """Random trees of 6 to 12 nodes of kind 0, with up to three single nodes of kinds 1 and 2 hung on; and two nodes of
    kind 1 and two of kind 2 together, wired as a ring, a path or a star: the class. What nodes there are says nothing.
    """
    drawn = torch.Generator().manual_seed(seed)

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=drawn))

    graphs: list[Graph] = []
    for k in range(count):
        size = 6 + below(7)
        kinds = [0] * size
        pairs = [(node, below(node)) for node in range(1, size)]
        for _ in range(below(4)):
            pairs.append((len(kinds), below(size)))
            kinds.append(1 + below(2))
        first = len(kinds)
        pairs.append((first + below(4), below(size)))
        pairs += [(first + a, first + b) for a, b in list(MOTIFS.values())[k % 3]]
        kinds += [1, 2, 1, 2]
        ends = torch.tensor(pairs + [(b, a) for a, b in pairs]).T
        graphs.append(Graph(torch.tensor(kinds), ends, torch.zeros(ends.shape[1], dtype=torch.int64)))
    return GraphSet(tuple(graphs), torch.arange(count) % 3, tuple(MOTIFS), 3, 1, name)
