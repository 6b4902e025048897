"""The face of a causal language model: batches of tokens in, unevaluated word distributions out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.core.modules import eval_mode
from limbeck.data.tokens import Tokens
from limbeck.errors import InputError, brief
from limbeck.losses.vocabulary import Words

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["CausalLM"]


class CausalLM(nn.Module):
    """``model(batch)`` gives :class:`limbeck.losses.vocabulary.Words` over (B, T): the final hidden states and the
    head, from which losses make logits a few tokens at a time. ``model(batch).logits()`` is the plain form.

    Position t says what follows ``batch.x[:, t]``. Padding and the documents of a packed row do not see each other.

    Args:
        net: any transformers causal model, with or without a peft adapter.
        tokenizer: its tokenizer, whose length is the number of words; rows of the head beyond it are padding.

    Attributes:
        blocks: the paths of the transformer blocks, for :class:`limbeck.core.modules.Taps`.
        width, depth: of the hidden states; the number of blocks.
        size: the number of words.
        context: the most positions that the network was made for.
        reference: what :func:`limbeck.models.load_lm.load_causal_lm` made the network from; empty when made by hand.

    Raises:
        InputError: when the network is no causal model, or its head is not one that ``Words`` can express.
    """

    def __init__(self, net: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.net, self.tokenizer = net, tokenizer
        self.reference = ""
        if self._head() is None:
            raise InputError("model", type(net).__name__, "has no output embedding: it is no causal language model")
        rows, self.width = self._head().weight.shape
        self.size = len(tokenizer)
        if self.size > rows:
            raise InputError(
                "tokenizer",
                self.size,
                f"words are more than the {rows} of {type(net).__name__}; resize the model",
            )
        self.context: int = getattr(self._config(), "max_position_embeddings", None) or 2**20
        self.blocks = self._blocks()
        self.depth = len(self.blocks)
        self._check_head()

    @property
    def eos(self) -> int:
        """The end-of-text token."""
        return self.tokenizer.eos_token_id

    @property
    def pad(self) -> int:
        """The padding token; EOS where there is none."""
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.eos

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._head().weight.device

    @property
    def example(self) -> Tokens:
        """Two rows of four tokens, where the network is."""
        x = (torch.arange(8, device=self.device) % self.size).view(2, 4)
        y = torch.roll(x, -1, 1)
        return Tokens(x, y, torch.ones_like(x), x[:, 0] * 0 - 1, x[:, 0] * 0)

    def forward(self, batch: Tokens, prefix: Tensor | None = None) -> Words:
        """(B, T) tokens to words over (B, T).

        Args:
            batch: where the network is.
            prefix: (P, E) or (B, P, E) soft vectors in the space of input embeddings, which every token sees; its own
                outputs are cut off. Not with packed rows.
        """
        if prefix is not None:
            return self.words(self.read(*self._with_prefix(batch, prefix))[:, -batch.x.shape[1] :])
        mask, positions = _mask(batch, self._dtype()), _positions(batch)
        said = self._body()(input_ids=batch.x, attention_mask=mask, position_ids=positions, use_cache=False)
        return self.words(said.last_hidden_state)

    def read(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Final hidden states (B, T, D) of input embeddings, soft ones among them.

        Args:
            embeddings: (B, T, E), such as :meth:`embed` gives.
            mask: (B, T) int64, 1 where there is something to read: padding may be on the left or on the right, and
                positions are counted without it.
        """
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        given: dict[str, Any] = {"attention_mask": mask, "position_ids": positions, "use_cache": False}
        return self._body()(inputs_embeds=embeddings, **given).last_hidden_state

    def words(self, hidden: Tensor) -> Words:
        """What the head makes of final hidden states (..., D)."""
        head, config = self._head(), self._config()
        scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
        softcap = getattr(config, "final_logit_softcapping", None)
        return Words(hidden, _weight(head), getattr(head, "bias", None), float(scale), softcap, self.size)

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings (..., E) of token ids."""
        return self._inner().get_input_embeddings()(ids)

    @torch.no_grad()
    def generate(
        self, ids: Tensor, mask: Tensor, *, longest: int, tau: float = 1.0, top_p: float = 1.0, top_k: int = 0
    ) -> Tensor:
        """Continuations (B, N), N <= ``longest``, padded after their EOS; in eval mode, with a key-value cache.

        Args:
            ids: (B, P) prompts padded at the left (:func:`limbeck.data.tokens.prompts`).
            mask: (B, P), 1 where a token is.
            longest: tokens to make at most.
            tau: temperature of sampling; 0 is greedy.
            top_p: sample from the likeliest words that hold this mass.
            top_k: sample from so many words; 0 for all.
        """
        from torch.distributed.fsdp import FSDPModule
        from transformers import GenerationConfig

        sample = {"temperature": tau, "top_p": top_p, "top_k": top_k} if tau > 0 else {}
        config = GenerationConfig(
            max_new_tokens=longest, do_sample=tau > 0, pad_token_id=self.pad, eos_token_id=self.eos, **sample
        )
        sharded = isinstance(self, FSDPModule)  # then every block is gathered by all processes, as often by each
        with eval_mode(self):
            whole = self.net.generate(input_ids=ids, attention_mask=mask, generation_config=config, synced_gpus=sharded)
        return whole[:, ids.shape[1] :]

    def _inner(self) -> PreTrainedModel:
        """The transformers model, inside a peft one or not."""
        return getattr(self.net, "get_base_model", lambda: self.net)()

    def _body(self) -> nn.Module:
        return self._inner().base_model

    def _config(self) -> Any:
        config = self._inner().config
        return config.get_text_config() if hasattr(config, "get_text_config") else config

    def _head(self) -> Any:
        return self._inner().get_output_embeddings()

    def _dtype(self) -> torch.dtype:
        return self._head().weight.dtype

    def _blocks(self) -> tuple[str, ...]:
        """The paths of the longest list of siblings: the blocks of every decoder."""
        lists = [(path, m) for path, m in self.named_modules() if isinstance(m, nn.ModuleList) and path.count(".") <= 5]
        wanted = getattr(self._config(), "num_hidden_layers", None)
        path, found = next(((p, m) for p, m in lists if len(m) == wanted), max(lists, key=lambda pm: len(pm[1])))
        return tuple(f"{path}.{k}" for k in range(len(found)))

    def _with_prefix(self, batch: Tokens, prefix: Tensor) -> tuple[Tensor, Tensor]:
        if batch.packed:
            raise InputError("pack", True, "rows cannot have a soft prompt; use --no-pack")
        rows = len(batch.x)
        prefix = prefix.expand(rows, -1, -1) if prefix.ndim == 2 else prefix
        embeddings = self.embed(batch.x)
        mask = torch.cat([torch.ones_like(prefix[..., 0]).long(), (batch.segment > 0).long()], 1)
        return torch.cat([prefix.to(embeddings), embeddings], 1), mask

    def _check_head(self) -> None:
        """Hidden states and head must give the network's own logits."""
        try:
            with eval_mode(self), torch.no_grad(), torch.random.fork_rng(devices=[]):
                ours = self(self.example).logits()[..., : self.size]
                theirs = self.net(input_ids=self.example.x, use_cache=False).logits[..., : self.size].float()
        except InputError:
            raise
        except Exception as error:  # whatever a foreign network raises on tokens is the user's answer
            raise InputError("model", type(self.net).__name__, f"does not run on tokens: {brief(error)}") from error
        if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max())):
            raise InputError(
                "model", type(self.net).__name__, "makes its logits from something else than hidden states, a linear "
                "head, a scale and a soft cap; it cannot be used",
            )  # fmt: skip


def _weight(head: nn.Module) -> Tensor:
    """The head's matrix; with a LoRA adapter on it, their sum, through which the adapter gets its gradient."""
    active = getattr(head, "active_adapters", ())
    if not active or getattr(head, "merged", False) or getattr(head, "disable_adapters", False):
        return head.get_base_layer().weight if active else head.weight  # type: ignore[operator]
    delta = sum(head.get_delta_weight(name) for name in active if name in head.lora_A)  # type: ignore[operator]
    return head.get_base_layer().weight + delta  # type: ignore[operator]


def _positions(batch: Tokens) -> Tensor:
    """(B, T): counted within each document."""
    column = torch.arange(batch.x.shape[1], device=batch.x.device).expand_as(batch.x)
    begins = torch.ones_like(batch.segment, dtype=torch.bool)
    begins[:, 1:] = batch.segment[:, 1:] != batch.segment[:, :-1]
    return column - torch.where(begins, column, 0).cummax(1).values


def _mask(batch: Tokens, dtype: torch.dtype) -> Tensor | None:
    """``None`` where causality is enough; (B, T) for padding; (B, 1, T, T) additive for packed rows."""
    if not batch.packed:
        whole = bool((batch.segment > 0).all())
        return None if whole else (batch.segment > 0).long()
    seen = batch.segment[:, :, None] == batch.segment[:, None, :]
    seen = seen.tril()[:, None]
    return torch.zeros(seen.shape, dtype=dtype, device=batch.x.device).masked_fill(~seen, torch.finfo(dtype).min)
