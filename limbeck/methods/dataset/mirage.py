"""Mirage: model-agnostic graph distillation for graph classification (Gupta et al., 2023).
https://arxiv.org/abs/2310.09486

    T_v^L = the tree of what node v hears in L rounds of messages                   G -> set(G) = { T_v^L : v in G }
    P_c   = { I : supp_c(I) >= theta_c },   supp_c(I) = |{ G in D_c : I subset of set(G) }|
    p(I | c) = supp_c(I) / sum_{I' in P_c} supp_c(I'),      L = CE( MLP(mean_{v in roots(I)} GNN(v)), c )

What a network that passes messages makes of a node is a function of the node's computation tree, and few trees are most
of what there is. So no gradient is matched and no network is asked: the sets of trees that many graphs of a class have
together are counted, and stand for the class. A network is trained on sampled sets, reading the trees' roots alone, and
then used on whole graphs, reading all nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY
from typing import Any

import torch

from limbeck.core.card import Card
from limbeck.core.method import Count, Fraction, Method, Setting
from limbeck.data.graphs import GraphSet, Trees
from limbeck.errors import InputError
from limbeck.models.mined import MinedSet

CARD = Card(
    key="mirage",
    title="Mirage: Model-Agnostic Graph Distillation for Graph Classification",
    authors="Mridul Gupta, Sahil Manchanda, Hariprasad Kodamana, Sayan Ranu",
    year=2023,
    url="https://arxiv.org/abs/2310.09486",
    repo="https://github.com/frigategnn/Mirage",
    family="dataset",
    summary="Counts which computation trees the graphs of a class have together, and trains on the frequent sets.",
    modality="graph",
    teacher="none",
    signal="none",
    loop="training_free",
    makes="a mined set of frequent computation trees",
    notes="Kinds of nodes and edges are discrete; limbeck.data.graphs.from_geometric makes them from rows of features. "
    "The thresholds theta_c are shares of a class's graphs here, counts in the paper, which tunes them to a budget. "
    "Sets are counted by intersecting lists of graphs (Eclat), which finds what the paper's FP-growth does, up to a "
    "largest size, since the number of sets explodes. A class is drawn by its share of the graphs; the released code "
    "draws from the sets of all classes at once, and leaves out trees of a single node. A network may not have more "
    "layers than hops.",
)


def frequent(
    transactions: Iterable[Iterable[int]], threshold: int, longest: int, most: int
) -> dict[tuple[int, ...], int]:
    """Every set of at most ``longest`` items that ``threshold`` transactions or more have, and how many do.

    Raises:
        InputError: for more than ``most`` of them.
    """
    seen: dict[int, int] = {}  # item -> the transactions that have it, as the bits of one number
    for place, transaction in enumerate(transactions):
        for item in set(transaction):
            seen[item] = seen.get(item, 0) | 1 << place
    found: dict[tuple[int, ...], int] = {}

    def grow(chosen: tuple[int, ...], candidates: list[tuple[int, int]]) -> None:
        for place, (item, within) in enumerate(candidates):
            pattern = (*chosen, item)
            found[pattern] = within.bit_count()
            if len(found) > most:
                raise InputError("support", threshold, f"graphs and more have over {most} sets in common; raise it, or "
                                 "lower longest")  # fmt: skip
            if len(pattern) < longest:
                further = [(other, within & its) for other, its in candidates[place + 1 :]]
                grow(pattern, [(other, both) for other, both in further if both.bit_count() >= threshold])

    grow((), [(item, its) for item, its in sorted(seen.items()) if its.bit_count() >= threshold])
    return found


class Mirage(Method):
    """Frequent sets of computation trees.

    Args:
        real: the graphs to stand for.
    """

    real: GraphSet
    _: KW_ONLY
    hops: Count = 2
    """L: depth of the trees, and the most layers that a network may have."""
    support: Fraction = 0.1
    """theta_c as a share of a class's graphs."""
    supports: tuple[float, ...] = ()
    """Such a share for every class by itself, in the place of support."""
    longest: Count = 4
    """Trees of the largest sets."""
    most: Count = 20000
    """Sets of a class beyond which mining stops with an error."""

    def __post_init__(self) -> None:
        data, classes = self.real, self.real.classes
        shares = self.supports or (self.support,) * len(classes)
        if len(shares) != len(classes):
            raise InputError("supports", len(shares), f"shares were given; there are {len(classes)} classes")
        trees, patterns, support, y = Trees(), list[tuple[int, ...]](), list[int](), list[int]()
        sets = [trees.of(graph, self.hops) for graph in data.graphs]
        for k, share in enumerate(shares):
            own = [sets[row] for row in (data.labels == k).nonzero().squeeze(1).tolist()]
            found = frequent(own, max(1, math.ceil(share * len(own))), self.longest, self.most)
            if not found:
                raise InputError("support", share, f"of the graphs of {classes[k]!r} have no tree in common; lower it")
            patterns += found
            support += found.values()
            y += [k] * len(found)
        used = sorted({item for pattern in patterns for item in pattern})
        place = {item: k for k, item in enumerate(used)}
        prior = torch.bincount(data.labels, minlength=len(classes)) / len(data)
        self.student = MinedSet(
            [trees.grown(item) for item in used], [[place[item] for item in pattern] for pattern in patterns],
            support=torch.tensor(support), y=torch.tensor(y), prior=prior, classes=classes, hops=self.hops,
            name=f"mined {data.name}",
        )  # fmt: skip

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> MinedSet:
        data = getattr(setting.data, "dataset", None)
        if not isinstance(data, GraphSet):
            raise InputError("data", type(setting.data).__name__, "has no set of graphs behind it; pass GraphBatches")
        return cls(data, **values).student
