"""Language models by reference: what is saved comes back bit for bit, fresh weights depend on their seed alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from limbeck.errors import InputError
from limbeck.models.causal_lm import CausalLM
from limbeck.models.load_lm import load_causal_lm, load_tokenizer, save_causal_lm
from limbeck.models.surgery import lora, merge
from limbeck.models.tiny_lm import bpe_tokenizer, byte_tokenizer, gpt2, llama


def same(a: CausalLM, b: CausalLM) -> bool:
    ours, theirs = a.net.state_dict(), b.net.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("kind", ["tied", "untied", "gpt2", "adapter"])
def test_what_is_saved_comes_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    words = bpe_tokenizer(["one two three two one"] * 5, 270)
    model = gpt2(16, 2, words) if kind == "gpt2" else llama(16, 2, words, heads=2, tied=kind != "untied")
    if kind == "adapter":
        model = lora(model, 2)
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p += 0.1 * torch.randn(p.shape)
    before = copy.deepcopy(model.state_dict())
    save_causal_lm(model, tmp_path / "net", card_text="A test.")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()), "saving changes nothing"
    again = load_causal_lm(str(tmp_path / "net"))
    wanted = merge(copy.deepcopy(model)) if kind == "adapter" else model
    assert same(again, wanted) and torch.equal(again(again.example).logits(), wanted.eval()(again.example).logits())
    assert again.tokenizer.get_vocab() == words.get_vocab() and again.eos == model.eos
    assert "A test." in (tmp_path / "net" / "README.md").read_text()
    assert not [f for f in (tmp_path / "net").iterdir() if f.suffix in (".bin", ".pt", ".pkl")]


def test_fresh_weights_depend_on_their_seed_alone() -> None:
    torch.manual_seed(1)
    first, drawn = load_causal_lm("llama-16x1", seed=3), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn), "the global random state was moved"
    assert same(first, load_causal_lm("llama-16x1", seed=3)) and not same(first, load_causal_lm("llama-16x1", seed=4))
    assert first.size == 258 and load_causal_lm("gpt2-16x1", tokenizer=byte_tokenizer(), context=700).context == 700


def test_cuts_of_another_model(tmp_path: Path) -> None:
    save_causal_lm(llama(16, 4, byte_tokenizer(), heads=2), tmp_path / "net")
    whole = load_causal_lm(str(tmp_path / "net"))
    cut = load_causal_lm(f"layers-2@{tmp_path / 'net'}")
    assert cut.depth == 2 and torch.equal(cut.embed(cut.example.x), whole.embed(cut.example.x))
    adapted = load_causal_lm(f"lora-2@{tmp_path / 'net'}")
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert 0 < trained < sum(p.numel() for p in whole.parameters()) / 2


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("lama-16x1", "llama"), ("weights.pt", "pickle"), ("missing.gguf", "does not exist"),
        ("math:sqrt", "could not"),
        ("llama-16x0", "at least one"), ("layers-9@llama-16x2", "must be from 1 to 2"),
    ],
)  # fmt: skip
def test_what_names_no_model_is_one_line(reference: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        load_causal_lm(reference)
    assert hint in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    save_causal_lm(llama(16, 1, byte_tokenizer(), heads=2), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickle"):
        load_causal_lm(str(tmp_path))
    with pytest.raises(InputError, match="bytes, bpe-1024"):
        load_tokenizer("byte")
