"""Do teacher and student speak of the same words, the same way twice, and is the teacher worth listening to?"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch

from limbeck.data.signals import StoredTeacher, describe
from limbeck.errors import InputError
from limbeck.losses.vocabulary import ForwardKL, Sampled, TopK, Words, token_loss
from limbeck.models.causal_lm import CausalLM
from limbeck.models.load_lm import load_causal_lm
from limbeck.run.checks.said import Said, failed, ok, skipped, warning
from limbeck.run.evaluation import evaluating
from limbeck.run.language.bench import PROBED, TextBench
from limbeck.run.language.evaluation import bits_per_byte, count
from limbeck.run.language.rows import spread

CLOSE = 1e-4  # relative, of two ways to compute one number in float32
STORED = 0.05  # nats a word between a stored signal and a live one
WEAK = 4.0  # bits a byte: above them a teacher knows little more than which bytes are frequent


def vocabulary(bench: TextBench) -> Said:
    """Teacher and student have the same words under the same numbers, unless the method is made for others."""
    if not bench.task.teachers:
        return skipped("no teacher takes part")
    mine = bench.student.tokenizer
    for i, teacher in enumerate(bench.task.teachers, 1):
        theirs: Any = getattr(teacher, "tokenizer", None)
        if isinstance(teacher, StoredTeacher):
            try:
                teacher.store.check_tokenizer(mine)
            except InputError as error:
                return failed(str(error), "Capture with the student's tokenizer, or name the store's with --tokenizer.")
            continue
        if theirs is None:
            continue
        a, b = mine.get_vocab(), theirs.get_vocab()
        different = sorted(word for word in a.keys() | b.keys() if a.get(word) != b.get(word))
        if bench.card.tokenizers == "any":
            return ok(f"teacher {len(b):,} words, student {len(a):,}: the method takes any two tokenizers")
        if different:
            measured = f"{len(different):,} words differ between student ({len(a):,}) and teacher {i} ({len(b):,})"
            measured += f", such as {different[0]!r}"
            return failed(measured, "Give the student the teacher's tokenizer, or use a method for two (uld, alm).")
        if mine.eos_token_id != theirs.eos_token_id:
            return failed(f"EOS is {mine.eos_token!r} here, {theirs.eos_token!r} there", "Use one end-of-text token.")
    return ok(f"{len(mine):,} words, the same under the same numbers")


def padded_heads(bench: TextBench) -> Said:
    """Rows of a head beyond the words have no probability, on both sides, and no label is one of them."""
    said = list[str]()
    networks: list[tuple[str, Any, Any]] = [("student", bench.student, bench.batch)]
    networks += [(f"teacher {i}", t, bench.batch.teacher_view) for i, t in enumerate(bench.task.teachers, 1)]
    for name, model, batch in networks:
        if not isinstance(model, CausalLM):
            continue
        known = len(model.tokenizer)
        with evaluating(model):
            words = model(batch)
        if words.words != known:
            measured = f"the {name} gives probability to {words.words:,} words, its tokenizer has {known:,}"
            return failed(measured, "Mask the rows of the head beyond the words with -inf: Words(size=len(tokenizer)).")
        if int(batch.y.max()) >= known:
            return failed(f"label {int(batch.y.max())} is no word of the {name}'s {known:,}", "Use its tokenizer.")
        rows = known if words.weight is None else len(words.weight)
        said.append(f"{name}: {rows:,} rows, {rows - known:,} of padding" if rows > known else f"{name}: no padding")
    return ok("; ".join(said))


def fused(bench: TextBench) -> Said:
    """Losses computed in chunks from hidden states equal those of full logits, and those logits are the network's."""
    student, batch = copy.deepcopy(bench.student), bench.batch
    with evaluating(student):
        words = student(batch)
        if not batch.packed:
            mask = (batch.segment > 0).long()
            raw = student.net(input_ids=batch.x, attention_mask=mask, use_cache=False).logits[..., : student.size]
            seen = batch.segment > 0
            gap = float((words.logits()[seen] - raw.float()[seen]).abs().max() / raw[seen].abs().max().clamp(min=1e-9))
            if gap > 10 * CLOSE:
                measured = f"the student's logits differ from its network's by {gap:.2g} of the largest"
                return failed(measured, "Its head has a scale, a soft cap or a bias that is not honoured.")
        teacher = bench.teacher if bench.task.view is None else None
        other = teacher(batch) if teacher is not None else words._replace(hidden=1.1 * words.hidden)
        if other.words != words.words:
            return skipped("teacher and student have other words")
        here = words._replace(hidden=words.hidden.detach())
    with torch.enable_grad():
        hidden = here.hidden.clone().requires_grad_(True)
        quick = token_loss(ForwardKL(), other, here._replace(hidden=hidden), batch.weight).total
        [fast] = torch.autograd.grad(quick, hidden)
        hidden = here.hidden.clone().requires_grad_(True)
        p, q = other.log_probs(), here._replace(hidden=hidden).log_probs()
        plain = (batch.weight * (p.exp() * (p - q)).sum(-1)).sum()
        [slow] = torch.autograd.grad(plain, hidden)
    value = abs(float((quick - plain).detach())) / max(abs(float(plain.detach())), 1e-6)
    grade = float((fast - slow).norm() / slow.norm().clamp(min=1e-9))
    measured = f"KL in chunks {float(quick.detach()):.6g}, from full logits {float(plain.detach()):.6g}"
    measured += f"; gradients differ by {grade:.1g}"
    if value > 100 * CLOSE or grade > 100 * CLOSE:
        return failed(measured, "Please report it: limbeck.losses.vocabulary is wrong for this head.")
    return ok(measured)


def stored(bench: TextBench) -> Said:
    """What a store holds is what its teacher says today."""
    held = next((t for t in bench.task.teachers if isinstance(t, StoredTeacher)), None)
    if held is None:
        return skipped("the teacher is run, nothing is stored")
    batch = bench.batch.teacher_view
    missing = [key for key in bench.task.train.keys.tolist() if key not in held.store]
    if missing:
        measured = f"{len(missing)} of {len(bench.task.train)} training rows are not in the store"
        return failed(measured, "Run `limbeck capture` with this run's data, context, pack and tokenizer; it goes on.")
    live = next((t for t in bench.task.teachers if isinstance(t, CausalLM)), None)
    named = describe(held.store.folder).teacher
    if live is None and Path(named).expanduser().exists():
        live = load_causal_lm(named).to(bench.task.device)
    if live is None:
        return skipped(f"all rows are there; their teacher, {named}, is not at hand to compare with")
    with evaluating(live):
        said, signal = live(batch), held(batch)
        if isinstance(signal, Sampled):
            return skipped("words were drawn: they agree with the teacher on average only")
        gap = token_loss(ForwardKL(), signal, said, batch.weight).total
        most = float(gap) if isinstance(signal, Words) else _likeliest(signal, said, batch.mask)
    measured = f"stored and recomputed signals differ by {most:.2g} nats a word"
    return ok(measured) if most < STORED else failed(measured, "The teacher has changed: capture again elsewhere.")


def _likeliest(signal: TopK, live: Words, mask: torch.Tensor) -> float:
    """The mean difference of the log-probabilities of the stored words, weighted by them."""
    now = live.log_probs().gather(-1, signal.index)[mask]
    before = signal.log_prob[mask]
    return float((before.exp() * (before - now).abs()).sum(-1).mean())


def repeatable(bench: TextBench) -> Said:
    """Two passes of a teacher in eval mode are identical: its dropout and noise are off."""
    if not bench.teaches:
        return skipped("no pretrained teacher takes part")
    batch = bench.batch.teacher_view
    for i, teacher in enumerate(bench.task.teachers, 1):
        with evaluating(teacher):
            first, second = teacher(batch), teacher(batch)
        pair = [s.hidden if isinstance(s, Words) else s.index for s in (first, second)]
        if pair[0].shape != pair[1].shape or not torch.equal(pair[0], pair[1]):
            gap = float((pair[0] - pair[1]).abs().max()) if pair[0].shape == pair[1].shape else math.inf
            measured = f"two passes of teacher {i} over the same text differ by {gap:.3g}"
            return failed(measured, "Something random is on in eval mode: pass training=self.training to F.dropout.")
    return ok("two passes over the same text are identical")


def worth(bench: TextBench) -> Said:
    """The teacher predicts held-out text better than guessing and than the untrained student, and is no smaller."""
    teacher = bench.teacher
    if not bench.teaches or teacher is None:
        return skipped("no pretrained teacher that can be run takes part")
    device = bench.task.device
    kept = bench.probe
    if bench.task.test_view is not None:
        kept = spread(bench.task.test_view, PROBED)
    found, student = count(teacher, kept, device), count(copy.deepcopy(bench.student), bench.probe, device)
    reached, untrained, blind = bits_per_byte(found), bits_per_byte(student), _uniform(teacher, found)
    perplexity = math.exp(min(50.0, float(found.nll.mean())))
    measured = f"on {len(found.nll):,} held-out words the teacher needs {reached:.2f} bits a byte (perplexity"
    measured += f" {perplexity:,.4g}), the untrained student {untrained:.2f}, guessing {blind:.2f}"
    begins = bench.card.loop in ("self", "generations") or _trained(bench)
    if reached >= blind or (reached >= untrained and not begins):
        return failed(
            measured, "It has nothing to teach here: check its weights, its tokenizer, the language of the text."
        )
    if reached > WEAK or (reached >= untrained and begins):
        return warning(measured, "It is weak on this text; train it on it first, or choose another.")
    sizes = [sum(p.numel() for p in m.parameters()) for m in (teacher, bench.student)]
    if sizes[0] < sizes[1] and bench.card.loop not in ("self", "generations"):
        measured += f"; it has {sizes[0]:,} parameters, the student {sizes[1]:,}"
        return warning(measured, "The student is the larger network: are the two swapped?")
    return ok(measured)


def _uniform(model: CausalLM, found: Any) -> float:
    return len(found.nll) * math.log2(model.size) / max(1, found.bytes)


def _trained(bench: TextBench) -> bool:
    """Whether the student begins from trained weights, so that it may be good before it learns."""
    from limbeck.models.load_lm import is_fresh

    return not is_fresh(bench.task.spec.student)


def temperatures(bench: TextBench) -> Said:
    """Answers are sampled at one temperature, and compared at another or the same: on purpose."""
    method = bench.fit().method
    sample, loss = getattr(method, "sample_tau", None), getattr(method, "tau", None)
    if sample is None:
        return skipped("the method samples no answers")
    measured = f"answers are sampled at {sample:g}" + (
        f", distributions compared at {loss:g}" if loss is not None else ""
    )
    if isinstance(loss, int | float) and sample != 1 and loss != 1:
        return warning(measured, "Both change what is matched: one of the two is usually 1.")
    return ok(measured)
