"""Rows kept for later: what a student wrote some steps ago can be learnt from again."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.modules import gather
from limbeck.data.tokens import IGNORE, Tokens

__all__ = ["Replay"]


class Replay:
    """The newest rows, first in, first out; the same ones in every process, and part of a method's checkpoint.

    Args:
        capacity: rows kept at most.
    """

    def __init__(self, capacity: int) -> None:
        self.rows = deque[Tensor](maxlen=capacity)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def full(self) -> bool:
        """Whether a new row drives out the oldest."""
        return len(self.rows) == self.rows.maxlen

    def add(self, batch: Tokens) -> None:
        """Keep a batch's rows, and those that every other process adds now, which must be as many."""
        x, y, segment = (_everyone(part, fill) for part, fill in ((batch.x, 0), (batch.y, IGNORE), (batch.segment, 0)))
        kept = torch.stack([x, y], 1).to("cpu", torch.int32)
        self.rows.extend(row[:, :n].clone() for row, n in zip(kept, (segment > 0).sum(1).tolist(), strict=True))

    def sample(self, count: int, pad: int) -> Tokens:
        """``count`` different rows, fewer where there are not so many, padded; on the processor."""
        rows = [self.rows[k] for k in torch.randperm(len(self.rows))[:count].tolist()]
        longest = max(row.shape[1] for row in rows)
        x, y, segment = (
            torch.stack([F.pad(part, (0, longest - len(part)), value=fill) for part in parts]).long()
            for parts, fill in (
                ([row[0] for row in rows], pad),
                ([row[1] for row in rows], IGNORE),
                ([torch.ones_like(row[0]) for row in rows], 0),
            )
        )
        none = torch.zeros(len(rows), dtype=torch.int64)
        return Tokens(x, y, segment, none - 1, none)

    def state_dict(self) -> dict[str, Any]:
        """The rows, as hexadecimal text."""
        return {"rows": [row.numpy().tobytes().hex() for row in self.rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self.rows.clear()
        for kept in state["rows"]:
            self.rows.append(torch.from_numpy(np.frombuffer(bytes.fromhex(kept), np.int32).copy()).view(2, -1))


def _everyone(part: Tensor, fill: int) -> Tensor:
    """(B, T) of every process, as wide as the widest."""
    width = int(gather(torch.tensor([part.shape[1]], device=part.device)).max())
    return gather(F.pad(part, (0, width - part.shape[1]), value=fill))
