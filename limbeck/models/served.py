"""A teacher behind a server: any that speaks OpenAI's ``/v1/completions`` and returns log-probabilities.

Three ways to ask for the words that a teacher finds likely, the first that the server understands is used:

- ``prompt``: ``prompt_logprobs``, which vLLM answers by token ids, one request a document;
- ``echo``: ``echo`` with ``logprobs``, one request a document, by the words' text or ids;
- ``steps``: one request a word to learn, for servers that return log-probabilities of new words only (llama.cpp's).
  Never chosen unasked: it is slow. Capture the answers once (:func:`limbeck.data.signals.capture`).

Prompts are sent as token ids, so that no server splits them differently or adds a token of its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from limbeck.data.tokens import Tokens
from limbeck.errors import InputError
from limbeck.losses.vocabulary import TopK
from limbeck.models.completions import Completions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ServedTeacher"]

Likely = dict[int, float]
"""Log-probabilities by word."""


class Piece(NamedTuple):
    """A document of a batch's row."""

    row: int
    begin: int
    ids: list[int]
    learn: list[int]
    """Positions within the document after which a word is to be learnt."""


class ServedTeacher(nn.Module):
    """``ServedTeacher(url, model, tokenizer)(batch)`` asks a server, and gives the likeliest words.

    Args:
        url: of the API, ``http://localhost:8000/v1``.
        model: what the server calls it.
        tokenizer: the served model's.
        top: words a token to ask for; vLLM gives at most 20 unless it is started with ``--max-logprobs``.
        tail: what becomes of the others' mass: see :class:`limbeck.losses.vocabulary.TopK`.
        ask: how; ``auto`` tries ``prompt``, then ``echo``.
        context: the most tokens that the server takes.
        parallel: requests at a time.
        tries: of a request, with a wait that doubles; for status 429 and 5xx, timeouts and broken answers.
        wait: seconds before the second try.
        timeout: seconds for an answer.
        key: the environment variable that holds the API key. It is read when a request is sent, and kept nowhere.

    Raises:
        InputError: for a URL that is none; when called, for a server that does not answer, or not with what is needed.
    """

    def __init__(
        self,
        url: str,
        model: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        top: int = 20,
        tail: Literal["uniform", "none"] = "uniform",
        ask: Literal["auto", "prompt", "echo", "steps"] = "auto",
        context: int = 2**20,
        parallel: int = 8,
        tries: int = 6,
        wait: float = 0.5,
        timeout: float = 120.0,
        key: str = "OPENAI_API_KEY",
    ) -> None:
        super().__init__()
        if not 1 <= top <= len(tokenizer):
            raise InputError("top", top, f"must be in 1 to {len(tokenizer)}, the number of words")
        self.server = Completions(url, model, tries=tries, wait=wait, timeout=timeout, key=key)
        self.tokenizer = tokenizer
        self.top, self.ask, self.context, self.parallel = top, ask, context, parallel
        self.tail: Literal["uniform", "none"] = tail
        self.size = len(tokenizer)
        self.reference = self.server.name
        self.device = torch.device("cpu")

    @property
    def capabilities(self) -> frozenset[str]:
        """Text, and the likeliest words with their log-probabilities."""
        return frozenset({"text", "topk"})

    @property
    def fingerprint(self) -> str:
        """Of URL and name: the weights are not at hand, so a server that changes its model goes unnoticed."""
        return hashlib.sha256(self.reference.encode()).hexdigest()[:16]

    def forward(self, batch: Tokens) -> TopK:
        """(B, T) tokens to the likeliest words of (B, T), where the batch is. Only what is to be learnt is asked for.

        Raises:
            InputError: when the server does not answer, gives no log-probabilities, or counts other tokens.
        """
        shape = (*batch.x.shape, self.top)
        index = torch.arange(self.top).repeat(*batch.x.shape, 1)
        log_prob = torch.full(shape, -math.log(self.size))
        pieces = list(_pieces(batch))
        with ThreadPoolExecutor(self.parallel) as pool:
            for piece, said in zip(pieces, pool.map(self._likely, pieces), strict=True):
                for t, likely in zip(piece.learn, said, strict=True):
                    ids, logs = self._chosen(likely)
                    index[piece.row, piece.begin + t], log_prob[piece.row, piece.begin + t] = ids, logs
        device = batch.x.device
        return TopK(index.to(device), log_prob.to(device), self.size, self.tail)

    def complete(
        self, asked: Sequence[str | list[int]], *, longest: int, tau: float = 1.0, top_p: float = 1.0
    ) -> list[str]:
        """What the served model writes after each prompt.

        Args:
            asked: texts, or token ids.
            longest: tokens to make at most.
            tau: temperature of sampling; 0 is greedy.
            top_p: sample from the likeliest words that hold this mass.

        Raises:
            InputError: when the server does not answer with text.
        """
        with ThreadPoolExecutor(self.parallel) as pool:
            return [text for text, _ in pool.map(lambda prompt: self._written(prompt, longest, tau, top_p), asked)]

    def generate(self, ids: Tensor, mask: Tensor, *, longest: int, tau: float = 1.0, top_p: float = 1.0) -> Tensor:
        """Continuations (B, N), padded after their EOS: see :meth:`limbeck.models.causal_lm.CausalLM.generate`.

        The text that comes back is tokenised here; EOS is added where the server says that the model stopped.
        """
        asked = [row[known.bool()].tolist() for row, known in zip(ids, mask, strict=True)]
        with ThreadPoolExecutor(self.parallel) as pool:
            said = list(pool.map(lambda prompt: self._written(prompt, longest, tau, top_p), asked))
        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        assert isinstance(eos, int)
        pad = pad if isinstance(pad, int) else eos
        rows = list[list[int]]()
        for text, stopped in said:
            made: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids[:longest]  # type: ignore[assignment]
            rows.append([*made, eos] if stopped and len(made) < longest else made)
        width = max(map(len, rows))
        return torch.tensor([row + [pad] * (width - len(row)) for row in rows], dtype=torch.int64, device=ids.device)

    def _written(self, prompt: str | list[int], longest: int, tau: float, top_p: float) -> tuple[str, bool]:
        asked = {"prompt": prompt, "max_tokens": longest, "temperature": tau, "top_p": top_p}
        choice = self.server.post(asked)
        text = choice.get("text")
        if not isinstance(text, str):
            raise InputError("teacher", self.reference, "answers without text; is it a /v1/completions server?")
        return text, choice.get("finish_reason") == "stop"

    def _likely(self, piece: Piece) -> list[Likely]:
        """After each position to learn of a document, the likely words."""
        if self.ask == "steps":
            return [self._step(piece.ids[: t + 1]) for t in piece.learn]
        if self.ask in ("auto", "prompt"):
            asked = {"prompt": piece.ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": self.top}
            said = self.server.post(asked, refusable=self.ask == "auto").get("prompt_logprobs")
            if said is not None:
                self.ask = "prompt"
                return self._by_id(piece, said)
            if self.ask == "prompt":
                self._silent()
        asked = {"prompt": piece.ids, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": self.top}
        said = self.server.post(asked).get("logprobs")
        top = said.get("top_logprobs") if isinstance(said, dict) else None
        if not isinstance(top, list) or len(top) < len(piece.ids):
            self._silent()
        if len(top) > len(piece.ids) + 1:  # with the one that was made
            self._other()
        tokens = said.get("tokens") if isinstance(said, dict) else None
        spelt = [self._ids.get(token) for token in tokens or []]
        if any(mine is not None and mine != theirs for mine, theirs in zip(spelt, piece.ids)):
            self._other()
        self.ask = "echo"
        return [self._by_text(top[t + 1]) for t in piece.learn]

    def _step(self, ids: list[int]) -> Likely:
        """After one prompt, the likely words."""
        asked = {"prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": self.top}
        said = self.server.post(asked).get("logprobs")
        match said:
            case {"top_logprobs": [dict() as likely, *_]}:
                return self._by_text(likely)
            case {"content": [{"top_logprobs": [*likely]}, *_]}:  # llama.cpp's, as in the chat API
                found = {(w["id"] if "id" in w else self._ids.get(w.get("token"))): w["logprob"] for w in likely}
                return {word: log for word, log in found.items() if word is not None}
            case _:
                self._silent()

    def _by_id(self, piece: Piece, said: Any) -> list[Likely]:
        if not isinstance(said, list):
            self._silent()
        if len(said) != len(piece.ids):
            self._other()
        found = list[Likely]()
        for t in piece.learn:
            words = said[t + 1]
            if not isinstance(words, dict):
                self._silent()
            if str(piece.ids[t + 1]) not in words:  # the word that follows is always among them
                self._other()
            found.append({int(word): float(held["logprob"]) for word, held in words.items()})
        return found

    def _by_text(self, words: Mapping[str, float] | None) -> Likely:
        """Words that this tokenizer spells like no other; the mass of the rest is the tail's."""
        found = {self._ids.get(word): float(log) for word, log in (words or {}).items()}
        return {word: log for word, log in found.items() if word is not None}

    def _chosen(self, likely: Likely) -> tuple[Tensor, Tensor]:
        """(top,) ids and log-probabilities; where the server gave fewer, words that share what is left."""
        held = sorted(((log, word) for word, log in likely.items() if 0 <= word < self.size), reverse=True)[: self.top]
        if not held:
            self._silent()
        known = {word for _, word in held}
        left = max(1 - sum(math.exp(log) for log, _ in held), 1e-6) if self.tail == "uniform" else 1e-30
        share = math.log(left / max(self.size - len(held), 1))
        others = (word for word in range(self.size) if word not in known)
        held += [(share, next(others)) for _ in range(self.top - len(held))]
        return torch.tensor([word for _, word in held]), torch.tensor([log for log, _ in held])

    @cached_property
    def _ids(self) -> dict[str, int]:
        """Words by their text, where only one has it; and by vLLM's ``token_id:7``."""
        found, twice = dict[str, int](), set[str]()
        for word in range(self.size):
            text = self.tokenizer.decode([word])
            assert isinstance(text, str)
            twice |= {text} & found.keys()
            found[text] = word
        by_number = {f"token_id:{word}": word for word in range(self.size)}
        return {text: word for text, word in found.items() if text not in twice} | by_number

    def _silent(self) -> NoReturn:
        fix = (
            "start it with log-probabilities" if self.ask == "steps" else "use ask='steps', or capture a local teacher"
        )
        raise InputError("teacher", self.reference, f"returns no log-probabilities of what it is given; {fix}")

    def _other(self) -> NoReturn:
        raise InputError(
            "teacher", self.reference, "splits or counts other tokens than the tokenizer given; give its own"
        )


def _pieces(batch: Tokens) -> Iterator[Piece]:
    """The documents in which something is to be learnt."""
    for row, (ids, segment, learn) in enumerate(zip(batch.x.tolist(), batch.segment.tolist(), batch.mask.tolist())):
        begin = 0
        for end in range(1, len(ids) + 1):
            if end < len(ids) and segment[end] == segment[begin]:
                continue
            wanted = [t for t in range(end - begin) if learn[begin + t]]
            if wanted and segment[begin]:
                yield Piece(row, begin, ids[begin:end], wanted)
            begin = end
