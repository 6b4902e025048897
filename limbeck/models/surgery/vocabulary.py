"""Fewer words: the rows of embedding and head that a corpus needs, and a tokenizer that writes no others.

The tokenizer is rebuilt: it keeps the tokens that the corpus is written in, every token that byte-pair merging passes
through on the way to them, the bytes, and all special tokens. So it writes the corpus exactly as before, and any other
text in shorter pieces, in the end in bytes. Its ids are new; ``kept`` says what they were. A network speaks only the
vocabulary that it is trimmed to: trim the teacher with the same texts to distil from it, its probabilities are then
renormalised over what is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.models.causal_lm import CausalLM
from limbeck.models.surgery._anatomy import config, duplicate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Trimmed", "trim"]


class Trimmed(NamedTuple):
    """A network of fewer words."""

    model: CausalLM
    kept: Tensor
    """(words,) int64: the id that each word had before, rising."""


def trim(model: CausalLM, texts: Iterable[str]) -> Trimmed:
    """A copy that knows the words of some texts alone. On them it says what the whole network says, renormalised.

    Args:
        model: without an adapter, with a byte-pair tokenizer of the ``tokenizers`` library.
        texts: the corpus, each as it is tokenised: a document, or a span of one.

    Raises:
        InputError: for another kind of tokenizer, and for no texts.
    """
    said = _json(model.tokenizer)
    kept = _needed(model.tokenizer, said, texts)
    words = {old: new for new, old in enumerate(kept)}
    tokenizer = _rebuilt(model.tokenizer, said, words)
    net = duplicate(model)
    rows = torch.tensor(kept)
    table, head = net.get_input_embeddings(), net.get_output_embeddings()
    tied = head.weight is table.weight
    table.weight = _rows(table.weight, rows)
    table.num_embeddings = len(kept)
    if table.padding_idx is not None:
        table.padding_idx = words.get(table.padding_idx)
    head.weight = table.weight if tied else _rows(head.weight, rows)
    head.out_features = len(kept)
    if getattr(head, "bias", None) is not None:
        head.bias = _rows(head.bias, rows)
    old = config(net).vocab_size
    for module in net.modules():
        if getattr(module, "vocab_size", None) == old:
            module.vocab_size = len(kept)
    config(net).vocab_size = len(kept)
    for settings in (config(net), net.generation_config):
        _renumber(settings, words)
    return Trimmed(CausalLM(net, tokenizer), rows)


def _json(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    said = json.loads(backend.to_str()) if backend is not None else {"model": {"type": type(tokenizer).__name__}}
    if said["model"]["type"] != "BPE":
        raise InputError("tokenizer", said["model"]["type"], "cannot be trimmed: only byte-pair (BPE) tokenizers can")
    return said


def _needed(tokenizer: PreTrainedTokenizerBase, said: dict[str, Any], texts: Iterable[str]) -> list[int]:
    """The ids to keep, rising."""
    from tokenizers import pre_tokenizers

    seen: set[int] = set()
    for text in texts:
        seen.update(tokenizer(text, add_special_tokens=False).input_ids)
    if not seen:
        raise InputError("texts", 0, "hold no words; give the corpus that the network will read")
    vocabulary: dict[str, int] = said["model"]["vocab"]
    made_of: dict[str, list[list[str]]] = {}
    for pair in said["model"]["merges"]:
        made_of.setdefault(_joined(pair, said), []).append(pair)
    alphabet = {*pre_tokenizers.ByteLevel.alphabet(), *(f"<0x{k:02X}>" for k in range(256)), said["model"]["unk_token"]}
    names = {number: word for word, number in vocabulary.items()}
    left = [word for number, word in names.items() if number in seen or word in alphabet]
    kept = set(left)
    while left:
        parts = {part for pair in made_of.get(left.pop(), ()) for part in pair} - kept
        kept |= parts
        left += parts
    special = {token["id"] for token in said["added_tokens"]} | set(tokenizer.all_special_ids)
    return sorted(seen | special | {vocabulary[word] for word in kept})


def _joined(pair: list[str], said: dict[str, Any]) -> str:
    return pair[0] + pair[1].removeprefix(said["model"]["continuing_subword_prefix"] or "")


def _rebuilt(tokenizer: PreTrainedTokenizerBase, said: dict[str, Any], words: dict[int, int]) -> Any:
    """The same tokenizer with fewer words under new ids."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: words[old] for word, old in said["model"]["vocab"].items() if old in words}
    merges = [pair for pair in said["model"]["merges"] if {*pair, _joined(pair, said)} <= vocabulary.keys()]
    for token in said["added_tokens"]:
        token["id"] = words[token["id"]]
    processor = said.get("post_processor") or {}
    for part in (processor, *processor.get("processors", ())):
        if part.get("type") in ("BertProcessing", "RobertaProcessing"):
            raise InputError("tokenizer", part["type"], "holds ids that cannot be renumbered; it cannot be trimmed")
        for special in (part.get("special_tokens") or {}).values():
            special["ids"] = [words[old] for old in special["ids"]]
    said = {**said, "model": {**said["model"], "vocab": vocabulary, "merges": merges}, "padding": None}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(said)), chat_template=tokenizer.chat_template,
        model_max_length=tokenizer.model_max_length, padding_side=tokenizer.padding_side,
        **tokenizer.special_tokens_map,
    )  # fmt: skip


def _rows(weight: Tensor, rows: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach()[rows.to(weight.device)])


def _renumber(settings: Any, words: dict[int, int]) -> None:
    """Every ``..._token_id`` of a configuration; one whose word is gone becomes None."""
    for name, old in list(vars(settings).items()):
        if name.endswith("_token_id") and isinstance(old, int):
            setattr(settings, name, words.get(old))
        elif name.endswith("_token_id") and isinstance(old, list):
            setattr(settings, name, [words[k] for k in old if k in words] or None)
