"""Speculative sampling: a small draft proposes words, the target accepts or corrects them, the target's law is kept.

Leviathan, Kalman & Matias (2023), https://arxiv.org/abs/2211.17192; Chen et al. (2023), https://arxiv.org/abs/2302.01318

    v_i ~ q_i, i = 1..gamma;   v_i is accepted with probability min(1, p_i(v_i) / q_i(v_i)), until one is not;
    in its place a word from norm(max(p - q, 0)), or from p after the last one when all are accepted

so that every word has the law p of the target, which reads a whole block at once. The chance that a word is accepted is
``sum_v min(p(v), q(v)) = 1 - TV(p, q)``; a block yields ``(1 - alpha^(gamma + 1)) / (1 - alpha)`` words on average when
every one is accepted with chance alpha, independently.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.modules import eval_mode
from limbeck.data.tokens import Tokens
from limbeck.errors import InputError
from limbeck.losses.vocabulary import TotalVariation, token_loss
from limbeck.models.causal_lm import CausalLM

__all__ = ["Speculation", "acceptance", "acceptance_chance", "expected_words", "replacement", "speculate"]


class Speculation(NamedTuple):
    """What :func:`speculate` wrote, and what it took."""

    answer: Tensor
    """(B, N) int64, padded after EOS."""
    words: Tensor
    """(B,) words written, EOS included."""
    blocks: Tensor
    """(B,) readings by the target."""
    proposed: Tensor
    """(B,) words of the draft that the target came to judge."""
    accepted: Tensor
    """(B,) of which it accepted so many."""

    @property
    def block_efficiency(self) -> float:
        """Words a reading by the target, a mean over the answers; 1 is the target alone, gamma + 1 the most."""
        return float((self.words / self.blocks).mean())

    @property
    def acceptance_rate(self) -> float:
        """Share of the judged words that were accepted."""
        return float(self.accepted.sum() / self.proposed.sum().clamp(min=1))


def acceptance_chance(p: Tensor, q: Tensor, drafted: Tensor) -> Tensor:
    """``min(1, p(v) / q(v))``: probabilities (..., V), (..., V) and words (...) -> (...)."""
    at = drafted.unsqueeze(-1)
    return (p.gather(-1, at) / q.gather(-1, at).clamp_min(torch.finfo(q.dtype).tiny)).clamp_max(1)[..., 0]


def replacement(p: Tensor, q: Tensor) -> Tensor:
    """``norm(max(p - q, 0))``, what takes a rejected word's place; p where the two are one: (..., V) -> (..., V)."""
    left = (p - q).clamp_min(0)
    mass = left.sum(-1, keepdim=True)
    return torch.where(mass > 0, left / mass, p)


def expected_words(alpha: float, gamma: int) -> float:
    """``(1 - alpha^(gamma + 1)) / (1 - alpha)``, words a block when words are accepted independently."""
    return float(sum(alpha**k for k in range(gamma + 1)))


@torch.no_grad()
def acceptance(target: CausalLM, draft: CausalLM, batch: Tokens) -> float:
    """The mean over a batch's words to learn of ``sum_v min(p(v), q(v))``, after what the batch itself says."""
    return 1 - float(token_loss(TotalVariation(), target(batch), draft(batch), batch.weight).total)


@torch.no_grad()
def speculate(
    target: CausalLM, draft: CausalLM, ids: Tensor, mask: Tensor, *, gamma: int = 3, longest: int, tau: float = 1.0
) -> Speculation:
    """Answers with the law of the target's own, written with the draft's help, in eval mode.

    The key-value caches keep ``gamma + 1`` places a block, rejected words and all.

    Args:
        target: what the answers are to come from.
        draft: proposes; with the target's words.
        ids: (B, P) prompts padded at the left (:func:`limbeck.data.tokens.prompts`).
        mask: (B, P), 1 where a token is.
        gamma: words that are proposed at a time.
        longest: words of an answer at most; also held by the smaller context.
        tau: temperature of both; 0 is greedy.

    Raises:
        InputError: for another number of words, or for prompts that leave no room in the context.
    """
    if target.size != draft.size:
        raise InputError("draft", draft.size, f"words are not the target's {target.size}; they must be the same ones")
    room = min(target.context, draft.context) - ids.shape[1] - gamma
    if room < 1 or gamma < 1:
        raise InputError("gamma", gamma, f"must be in 1 to {room + gamma - 1}, what the prompts leave of the context")
    longest = min(longest, room)
    with eval_mode(target, draft):
        readers = _Reader(target, ids, mask, tau), _Reader(draft, ids, mask, tau)
        return _written(*readers, ids[:, -1:], mask.sum(1, keepdim=True) - 1, gamma=gamma, longest=longest)


def _written(judge: _Reader, writer: _Reader, last: Tensor, at: Tensor, *, gamma: int, longest: int) -> Speculation:
    """The blocks: ``last`` and ``at``, (B, 1) each, are the last word and its position, which neither has read."""
    B, one, column = len(last), torch.ones_like(last), torch.arange(gamma + 1, device=last.device)
    behind, told = last, 0 * one  # the word before it where the draft has not read that one either
    answer = last.new_full((B, longest + gamma + 1), judge.model.pad)
    words, blocks, proposed, accepted = torch.zeros((4, B), dtype=torch.int64, device=last.device)
    live = torch.ones_like(words, dtype=torch.bool)
    while bool(live.any()):
        first = writer.read(torch.cat([behind, last], 1), torch.cat([at - 1, at], 1), torch.cat([told, one], 1))
        q, drafted = [first[:, -1]], [_draw(first[:, -1])]
        for k in range(1, gamma):
            q.append(writer.read(drafted[-1], at + k, one)[:, 0])
            drafted.append(_draw(q[-1]))
        said, q_block = torch.cat(drafted, 1), torch.stack(q, 1)
        p = judge.read(torch.cat([last, said], 1), at + column, one.expand(-1, gamma + 1))
        luck = torch.rand(said.shape, device=last.device) < acceptance_chance(p[:, :gamma], q_block, said)
        n = luck.long().cumprod(1).sum(1, keepdim=True)  # (B, 1) accepted, in a row
        here = n[..., None].expand(-1, 1, p.shape[-1])
        corrected = replacement(p.gather(1, here)[:, 0], F.pad(q_block, (0, 0, 0, 1)).gather(1, here)[:, 0])
        block = torch.cat([said, said[:, :1]], 1).scatter(1, n, _draw(corrected))  # n words of the draft, one more
        writer.forget(column[1:gamma] > n, gamma - 1)
        judge.forget(column[1:] > n, gamma)
        ended = ((block == judge.model.eos) & (column <= n)).long()
        ended = torch.where(ended.any(1), ended.argmax(1), gamma + 1)  # the column of an EOS
        fresh = torch.minimum(torch.minimum(n[:, 0], ended) + 1, longest - words) * live
        rows, columns = (column < fresh[:, None]).nonzero(as_tuple=True)
        answer[rows, words[rows] + columns] = block[rows, columns]
        judged = torch.minimum((n[:, 0] + 1).clamp(max=gamma), fresh) * live
        words, blocks, proposed = words + fresh, blocks + live, proposed + judged
        accepted = accepted + torch.minimum(n[:, 0], judged)
        live = live & (ended >= fresh) & (words < longest)
        behind, told, last, at = said[:, -1:], (n == gamma).long(), block.gather(1, n), at + n + 1
    return Speculation(answer[:, : int(words.max())], words, blocks, proposed, accepted)


class _Reader:
    """A network with what it has read: words that were not accepted stay in the cache, hidden from all that follow."""

    def __init__(self, model: CausalLM, ids: Tensor, mask: Tensor, tau: float) -> None:
        from transformers import DynamicCache

        self.model, self.tau, self.seen = model, tau, mask[:, :0]
        self.cache: Any = DynamicCache(config=model.net.config)
        if ids.shape[1] > 1:
            self.read(ids[:, :-1], (mask.cumsum(1) - 1).clamp_min(0)[:, :-1], mask[:, :-1])

    def read(self, words: Tensor, at: Tensor, told: Tensor) -> Tensor:
        """Next-word probabilities (B, n, V) after words (B, n) at positions (B, n), of which those told count."""
        self.seen = torch.cat([self.seen, told.to(self.seen)], 1)
        out = self.model.net(
            input_ids=words, attention_mask=self.seen, position_ids=at.clamp(0, self.model.context - 1),
            past_key_values=self.cache, use_cache=True,
        )  # fmt: skip
        logits = out.logits[..., : self.model.size].float()
        if self.tau == 0:
            return F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
        return (logits / self.tau).softmax(-1)

    def forget(self, rejected: Tensor, count: int) -> None:
        """Hide the rejected ones (B, count) of the last ``count`` words."""
        if count:
            self.seen[:, -count:] *= (~rejected).to(self.seen)


def _draw(probabilities: Tensor) -> Tensor:
    """(B, V) -> (B, 1) words."""
    return torch.multinomial(probabilities, 1)
