"""Are the rows what they should be: shifted once, masked where they must be, closed, apart, and not in the test set?"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.data.text import Document, TextSet
from limbeck.data.tokens import IGNORE, Tokens, TokenSet
from limbeck.losses.vocabulary import word_log_probs
from limbeck.models.causal_lm import CausalLM
from limbeck.run.checks.said import Said, failed, ok, skipped, warning
from limbeck.run.evaluation import evaluating
from limbeck.run.language.bench import TextBench

LOOKED = 512  # rows that are looked at
GRAM = 13  # words in a row that are taken for copied
COPIED = 0.5  # share of a document's runs of 13 words, from which it is a copy
LEAK = 0.05  # share of the test documents that are copies, from which a result means nothing
CLEARLY = 0.95  # of the loss: another shift that is this much better is no accident
APART = 1e-3  # of the largest logit: what a row may change when others stand beside it


def shift(bench: TextBench) -> Said:
    """A label is the word after its position, and a trained network finds it there and nowhere else.

    The data are looked at as they are; then the teacher's loss under the labels is compared with its losses under the
    labels of the position before and of the position after.
    """
    for batch in (bench.batch, bench.batch.teacher_view):
        wrong = (batch.mask[:, :-1] & (batch.y[:, :-1] != batch.x[:, 1:])).sum() + batch.mask[:, -1].sum()
        if wrong:
            measured = f"{int(wrong)} of {int(batch.mask.sum())} labels are not the word that follows"
            return failed(measured, "Shift labels once: y[:, t] is x[:, t + 1]; tokenise() has done it already.")
    batch = bench.batch.teacher_view
    model: CausalLM | None = bench.teacher
    if model is None:
        return ok("every label is the word that follows; there is no trained network to hear about it")
    with evaluating(model):
        words = model(batch)
        losses = [_loss(word_log_probs(words, _moved(batch.y, k)), _moved(batch.y, k)) for k in (0, -1, 1)]
    here, before, after = losses
    measured = f"the teacher's loss is {here:.3f} at the labels, {before:.3f} a word before, {after:.3f} a word after"
    if min(before, after) < CLEARLY * here:
        return failed(measured, "Its logits are shifted: position t must say what follows word t, unshifted by hand.")
    return ok(measured)


def _moved(y: Tensor, by: int) -> Tensor:
    """Labels moved along their row; what comes in from outside is none."""
    if not by:
        return y
    moved = torch.full_like(y, IGNORE)
    if by > 0:
        moved[:, :-1] = y[:, 1:]
    else:
        moved[:, 1:] = y[:, :-1]
    return moved


def _loss(log_probs: Tensor, y: Tensor) -> float:
    known = y != IGNORE
    return float(-log_probs[known].mean()) if known.any() else float("inf")


def masks(bench: TextBench) -> Said:
    """Completions are learnt whole, prompts not at all, and no row is without a word to learn."""
    data = bench.task.train
    empty = [k for k, row in enumerate(data.rows[:LOOKED]) if not any(row.learn[1:])]
    if empty:
        return failed(f"row {empty[0]} and {len(empty) - 1} more have no word to learn", "Give them a completion.")
    prompted = [d for d in data.text.documents if any(not span.learn for span in d)]
    learnt = sum(sum(row.learn) for row in data.rows[:LOOKED])
    share = learnt / sum(len(row.learn) for row in data.rows[:LOOKED])
    if not prompted:
        if share < 1 - 2 / 8:
            return failed(f"{share:.1%} of the words of plain text are learnt", "Learn all of it.")
        return ok(f"plain text: {share:.1%} of its words are learnt")
    wanted = {_learnt(document) for document in prompted} | {_learnt(d) for d in data.text.documents}
    pieces = [piece for row in data.rows[: LOOKED // 8] for piece in _pieces(data, row.ids, row.learn, row.segment)]
    strange = [piece for piece in pieces if piece not in wanted and not any(w.startswith(piece) for w in wanted)]
    if 2 * len(strange) > len(pieces):
        measured = f"{len(strange)} of {len(pieces)} rows learn something else than a completion: {strange[0][:60]!r}"
        return failed(measured, "Mask the prompt, and only the prompt: Span(prompt, learn=False), Span(completion).")
    return ok(f"{share:.1%} of the words are learnt: those of completions")


def _learnt(document: Document) -> str:
    return "".join(span.text for span in document if span.learn).strip()


def _pieces(data: TokenSet, ids: list[int], learn: list[bool], segment: list[int]) -> list[str]:
    """The learnt text of each document of a row."""
    tokenizer = data.tokenizer
    return [
        str(
            tokenizer.decode(
                [i for i, flag, s in zip(ids, learn, segment, strict=True) if flag and s == number],
                skip_special_tokens=not any(not d[-1].close for d in data.text.documents[:8]),
                clean_up_tokenization_spaces=False,
            )
        ).strip()
        for number in dict.fromkeys(segment)
    ]


def end_of_text(bench: TextBench) -> Said:
    """A document's last word to learn is the end-of-text token: who never learns to stop does not."""
    data = bench.task.train
    eos = data.tokenizer.eos_token_id
    if not any(document[-1].close for document in data.text.documents):
        return skipped("the chat template closes every document in its own way")
    if data.tokenizer.pad_token_id == eos and not any(row.ids[-1] == eos for row in data.rows[:LOOKED]):
        return failed("no row ends with the end-of-text token", "Append eos and learn it; only padding is masked.")
    whole, open_ended = 0, list[int]()
    for number, row in enumerate(data.rows[:LOOKED]):
        for k in _ends(row.segment, len(row.ids) < data.context):
            whole += 1
            if row.ids[k] != eos or not row.learn[k]:
                open_ended.append(number)
    if not whole:
        return skipped("no document ends within the rows that were looked at")
    measured = f"{whole - len(open_ended)} of {whole} documents end with a learnt {data.tokenizer.eos_token!r}"
    if open_ended:
        return failed(f"{measured}; row {open_ended[0]} does not", "Append the end-of-text token and learn it.")
    return ok(measured)


def _ends(segment: list[int], whole: bool) -> list[int]:
    """Where documents end in a row; its last one only when it was not cut."""
    inside = [k for k in range(len(segment) - 1) if segment[k] != segment[k + 1]]
    return [*inside, len(segment) - 1] if whole else inside


def overlap(bench: TextBench) -> Said:
    """No test document is trained on: runs of 13 words, or whole documents where they are shorter, occur once."""
    train, test = bench.task.train.text, bench.task.held_out
    runs = [_grams(document) for document in test.documents]
    wanted = {gram for held in runs for gram in held}
    seen = {gram for document in train.documents for gram in _grams(document) if gram in wanted}
    copies = [k for k, held in enumerate(runs) if held and sum(g in seen for g in held) > COPIED * len(held)]
    measured = f"{len(copies)} of {len(test)} test documents are also in the training text"
    if not copies:
        return ok(f"{measured}; {len(seen) / max(1, len(wanted)):.1%} of their runs of {GRAM} words are")
    fix = f"Drop them from one of the two (the first begins {_whole(test, copies[0])[:40]!r})."
    return failed(measured, fix) if len(copies) > LEAK * len(test) else warning(measured, fix)


def _grams(document: Document) -> set[int]:
    words = "".join(span.text for span in document).lower().split()
    if len(words) < GRAM:
        return {hash(tuple(words))}
    return {hash(tuple(words[k : k + GRAM])) for k in range(len(words) - GRAM + 1)}


def _whole(text: TextSet, number: int) -> str:
    return "".join(span.text for span in text.documents[number])


def packing(bench: TextBench) -> Said:
    """The documents of a packed row do not see each other, and padding is not seen: a document says the same alone."""
    data, model = bench.task.train, bench.student
    packed = next((k for k, row in enumerate(data.rows) if row.segment[-1] > 1), None)
    by_length = sorted(range(len(data)), key=lambda k: len(data.rows[k].ids))
    ends = [by_length[0], by_length[-1]] if packed is None else [packed]
    batch = data.take(torch.tensor(ends)).to(bench.task.device)
    if packed is None and bool((batch.segment > 0).all()):
        return skipped("every row is one document of the same length: nothing is packed or padded")
    with evaluating(model):
        together = model(batch).logits()
        number = int((batch.segment > 0).sum(1).argmin())
        last = int(batch.segment[number].max())
        at = (batch.segment[number] == last).nonzero()[:, 0]
        alone = model(_alone(batch, number, at)).logits()
    gap = float((together[number, at] - alone[0]).abs().max() / together[number, at].abs().max().clamp(min=1e-9))
    what = "a document packed behind others" if last > 1 else "a row padded beside longer ones"
    if gap > APART:
        measured = f"the logits of {what} differ by {gap:.2g} of the largest from those of it alone"
        return failed(measured, "Mask attention by document and padding, and count positions anew: use --no-pack.")
    return ok(f"{what} says the same as alone, up to {gap:.1g} of the largest logit")


def _alone(batch: Tokens, row: int, at: Tensor) -> Tokens:
    x, y = batch.x[row : row + 1, at], batch.y[row : row + 1, at]
    return Tokens(x, y, torch.ones_like(x), batch.index[:1], batch.key[:1])


def row_keys(bench: TextBench) -> Said:
    """A batch's ``index`` and ``key`` lead to its rows: what is stored under them belongs to that text."""
    batch, data = next(iter(bench.batches)), bench.task.train
    if int(batch.index.min()) < 0 or int(batch.index.max()) >= len(data):
        return failed("a batch's index points outside of the training rows", "Give rows of the training set.")
    own = data.take(batch.index)
    same = batch.x.shape == own.x.shape and torch.equal(batch.x, own.x) and torch.equal(batch.key, data.keys[own.index])
    if not same:
        return failed("a batch's rows are not those that its index names", "Number rows by their place in the set.")
    return ok(f"the tokens and keys of {len(own.x)} rows are those of their numbers")
