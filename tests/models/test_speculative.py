"""Speculative sampling: the law of what comes out is the target's, by enumeration and by counting."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from limbeck.data.tokens import Tokens, prompts
from limbeck.errors import InputError
from limbeck.models.causal_lm import CausalLM
from limbeck.models.speculative import acceptance, acceptance_chance, expected_words, replacement, speculate
from limbeck.models.tiny_lm import byte_tokenizer, gpt2, llama
from tests.worlds import language_world

BYTES = byte_tokenizer()


def tables(seed: int, words: int) -> torch.Tensor:
    """(V + 1, V) probabilities of the next word after each word, and at the start."""
    drawn = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(words + 1, words, generator=drawn, dtype=torch.float64)).softmax(-1)


def test_by_enumeration_of_drafts_and_coins_two_words_have_the_targets_law() -> None:
    V, start, p, q = 3, 3, tables(0, 3), tables(1, 3)
    found, wanted = torch.zeros(2, V, V, dtype=torch.float64)
    for a, b in itertools.product(range(V), repeat=2):
        wanted[a, b] = p[start, a] * p[a, b]
        drafted = q[start, a] * q[a, b]
        first, second = (acceptance_chance(p[at], q[at], torch.tensor(v)) for at, v in ((start, a), (a, b)))
        found[a, b] += drafted * first * second
        for other in range(V):  # the second is replaced; the first is, and then the target goes on alone
            found[a, other] += drafted * first * (1 - second) * replacement(p[a], q[a])[other]
            for then in range(V):
                found[other, then] += drafted * (1 - first) * replacement(p[start], q[start])[other] * p[other, then]
    torch.testing.assert_close(found, wanted)
    rate = sum(q[start, v] * acceptance_chance(p[start], q[start], torch.tensor(v)) for v in range(V))
    assert float(rate) == pytest.approx(float(torch.minimum(p[start], q[start]).sum()))


@pytest.mark.parametrize("kind", [llama, gpt2])
def test_counted_over_many_answers_the_words_have_the_targets_law(kind: type) -> None:
    rows, longest = 2000, 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        target, draft = (_peaked(kind(16, depth, BYTES, context=32)) for depth in (2, 1))
        ids, mask = torch.tensor([[0, 0, 65, 66]]), torch.tensor([[0, 0, 1, 1]])
        found = speculate(target, draft, ids.expand(rows, -1), mask.expand(rows, -1), gamma=2, longest=longest)
        direct = target.generate(ids.expand(rows, -1), mask.expand(rows, -1), longest=longest)
    assert 0.05 < found.acceptance_rate < 0.95, "both branches must be taken"
    for column in range(longest):
        counts = torch.stack([_counts(x, column) for x in (found.answer, direct)])
        expected = counts.sum(0) / 2
        common = expected >= 8
        pooled = torch.cat([counts[:, common], counts[:, ~common].sum(1, keepdim=True)], 1)
        expected = pooled.sum(0) / 2
        used = expected > 0
        chi = float(((pooled - expected) ** 2 / expected)[:, used].sum())
        freedom = int(used.sum()) - 1
        assert chi < freedom + 4 * (2 * freedom) ** 0.5 + 6, f"word {column}: chi-square {chi} on {freedom}"


def test_greedy_it_is_the_slow_reference_without_caches() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        target = _peaked(llama(16, 2, BYTES, context=64))
        draft = copy.deepcopy(target)  # right often, not always: accepted and rejected words must be remembered rightly
        for weight in draft.parameters():
            weight.data += 0.02 * torch.randn_like(weight)
    ids, mask = torch.tensor([[0, 0, 65, 66], [70, 71, 72, 73]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    found = speculate(target, draft, ids, mask, gamma=4, longest=14, tau=0.0)
    for row in range(2):
        said, blocks = _slow(target, draft, ids[row][mask[row].bool()].tolist(), 4, 14)
        assert found.answer[row, : int(found.words[row])].tolist() == said
        assert int(found.blocks[row]) == blocks
    assert 0.05 < found.acceptance_rate < 0.95, "some words are accepted and some are not"
    itself = speculate(target, target, ids, mask, gamma=4, longest=14, tau=0.0)
    assert itself.acceptance_rate == 1 and itself.answer.tolist() == found.answer.tolist()


def test_rates() -> None:
    world = language_world()
    [target], draft, batch = world.teachers, world.student(), world.batch(8)
    p, q = (model(batch).log_probs()[batch.mask].exp().detach() for model in (target, draft))
    assert acceptance(target, draft, batch) == pytest.approx(float(torch.minimum(p, q).sum(1).mean()), abs=1e-5)
    assert acceptance(target, target, batch) == pytest.approx(1, abs=1e-6)
    assert expected_words(0.5, 3) == pytest.approx((1 - 0.5**4) / 0.5) and expected_words(1.0, 3) == 4
    with pytest.raises(InputError, match="gamma"):
        speculate(target, draft, *prompts(batch, target.pad), gamma=60, longest=4)


def _slow(target: CausalLM, draft: CausalLM, known: list[int], gamma: int, longest: int) -> tuple[list[int], int]:
    """Greedy words and blocks, every network reading everything each time."""

    def says(model: CausalLM, words: list[int]) -> int:
        x = torch.tensor([words])
        return int(model(Tokens(x, x, torch.ones_like(x), x[:, 0], x[:, 0])).logits()[0, -1].argmax())

    said, blocks = list[int](), 0
    while len(said) < longest and target.eos not in said:
        drafted = list[int]()
        for _ in range(gamma):
            drafted.append(says(draft, known + said + drafted))
        blocks += 1
        for k in range(gamma + 1):
            right = says(target, known + said)
            said.append(right)
            if right == target.eos or len(said) == longest or k == gamma or right != drafted[k]:
                break
    return said, blocks


def _peaked(model: CausalLM) -> CausalLM:
    """So that some words are much likelier than others."""
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 4
    return model.eval()


def _counts(answer: torch.Tensor, column: int) -> torch.Tensor:
    return torch.bincount(answer[:, column], minlength=258).float() if answer.shape[1] > column else torch.zeros(258)
