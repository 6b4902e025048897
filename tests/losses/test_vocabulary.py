import math

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limbeck.errors import InputError
from limbeck.losses import _chunks
from limbeck.losses import divergence as dv
from limbeck.losses.targets import drop_label
from limbeck.losses.vocabulary import (
    JSD,
    CrossEntropy,
    Decoupled,
    ForwardKL,
    ReverseKL,
    Sampled,
    SkewKL,
    SkewReverseKL,
    TotalVariation,
    Words,
    decoupled,
    sample_words,
    token_loss,
    top_k_words,
    word_entropy,
    word_log_probs,
)

torch.set_num_threads(1)
V, PADDED, TOKENS = 37, 40, (2, 7)
KNOWN = [
    ForwardKL(),
    ReverseKL(),
    JSD(0.5),
    JSD(0.1),
    SkewKL(0.1),
    SkewReverseKL(0.2),
    TotalVariation(),
    CrossEntropy(),
]
DIVERGENCES = KNOWN[:-1]


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Chunks of five tokens and blocks of two, so that every test crosses their borders."""
    monkeypatch.setattr(_chunks, "CHUNK", 4 * V * 5)
    monkeypatch.setattr(_chunks, "BLOCK", 4 * V * 2)


def world(dtype=torch.float64, seed=0, **student):
    """Teacher (padded head, bias) and student, two sequences of seven tokens, weights with zeros."""
    g = torch.Generator().manual_seed(seed)

    def r(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    teacher = Words(r(*TOKENS, 6), r(PADDED, 6), r(PADDED), size=V)
    words = Words(r(*TOKENS, 4).requires_grad_(), r(V, 4).requires_grad_(), r(V).requires_grad_(), **student)
    weight = torch.rand(TOKENS, generator=g, dtype=torch.float64).to(dtype)
    weight[0, :3] = weight[1, 5] = 0
    labels = torch.randint(V, TOKENS, generator=g).masked_fill(torch.rand(TOKENS, generator=g) < 0.3, -100)
    return teacher, words, weight, labels


def gradients(total: Tensor, words: Words) -> list[Tensor]:
    return list(torch.autograd.grad(total, [x for x in words[:3] if x is not None], retain_graph=True))


def plain(objective, teacher, student, weight, *extra, tau=1.0):
    p, q = teacher.log_probs(tau).detach(), student.log_probs(tau)
    values = objective(p.flatten(0, 1), q.flatten(0, 1), *(x.flatten(0, 1) for x in extra)).view(weight.shape)
    return (weight * values).sum(), values.detach().masked_fill(weight == 0, 0)


def same(found, wanted, **tolerance):
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


SHAPES = {
    "plain": {},
    "scale": {"scale": 0.4},
    "softcap": {"softcap": 1.5, "scale": 1.3},
}


@pytest.mark.parametrize("objective", KNOWN, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tau", [1.0, 2.5])
@pytest.mark.parametrize("fast", [True, False])
def test_equals_the_plain_form(objective, shape, tau, fast):
    teacher, student, weight, _ = world(**SHAPES[shape])
    teacher = teacher._replace(**SHAPES[shape])
    wanted, values = plain(objective, teacher, student, weight, tau=tau)
    slow = lambda p, q: objective(p, q)  # noqa: E731  # not one of the known: the generic path
    found = token_loss(objective if fast else slow, teacher, student, weight, tau=tau)
    same((found.total, found.values), (wanted, values))
    same(gradients(found.total, student), gradients(wanted, student))
    assert found.ce is None and not found.values.requires_grad


def test_labels_add_the_cross_entropy_with_its_own_gradient():
    for tau, shape in ((1.0, {}), (2.0, SHAPES["softcap"])):
        teacher, student, weight, labels = world(**shape)
        label_weight = torch.rand(TOKENS, dtype=torch.float64)
        kd, values = plain(JSD(), teacher, student, weight, tau=tau)
        each = F.cross_entropy(student.logits().flatten(0, 1), labels.flatten(), reduction="none", ignore_index=-100)
        ce = (label_weight.flatten() * each).sum()
        for a, b in ((1, 1), (0.5, 0.5), (0.9, 0.1), (1, 0), (0, 2)):  # unequal ones sweep again
            found = token_loss(JSD(), teacher, student, weight, tau=tau, labels=labels, label_weight=label_weight)
            same((found.total, found.values, found.ce), (kd, values, ce))
            same(gradients(a * found.total + b * found.ce, student), gradients(a * kd + b * ce, student))
        found = token_loss(JSD(), teacher, student, weight, tau=tau, labels=labels, label_weight=label_weight)
        same(gradients(found.ce, student), gradients(ce, student))
        same(gradients(found.total, student), gradients(kd, student))


def test_label_weight_is_the_weight_unless_given():
    teacher, student, weight, labels = world()
    found = token_loss(JSD(), teacher, student, weight, labels=labels)
    torch.testing.assert_close(found.ce, -(weight * word_log_probs(student, labels)).sum())


def test_a_label_counts_where_the_divergence_does_not():
    teacher, student, weight, labels = world()
    masked = Words(teacher.logits().masked_fill((weight == 0)[..., None] & (torch.arange(V) > 0), -math.inf), None)
    one = torch.ones_like(weight)
    found = token_loss(ReverseKL(), masked, student, weight, labels=labels, label_weight=one)
    wanted = token_loss(ReverseKL(), masked, student, weight).total, -word_log_probs(student, labels).sum()
    same((found.total, found.ce), wanted)
    same(gradients(found.total + found.ce, student), gradients(sum(wanted), student))


@pytest.mark.parametrize("objective", KNOWN, ids=str)
def test_gradients_agree_with_finite_differences(objective):
    teacher, student, weight, labels = world()

    def loss(hidden, head, bias):
        words = Words(hidden, head, bias, scale=0.5, softcap=2.0)
        found = token_loss(objective, teacher, words, weight, tau=1.5, labels=labels)
        return 0.3 * (found.total + found.ce)

    assert torch.autograd.gradcheck(loss, student[:3], fast_mode=True)


logits = st.lists(st.floats(-60, 60, width=32), min_size=6, max_size=6).map(torch.tensor)


@pytest.mark.parametrize("objective", DIVERGENCES, ids=str)
def test_is_not_negative_and_zero_at_equality(objective):
    @settings(max_examples=60, deadline=None)
    @given(logits, logits)
    def check(a, b):
        one = torch.ones(1)
        p, q = Words(a[None], None), Words(b[None].requires_grad_(), None)
        found = token_loss(objective, p, q, one)
        assert found.total.item() >= -2e-6
        (grad,) = torch.autograd.grad(found.total, q.hidden)
        assert grad.isfinite().all() and grad.sum().abs() < 1e-4
        wanted = objective(p.log_probs(), q.log_probs())
        torch.testing.assert_close(found.values, wanted.detach(), rtol=1e-5, atol=2e-6)
        (exact,) = torch.autograd.grad(objective(p.log_probs().double(), q.log_probs().double()).sum(), q.hidden)
        nearest = (p.log_probs() - q.log_probs()).abs().min()
        if not isinstance(objective, TotalVariation) or nearest > 1e-4:  # at its kink the sign is a matter of rounding
            torch.testing.assert_close(grad, exact, rtol=1e-4, atol=1e-5)
        found = token_loss(objective, q, q, one)
        assert found.total.abs().item() < 2e-6
        (grad,) = torch.autograd.grad(found.total, q.hidden)
        assert grad.abs().max() < 2e-6

    check()


def test_padded_columns_are_dropped_on_either_side():
    teacher, student, weight, _ = world()
    found = token_loss(JSD(), teacher, student, weight)
    padded = [torch.cat([x, 9 * torch.ones_like(x[:2])]).detach().requires_grad_() for x in student[1:3]]
    wide = Words(student.hidden, *padded, size=V)
    again = token_loss(
        JSD(), teacher._replace(weight=teacher.weight[:V], bias=teacher.bias[:V], size=None), wide, weight
    )
    torch.testing.assert_close(again.total, found.total)
    grads, wanted = gradients(again.total, wide), gradients(found.total, student)
    same([grads[0], *(x[:V] for x in grads[1:])], wanted)
    assert not grads[1][V:].any() and not grads[2][V:].any()


def test_logits_may_be_given_with_masked_words():
    teacher, student, weight, _ = world()
    p = teacher.logits().masked_fill(torch.arange(V) < 2, -math.inf)
    z = student.logits().detach()
    for objective in KNOWN:
        grads = []
        for q in (z, z.masked_fill(torch.arange(V) < 2, -math.inf)):
            if objective == ReverseKL() and q is z:
                continue
            leaf = q.clone().requires_grad_()
            wanted, values = plain(objective, Words(p, None), Words(leaf, None), weight)
            (exact,) = torch.autograd.grad(wanted, leaf)
            found = token_loss(objective, Words(p, None), Words(leaf, None), weight)
            same((found.total, found.values), (wanted, values))
            (grad,) = torch.autograd.grad(found.total, leaf)
            torch.testing.assert_close(grad, exact)
            grads.append(grad)
        assert not grads[-1][..., :2].any()
    assert token_loss(ReverseKL(), Words(p, None), Words(z, None), weight).total == math.inf
    assert token_loss(ForwardKL(), Words(z, None), Words(p, None), weight).total == math.inf


def test_a_mass_that_underflows_is_no_nan():
    low = torch.tensor([[0.0, -200.0, -300.0]])
    for objective in DIVERGENCES:
        for a, b in ((low, low.flip(-1)), (low, low), (low, torch.zeros(1, 3))):
            q = b.clone().requires_grad_()
            found = token_loss(objective, Words(a, None), Words(q, None), torch.ones(1))
            assert found.total.isfinite() and torch.autograd.grad(found.total, q)[0].isfinite().all(), objective


def test_nan_is_not_hidden():
    teacher, student, weight, _ = world()
    for objective in KNOWN:
        broken = teacher._replace(hidden=teacher.hidden.index_fill(1, torch.tensor([4]), math.nan))
        values = token_loss(objective, broken, student, weight).values
        assert values[:, 4].isnan().all() and values[:, [0, 1, 2, 3, 6]].isfinite().all()


def test_extra_tensors_are_cut_to_the_rows():
    teacher, student, weight, _ = world()
    alpha = torch.rand(TOKENS, dtype=torch.float64)
    wanted, values = plain(dv.skewed_kl, teacher, student, weight, alpha)
    found = token_loss(dv.skewed_kl, teacher, student, weight, alpha)
    same((found.total, found.values), (wanted, values))
    same(gradients(found.total, student), gradients(wanted, student))


@pytest.mark.parametrize("objective", [ForwardKL(), JSD(), dv.kl], ids=["ForwardKL", "JSD", "kl"])
def test_bf16_autocast(objective):
    teacher, student, weight, labels = world(torch.float32)
    teacher = teacher._replace(hidden=teacher.hidden.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        wanted, values = plain(objective, teacher, student, weight)
        found = token_loss(objective, teacher, student, weight, labels=labels)
    assert found.total.dtype == torch.float32
    same((found.total, found.values), (wanted, values), rtol=1e-5, atol=1e-6)
    same(gradients(found.total, student), gradients(wanted, student), rtol=2e-2, atol=2e-2)
    half = Words(*(x.detach().bfloat16().requires_grad_() for x in student[:3]))
    found = token_loss(objective, teacher, half, weight)
    found.total.backward()
    assert half.weight.grad.dtype == half.hidden.grad.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        wanted = gradients(token_loss(objective, teacher, student, weight).total, student)
    same([x.grad.float() for x in half[:3]], wanted, rtol=2e-2, atol=2e-2)


def test_only_what_asks_for_a_gradient_gets_one():
    teacher, student, weight, _ = world()
    wanted = gradients(token_loss(JSD(), teacher, student, weight).total, student)
    frozen = student._replace(weight=student.weight.detach(), bias=None)
    hidden = token_loss(JSD(), teacher, frozen._replace(bias=student.bias.detach()), weight).total
    torch.testing.assert_close(torch.autograd.grad(hidden, student.hidden)[0], wanted[0])
    head = token_loss(JSD(), teacher, student._replace(hidden=student.hidden.detach()), weight).total
    torch.testing.assert_close(torch.autograd.grad(head, student.weight)[0], wanted[1])
    live = teacher._replace(hidden=teacher.hidden.requires_grad_())
    assert torch.autograd.grad(token_loss(JSD(), live, student, weight).total, live.hidden, allow_unused=True) == (
        None,
    )
    with torch.no_grad():
        assert not token_loss(JSD(), teacher, student, weight).total.requires_grad
    assert not token_loss(JSD(), teacher, Words(*(x.detach() for x in student[:3])), weight).total.requires_grad


def test_the_teacher_gets_a_gradient_when_told():
    for shape in SHAPES.values():
        teacher, student, weight, _ = world(**shape)
        teacher = teacher._replace(hidden=teacher.hidden.requires_grad_(), **shape)
        p, q = teacher.log_probs(1.5), student.log_probs(1.5)
        wanted = (weight * dv.kl(q, p)).sum()
        found = token_loss(ReverseKL(), teacher, student, weight, tau=1.5, teacher_gradient=True)
        leaves = [teacher.hidden, *student[:3]]
        same(torch.autograd.grad(found.total, leaves), torch.autograd.grad(wanted, leaves))


def test_a_computed_head_and_a_tied_one():
    teacher, student, weight, _ = world()
    down, up = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 4), (V, 2)))
    base = student.weight.detach()
    leaves = [student.hidden, down, up]
    adapted = student._replace(weight=base + up @ down, bias=None)
    wanted, _ = plain(JSD(), teacher, adapted, weight)
    exact = torch.autograd.grad(wanted, leaves, retain_graph=True)
    same(torch.autograd.grad(token_loss(JSD(), teacher, adapted, weight).total, leaves), exact)
    tied = torch.randn(V, 4, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(V, TOKENS)
    grads = []
    for f in (token_loss, plain):
        words = Words(F.embedding(ids, tied).tanh(), tied)
        grads.append(torch.autograd.grad(f(JSD(), teacher, words, weight)[0], tied)[0])
    torch.testing.assert_close(*grads)


def test_used_twice_scaled_and_checkpointed():
    teacher, student, weight, _ = world()
    layer = torch.nn.Linear(4, 4, dtype=torch.float64)

    def hidden():
        return torch.utils.checkpoint.checkpoint(layer, student.hidden, use_reentrant=False).tanh()

    grads = []
    for f in (token_loss, plain):
        student.weight.grad = layer.weight.grad = None
        for scale in (1.0, 0.25):
            words = student._replace(hidden=hidden())
            (scale * (f(JSD(), teacher, words, weight)[0] + f(ForwardKL(), teacher, words, weight)[0])).backward()
        grads.append((student.weight.grad, layer.weight.grad))
    same(*grads)
    total = token_loss(JSD(), teacher, student, weight).total
    first = torch.autograd.grad(3 * total, student[:3], retain_graph=True)
    same(torch.autograd.grad(total, student[:3]), [x / 3 for x in first])


def test_no_token_counts():
    teacher, student, weight, labels = world()
    found = token_loss(JSD(), teacher, student, torch.zeros_like(weight), labels=labels)
    assert found.total == 0 and found.ce == 0 and not found.values.any()
    assert not any(x.any() for x in gradients(found.total, student))


@pytest.mark.parametrize("tail", ["uniform", "none"])
def test_top_k_words(tail):
    teacher, student, weight, _ = world()
    stored = top_k_words(teacher, 5, 3, tail=tail)
    p = teacher.log_probs().exp()
    kept, index = p.topk(5)
    assert torch.equal(stored.index, index) and stored.size == V
    left = (1 - kept.sum(-1, keepdim=True)) / (V - 5) if tail == "uniform" else torch.zeros(1, dtype=p.dtype)
    dense = left.expand_as(p).scatter(-1, index, kept)
    torch.testing.assert_close(stored.log_probs().exp(), dense / dense.sum(-1, keepdim=True))
    tempered = dense.sqrt() / dense.sqrt().sum(-1, keepdim=True)
    torch.testing.assert_close(stored.log_probs(2.0).exp(), tempered)
    for objective in (ForwardKL(), JSD(), dv.kl):
        for tau in (1.0, 2.0):
            wanted, values = plain(objective, stored, student, weight, tau=tau)
            found = token_loss(objective, stored, student, weight, tau=tau)
            same((found.total, found.values), (wanted, values))
            same(gradients(found.total, student), gradients(wanted, student))
    whole = top_k_words(teacher, V, tail=tail)
    torch.testing.assert_close(whole.log_probs(), teacher.log_probs())


def test_drawn_words_are_unbiased():
    teacher, student, weight, _ = world()
    g = torch.Generator().manual_seed(1)
    draws = [sample_words(teacher, 4, g, 3) for _ in range(1500)]
    p = teacher.log_probs().exp()
    dense = torch.stack([x.probs() for x in draws])
    torch.testing.assert_close(dense.sum(-1), torch.ones(1500, *TOKENS))
    assert ((dense.mean(0) - p).abs() <= 4.5 * (p / 4 / 1500).sqrt() + 1e-3).all()
    assert (((dense[:100] * 4).round() - p * 4).abs() < 1 + 1e-5).all()  # systematic: floor or ceil
    drawn = draws[0]
    q = student.log_probs()
    wanted = (weight * -(drawn.probs() * q).sum(-1)).sum()
    for objective in (CrossEntropy(), ForwardKL()):
        found = token_loss(objective, drawn, student, weight)
        torch.testing.assert_close(found.total, wanted)
        same(gradients(found.total, student), torch.autograd.grad(wanted, student[:3], retain_graph=True))
    both = Sampled(drawn.index, 2 * drawn.weight, V)  # weights need not sum to one
    same(gradients(token_loss(ForwardKL(), both, student, weight).total, student), gradients(2 * wanted, student))


def test_chosen_words_and_entropy():
    _, student, weight, labels = world(softcap=3.0)
    q = student.log_probs(1.5)
    wanted = q.gather(-1, labels.clamp_min(0)[..., None])[..., 0].masked_fill(labels < 0, 0)
    found = word_log_probs(student, labels, 1.5)
    torch.testing.assert_close(found, wanted)
    same(gradients((weight * found).sum(), student), gradients((weight * wanted).sum(), student))
    q = student.log_probs()
    torch.testing.assert_close(word_entropy(student), dv.entropy(q))
    same(gradients((weight * word_entropy(student)).sum(), student), gradients((weight * dv.entropy(q)).sum(), student))


def test_decoupled_is_dkds():
    teacher, student, weight, labels = world()
    p, q = teacher.log_probs(), student.log_probs()
    target, rest = decoupled(p, q, labels.clamp_min(0))
    p_y = p.gather(-1, labels.clamp_min(0)[..., None])[..., 0].exp()
    torch.testing.assert_close(dv.kl(p, q), target + (1 - p_y) * rest)
    without = [drop_label(x.logits(), labels.clamp_min(0)).log_softmax(-1) for x in (teacher, student)]
    torch.testing.assert_close(rest, dv.kl(*without))
    a, b = torch.rand(2, *TOKENS, dtype=torch.float64)
    wanted = (weight * (a * target + b * rest).masked_fill(labels < 0, 0)).sum()
    found = token_loss(Decoupled(), teacher, student, weight, labels, a, b)
    torch.testing.assert_close(found.total, wanted)
    same(gradients(found.total, student), gradients(wanted, student))


def test_rows():
    teacher, _, weight, _ = world()
    for x in (teacher, top_k_words(teacher, 3)):
        dense = x.log_probs()
        torch.testing.assert_close(x.rows(weight != 0).log_probs(), dense[weight != 0])
        torch.testing.assert_close(x.rows(torch.tensor([9, 2])).log_probs(), dense.flatten(0, 1)[[9, 2]])


def test_refuses_what_it_cannot_use():
    teacher, student, weight, labels = world()
    with pytest.raises(InputError, match="size="):
        token_loss(JSD(), teacher._replace(size=None), student, weight)
    with pytest.raises(InputError, match="rows of the head"):
        token_loss(JSD(), teacher._replace(size=V + 9), student, weight)
    with pytest.raises(InputError, match=r"ForwardKL\(\) and CrossEntropy\(\)"):
        token_loss(JSD(), sample_words(teacher, 2), student, weight)
    with pytest.raises(InputError, match="tau"):
        token_loss(ForwardKL(), sample_words(teacher, 2), student, weight, tau=2.0)
    with pytest.raises(InputError, match="shape"):
        token_loss(JSD(), teacher, student, weight[:1])
    with pytest.raises(InputError, match="labels"):
        token_loss(JSD(), teacher, student, weight, labels=labels + V)
    with pytest.raises(InputError, match="one value a token"):
        token_loss(lambda p, q: dv.kl(p, q).mean(), teacher, student, weight)
    with pytest.raises(InputError, match="live teacher"):
        token_loss(JSD(), top_k_words(teacher, 2), student, weight, teacher_gradient=True)
    for objective in (JSD, SkewKL, SkewReverseKL):
        for share in (0.0, 1.0, math.nan):
            with pytest.raises(InputError, match="between 0 and 1"):
                objective(share)
