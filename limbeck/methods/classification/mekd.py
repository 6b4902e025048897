"""Aligning logits generatively for principled black-box knowledge distillation (Ma, Xiang, Wang, Wu & Li, 2024).

https://arxiv.org/abs/2205.10490

    stage 1   L_D = - log D(x) - log(1 - D(G(c)))
              L_G = - log D(G(c)) + a mean_n H(p_S(G(c_n))) - b H(mean_n p_S(G(c_n)))
    stage 2   L_S = mean |G(code(t)) - G(code(s))| + beta tau^2 KL(p_T^tau || p_S^tau),   on the images G(c)

Mapping-emulation distillation first trains a generator to invert the teacher: from a response, one number a class, to
an image that looks like the local, unlabelled ones. Then, G frozen, two responses to a synthetic image are compared by
the images that G makes of them. The teacher only answers queries, and the local images never reach it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Update
from limbeck.core.modules import freeze
from limbeck.data.batches import Images
from limbeck.losses.adversarial import nonsaturating
from limbeck.losses.divergence import distil_kl, entropy, soft_log
from limbeck.losses.targets import smooth
from limbeck.models.gan import conv_discriminator, conv_generator

CARD = Card(
    key="mekd",
    title="Aligning Logits Generatively for Principled Black-Box Knowledge Distillation",
    authors="Jing Ma, Xiang Xiang, Ke Wang, Yuchuan Wu, Yongbin Li",
    year=2024,
    url="https://arxiv.org/abs/2205.10490",
    family="classification",
    summary="Asks a teacher that only answers queries about generated images, and compares two answers by the images "
    "that the generator makes of them.",
    modality="image",
    teacher="black_box",
    data="unlabelled",
    signal="probabilities",
    loop="alternating",
    needs=("probabilities",),
    vanishes=("kl",),
    fidelity="reconstruction",
    notes="Confirmed: the two stages and the image distance. Assumed: the distance (mean absolute difference), all "
    "weights, the networks, the codes, and that the student, which learns from the answers in stage 1 too, stands for "
    "the teacher where G needs a gradient. Each step asks about one new batch; `queries` counts the images. The image "
    "term is zero for equal responses, where an absolute value has no gradient of its own: rounding then decides it.",
)


def code(logits: Tensor, tau: float) -> Tensor:
    """The response softmax(logits / tau) as the generator's input, (B, K) -> (B, K).

    Shifted and scaled alike for all: the uniform response is zero, a one-hot one has unit variance over the classes.
    """
    K = logits.shape[1]
    return (soft_log(logits, tau).exp() - 1 / K) / ((1 / K) * (1 - 1 / K)) ** 0.5


class MEKD(Method):
    """A generator that inverts the teacher, then distillation in the space of its images."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    hard: bool = False
    """The teacher answers with a class alone, not with probabilities."""
    gan_share: Fraction = 0.5
    """Share of the steps that stage 1 takes."""
    tau: Positive = 3.0
    """Temperature of both responses, in the codes and in the divergence."""
    image: NonNegative = 1.0
    """Weight of the distance between the two images; 0 for the divergence alone."""
    beta: NonNegative = 1.0
    """Weight of the divergence."""
    confidence: NonNegative = 0.1
    """a, weight in L_G of the mean entropy: each image is of one class."""
    balance: NonNegative = 1.0
    """b, weight in L_G of the entropy of the mean: all classes are drawn."""
    spread: Positive = 3.0
    """Standard deviation of the random logits of which the codes c are made, before tau."""
    smoothing: Fraction = 0.1
    """Label smoothing of a hard answer; with 0 it is one-hot."""
    width: Count = 32
    """Channels of generator and discriminator at the largest maps."""

    def __post_init__(self) -> None:
        freeze(self.teacher)
        K, shape, device = self.student.num_classes, self.student.shape, self.student.example.device
        self.generator = conv_generator(K, shape, self.width).to(device)
        self.discriminator = conv_discriminator(shape, self.width).to(device)
        self.register_buffer("queries", torch.zeros((), dtype=torch.int64, device=device))

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {name: list(getattr(self, name).parameters()) for name in ("student", "generator", "discriminator")}

    @torch.no_grad()
    def ask(self, x: Tensor) -> Tensor:
        """The teacher's answers to images (B, C, H, W), as log-probabilities (B, K)."""
        self.queries += len(x)
        answer = soft_log(self.teacher(x))
        return smooth(answer.argmax(1), answer.shape[1], self.smoothing).log() if self.hard else answer

    def updates(self, batch: Images, clock: Clock) -> Generator[Update, bool, None]:
        c = code(self.spread * torch.randn(len(batch.x), self.student.num_classes, device=batch.x.device), self.tau)
        if clock.step < round(self.gan_share * clock.steps):
            yield from self.deprivatise(batch.x, c)
            return
        self.generator.eval()  # its statistics are frozen too; gradients still pass through it to the student
        with torch.no_grad():
            x = self.generator(c)
        t, s = self.ask(x), self.student(x)
        kl = self.beta * distil_kl(s, t, self.tau).mean()
        if not self.image:
            yield Update({"kl": kl})
            return
        with torch.no_grad():
            x_T = self.generator(code(t, self.tau))
        x_S = self.generator(code(s, self.tau))
        yield Update({"image": self.image * F.l1_loss(x_S, x_T), "kl": kl})

    def deprivatise(self, real: Tensor, c: Tensor) -> Generator[Update, bool, None]:
        """One step of stage 1: discriminator, student, generator."""
        x, D = self.generator(c), self.discriminator
        seen = x.detach()
        judged = nonsaturating(D(real), real=True), nonsaturating(D(seen), real=False)
        yield Update({"real": judged[0].mean(), "fake": judged[1].mean()}, "discriminator")
        yield Update({"kl": distil_kl(self.student(seen), self.ask(seen), self.tau).mean()})
        log_p = soft_log(self.student(x))
        mean = log_p.exp().mean(0)
        terms = {
            "fooled": nonsaturating(D(x), real=True).mean(),
            "confidence": self.confidence * entropy(log_p).mean(),
            "balance": -self.balance * entropy(mean.clamp_min(1e-12).log()),
        }
        yield Update(terms, "generator")
