"""Evidence for Mirage on motifs in random trees: frequent tree sets against as many stored numbers of random graphs.

600 graphs, whose class is how four of their nodes are wired. The control takes random graphs until their numbers (a
kind a node, two ends and a kind an edge) are as many as the mined set's, trees, sets and supports all counted. Both
train three fresh GIN networks of two layers by the same 300 steps of 32 graphs. Beside it, all graphs.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from torch import nn
from torch.nn import functional as F

from evidence._shared import fresh
from limbeck.core.schedule import Clock, Cosine
from limbeck.data.graphs import GraphBatches, GraphSet, motifs
from limbeck.methods.dataset.mirage import Mirage
from limbeck.models.gnn import gin
from limbeck.models.load import seeded
from limbeck.run.evidence import Result

CLAIM = "Networks trained on frequent tree sets are better than on random graphs that take as much to store"
STEPS = 300


def descend(net: nn.Module, data: GraphSet, seed: int) -> None:
    """What the mined set's use does, on batches of graphs."""
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3, weight_decay=1e-4)
    batches, step = GraphBatches(data, 32, seed=seed), 0
    while step < STEPS:
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = 5e-3 * Cosine()(Clock(step, STEPS))
            F.cross_entropy(net(batch), batch.y).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step == STEPS:
                break


def evidence(seed: int, data: Path | None = None) -> Result:
    """Three fresh networks each; data sets of graphs have no file format here, so ``data`` is not looked at."""
    train, test = motifs(600, 2 * seed), next(iter(GraphBatches(motifs(300, 2 * seed + 1), 300).plain(300)))
    made = Mirage(train, support=0.2).student
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    taken = next(n for n in range(1, len(order) + 1) if train.subset(order[:n]).stored >= made.stored)

    def judged(given: GraphSet | None) -> float:
        found: list[float] = []
        for k in range(3):
            net = fresh(1000 * seed + k, partial(gin, 32, 2, kinds=3, edge_kinds=1, classes=train.classes))
            with seeded(1000 * seed + k):
                made.use(net, made) if given is None else descend(net, given, seed + k)
            with torch.no_grad():
                found.append(100 * float((net(test).argmax(1) == test.y).float().mean()))
        return fmean(found)

    return Result(
        metric="test accuracy of fresh networks, %",
        baseline=judged(train.subset(order[:taken])),
        method=judged(None),
        higher_is_better=True,
        versus="random graphs that take as many numbers, or a few more",
        extra={
            "all graphs": judged(train),
            "stored numbers, % of all graphs'": 100 * made.stored / train.stored,
            "random graphs": float(taken),
        },
    )
