"""Graphs: batches keep the parts apart, PyTorch Geometric's come in, what is no graph is refused."""

from types import SimpleNamespace

import pytest
import torch

from limbeck.data.graphs import Graph, GraphBatches, GraphSet, from_geometric, motifs
from limbeck.errors import InputError
from limbeck.models.gnn import gin

DATA = motifs(30, seed=0)


def test_a_batch_is_its_graphs_one_by_one() -> None:
    torch.manual_seed(0)
    net = gin(8, 2, kinds=3, edge_kinds=1, classes=DATA.classes)
    together = net(next(iter(GraphBatches(DATA, 7, seed=1))))
    index = next(iter(GraphBatches(DATA, 7, seed=1))).index
    alone = [net(next(iter(GraphBatches(DATA.subset([k]), 1)))) for k in index.tolist()]
    torch.testing.assert_close(together, torch.cat(alone))


def test_the_classes_have_equally_many_nodes_of_every_kind_in_their_motif() -> None:
    counts = torch.stack([torch.bincount(g.kinds, minlength=3) for g in DATA.graphs])
    assert (counts[:, 1:] >= 2).all()
    edges = torch.tensor([g.edges.shape[1] // 2 - len(g.kinds) for g in DATA.graphs])
    assert edges.tolist() == [0 if k % 3 == 0 else -1 for k in range(30)]  # a ring has one edge more than a tree
    for graph in DATA.graphs:
        assert {tuple(e) for e in graph.edges.T.tolist()} == {tuple(e) for e in graph.edges.flip(0).T.tolist()}


def test_rows_of_features_become_kinds() -> None:
    ends = torch.tensor([[0, 1], [1, 0]])
    one = SimpleNamespace(x=torch.tensor([[1.0, 0.0], [0.0, 1.0]]), edge_index=ends, edge_attr=torch.tensor([3, 4]),
                          y=torch.tensor([1]), num_nodes=2)  # fmt: skip
    other = SimpleNamespace(x=torch.tensor([[0.0, 1.0]]), edge_index=ends[:, :0], edge_attr=torch.tensor([]).long(),
                            y=torch.tensor([0]), num_nodes=1)  # fmt: skip
    made = from_geometric([one, other], ["no", "yes"])
    assert made.kinds == 2 and made.edge_kinds == 2 and made.labels.tolist() == [1, 0]
    assert made.graphs[0].kinds[1] == made.graphs[1].kinds[0] != made.graphs[0].kinds[0]
    plain = from_geometric([SimpleNamespace(edge_index=ends, y=0, num_nodes=2)], 1)
    assert plain.kinds == 1 and plain.graphs[0].kinds.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (Graph(torch.tensor([0, 3]), torch.zeros(2, 0).long(), torch.zeros(0).long()), "is a kind"),
        (Graph(torch.tensor([0]), torch.tensor([[0], [1]]), torch.tensor([0])), "is in an edge"),
        (Graph(torch.tensor([0]), torch.zeros(2, 2).long(), torch.tensor([0])), "is no graph"),
    ],
)
def test_what_is_no_graph_is_refused_with_its_row(graph: Graph, said: str) -> None:
    with pytest.raises(InputError, match=said):
        GraphSet((DATA.graphs[0], graph), torch.tensor([0, 0]), ("one",), 3)
