"""The steps of self-data distillation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck.core.method import Setting
from limbeck.data.text import Span, TextSet
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import TokenBatches
from limbeck.errors import InputError
from limbeck.methods.language.self_data_distill import SelfDataDistill, agrees
from limbeck.models.tiny_lm import byte_tokenizer
from tests.worlds import language_world


def test_a_rewritten_answer_needs_the_references_last_number() -> None:
    assert agrees("that makes 3 and 4, so 7", "it is 7", "number")
    assert not agrees("that makes 3 and 4, so 8", "it is 7", "number")
    assert not agrees("no idea", "it is 7", "number") and not agrees("7.5", "7", "number")
    assert agrees("anything", "no number here", "number") and not agrees("  ", "no number here", "number")
    assert agrees("so: blue.", "blue", "contains") and not agrees("red", "blue", "contains")
    assert agrees("red", "blue", "any") and not agrees("", "blue", "any")


def test_answers_are_rewritten_where_they_agree_are_finished_and_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, words = language_world().teachers[0], byte_tokenizer()
    text = TextSet(tuple((Span(f"q{k}:", learn=False), Span("= 7")) for k in range(5)))
    data = tokenise(text, words, 16)
    answers = ["so 7", "so 8", "so 7 and on", "so 7", "7"]
    asked: list[str] = []

    def generate(ids: Tensor, mask: Tensor, *, longest: int, tau: float) -> Tensor:
        asked.extend(words.decode(row[known.bool()]) for row, known in zip(ids, mask, strict=True))
        said = [words(a).input_ids for a in answers[len(asked) - len(ids) : len(asked)]]
        said = [[*row, whole.eos] if number != 3 else row for number, row in enumerate(said, len(asked) - len(ids))]
        return torch.tensor([row + [whole.pad] * (12 - len(row)) for row in said])

    monkeypatch.setattr(whole, "generate", generate)
    method = SelfDataDistill(whole, request="{prompt}{answer} again:")
    made = method.rewritten(whole, data, 2, 0)
    assert asked == [f"q{k}:= 7 again:" for k in range(5)]
    got = [words.decode([i for i, learn in zip(row.ids, row.learn, strict=True) if learn]) for row in made.rows]
    eos = words.eos_token
    # the second has another number, the third is too long for its row, the fourth has no end
    assert got == ["so 7" + eos, "= 7" + eos, "so 7 and on" + eos, "= 7" + eos, "7" + eos]
    assert all(words.decode(row.ids).startswith(f"q{k}:") for k, row in enumerate(made.rows))
    short = method.rewritten(whole, tokenise(text, words, 12), 5, 0) if asked.clear() is None else None
    assert short is not None and short.rows[2].ids == data.rows[2].ids


def test_the_block_that_does_least_goes_and_adapters_alone_learn() -> None:
    world, seen = language_world(), []
    teacher = world.teachers[0]
    block = teacher.get_submodule(teacher.blocks[1])
    with torch.no_grad():
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()

    def run(method: SelfDataDistill, *, data: Any) -> None:
        seen.append((method, data))

    setting = Setting(world.student, world.teachers, world.data, 3, run)
    student = SelfDataDistill.distil(setting, {"targets": "data", "rank": 2})
    [(method, data)] = seen
    trained = [name for name, p in method.named_parameters() if p.requires_grad]
    assert data is world.data and student.depth == 2
    assert (trained and all("lora_" in name for name in trained)) or method.student is not student
    batch = world.batch()
    with torch.no_grad():  # the deleted block added nothing, and an adapter that has learnt nothing changes nothing
        torch.testing.assert_close(student.eval()(batch).logits(), teacher(batch).logits(), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_rewritten_is_said() -> None:
    world = language_world()
    text = TextSet(((Span("one two"),), (Span("three"),)))
    packed = TokenBatches(tokenise(text, byte_tokenizer(), 32, pack=True), 1)
    setting = Setting(world.student, world.teachers, packed, 3, lambda *_, **__: None)
    with pytest.raises(InputError, match="no-pack"):
        SelfDataDistill.distil(setting, {})
    with pytest.raises(InputError, match="TokenBatches"):
        SelfDataDistill.distil(Setting(world.student, world.teachers, [world.batch()], 3, lambda *_, **__: None), {})
