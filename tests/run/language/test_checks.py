"""Every check of a run on text: a healthy run passes it, and the bug it is for is planted and seen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import KW_ONLY, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card, find
from limbeck.core.method import Clock, Method
from limbeck.core.modules import freeze
from limbeck.data.signals import StoredTeacher, capture
from limbeck.data.text import Span, TextSet, arithmetic
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import IGNORE, Row, TokenBatches, Tokens, TokenSet
from limbeck.losses.vocabulary import ForwardKL, Words, token_loss
from limbeck.models import causal_lm
from limbeck.models.causal_lm import CausalLM
from limbeck.models.load_lm import save_causal_lm
from limbeck.models.tiny_lm import bpe_tokenizer, byte_tokenizer, llama
from limbeck.run.checks import bench
from limbeck.run.checks.said import Said
from limbeck.run.language.bench import TextBench
from limbeck.run.language.checks import CHECKS, models
from limbeck.run.language.task import TextTask
from limbeck.run.preflight import preflight
from limbeck.run.spec import make_spec
from tests.worlds import language_world

KIND = {"lmbda": 0.0, "beta": 0.0, "longest": 4}


def made(**changed: Any) -> TextTask:
    """A healthy run of the toy world, with something changed."""
    world = language_world()
    spec = make_spec({"method": "gkd", "student": "llama-16x2", "teacher": "x", "data": "sorting", "batch": 16,
                      "context": 16, "values": KIND})  # fmt: skip
    given: dict[str, Any] = {
        "student": world.student, "teachers": [freeze(t) for t in world.teachers], "train": world.train,
        "test": world.test, "held_out": world.test.text, "spec": spec,
    }  # fmt: skip
    return TextTask(**(given | changed))


def look(check: str, task: TextTask, key: str = "gkd", card: Card | None = None, **values: Any) -> Said:
    return CHECKS[check](TextBench(task, card or find(key), KIND | values if key == "gkd" else values))


def rows(change: Callable[[Row], Row], data: TokenSet | None = None) -> TokenSet:
    """The world's training rows, each changed."""
    held = data or language_world().train
    return TokenSet([change(row) for row in held.rows], held.text, held.tokenizer, held.context)


class Shifting(TokenBatches):
    """Labels shifted once more than they are."""

    def make(self, index: Tensor) -> Tokens:
        batch = super().make(index)
        y = torch.full_like(batch.y, IGNORE)
        y[:, :-1] = batch.y[:, 1:]
        return batch._replace(y=y)


def test_a_healthy_run_passes_everything() -> None:
    task = made()
    found = preflight(task, find("gkd"), KIND)
    assert [f.name for f in found] == list(CHECKS)
    assert [f for f in found if f.status in ("failed", "warning")] == []
    # three digits are three digits: no row of this world is packed or padded
    assert {f.name for f in found if f.status == "skipped"} == {"packing", "stored signals"}
    control = preflight(made(teachers=[]), find("sft"), {})
    assert [f for f in control if f.status in ("failed", "warning")] == []


# Rows


def test_labels_that_are_shifted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limbeck.run.language.bench.TokenBatches", Shifting)
    said = look("shift", made())
    assert said.status == "failed" and "not the word that follows" in said.measured


class Late(CausalLM):
    """Says at each position what it should have said a position before: as a network that shifts its own logits."""

    def forward(self, batch: Tokens, prefix: Tensor | None = None) -> Words:
        said = super().forward(batch, prefix)
        return said._replace(hidden=said.hidden.roll(1, 1))


def of_class(kind: type[CausalLM], model: CausalLM) -> CausalLM:
    """The same network in a face of another class."""
    twin = copy.copy(model)
    twin.__class__ = kind
    return twin


def test_logits_that_are_shifted() -> None:
    [teacher] = language_world().teachers
    said = look("shift", made(teachers=[of_class(Late, teacher)]))
    assert said.status == "failed" and "logits are shifted" in said.fix


def test_prompts_that_are_learnt() -> None:
    said = look("completion masks", made(train=rows(lambda r: r._replace(learn=[True] * len(r.learn)))))
    assert said.status == "failed" and "something else than a completion" in said.measured
    said = look("completion masks", made(train=rows(lambda r: r._replace(learn=[False] * len(r.learn)))))
    assert said.status == "failed" and "no word to learn" in said.measured


@pytest.mark.parametrize("bug", ["cut", "masked"])
def test_documents_that_do_not_end(bug: str) -> None:
    def change(row: Row) -> Row:
        return Row(*(part[:-1] for part in row)) if bug == "cut" else row._replace(learn=[*row.learn[:-1], False])

    said = look("end of text", made(train=rows(change)))
    assert said.status == "failed" and "end-of-text" in said.fix
    packed = tokenise(arithmetic(60).train, byte_tokenizer(), 32, pack=True)
    assert look("end of text", made(train=packed)).status == "ok"
    assert look("end of text", made(train=rows(change, packed))).status == "failed"


class Misnumbered(TokenBatches):
    def make(self, index: Tensor) -> Tokens:
        return super().make(index)._replace(index=torch.arange(len(index)))


def test_rows_under_other_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limbeck.run.language.task.TokenBatches", Misnumbered)
    assert look("row keys", made()).status == "failed"


def test_test_documents_in_the_training_text() -> None:
    world = language_world()
    prose = [" ".join(f"word{k * j % 97}" for k in range(1, 60)) for j in range(1, 40)]
    held = TextSet(tuple((Span(text),) for text in prose[:20]))
    clean = tokenise(TextSet(tuple((Span(text),) for text in prose[20:])), byte_tokenizer(), 512)
    assert look("train and test", made(train=clean, held_out=held)).status == "ok"
    copied = TextSet((*clean.text.documents, (Span("Before. " + prose[0] + " After."),)))
    leaking = tokenise(copied, byte_tokenizer(), 512)
    said = look("train and test", made(train=leaking, held_out=held))
    assert said.status == "warning" and "1 of 20" in said.measured
    assert look("train and test", made(train=world.train, held_out=world.train.text)).status == "failed"


def test_documents_of_a_row_that_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tokenise(arithmetic(60).train, byte_tokenizer(), 32, pack=True)
    assert look("packing", made(train=packed)).status == "ok"
    monkeypatch.setattr(causal_lm, "_mask", lambda batch, dtype: (batch.segment > 0).long())
    assert look("packing", made(train=packed)).status == "failed"


def test_a_row_beside_a_longer_one_is_sought() -> None:
    whole = language_world().train
    short = min(range(len(whole)), key=lambda k: len(whole.rows[k].ids))
    same = [k for k in range(len(whole)) if len(whole.rows[k].ids) == len(whole.rows[short].ids)]
    assert look("packing", made(train=whole.subset(same))).status == "skipped"
    cut = [row._replace(**{name: getattr(row, name)[:-1] for name in row._fields}) for row in whole.rows[:1]]
    mixed = TokenSet([*whole.rows, *cut], whole.text, whole.tokenizer, whole.context)  # the short row is the last
    said = look("packing", made(train=mixed))
    assert said.status == "ok" and "beside longer ones" in said.measured


# Models


def test_other_words() -> None:
    pairs = bpe_tokenizer(["12345"] * 9, 270)
    other = llama(16, 1, pairs, heads=2)
    said = look("vocabulary", made(teachers=[other]))
    assert said.status == "failed" and "words differ" in said.measured
    assert look("vocabulary", made(teachers=[other]), card=replace(find("gkd"), tokenizers="any")).status == "ok"


class Unmasked(CausalLM):
    """Gives probability to the rows of its head that are padding."""

    def words(self, hidden: Tensor) -> Words:
        return super().words(hidden)._replace(size=None)


def padded(model: CausalLM) -> CausalLM:
    wide = copy.deepcopy(model)
    wide.net.resize_token_embeddings(model.size + 6)
    return CausalLM(wide.net, model.tokenizer)


def test_padding_of_a_head_that_is_not_masked() -> None:
    [teacher] = language_world().teachers
    said = look("padded heads", made(teachers=[padded(teacher)]))
    assert said.status == "ok" and "6 of padding" in said.measured
    said = look("padded heads", made(teachers=[of_class(Unmasked, padded(teacher))]))
    assert said.status == "failed" and "-inf" in said.fix


class Scaled(CausalLM):
    """Forgets that the network scales its logits."""

    def words(self, hidden: Tensor) -> Words:
        return super().words(hidden)._replace(scale=0.5)


def test_a_head_that_is_read_wrongly() -> None:
    task = made(student=lambda seed: of_class(Scaled, language_world().student(seed)))
    said = look("fused losses", task)
    assert said.status == "failed" and "differ from its network's" in said.measured


def test_a_loss_in_chunks_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "token_loss", lambda f, p, q, w: token_loss(f, p, q, 2 * w))
    assert look("fused losses", made()).status == "failed"


def test_a_store_of_other_rows_or_of_a_teacher_that_changed(tmp_path: Path) -> None:
    world = language_world()
    [teacher] = world.teachers
    save_causal_lm(teacher, tmp_path / "teacher")
    teacher.reference = str(tmp_path / "teacher")
    store = StoredTeacher(capture(teacher, world.train, tmp_path / "store"))
    assert look("stored signals", made(teachers=[store])).status == "ok"
    more = tokenise(arithmetic(60).train, byte_tokenizer(), 32)
    said = look("stored signals", made(teachers=[store], train=more))
    assert said.status == "failed" and "not in the store" in said.measured
    with torch.no_grad():
        for p in teacher.parameters():
            p += 0.3 * torch.randn(p.shape)
    save_causal_lm(teacher, tmp_path / "teacher")
    said = look("stored signals", made(teachers=[store]))
    assert said.status == "failed" and "has changed" in said.fix


class Random(CausalLM):
    def forward(self, batch: Tokens, prefix: Tensor | None = None) -> Words:
        said = super().forward(batch, prefix)
        return said._replace(hidden=F.dropout(said.hidden, 0.1))  # training=True, whatever the mode


def test_dropout_in_the_teacher() -> None:
    [teacher] = language_world().teachers
    said = look("repeatable teacher", made(teachers=[of_class(Random, teacher)]))
    assert said.status == "failed" and "F.dropout" in said.fix


def test_a_teacher_that_knows_nothing_here() -> None:
    assert look("worth of the teacher", made()).status == "ok"
    bad = language_world().student(5)
    with torch.no_grad():
        for p in bad.parameters():
            p *= 3
    said = look("worth of the teacher", made(teachers=[bad]))
    assert said.status == "failed" and "nothing to teach" in said.fix


def test_two_temperatures() -> None:
    class Both(Method):
        student: nn.Module
        teacher: nn.Module
        _: KW_ONLY
        tau: float = 1.0
        sample_tau: float = 1.0

        def loss(self, batch: Tokens, clock: Clock) -> Tensor:
            return token_loss(ForwardKL(), self.teacher(batch), self.student(batch), batch.weight).total

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bench, "method_class", lambda card: Both)
        look_at = TextBench(made(), find("gkd"), {"tau": 2.0, "sample_tau": 0.8})
        assert CHECKS["temperatures"](look_at).status == "warning"
        assert CHECKS["temperatures"](TextBench(made(), find("gkd"), {"sample_tau": 0.8})).status == "ok"


class Crossed(Method):
    """The direction of the divergence is right, the temperature is applied on one side only."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    beta: float = 0.0
    lmbda: float = 0.0
    longest: int = 4

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            t = self.teacher(batch.teacher_view)
        t = t._replace(hidden=t.hidden / 2)
        return {"jsd": token_loss(ForwardKL(), t, self.student(batch), batch.weight).total}


def test_a_temperature_on_one_side_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look("zero at equality", made()).status == "ok"
    monkeypatch.setattr(bench, "method_class", lambda card: Crossed)
    assert look("zero at equality", made()).status == "failed"
