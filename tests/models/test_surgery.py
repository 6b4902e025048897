"""Surgery on language models: where it should change nothing, it changes nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from limbeck.core.modules import Taps, freeze
from limbeck.errors import InputError
from limbeck.models.causal_lm import CausalLM
from limbeck.models.surgery import (
    angular_distances,
    block_influence,
    group_importance,
    least_important_run,
    lora,
    merge,
    narrow,
    neuron_importance,
    quantise,
    settle,
    spaced,
    sparsify,
    sparsity,
    trim,
    truncate,
)
from limbeck.models.surgery.bits import rounded
from limbeck.models.tiny_lm import bpe_tokenizer, byte_tokenizer, gpt2, llama

KINDS = ("llama", "gpt2", "qwen3", "gemma3_text", "smollm3")
bytes_of = cache(byte_tokenizer)


def network(kind: str, depth: int = 5, **more: Any) -> CausalLM:
    """Of random weights, in eval mode, frozen as a teacher is."""
    torch.manual_seed(0)
    tokenizer = bytes_of()
    if kind == "gpt2":
        return freeze(gpt2(32, depth, tokenizer))
    if kind == "llama" and not more:
        return freeze(llama(32, depth, tokenizer))
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=depth,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, eos_token_id=1, pad_token_id=0, bos_token_id=1, **more
    )  # fmt: skip
    return freeze(CausalLM(AutoModelForCausalLM.from_config(config), tokenizer))


def logits(model: CausalLM) -> Tensor:
    with torch.no_grad():
        return model.eval()(model.example).logits()


def greedy(model: CausalLM) -> tuple[Tensor, Tensor]:
    """What it generates with its cache, and without one."""
    ids = torch.arange(12).view(2, 6)
    whole = ids
    for _ in range(4):
        with torch.no_grad():
            whole = torch.cat([whole, model.net(input_ids=whole, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return model.generate(ids, torch.ones_like(ids), longest=4, tau=0), whole[:, 6:]


@pytest.mark.parametrize("kind", KINDS)
def test_truncation_keeps_what_it_says_and_the_cache_works(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = network(kind)
    assert torch.equal(logits(truncate(model, range(5))), logits(model))
    student = truncate(model, [0, 3, 4])
    assert student.depth == 3 and model.depth == 5
    assert [m.layer_idx for m in student.modules() if hasattr(m, "layer_idx") and "Attention" in type(m).__name__] == [
        0, 1, 2,
    ]  # fmt: skip
    with torch.no_grad():  # the same network with blocks 1 and 2 left out by hand
        _, [before, after] = Taps(f"{model.blocks[1]}:in", f"{student.blocks[1]}:in")(model, model.example)
        _, [ours] = Taps(f"{student.blocks[1]}:in")(student.eval(), model.example)
    assert torch.equal(before, after) and torch.equal(before, ours)
    cached, plain = greedy(student)
    assert torch.equal(cached, plain[:, : cached.shape[1]])
    student.net.save_pretrained(tmp_path)
    again = CausalLM(AutoModelForCausalLM.from_pretrained(tmp_path), model.tokenizer)
    assert torch.equal(logits(again), logits(student))


def test_a_truncated_copy_of_a_frozen_teacher_learns_alone_and_stays_tied() -> None:
    model = network("llama")
    student = truncate(model, [0, 4])
    assert all(p.requires_grad for p in student.parameters())
    assert not any(p.requires_grad for p in model.parameters())
    assert student.net.get_output_embeddings().weight is student.net.get_input_embeddings().weight
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in student.parameters()}
    assert not shared


def test_wrong_blocks_and_networks_that_cannot_lose_any_are_refused() -> None:
    model = network("llama")
    for keep in ([], [1, 0], [0, 0], [0, 5], [-1, 2]):
        with pytest.raises(InputError, match="keep"):
            truncate(model, keep)
    with pytest.raises(InputError, match="merge it first"):
        truncate(lora(network("llama"), 2), [0, 1])
    other = network("gpt2")
    other.net.config.scale_attn_by_inverse_layer_idx = True
    with pytest.raises(InputError, match="GPT2LMHeadModel"):
        truncate(other, [0, 1])


def test_spaced_blocks_include_both_ends() -> None:
    assert spaced(12, 6) == [0, 2, 4, 7, 9, 11]
    assert spaced(5, 5) == [0, 1, 2, 3, 4] and spaced(7, 1) == [0] and spaced(30, 2) == [0, 29]
    with pytest.raises(InputError):
        spaced(4, 5)


def test_angular_distance_is_the_papers_and_finds_blocks_that_do_nothing() -> None:
    model = network("llama", 6)
    for k in (2, 3):  # blocks that add nothing to the residual stream
        block = model.get_submodule(model.blocks[k])
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    batch = model.example._replace(x=model.example.x + 5, segment=torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]))
    with torch.no_grad():
        _, stream = Taps(*(f"{b}:in" for b in model.blocks), model.blocks[-1])(model, batch)
    h = np.stack([[part[0, 2].numpy(), part[1, 3].numpy()] for part in stream]).astype(np.float64)
    for n in (1, 2):
        dot = (h[:-n] * h[n:]).sum(-1) / np.linalg.norm(h[:-n], axis=-1) / np.linalg.norm(h[n:], axis=-1)
        slow = np.arccos(np.clip(dot, -1, 1)).mean(1) / np.pi
        np.testing.assert_allclose(angular_distances(model, [batch], n).numpy(), slow, atol=1e-7)
    assert least_important_run(model, [batch], 2) == range(2, 4)
    influence = block_influence(model, [batch])
    assert influence[2:4].abs().max() < 1e-12 < influence[[0, 1, 4, 5]].min()
    assert torch.equal(logits(truncate(model, [0, 1, 4, 5])), logits(model))
    with pytest.raises(InputError, match="first and the last"):
        least_important_run(model, [batch], 5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_lora_says_the_same_at_first_trains_alone_and_merges(kind: str) -> None:
    model = network(kind, 2)
    before = logits(model)
    student = lora(model, 3)
    assert torch.equal(logits(student), before)
    trained = {n: p for n, p in student.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name for name in trained) and len(student.blocks) == 2
    with torch.no_grad():
        for p in trained.values():
            p.add_(0.1 * torch.randn_like(p))
    after = logits(student)
    assert (after - before).abs().max() > 1e-3
    merged = merge(student)
    torch.testing.assert_close(logits(merged), after, rtol=1e-4, atol=1e-5)
    assert all(p.requires_grad for p in merged.parameters()) and merged.depth == 2


def test_lora_refuses_layers_that_are_not_there() -> None:
    with pytest.raises(InputError, match="q_proj"):
        lora(network("llama", 2), 4, ["query"])
    only = lora(network("llama", 2), 4, ["q_proj"])
    assert sum(p.requires_grad for p in only.parameters()) == 4
    with pytest.raises(InputError, match="no adapter"):
        merge(network("llama", 2))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "gemma2"])
@pytest.mark.parametrize("text", [True, False])
def test_cutting_neurons_that_add_nothing_changes_nothing(kind: str, text: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = network(kind, 2)
    batches = [model.example] if text else []
    sizes = [len(score) for score in neuron_importance(model, batches)]
    for k, block in enumerate(model.blocks):  # the last layer of the MLP forgets other neurons in each block
        mlp = model.get_submodule(block).mlp
        if kind == "gpt2":
            mlp.c_proj.weight[k::3] = 0
        else:
            mlp.down_proj.weight[:, k::3] = 0
    found = neuron_importance(model, batches)
    assert all(torch.equal(score == 0, torch.arange(len(score)) % 3 == k) for k, score in enumerate(found))
    student = narrow(model, neurons=sizes[0] - sizes[0] // 3, batches=batches)
    torch.testing.assert_close(logits(student), logits(model), rtol=1e-5, atol=1e-6)
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in model.parameters())
    student.net.save_pretrained(tmp_path)
    again = CausalLM(AutoModelForCausalLM.from_pretrained(tmp_path), model.tokenizer)
    assert torch.equal(logits(again), logits(student))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3_text"])
def test_cutting_heads_that_add_nothing_changes_nothing(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = network(kind, 2, **({"layer_types": ["sliding_attention", "full_attention"]} if "gemma" in kind else {}))
    for k, block in enumerate(model.blocks):
        attention = model.get_submodule(block).self_attn
        channels, groups = attention.head_dim, len(group_importance(model)[k])
        attention.v_proj.weight[k * channels : (k + 1) * channels] = 0
        if attention.v_proj.bias is not None:
            attention.v_proj.bias[k * channels : (k + 1) * channels] = 0
    for batches in ([], [model.example]):
        assert [int((score == 0).nonzero()) for score in group_importance(model, batches)] == [0, 1]
        student = narrow(model, groups=groups - 1, batches=batches)
        torch.testing.assert_close(logits(student), logits(model), rtol=1e-5, atol=1e-6)
    cached, plain = greedy(student)
    assert torch.equal(cached, plain[:, : cached.shape[1]])
    student.net.save_pretrained(tmp_path)
    again = CausalLM(AutoModelForCausalLM.from_pretrained(tmp_path), model.tokenizer)
    assert torch.equal(logits(again), logits(student))


def test_importance_is_what_a_channel_adds_to_the_residual_stream() -> None:
    model = network("llama", 2)
    path = f"{model.blocks[1]}.mlp.down_proj"
    batch = model.example._replace(x=model.example.x + 5, segment=torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]))
    with torch.no_grad():
        _, [a] = Taps(f"{path}:in")(model, batch)
    added = a[batch.segment > 0].double()[:, :, None] * model.get_submodule(path).weight.T.double()  # (N, neurons, D)
    slow = added.square().sum(-1).mean(0).sqrt()
    torch.testing.assert_close(neuron_importance(model, [batch])[1].double(), slow, rtol=1e-4, atol=1e-9)


def test_what_cannot_be_narrowed_is_named() -> None:
    with pytest.raises(InputError, match="GPT2LMHeadModel"):
        narrow(network("gpt2", 2), groups=1)
    with pytest.raises(InputError, match="neurons"):
        narrow(network("llama", 2), neurons=10_000)
    with pytest.raises(InputError, match="groups"):
        narrow(freeze(llama(96, 1, bytes_of(), heads=6)), groups=5)  # transformers wants heads that divide the width


def test_a_trimmed_vocabulary_writes_its_corpus_as_before_and_anything_else_in_pieces(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    corpus = ["the cat sat on the mat", "the hat of the cat"]
    tokenizer = bpe_tokenizer([*corpus * 4, *["unrelated words never seen again"] * 4], 330)
    torch.manual_seed(0)
    for model in (freeze(llama(32, 1, tokenizer)), freeze(llama(32, 1, tokenizer, tied=False))):
        student, kept = trim(model, corpus)
        assert 258 < student.size == len(kept) < model.size
        for text in (*corpus, "cat hat"):
            ours, theirs = (m.tokenizer(text, return_tensors="pt").input_ids for m in (student, model))
            assert torch.equal(kept[ours], theirs)
            x = model.example._replace(x=theirs, y=theirs, segment=torch.ones_like(theirs))
            with torch.no_grad():
                torch.testing.assert_close(
                    student(x._replace(x=ours)).logits(), model(x).logits()[..., kept], rtol=1e-5, atol=1e-6
                )
        other = "unrelated words, à la carte"
        assert student.tokenizer.decode(student.tokenizer(other).input_ids) == other
        assert student.tokenizer.decode([student.eos]) == tokenizer.eos_token
        assert student.net.config.eos_token_id == student.eos and kept[student.pad] == model.pad
        tied = student.net.get_output_embeddings().weight is student.net.get_input_embeddings().weight
        assert tied == model.net.config.tie_word_embeddings
    student.tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(corpus).input_ids == student.tokenizer(corpus).input_ids
    with pytest.raises(InputError, match="texts"):
        trim(model, [])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_masks_survive_training_and_are_true_zeros(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = truncate(network(kind, 2), [0, 1])
    weight = model.get_submodule(f"{model.blocks[1]}.mlp").get_submodule("c_fc" if kind == "gpt2" else "up_proj").weight
    before = weight.detach().clone()
    masks = sparsify(model, 0.75)
    small = before.abs().flatten().sort().values[round(0.75 * before.numel()) - 1]
    assert torch.equal(weight == 0, before.abs() <= small) and sparsity(model) == pytest.approx(0.75, abs=1e-3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(3):
        model(model.example).logits().square().mean().backward()
        optimizer.step()
        masks.put_on(model)
    assert sparsity(model) == pytest.approx(0.75, abs=1e-3) and not torch.equal(weight, before)
    model.net.save_pretrained(tmp_path)
    assert sparsity(CausalLM(AutoModelForCausalLM.from_pretrained(tmp_path), model.tokenizer)) == sparsity(model)
    other = sparsify(truncate(network(kind, 2), [0, 1]), 0.0)
    other.load_state_dict(masks.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.buffers(), masks.buffers(), strict=True))
    again = sparsify(model, 0.9)
    assert all(not (new & ~old).any() for new, old in zip(again.buffers(), masks.buffers(), strict=True))
    with pytest.raises(InputError, match="share"):
        sparsify(model, 1.0)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_rounding_is_per_output_channel_and_lets_the_gradient_through(kind: str) -> None:
    w = torch.randn(5, 40)
    slow = np.stack([np.round(r / (m := np.abs(r).max() / 7)) * m for r in w.double().numpy()])
    np.testing.assert_allclose(rounded(w, 4).numpy(), slow, rtol=1e-5, atol=1e-6)
    assert torch.equal(rounded(w.T, 4, axis=1), rounded(w, 4).T) and not rounded(torch.zeros(2, 3), 4).any()
    assert (rounded(w, 8) - w).abs().max() < (rounded(w, 4) - w).abs().max() / 8
    model = quantise(truncate(network(kind, 2), [0, 1]), 4)
    layer = model.get_submodule(f"{model.blocks[0]}.mlp").get_submodule("c_fc" if kind == "gpt2" else "up_proj")
    seen = layer.weight.detach().clone()
    channels = seen if kind == "llama" else seen.T
    original = layer.parametrizations.weight.original
    assert max(len(channel.unique()) for channel in channels) <= 15 and not torch.equal(seen, original)
    (layer.weight * torch.arange(seen.numel()).view_as(seen)).sum().backward()
    assert torch.equal(original.grad.flatten(), torch.arange(float(seen.numel())))
    before = logits(model)
    settle(model)
    assert torch.equal(layer.weight, seen) and torch.equal(logits(model), before)
    assert not any("parametrizations" in name for name in model.state_dict())
    with pytest.raises(InputError, match="bits"):
        quantise(model, 1)
