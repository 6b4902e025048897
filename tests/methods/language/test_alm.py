"""ALM: one tokenizer as a degenerate case, chunks against a slow walk."""

import math

import pytest
import torch

from limbeck.core.schedule import Clock
from limbeck.data.alignment import align, opens_word
from limbeck.data.text import Span, TextSet
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import TokenBatches
from limbeck.losses.bernoulli import binary_kl
from limbeck.methods.language.alm import ALM
from limbeck.models.tiny_lm import bpe_tokenizer, byte_tokenizer, llama
from tests.worlds import language_world

NOW = Clock(0, 1)


def test_with_one_tokenizer_every_word_is_a_chunk_and_the_teacher_itself_gets_no_pull():
    world = language_world(0)
    batch, student, teacher = world.batch(6), world.student(1).eval(), world.teachers[0]
    alm = ALM(student, teacher, tau=1.0, balance=False).loss(batch, NOW)["alm"]
    p, q = (m(batch).log_probs().detach()[batch.mask].double() for m in (teacher, student))
    u, v = (x.exp().gather(1, batch.y[batch.mask][:, None])[:, 0] for x in (p, q))
    slow = u * (u / v).log() + (1 - u) * ((1 - u) / (1 - v)).log()
    assert float(alm.detach()) == pytest.approx(float(slow.mean()), rel=1e-4)
    twin = ALM(teacher, teacher, balance=False)
    teacher.requires_grad_(True)
    term = twin.loss(batch, NOW)["alm"]
    assert float(term.detach()) == pytest.approx(0, abs=1e-9)
    assert all(float(g.abs().max()) < 1e-6 for g in torch.autograd.grad(term, list(teacher.parameters())))


def crossed():
    """A byte student and a teacher of byte pairs on short sentences, with fresh weights."""
    texts = ["the cat sat on the mat", "a  mat, é", "on\nthe cat"]
    ours, theirs = byte_tokenizer(), bpe_tokenizer(texts * 3, 275)
    text = TextSet(tuple((Span(t[:1], False), Span(t[1:])) for t in texts))
    data, view = (tokenise(text, tokenizer, 32, offsets=True) for tokenizer in (ours, theirs))
    torch.manual_seed(0)
    student, teacher = llama(16, 1, ours), llama(16, 1, theirs)
    for model in (student, teacher):  # peaked, so that some boundaries are likely and some are not
        model.net.lm_head.weight.data.mul_(60)
    return TokenBatches(data, 3, shuffle=False, view=view).make(torch.arange(3)), student.eval(), teacher.eval()


@pytest.mark.parametrize("bias", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("boundary", [True, False])
def test_chunks_are_those_of_a_slow_walk(bias, boundary):
    batch, student, teacher = crossed()
    method = ALM(student, teacher, bias=bias, boundary=boundary)
    ours, theirs, spans = student(batch), teacher(batch.view), align(batch)
    said = ours.log_probs().gather(-1, batch.y.clamp_min(0)[..., None])[..., 0]
    l_t, l_s = method.likelihoods(batch, theirs, ours, said)

    sums, ends = [], []
    sides = ((spans.teacher, theirs, batch.view, teacher), (spans.student, ours, batch, student))
    for side, words, tokens, model in sides:
        q, opens = words.log_probs().detach(), opens_word(model.tokenizer)
        sums.append([])
        ends.append([])
        for n in range(len(spans)):
            at = (side.span == n).nonzero().tolist()
            sums[-1].append(sum(float(q[b, t, tokens.x[b, t + 1]]) for b, t in at))
            b, t = at[-1]
            ends[-1].append(1.0 if spans.closed[n] else float(q[b, t + 1].exp()[opens].sum()))
    chunks, t, s, fresh = [], 0.0, 0.0, True
    for n in range(len(spans)):
        if fresh or not spans.follows[n]:
            t, s = 0.0, 0.0
        t, s, fresh = t + sums[0][n], s + sums[1][n], bool(spans.closed[n]) or ends[0][n] > bias
        if fresh:
            chunks.append((t + boundary * math.log(ends[0][n]), s + boundary * math.log(ends[1][n])))
    assert torch.allclose(l_t, torch.tensor(chunks)[:, 0], atol=1e-3)
    assert torch.allclose(l_s.detach(), torch.tensor(chunks)[:, 1], atol=1e-3)
    assert len(chunks) == {0.0: len(spans), 1.0: 3}.get(bias, len(chunks)) and 3 <= len(chunks) <= len(spans)
    assert bias != 0.2 or 3 < len(chunks) < len(spans), "the threshold decides nothing here"


def test_balanced_terms_pull_alike_and_towards_the_teacher():
    batch, student, teacher = crossed()
    ours = student(batch)
    method = ALM(student, teacher, labels=0.5, weight=1.0)
    method.student.forward = lambda _: ours
    terms = method.loss(batch, NOW)
    pulls = [torch.autograd.grad(terms[n], ours.hidden, retain_graph=True)[0].norm() for n in ("ce", "alm")]
    assert torch.allclose(pulls[0], pulls[1], rtol=1e-3)
    p, q = torch.tensor([-1.0, -9.0]), torch.tensor([-3.0, -3.0], requires_grad=True)
    binary_kl(p, q, 100).sum().backward()
    assert q.grad[0] < 0 < q.grad[1], "a chunk that the teacher finds likelier is made likelier"
