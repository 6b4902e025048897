"""Swing distillation: a privacy-preserving knowledge distillation framework (Li et al., 2022).
https://arxiv.org/abs/2212.08349

    T_t = T_min + (T_max - T_min) s_t                             s_t in [0, 1]: how likely word t is private
    p~_t = normalise(max(softmax(z_T / T_t) + s_t n_t, 0)),       n_t ~ Laplace(0, noise / V), new at every step
    L = mean (1 - a) (1 - s_t) CE(y_t, p_S) + a T_min^2 KL(p~_t || softmax(z_S / T_t))

Where a word is private the teacher's distribution is flattened and disturbed, and the label is not taught.
"""

from __future__ import annotations

import re
from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn

from limbeck.core.card import Card
from limbeck.core.method import Clock, Fraction, Method, NonNegative, Positive
from limbeck.core.modules import freeze, unwrap
from limbeck.data.tokens import Tokens
from limbeck.errors import InputError
from limbeck.losses.divergence import kl, soft_log
from limbeck.losses.vocabulary import token_loss, word_log_probs
from limbeck.methods.language._shared import mean
from limbeck.models.causal_lm import CausalLM

CARD = Card(
    key="swing",
    title="Swing Distillation: A Privacy-Preserving Knowledge Distillation Framework",
    authors="Junzhuo Li, Xinwei Wu, Weilong Dong, Shuangzhi Wu, Chao Bian, Deyi Xiong",
    year=2022,
    url="https://arxiv.org/abs/2212.08349",
    family="language",
    summary="Where the text is private, the teacher's distribution is flattened and disturbed, so that less leaks.",
    modality="text",
    teacher="frozen",
    signal="logits",
    needs=("logits",),
    fidelity="reconstruction",
    notes="From the abstract: a temperature for each word by its privacy, noise on soft targets. Assumed: everything "
    "else, the linear temperature, the noise, the numbers, and that labels of private words are left out. The factor "
    "T^2 is T_min^2 at every word: with T_t^2 private words would weigh most, and at a high temperature that copies "
    "logits. It only protects what the pattern finds, and is no differential privacy: noise that is new at every step "
    "averages out, and which digits are common among secrets still leaks.",
)


def private_words(pieces: list[str], pattern: re.Pattern[str]) -> list[bool]:
    """Which of a row's words, as their tokenizer spells them, touch a match of the pattern in the whole row."""
    text = "".join(piece.translate(SPACES) for piece in pieces)
    hits = [match.span() for match in pattern.finditer(text)]
    flags, end = list[bool](), 0
    for piece in pieces:
        begin, end = end, end + len(piece)
        flags.append(any(begin < stop and start < end for start, stop in hits))
    return flags


SPACES = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n"})  # what byte pairs and SentencePiece write for white space


def protected(p: Tensor, tau: Tensor, private: Tensor, noise: float) -> Tensor:
    """p~ as log-probabilities: (n, V) log-probabilities, (n,) temperatures, (n,) in [0, 1] -> (n, V).

    ``noise`` is the expected sum of a row's absolute noise where s is 1.
    """
    mass = soft_log(p, tau).exp()
    rows = private > 0
    if noise and bool(rows.any()):
        drawn = torch.distributions.Laplace(0.0, noise / p.shape[-1]).sample(mass[rows].shape).to(mass)
        mass[rows] = (mass[rows] + private[rows, None].to(mass) * drawn).clamp_min(torch.finfo(mass.dtype).tiny)
    return (mass / mass.sum(-1, keepdim=True)).log()


class Swing(Method):
    """Distillation whose temperature, noise and labels depend on how private a word is."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    private: str = r"\d(?:[ -]?\d){3,}|[\w.+-]+@[\w-]+\.[\w.]+"
    """A regular expression of what is private: by default numbers of four digits and more, and mail addresses."""
    tau_min: Positive = 1.0
    """Temperature where nothing is private."""
    tau_max: Positive = 10.0
    """Temperature of private words."""
    a: Fraction = 0.5
    """Weight of the teacher; 1 - a is that of the labels."""
    noise: NonNegative = 1.0
    """Expected sum of the absolute noise on a private word's distribution, whose own sum is 1."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        try:
            self.pattern = re.compile(self.private)
        except re.error as error:
            raise InputError("private", self.private, f"is no regular expression: {error}") from None

    def loss(self, batch: Tokens, clock: Clock) -> dict[str, Tensor]:
        s = self.scores(batch)
        tau = self.tau_min + (self.tau_max - self.tau_min) * s
        with torch.no_grad():
            signal = self.teacher(batch.teacher_view)
        words = self.student(batch)
        weight = self.a * self.tau_min**2 * batch.weight
        ce = -(1 - self.a) * mean((1 - s) * word_log_probs(words, batch.y), batch)
        return {"ce": ce, "swing": token_loss(self.divergence, signal, words, weight, tau, s).total}

    def scores(self, batch: Tokens) -> Tensor:
        """s: (B, T), 1 where the word that follows is private, else 0."""
        student = unwrap(self.student)
        assert isinstance(student, CausalLM)
        spelt = [list(student.tokenizer.convert_ids_to_tokens(row)) for row in batch.x.tolist()]
        flags = torch.tensor([private_words(row, self.pattern) for row in spelt], device=batch.x.device)
        return torch.cat([flags[:, 1:], torch.zeros_like(flags[:, :1])], 1).float()

    def divergence(self, p: Tensor, q: Tensor, tau: Tensor, private: Tensor) -> Tensor:
        """(n, V), (n, V), (n,), (n,) -> (n,)."""
        return kl(protected(p, tau, private, self.noise), soft_log(q, tau))
