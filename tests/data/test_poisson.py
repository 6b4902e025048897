"""Coins: every row as often as it should be, independently; empty batches; the same draws after a resume."""

import itertools

import torch

from limbeck.data.poisson import PoissonBatches
from tests.worlds import language_world


def test_every_row_is_drawn_by_its_own_coin():
    data = language_world(0).train
    made = PoissonBatches(data, 12, seed=1)
    drawn = torch.zeros(600, len(data))
    for k, batch in enumerate(itertools.islice(itertools.chain.from_iterable(itertools.repeat(made)), 600)):
        drawn[k, batch.index] = 1
    q = 12 / len(data)
    assert abs(float(drawn.mean()) - q) < 0.1 * q
    assert abs(float(drawn.sum(1).var()) / (len(data) * q * (1 - q)) - 1) < 0.25, "sizes are binomial"
    assert float((drawn.mean(0) - q).abs().max()) < 5 * (q * (1 - q) / 600) ** 0.5
    assert not torch.equal(drawn[0], drawn[len(made)]), "the next epoch draws anew"


def test_a_batch_may_be_empty():
    made = PoissonBatches(language_world(0).train, 1, seed=0)
    sizes = [len(batch.x) for batch in made]
    assert 0 in sizes and max(sizes) > 1 and len(sizes) == len(made)
    empty = next(batch for batch in PoissonBatches(language_world(0).train, 1, seed=0) if not len(batch.x))
    assert empty.x.ndim == 2 and len(empty.y) == len(empty.index) == 0 and empty.mask.sum() == 0


def test_a_position_is_resumed():
    data = language_world(0).train
    straight = [batch.index.tolist() for batch in PoissonBatches(data, 8, seed=5)]
    first = PoissonBatches(data, 8, seed=5)
    part = [batch.index.tolist() for batch in itertools.islice(iter(first), 4)]
    again = PoissonBatches(data, 8, seed=5)
    again.load_state_dict(first.state_dict())
    assert part + [batch.index.tolist() for batch in again] == straight
