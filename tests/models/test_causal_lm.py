"""The face of a language model: what padding, packing, prefixes and caches must not change."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from limbeck.core.modules import Taps
from limbeck.data.text import manual, sorting
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import TokenBatches, Tokens, prompts
from limbeck.errors import InputError
from limbeck.models.causal_lm import CausalLM
from limbeck.models.tiny_lm import byte_tokenizer, gpt2, llama

BYTES = byte_tokenizer()


def plain(x: torch.Tensor) -> Tokens:
    return Tokens(x, x, torch.ones_like(x), x[:, 0], x[:, 0])


@pytest.fixture(params=[llama, gpt2])
def model(request: pytest.FixtureRequest) -> CausalLM:
    torch.manual_seed(0)
    return request.param(32, 2, BYTES, context=96).eval()


def test_words_are_the_networks_own_logits(model: CausalLM) -> None:
    x = torch.randint(258, (2, 12))
    ours, theirs = model(plain(x)).logits(), model.net(input_ids=x).logits
    torch.testing.assert_close(ours, theirs)
    assert (model.width, model.depth, model.size) == (32, 2, 258)
    _, (inner,) = Taps(model.blocks[0])(model, plain(x))
    assert inner.shape == (2, 12, 32)


def test_packed_documents_do_not_see_each_other(model: CausalLM) -> None:
    data = tokenise(manual(60).train.subset(range(12)), BYTES, 64, pack=True)
    batch = data.take(torch.arange(4))
    assert batch.packed
    whole = model(batch).logits()
    for row in range(4):
        for number in range(1, int(batch.segment[row].max()) + 1):
            at = (batch.segment[row] == number).nonzero()[:, 0]
            torch.testing.assert_close(model(plain(batch.x[row : row + 1, at])).logits()[0], whole[row, at])


def test_padding_changes_nothing(model: CausalLM) -> None:
    batch = next(iter(TokenBatches(tokenise(manual(60).train, BYTES, 96), 4)))
    whole = model(batch).logits()
    for row in range(4):
        n = int((batch.segment[row] > 0).sum())
        torch.testing.assert_close(model(plain(batch.x[row : row + 1, :n])).logits()[0], whole[row, :n])


def test_a_prefix_of_embeddings_is_a_prefix_of_tokens(model: CausalLM) -> None:
    batch = next(iter(TokenBatches(tokenise(manual(40).train, BYTES, 60), 3)))
    prefix = batch.x[0, :5]
    x = torch.cat([prefix.expand(3, 5), batch.x], 1)
    segment = torch.cat([torch.ones(3, 5, dtype=torch.int64), batch.segment], 1)
    wanted = model(batch._replace(x=x, segment=segment)).logits()[:, 5:]
    found = model(batch, model.embed(prefix)).logits()
    torch.testing.assert_close(found[batch.segment > 0], wanted[batch.segment > 0])


def test_embeddings_read_as_their_words_wherever_the_padding_is(model: CausalLM) -> None:
    torch.manual_seed(1)
    x, n = torch.randint(2, 258, (3, 9)), (9, 4, 6)
    left, right = torch.zeros(3, 9, dtype=torch.int64), torch.zeros(3, 9, dtype=torch.int64)
    for row, length in enumerate(n):
        left[row, 9 - length :], right[row, :length] = 1, 1
    before, after = (model.read(model.embed(x), mask) for mask in (left, right))
    for row, length in enumerate(n):
        wanted = [model(plain(x[row : row + 1, at])).hidden[0] for at in (slice(9 - length, 9), slice(length))]
        torch.testing.assert_close(before[row, 9 - length :], wanted[0])
        torch.testing.assert_close(after[row, :length], wanted[1])


def test_greedy_answers_are_the_argmax_of_the_whole_sequence_however_padded(model: CausalLM) -> None:
    batch = next(iter(TokenBatches(tokenise(sorting(40).train, BYTES, 24), 4)))
    ids, mask = prompts(batch._replace(y=torch.where(batch.index[:, None] % 2 == 0, batch.y.roll(1, 1), batch.y)), 0)
    said = model.generate(ids, mask, longest=5, tau=0.0)
    for row in range(4):
        x = ids[row][mask[row].bool()]
        for token in said[row]:
            assert int(token) == int(model(plain(x[None])).logits()[0, -1].argmax())
            x = torch.cat([x, token[None]])
            if token == model.eos:
                break


def test_sampling_draws_from_the_global_generator_in_eval_mode(model: CausalLM) -> None:
    ids, mask = torch.randint(2, 258, (3, 4)), torch.ones(3, 4, dtype=torch.int64)
    model.train()
    torch.manual_seed(1)
    one = model.generate(ids, mask, longest=6)
    torch.manual_seed(1)
    assert model.generate(ids, mask, longest=6).equal(one) and model.training
    assert not model.generate(ids, mask, longest=6).equal(one)


def test_scaled_and_capped_heads() -> None:
    from transformers import (
        CohereConfig,
        CohereForCausalLM,
        Gemma2Config,
        Gemma2ForCausalLM,
        GraniteConfig,
        GraniteForCausalLM,
    )

    small: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 32, "pad_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    capped = CausalLM(Gemma2ForCausalLM(Gemma2Config(**small, final_logit_softcapping=0.05)), BYTES)
    scaled = CausalLM(CohereForCausalLM(CohereConfig(**small, logit_scale=0.25)), BYTES)
    divided = CausalLM(GraniteForCausalLM(GraniteConfig(**small, logits_scaling=8.0)), BYTES)
    for model in (capped, scaled, divided):
        x = torch.randint(258, (2, 6))
        found = model(plain(x)).logits()
        torch.testing.assert_close(found[..., :258], model.net(input_ids=x).logits[..., :258], rtol=1e-4, atol=1e-6)
        assert found[..., 258:].isneginf().all(), "words that the tokenizer does not have are impossible"


def test_a_head_that_words_cannot_express_and_too_many_words_are_refused() -> None:
    class Odd(torch.nn.Module):
        pass

    net = llama(16, 1, BYTES).net
    whole = net.forward
    net.forward = lambda *a, **k: type("Out", (), {"logits": whole(*a, **k).logits ** 2})()
    with pytest.raises(InputError, match="cannot be used"):
        CausalLM(net, BYTES)
    short = llama(16, 1, BYTES).net
    short.resize_token_embeddings(100)
    with pytest.raises(InputError, match=r"258.*100"):
        CausalLM(short, BYTES)
