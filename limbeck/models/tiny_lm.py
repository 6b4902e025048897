"""Small language models to start from, ``llama-64x2`` and ``gpt2-64x2``; tokenizers of bytes and of byte pairs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from limbeck.errors import InputError
from limbeck.models.causal_lm import CausalLM

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["bpe_tokenizer", "byte_tokenizer", "gpt2", "llama"]

HEAD = 16  # channels of an attention head, at least


def llama(
    width: int, depth: int, tokenizer: PreTrainedTokenizerBase, *, heads: int = 0, context: int = 512, tied: bool = True
) -> CausalLM:
    """A Llama (Touvron et al., 2023, https://arxiv.org/abs/2302.13971) with fresh weights.

    Args:
        width: of the hidden states, a multiple of the number of heads.
        depth: blocks.
        tokenizer: its words.
        heads: of attention; one for 16 channels, at most 8, when 0.
        context: the most positions.
        tied: input and output embeddings are one.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = _heads(width, heads)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=depth,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=context,
        tie_word_embeddings=tied, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return _named(CausalLM(LlamaForCausalLM(config), tokenizer), "llama", width, depth)


def gpt2(width: int, depth: int, tokenizer: PreTrainedTokenizerBase, *, context: int = 512) -> CausalLM:
    """A GPT-2 (Radford et al., 2019), with learnt positions and dropout 0.1, and fresh weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=width, n_layer=depth, n_head=_heads(width, 0), n_positions=context,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return _named(CausalLM(GPT2LMHeadModel(config), tokenizer), "gpt2", width, depth)


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """Every byte is a word; 256 of them, a padding and an end-of-text token."""
    return _tokenizer([], 0)


def bpe_tokenizer(texts: Iterable[str], words: int) -> PreTrainedTokenizerBase:
    """Byte pairs (Sennrich et al., 2016, https://arxiv.org/abs/1508.07909) learnt from texts; the same texts give the
    same words.

    Raises:
        InputError: for fewer words than bytes and special tokens.
    """
    if words < 258:
        raise InputError("words", words, "must be at least 258: the bytes, padding and end of text")
    return _tokenizer(texts, words)


def _tokenizer(texts: Iterable[str], words: int) -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(words, 258), special_tokens=["<pad>", "<eos>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")  # noqa: S106


def _heads(width: int, heads: int) -> int:
    heads = heads or max(1, min(8, width // HEAD))
    if width < 2 or width % (2 * heads):
        raise InputError("width", width, f"must be an even multiple of its {heads} attention heads")
    return heads


def _named(model: CausalLM, kind: str, width: int, depth: int) -> CausalLM:
    model.reference = f"{kind}-{width}x{depth}"
    return model
