"""What a language model does on held-out text: how surprised it is, how sure, and how far it follows its teacher.

    bits per byte = - sum_t log2 q(y_t | y_<t) / bytes of the words y_t

which compares models with different tokenizers. Distributions are made for a few words at a time, never for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.core.fit import NonFinite
from limbeck.core.modules import unwrap
from limbeck.data.text import Document, Span, TextSet
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import TokenBatches, TokenSet, prompts
from limbeck.diagnostics.calibration import binned
from limbeck.errors import InputError
from limbeck.losses.vocabulary import ForwardKL, Signal, TopK, Words, token_loss
from limbeck.models.causal_lm import CausalLM
from limbeck.run.evaluation import evaluating
from limbeck.run.language.spelling import word_bytes
from limbeck.run.outcome import Sample, TextEvaluation

__all__ = ["Counted", "bits_per_byte", "count", "evaluate", "signals", "tried"]

CELLS = 1 << 24  # of log-probabilities at a time
TOKENS = 2048  # of a forward pass: eight rows of the usual context, hundreds of short ones
ASKED = 16  # prompts that are continued together
TRIED = 64  # prompts that are answered
SHORT = 32  # tokens of a completion that can be expected word for word
SHOWN = 6  # samples of a report
LONGEST = 48  # tokens of a sample
OPENING = 120  # characters of plain text that a sample begins with

Targets = Sequence[Sequence[Signal]]  # by batch, by teacher; rows of words to predict only


class Counted(NamedTuple):
    """Sums over the words to predict."""

    nll: Tensor  # (N,) nats
    confidence: Tensor  # (N,)
    right: Tensor  # (N,) bool
    agrees: Tensor | None  # (N,) bool
    kl: Tensor | None  # (N,) nats
    bytes: int


def signals(teachers: Sequence[Any], data: TokenSet, device: torch.device) -> list[list[Signal]] | None:
    """What teachers say of the words to predict of held-out rows, kept for every evaluation; ``None`` where one has
    nothing to say of them.

    A live teacher's are final hidden states and one head, so they take N x D numbers, not N x V.
    """
    said = list[list[Signal]]()
    with evaluating(*(t for t in teachers if isinstance(t, nn.Module))):
        for batch in _batches(data):
            moved, mask = batch.to(device), batch.mask.to(device)
            try:
                said.append([teacher(moved).rows(mask) for teacher in teachers])
            except InputError:  # a store that does not hold the held-out rows
                return None
    return said


def count(model: nn.Module, data: TokenSet, device: torch.device, targets: Targets | None = None) -> Counted:
    """Every word to predict, judged.

    Args:
        model: left in the mode it was in.
        data: held-out rows in the model's own tokens.
        device: where it is.
        targets: from :func:`signals` on the same rows.

    Raises:
        NonFinite: when the model's logits are NaN or infinite.
    """
    parts, sizes, total = list[tuple[Tensor | None, ...]](), word_bytes(data.tokenizer), 0
    with evaluating(model):
        for number, batch in enumerate(_batches(data)):
            moved = batch.to(device)
            y, words = moved.y[moved.mask], model(moved).rows(moved.mask)
            total += int(sizes[y.cpu()].sum())
            step = max(1, CELLS // words.words)
            for begin in range(0, len(y), step):
                at = torch.arange(begin, min(begin + step, len(y)), device=device)
                q = words.rows(at).log_probs()
                if not q.isfinite().all():
                    raise NonFinite(
                        f"{data.text.name}: the model's logits are not finite; its weights or the input are bad"
                    )
                best, chosen = q.max(-1)
                agrees, kl = _followed(q, words.rows(at), at, None if targets is None else targets[number])
                nll = -q.gather(-1, y[at, None])[:, 0]
                parts.append((nll, best.exp(), chosen == y[at], agrees, kl))
    columns = [[part[k] for part in parts] for k in range(5)]
    whole = [None if any(x is None for x in c) else torch.cat([x.cpu() for x in c if x is not None]) for c in columns]
    nll, confidence, right, agrees, kl = whole
    assert nll is not None and confidence is not None and right is not None
    return Counted(nll.double(), confidence, right, agrees, kl, total)


def _followed(
    q: Tensor, words: Words, at: Tensor, said: Sequence[Signal] | None
) -> tuple[Tensor | None, Tensor | None]:
    """Whether the likeliest word is the teacher's, and KL(teacher || student), as far as the signal tells."""
    if said is None:
        return None, None
    mine = [signal.rows(at.to(_place(signal))) for signal in said]
    if all(isinstance(signal, Words) for signal in mine):
        if any(signal.words != q.shape[-1] for signal in mine if isinstance(signal, Words)):
            return None, None
        logs = torch.stack([signal.log_probs().to(q) for signal in mine if isinstance(signal, Words)])
        p = logs.logsumexp(0) - math.log(len(logs))
        return p.argmax(-1) == q.argmax(-1), (p.exp() * (p - q)).sum(-1)
    [signal] = mine if len(mine) == 1 else [None]
    if not isinstance(signal, TopK):
        return None, None
    top = signal.index.gather(-1, signal.log_prob.argmax(-1, keepdim=True))[:, 0]
    kl = token_loss(ForwardKL(), signal, words, torch.ones(len(q), device=q.device)).values
    return top.to(q.device) == q.argmax(-1), kl


def _place(signal: Signal) -> torch.device:
    return signal.hidden.device if isinstance(signal, Words) else signal.index.device


def bits_per_byte(found: Counted) -> float:
    """The headline number."""
    return float(found.nll.sum()) / math.log(2) / max(1, found.bytes)


def evaluate(
    model: nn.Module, data: TokenSet, text: TextSet, device: torch.device, targets: Targets | None = None
) -> TextEvaluation:
    """Everything a report says about a language model.

    Args:
        model: a :class:`CausalLM` or another teacher; left in the mode it was in.
        data: held-out rows in its own tokens.
        text: the held-out documents, from which prompts for samples are taken.
        device: where it is.
        targets: from :func:`signals` on the same rows.

    Raises:
        NonFinite: when the model's logits are NaN or infinite.
    """
    found = count(model, data, device, targets)
    reliability = binned(found.confidence, found.right)
    inner = unwrap(model)
    match, prompts, samples = _answers(inner, text, device) if isinstance(inner, CausalLM) else (None, 0, [])
    return TextEvaluation(
        count=len(found.nll),
        accuracy=float(found.right.double().mean()),
        nll=float(found.nll.mean()),
        ece=sum(abs(right - sure) * n for sure, right, n in reliability) / len(found.nll),
        reliability=reliability,
        agreement=None if found.agrees is None else float(found.agrees.double().mean()),
        kl_to_teacher=None if found.kl is None else float(found.kl.double().mean()),
        bits_per_byte=bits_per_byte(found),
        perplexity=math.exp(min(700.0, float(found.nll.mean()))),
        bytes=found.bytes,
        exact_match=match,
        prompts=prompts,
        samples=samples,
    )


def _answers(model: CausalLM, text: TextSet, device: torch.device) -> tuple[float | None, int, list[Sample]]:
    """Greedy continuations: the share that is the document's own, word for word; how many were tried; some to show."""
    asked = tried(text)
    rows = None if asked is None else _rows(model, asked)
    short = [] if rows is None else [k for k, row in enumerate(rows.rows) if sum(row.learn) <= SHORT + 1]
    if rows is not None and 2 * len(short) > len(rows):
        pairs = _continued(model, rows.subset(short), SHORT + 1, device)
        hits = sum(said.strip() == wanted.strip() for _, wanted, said in pairs)
        shown = pairs[:: max(1, len(pairs) // SHOWN)][:SHOWN]
        return hits / len(pairs), len(pairs), [Sample(prompt=p, reference=r, said=s) for p, r, s in shown]
    if asked is None:
        opened = _opened(text, min(OPENING, model.context // 4))
        rows = None if opened is None else _rows(model, opened)
    if rows is None:
        return None, 0, []
    pairs = _continued(model, rows.subset(range(min(SHOWN, len(rows)))), LONGEST, device)
    return None, 0, [Sample(prompt=p, reference=r, said=s) for p, r, s in pairs]


def _rows(model: CausalLM, text: TextSet) -> TokenSet | None:
    """Prompts with their completions, as far as they fit the model."""
    try:
        return tokenise(text, model.tokenizer, model.context, long="drop")
    except InputError:  # none of them does
        return None


def tried(text: TextSet) -> TextSet | None:
    """Up to 64 documents with a prompt, evenly spaced; ``None`` where there are none."""
    known = [k for k, document in enumerate(text.documents) if not document[0].learn]
    stride = max(1, len(known) // TRIED)
    return text.subset(known[::stride][:TRIED]) if known else None


def _opened(text: TextSet, opening: int) -> TextSet | None:
    """A few plain documents, their first characters as a prompt."""
    whole = [document[0].text for document in text.documents if len(document[0].text) > 1.5 * opening]
    made = list[Document]()
    for said in whole[:: max(1, len(whole) // SHOWN)][:SHOWN]:
        at = said.rfind(" ", 0, opening)
        at = at if at > 0 else opening
        made.append((Span(said[:at], learn=False), Span(said[at : 3 * opening])))
    made = [document for document in made if document[1].text.strip()]
    return TextSet(tuple(made), text.name) if made else None


def _continued(model: CausalLM, rows: TokenSet, longest: int, device: torch.device) -> list[tuple[str, str, str]]:
    """(prompt, reference, what the model says), as text."""
    found = list[tuple[str, str, str]]()
    for batch in TokenBatches(rows, ASKED, shuffle=False):
        ids, mask = prompts(batch.to(device), model.pad)
        room = max(1, min(longest, model.context - ids.shape[1]))
        said = model.generate(ids, mask, longest=room, tau=0.0)
        for k in range(len(ids)):
            asked, wanted = ids[k][mask[k].bool()], batch.y[k][batch.mask[k]]
            found.append((_text(model, asked), _text(model, wanted), _text(model, said[k])))
    return found


def _text(model: CausalLM, ids: Tensor) -> str:
    said = ids.tolist()
    said = said[: said.index(model.eos)] if model.eos in said else said
    return str(model.tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _batches(data: TokenSet) -> TokenBatches:
    longest = max(len(row.ids) for row in data.rows)
    return TokenBatches(data, max(1, TOKENS // longest), shuffle=False)
