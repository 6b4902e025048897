"""The replay store: first in, first out, whole rows whatever their width, and the same after a restart."""

import json
from pathlib import Path

import torch
from torch import distributed as dist

from limbeck.data.buffer import Replay
from limbeck.data.tokens import IGNORE, Tokens


def written(*rows: list[int]) -> Tokens:
    """Rows whose first token is a prompt, padded with 7."""
    width = max(map(len, rows))
    x = torch.tensor([row + [7] * (width - len(row)) for row in rows])
    y = torch.tensor([row[1:] + [IGNORE] * (width - len(row) + 1) for row in rows])
    segment = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    none = torch.zeros(len(rows), dtype=torch.int64)
    return Tokens(x, y, segment, none - 1, none)


def test_the_oldest_rows_leave_first_and_rows_keep_their_length() -> None:
    kept = Replay(3)
    kept.add(written([1, 2], [3, 4, 5]))
    assert len(kept) == 2 and not kept.full
    kept.add(written([6], [8, 9, 10, 11]))
    assert kept.full and [row[0].tolist() for row in kept.rows] == [[3, 4, 5], [6], [8, 9, 10, 11]]


def test_a_sample_has_different_rows_padded_and_masked() -> None:
    kept = Replay(5)
    kept.add(written([1, 2], [3, 4, 5], [6, 7, 8, 9]))
    torch.manual_seed(0)
    batch = kept.sample(8, pad=50)
    assert batch.x.shape == (3, 4) and sorted(batch.x[:, 0].tolist()) == [1, 3, 6]
    for x, y, segment in zip(batch.x, batch.y, batch.segment, strict=True):
        n = int(segment.sum())
        assert y[: n - 1].equal(x[1:n]) and bool((y[n - 1 :] == IGNORE).all()) and bool((x[n:] == 50).all())


def test_it_comes_back_from_its_state_and_draws_the_same() -> None:
    one, other = Replay(4), Replay(4)
    one.add(written([1, 2], [3, 4, 5]))
    other.load_state_dict(one.state_dict())
    drawn = []
    for kept in (one, other):
        torch.manual_seed(1)
        drawn.append(kept.sample(1, pad=0))
    assert drawn[0].x.equal(drawn[1].x) and drawn[0].y.equal(drawn[1].y)


def _keep(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    kept = Replay(4)
    kept.add(written([1, 2]) if rank == 0 else written([3, 4, 5, 6]))
    (folder / f"{rank}.json").write_text(json.dumps(kept.state_dict()))
    dist.destroy_process_group()


def test_two_processes_keep_the_rows_of_both(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_keep, (tmp_path,), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    kept = Replay(4)
    kept.load_state_dict(first)
    assert first == second and [row[0].tolist() for row in kept.rows] == [[1, 2], [3, 4, 5, 6]]
