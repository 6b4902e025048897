"""Mirage: trees are equal when they are, a root says what its node does, counts are those of all subsets."""

from itertools import combinations

import pytest
import torch

from limbeck.data.graphs import Graph, GraphBatches, Trees, joined, motifs
from limbeck.errors import InputError
from limbeck.methods.dataset.mirage import Mirage, frequent
from limbeck.models.gnn import gin
from limbeck.models.mined import PatternDescent

DATA = motifs(60, seed=0)


def slow(graph: Graph, node: int, hops: int) -> str:
    """A tree as a text, branch by branch."""
    if not hops:
        return f"({int(graph.kinds[node])})"
    heard = (graph.edges[1] == node).nonzero().squeeze(1).tolist()
    branches = (f"{int(graph.edge_kinds[e])}{slow(graph, int(graph.edges[0, e]), hops - 1)}" for e in heard)
    return f"({int(graph.kinds[node])}{''.join(sorted(branches))})"


def test_two_trees_have_one_number_when_they_are_the_same_tree() -> None:
    trees, texts = Trees(), dict[int, str]()
    for graph in DATA.graphs[:20]:
        order = torch.randperm(len(graph.kinds))  # another numbering of the nodes changes nothing
        back = order.argsort()
        other = Graph(graph.kinds[order], back[graph.edges].flip(1), graph.edge_kinds.flip(0))
        numbers, others = trees.of(graph, 2), trees.of(other, 2)
        assert [numbers[k] for k in order.tolist()] == others
        for node, number in enumerate(numbers):
            assert texts.setdefault(number, slow(graph, node, 2)) == slow(graph, node, 2)
    assert len(set(texts.values())) == len(texts) > 20


def test_a_root_says_what_its_node_does_up_to_the_hops() -> None:
    trees, graph = Trees(), DATA.graphs[0]
    torch.manual_seed(0)
    net = gin(8, 2, kinds=3, edge_kinds=1, classes=DATA.classes)
    whole = net.embed(next(iter(GraphBatches(DATA, 1, shuffle=False))))
    for node, number in enumerate(trees.of(graph, 2)):
        tree = joined([trees.grown(number)], torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
        torch.testing.assert_close(net.embed(tree)[0], whole[node])
    deeper = gin(8, 3, kinds=3, edge_kinds=1, classes=DATA.classes)
    tree = joined([trees.grown(trees.of(graph, 2)[0])], torch.zeros(1).long(), torch.zeros(1).long())
    whole = deeper.embed(next(iter(GraphBatches(DATA, 1, shuffle=False))))
    assert (deeper.embed(tree)[0] - whole[0]).abs().max() > 1e-4  # a third layer hears what the tree does not have


def test_the_counts_are_those_of_all_subsets() -> None:
    drawn = torch.Generator().manual_seed(0)
    rows = [torch.randperm(7, generator=drawn)[: 2 + k % 4].tolist() for k in range(12)]
    expected = {}
    for size in (1, 2, 3):
        for items in combinations(range(7), size):
            if (count := sum(set(items) <= set(row) for row in rows)) >= 2:
                expected[items] = count
    assert frequent(rows, 2, 3, 1000) == expected and len(expected) > 10
    assert all(len(items) < 3 for items in frequent(rows, 2, 2, 1000))
    with pytest.raises(InputError, match="raise it"):
        frequent(rows, 2, 3, 5)


def test_what_is_sampled_follows_support_and_prior_and_trains_a_network() -> None:
    made = Mirage(DATA.subset(range(0, 60)), support=0.3).student
    assert len(made) == int((made.support >= 6).sum())
    drawn = torch.Generator().manual_seed(0)
    batch = made.sample(6000, drawn)
    first = (batch.index == int(made.support.argmax())).float().mean()
    own = made.support[made.y == made.y[made.support.argmax()]].sum()
    assert float(first) == pytest.approx(float(made.support.max() / own) / 3, rel=0.3)
    assert int(batch.roots.sum()) == int(made.lengths[batch.index].sum())
    assert torch.bincount(batch.y).tolist() == pytest.approx([2000] * 3, rel=0.1)
    torch.manual_seed(0)
    net = gin(32, 2, kinds=3, edge_kinds=1, classes=DATA.classes)
    made = Mirage(motifs(400, seed=0), support=0.2).student
    PatternDescent(steps=250)(net, made)
    test = motifs(60, seed=1)
    with torch.no_grad():
        right = (net(next(iter(GraphBatches(test).plain()))).argmax(1) == test.labels).float().mean()
    assert right > 0.8  # chance is a third
    with pytest.raises(InputError, match="lower it"):
        Mirage(DATA, supports=(0.1, 1.0, 0.1))
