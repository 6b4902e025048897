"""Cross-tokenizer distillation via approximate likelihood matching (Minixhofer, Vulić & Ponti, 2025).
https://arxiv.org/abs/2503.20083

    l_M(c) = sum_(i in c) log p_M(x_i | x_<i) + log b_M(c),   b_M(c): the mass of words that open a new word, after c
    L = tau 1/|C| sum_c KL( Bern(e^(l_T(c) / tau)) || Bern(e^(l_S(c) / tau)) )

A chunk c is text that teacher and student both write as whole tokens. How likely it is can be compared only where both
would end a token, so chunks are joined until the teacher expects a new word with more than ``bias``, and b is counted
in. The sum over all other texts is one outcome, not-c. The factor tau, which is ours, keeps the gradient from falling
as 1 / tau; the limit of the loss is (l_T - l_S) + l_T (log -l_S - log -l_T).
"""

from __future__ import annotations

from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, NonNegative, Positive
from limbeck.core.modules import each_of, freeze, gather, unwrap
from limbeck.data.alignment import align, joined, opens_word
from limbeck.data.tokens import Tokens
from limbeck.errors import InputError
from limbeck.losses.bernoulli import binary_kl
from limbeck.losses.vocabulary import Words, token_values, word_log_probs
from limbeck.methods.language._shared import mean

CARD = Card(
    key="alm",
    title="Cross-Tokenizer Distillation via Approximate Likelihood Matching",
    authors="Benjamin Minixhofer, Ivan Vulić, Edoardo Maria Ponti",
    year=2025,
    url="https://arxiv.org/abs/2503.20083",
    repo="https://github.com/bminixhofer/tokenkit",
    family="language",
    summary="The student finds each piece of text as likely as a teacher does that cuts it into other words.",
    modality="text",
    teacher="frozen",
    signal="probabilities",
    needs=("logits",),
    tokenizers="any",
    notes="Pieces that never reach a likely end of word are left out; the released code keeps the last of a row. "
    "Gradients are balanced at the last hidden states, the code's approximation at the last layer. The loss on hidden "
    "states, which served only a network that changes its own tokenizer, is left out.",
)


class ALM(Method):
    """Likelihoods of chunks, and the labels."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    tau: Positive = 100.0
    """Temperature of the two outcomes, 1 to inf; a high one weighs unlikely chunks more."""
    bias: Fraction = 0.1
    """Spans are joined until the teacher's b exceeds it; 0: never joined, 1: up to the end of the text."""
    boundary: bool = True
    """Whether b is counted in."""
    labels: NonNegative = 1.0
    """Weight of the cross-entropy on the data; 0 is distillation alone."""
    weight: NonNegative = 1.0
    """Weight of the likelihood matching."""
    balance: bool = True
    """Scale the matching so that, at weight 1, it pulls as hard at the last hidden states as the labels do."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        for name, model in (("ours", self.student), ("theirs", self.teacher)):
            tokenizer = getattr(unwrap(model), "tokenizer", None)
            if tokenizer is None:
                raise InputError("teacher", type(model).__name__, "has no tokenizer to align; give a model in memory")
            self.register_buffer(f"opens_{name}", opens_word(tokenizer), persistent=False)

    def likelihoods(self, batch: Tokens, theirs: Words, ours: Words, said: Tensor) -> tuple[Tensor, Tensor]:
        """l_T and l_S of every chunk; ``said`` are the student's log-probabilities of the words to learn."""
        spans = align(batch)
        n, seen = len(spans), batch.teacher_view
        with torch.no_grad():
            l_t = spans.teacher.total(word_log_probs(theirs, seen.y), n)
            b_t = _opening(theirs, spans.teacher.last, self.opens_theirs, spans.closed)
        closing = spans.closed | (b_t.exp() > self.bias)
        chunk, l_s = joined(spans.follows, closing), spans.student.total(said, n)
        if self.boundary:
            b_s = _opening(ours, spans.student.last, self.opens_ours, spans.closed)
            l_t, l_s = l_t + b_t.where(closing, 0), l_s + b_s.where(closing, 0)
        kept, count = chunk >= 0, int(chunk.max()) + 1 if n else 0
        l_t, l_s = (x.new_zeros(count).index_add(0, chunk[kept], x[kept]) for x in (l_t, l_s))
        return l_t, l_s

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        with torch.no_grad():
            theirs = self.teacher(batch.teacher_view)
        if not isinstance(theirs, Words):
            raise InputError("teacher", type(theirs).__name__, "does not say how likely any text is; give a model")
        ours = self.student(batch)
        said = word_log_probs(ours, batch.y)
        l_t, l_s = self.likelihoods(batch, theirs, ours, said)
        ce, alm = -mean(said, batch), (each_of(torch.ones_like(l_t)) * binary_kl(l_t, l_s, self.tau)).sum().to(said)
        if self.balance and self.labels and ours.hidden.requires_grad:
            pulls = [torch.autograd.grad(x, ours.hidden, retain_graph=True)[0] for x in (ce, alm)]
            pulls = gather(torch.stack([pull.norm() for pull in pulls])[None]).norm(dim=0)  # on the rows of all
            alm = alm * (self.labels * pulls[0] / pulls[1].clamp(min=1e-8))
        return {"ce": self.labels * ce, "alm": self.weight * alm}


def _opening(words: Words, last: Tensor, opens: Tensor, closed: Tensor) -> Tensor:
    """log b behind every span (N,); 0 at the end of a text."""
    found = token_values(words.rows(last), lambda q, _: q[:, opens].logsumexp(-1))
    return found.masked_fill(closed, 0)
