"""Language models and tokenizers by reference: a small network's name, a folder, a GGUF file, the Hugging Face Hub, a
function of the user's, a cut of another model."""

from __future__ import annotations

import copy
import inspect
import re
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from limbeck.core.checkpoint import atomic_folder
from limbeck.core.modules import unwrap
from limbeck.errors import InputError, brief, nearest
from limbeck.models.causal_lm import CausalLM
from limbeck.models.load import PICKLES, seeded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LM_CARD", "LM_NAMES", "is_fresh", "load_causal_lm", "load_tokenizer", "save_causal_lm"]

CONTEXT = 512  # positions of a fresh network, at least
LM_NAMES = ("llama-64x2", "llama-128x4", "llama-256x6", "gpt2-64x2", "gpt2-128x4", "layers-10@MODEL", "lora-8@MODEL")
LM_CARD = """---
library_name: transformers
pipeline_tag: text-generation
---

# A language model

{text}

Read it with `limbeck.models.load_lm.load_causal_lm(folder)` or `AutoModelForCausalLM.from_pretrained(folder)`.
"""


def load_causal_lm(
    reference: str, *, tokenizer: PreTrainedTokenizerBase | None = None, seed: int = 0, context: int = CONTEXT
) -> CausalLM:
    """The language model that a reference names, in float32.

    Args:
        reference: one of

            - ``llama-64x2`` or ``gpt2-64x2`` (width, depth): fresh weights;
            - a transformers folder (fresh weights when it holds a ``config.json`` and no weights), or ``owner/name`` on
              the Hugging Face Hub; safetensors only, no code from there is run;
            - a ``.gguf`` file;
            - ``package.module:factory``: a function that returns a :class:`CausalLM` or a transformers network; it is
              given those of ``tokenizer``, ``vocab_size`` and ``context`` that it takes by name;
            - ``layers-10@REFERENCE``: ten evenly spaced blocks of that model, the first and the last among them;
            - ``lora-8@REFERENCE``: that model with adapters of rank 8, which alone are trained.
        tokenizer: the words of a model that brings no tokenizer; bytes for a small network when ``None``.
        seed: of fresh weights, which depend on nothing else. The global random state is left as it was.
        context: the most positions of a small network, if more than 512.

    Raises:
        InputError: in one line that names the reference and what to do.
    """
    with seeded(seed), _quiet():
        model = _resolve(reference, tokenizer, max(context, CONTEXT))
    model.reference = reference
    return model


def load_tokenizer(reference: str, texts: Iterable[str] = ()) -> PreTrainedTokenizerBase:
    """A tokenizer: ``bytes``, ``bpe-1024`` (learnt from ``texts``), a folder, a ``.gguf`` file or a Hub id.

    Raises:
        InputError: in one line that names the reference and what to do.
    """
    from limbeck.models.tiny_lm import bpe_tokenizer, byte_tokenizer

    if reference == "bytes":
        return byte_tokenizer()
    if found := re.fullmatch(r"bpe-(\d{1,6})", reference):
        return bpe_tokenizer(texts, int(found[1]))
    path = Path(reference).expanduser()
    if not path.exists() and not re.fullmatch(r"[\w-]+/[\w.-]+", reference):
        raise InputError("tokenizer", reference, "is none; give bytes, bpe-1024, a model's folder or a Hub id")
    return _tokenizer(str(path) if path.exists() else reference)


def is_fresh(reference: str) -> bool:
    """Whether a reference names a network without trained weights and without words of its own."""
    return re.fullmatch(r"(llama|gpt2)-\d+x\d+", reference) is not None


def save_causal_lm(model: nn.Module, folder: Path | str, *, card_text: str = "") -> None:
    """Write a language model so that ``load_causal_lm(folder)`` reads back the same, bit for bit.

    The folder appears whole or not at all: what ``save_pretrained`` of the network and of its tokenizer write, and
    ``README.md``. Adapters are merged into the weights of a copy first: the folder is a plain model, equal to what
    :func:`limbeck.models.surgery.merge` makes.

    Args:
        model: a :class:`CausalLM`, wrapped or not.
        folder: replaced when it exists.
        card_text: Markdown for the model card.

    Raises:
        InputError: when the folder cannot be written.
    """
    inner = unwrap(model)
    if not isinstance(inner, CausalLM):
        raise InputError("model", type(inner).__name__, "is no CausalLM; wrap the network in one")
    if hasattr(inner.net, "peft_config"):
        from limbeck.models.surgery import merge

        inner = merge(copy.deepcopy(inner))
    with atomic_folder(Path(folder)) as part, _quiet():
        inner.net.save_pretrained(part)
        inner.tokenizer.save_pretrained(part)
        (part / "README.md").write_text(LM_CARD.format(text=card_text), encoding="utf-8")


@contextmanager
def _quiet() -> Generator[None]:
    """Without the bars of transformers: a run has its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _resolve(reference: str, tokenizer: PreTrainedTokenizerBase | None, context: int) -> CausalLM:
    kind, at, base = reference.partition("@")
    if at and (cut := re.fullmatch(r"(layers|lora)-(\d{1,4})", kind)):
        return _cut(cut[1], int(cut[2]), _resolve(base, tokenizer, context))
    path = Path(reference).expanduser()
    if path.suffix in PICKLES and not path.is_dir():
        raise InputError(
            "model", reference, "may be a pickle, which can run code when it is read; save it as safetensors"
        )
    if path.is_dir() or path.suffix == ".gguf" or re.fullmatch(r"[\w-]+/[\w.-]+", reference):
        return _transformers(reference, path, tokenizer)
    if ":" in reference:
        return _made(reference, tokenizer, context)
    if found := re.fullmatch(r"(llama|gpt2)-(\d{1,5})x(\d{1,3})", reference):
        return _small(found[1], int(found[2]), int(found[3]), tokenizer, context)
    raise InputError("model", reference, "names no language model" + nearest(reference, LM_NAMES))


def _cut(kind: str, number: int, model: CausalLM) -> CausalLM:
    from limbeck.models.surgery import lora, spaced, truncate

    return truncate(model, spaced(model.depth, number)) if kind == "layers" else lora(model, number)


def _small(kind: str, width: int, depth: int, tokenizer: PreTrainedTokenizerBase | None, context: int) -> CausalLM:
    from limbeck.models.tiny_lm import byte_tokenizer, gpt2, llama

    words = tokenizer if tokenizer is not None else byte_tokenizer()
    if depth < 1:
        raise InputError("model", f"{kind}-{width}x{depth}", "must have at least one block")
    return (llama if kind == "llama" else gpt2)(width, depth, words, context=context)


def _made(reference: str, tokenizer: PreTrainedTokenizerBase | None, context: int) -> CausalLM:
    home, _, name = reference.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        factory = getattr(import_module(home), name)
        taken = inspect.signature(factory).parameters
        words = None if tokenizer is None else len(tokenizer)
        given = {"tokenizer": tokenizer, "vocab_size": words, "context": context}
        net = factory(**{k: v for k, v in given.items() if k in taken})
    except Exception as error:  # whatever foreign code raises is the user's answer
        raise InputError("model", reference, f"could not be made: {type(error).__name__}: {brief(error)}") from error
    if isinstance(net, CausalLM):
        return net
    if not hasattr(net, "get_output_embeddings"):
        raise InputError("model", reference, f"returned a {type(net).__name__}, which is no causal language model")
    return CausalLM(net, _given(reference, tokenizer))


def _given(reference: str, tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    if tokenizer is None:
        raise InputError("model", reference, "brings no tokenizer; name one with --tokenizer")
    return tokenizer


def _transformers(reference: str, path: Path, tokenizer: PreTrainedTokenizerBase | None) -> CausalLM:
    from transformers import AutoModelForCausalLM

    settings: dict[str, Any] = {"trust_remote_code": False, "dtype": torch.float32}
    where = reference
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError("model", reference, "does not exist")
        where, settings["gguf_file"] = str(path.parent), path.name
    else:
        settings["use_safetensors"] = True
        if path.is_dir():
            where = str(path)
            if not (path / "config.json").is_file():
                raise InputError("model", reference, "is a folder without config.json; it holds no model")
            if not any(path.glob("*.safetensors")):
                return _from_config(reference, path, tokenizer)
    try:
        net, report = AutoModelForCausalLM.from_pretrained(where, output_loading_info=True, **settings)
    except Exception as error:  # the network, the Hub, a config, a file: each with exceptions of its own
        raise InputError("model", reference, f"cannot be had as a causal language model: {brief(error)}") from None
    for kind in ("missing_keys", "mismatched_keys"):
        if report[kind]:
            key = sorted(map(str, report[kind]))[0]
            raise InputError("model", reference, f"has no weights for {key!r}: it is no finished language model")
    return CausalLM(net.float(), _own(reference, path, tokenizer))


def _from_config(reference: str, path: Path, tokenizer: PreTrainedTokenizerBase | None) -> CausalLM:
    from transformers import AutoConfig, AutoModelForCausalLM

    if pickles := [f.name for f in path.iterdir() if f.suffix in PICKLES]:
        raise InputError("model", reference, f"has {pickles[0]} alone, perhaps a pickle; save it as safetensors")
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        net = AutoModelForCausalLM.from_config(config, trust_remote_code=False).float()
    except Exception as error:  # transformers raises many kinds for a config it cannot use
        raise InputError("model", reference, f"is no causal language model: {brief(error)}") from None
    return CausalLM(net, _own(reference, path, tokenizer))


def _own(reference: str, path: Path, tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """The tokenizer that comes with a model, else the one that was given."""
    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
    if path.is_dir() and not any((path / name).exists() for name in names):
        return _given(reference, tokenizer)
    return _tokenizer(reference)


def _tokenizer(reference: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    path = Path(reference).expanduser()
    settings: dict[str, Any] = {"trust_remote_code": False}
    where = str(path) if path.exists() else reference
    if path.suffix == ".gguf":
        where, settings["gguf_file"] = str(path.parent), path.name
    try:
        return AutoTokenizer.from_pretrained(where, **settings)
    except Exception as error:  # the Hub, a file, a library that is missing
        raise InputError("tokenizer", reference, f"cannot be had: {brief(error)}") from None
