"""The equations of MiniLM."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.core.method import Clock
from limbeck.errors import InputError
from limbeck.methods.language._attention import attended, relation, visible
from limbeck.methods.language.minilm import MiniLM
from limbeck.models.causal_lm import CausalLM
from limbeck.models.tiny_lm import byte_tokenizer, gpt2, llama
from tests.worlds import language_world


def grouped() -> CausalLM:
    """A Qwen3: normalised queries and keys, two query heads a key."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    words = byte_tokenizer()
    config = Qwen3Config(
        vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return CausalLM(Qwen3ForCausalLM(config), words)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_what_is_heard_is_the_networks_own_attention(kind: str) -> None:
    torch.manual_seed(0)
    words = byte_tokenizer()
    model = {"llama": lambda: llama(32, 2, words), "gpt2": lambda: gpt2(32, 2, words), "qwen3": grouped}[kind]().eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)  # attention that is far from even
    batch = language_world().batch(4)
    with torch.no_grad():
        heard, plain = attended(model, batch), model(batch).hidden
        ours = relation(heard.query, heard.key, heard.scale, visible(batch)).exp()
        assert torch.equal(model(batch).hidden, plain), "listening leaves no trace"
        model.net.set_attn_implementation("eager")
        mask = (batch.segment > 0).long()
        theirs = model.net(input_ids=batch.x, attention_mask=mask, output_attentions=True).attentions[-1]
    valid = (batch.segment > 0)[:, None, :, None].expand_as(theirs)
    torch.testing.assert_close(ours[valid], theirs[valid], rtol=1e-4, atol=1e-5)


def test_it_is_the_kl_from_the_teacher_to_the_student_of_both_relations() -> None:
    world = language_world()
    student, teacher, batch = world.student().eval(), world.teachers[0], world.batch(5)
    with torch.no_grad():
        s, t = attended(student, batch), attended(teacher, batch)
    sizes, slow = (batch.segment > 0).sum(1).tolist(), {"attention": [], "value": []}

    def softmax(z: np.ndarray) -> np.ndarray:
        e = np.exp(z - z.max())
        return e / e.sum()

    for b, n in enumerate(sizes):
        for h in range(2):
            for i in range(n):
                for name, rows, columns in (("attention", 0, 1), ("value", 2, 2)):
                    p, q = (
                        softmax(x[columns][b, h, : i + 1].double().numpy() @ x[rows][b, h, i].double().numpy() / d**0.5)
                        for x, d in ((t, t.query.shape[-1]), (s, s.query.shape[-1]))
                    )
                    slow[name].append(np.sum(p * np.log(p / q)))
    terms = MiniLM(student, teacher, values=2.0).eval().loss(batch, Clock(0, 10))
    assert float(terms["attention"]) == pytest.approx(np.mean(slow["attention"]), rel=1e-3)
    assert float(terms["value"]) == pytest.approx(2 * np.mean(slow["value"]), rel=1e-3)


def test_it_vanishes_at_equality_and_ends_in_next_word_training() -> None:
    world = language_world()
    teacher, batch = world.teachers[0], world.batch()
    method = MiniLM(teacher, teacher).eval()
    assert all(abs(float(term)) < 1e-6 for term in method.loss(batch, Clock(4, 10)).values())
    student = world.student()
    half = MiniLM(student, teacher)
    assert list(half.loss(batch, Clock(4, 10))) == ["attention", "value"] and list(half.loss(batch, Clock(5, 10))) == [
        "ce"
    ]
    sum(half.loss(batch, Clock(0, 10)).values()).backward()
    last = student.get_submodule(student.blocks[-1])
    assert last.mlp.up_proj.weight.grad is None and last.self_attn.o_proj.weight.grad is None
    assert all(p.grad.abs().max() > 0 for p in (last.self_attn.q_proj.weight, last.self_attn.v_proj.weight))


def test_other_numbers_of_heads_are_refused() -> None:
    world = language_world()
    other = llama(16, 1, byte_tokenizer(), heads=4)
    with pytest.raises(InputError, match="as many"):
        MiniLM(other, world.teachers[0]).loss(world.batch(), Clock(0, 2))
