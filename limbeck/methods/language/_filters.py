"""Task-aware filters: linear maps of blocks' outputs, learnt through heads of their own that are then thrown away."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.core.method import Clock, Method
from limbeck.core.modules import Taps
from limbeck.data.tokens import Tokens
from limbeck.losses.vocabulary import Words, word_log_probs
from limbeck.methods.language._shared import mean
from limbeck.models.causal_lm import CausalLM

__all__ = ["FilterTraining", "Filters"]


class Filters(nn.Module):
    """W_k of the outputs H_k of some blocks.

    Args:
        model: whose blocks they are; it is not kept.
        blocks: which of them.
        width: of what the filters give.
    """

    def __init__(self, model: CausalLM, blocks: Sequence[int], width: int) -> None:
        super().__init__()
        self.read = Taps(*(model.blocks[k] for k in blocks))
        self.maps = nn.ModuleList(nn.Linear(model.width, width) for _ in blocks).to(model.device)

    def forward(self, model: nn.Module, batch: Tokens) -> tuple[Words, list[Tensor]]:
        """What the model says of a batch, and W_k H_k, (B, T, width) each."""
        words, states = self.read(model, batch)
        return words, [one(h) for one, h in zip(self.maps, states, strict=True)]


class FilterTraining(Method):
    """min over W_k, h_k of the mean over k of CE(y, softmax(h_k(W_k H_k))); the network itself does not move."""

    student: CausalLM
    filters: Filters

    def __post_init__(self) -> None:
        width = self.filters.maps[0].out_features
        heads = (nn.Linear(width, self.student.size, bias=False) for _ in self.filters.maps)
        self.heads = nn.ModuleList(heads).to(self.student.device)

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Filters and heads."""
        return {"student": [*self.filters.parameters(), *self.heads.parameters()]}

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            _, states = self.filters.read(self.student, batch)
        filtered = [one(h) for one, h in zip(self.filters.maps, states, strict=True)]
        said = [Words(f, head.weight, size=self.student.size) for f, head in zip(filtered, self.heads, strict=True)]
        return {"filters": torch.stack([-mean(word_log_probs(words, batch.y), batch) for words in said]).mean()}
