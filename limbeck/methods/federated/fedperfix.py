"""FedPerfix: Towards Partial Model Personalization of Vision Transformers in Federated Learning (Sun et al., 2023).
https://arxiv.org/abs/2308.09160

Beside the attention of every block stands a small network P, whose output is added to keys and values, not to queries:

    [q, k, v] = W_qkv x + s [0, P(x)],      P(x) = W_up tanh(W_down x),      W_down: d -> m,  W_up: m -> 2d.

The plugins P and the head are local, L = {P, head}: they never travel. All else is trained at the clients and averaged,

    theta_{-L} <- sum_k (n_k / n) theta_{-L}^k,

so that the shared attention holds what is general, and a client's plugin turns it to its own data.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping
from dataclasses import KW_ONLY
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.card import Card
from limbeck.core.method import Clock, Count, Fraction, Method, NonNegative, Positive, Setting, Update
from limbeck.errors import InputError
from limbeck.federated.client import Client
from limbeck.federated.payload import Payload, put, shapes, take
from limbeck.federated.rounds import Clients, Round
from limbeck.methods.federated._shared import exchange, federate, judged, train_locally, weighted_mean
from limbeck.models.classifier import Classifier

CARD = Card(
    key="fedperfix",
    title="FedPerfix: Towards Partial Model Personalization of Vision Transformers in Federated Learning",
    authors="Guangyu Sun, Matias Mendieta, Jun Luo, Shandong Wu, Chen Chen",
    year=2023,
    url="https://arxiv.org/abs/2308.09160",
    repo="https://github.com/imguangyu/FedPerfix",
    family="federated",
    summary="Clients keep plugins beside the attention of a vision transformer, and the head; the rest is shared.",
    modality="federated",
    teacher="none",
    signal="weights",
    notes="Nothing is distilled. Weights travel, but for plugins and head: not private by itself. What comes out is "
    "the "
    "shared transformer without plugins and with the head it began with, which no client has trained: a client's own "
    "model is the thing, and a newcomer trains a head first. The network must have torch's attention blocks, such as "
    "vit-64x4. The released code's recipes have s = 1.5 and, on CIFAR-100, keep the last block local too; the paper "
    "begins with a transformer that was trained before.",
)


class _Prefixed(nn.MultiheadAttention):
    """Self-attention with a plugin; its other parameters have the names they had."""

    def __init__(self, plain: nn.MultiheadAttention, middle: int, scale: float) -> None:
        width, bias = plain.embed_dim, plain.in_proj_bias is not None
        super().__init__(width, plain.num_heads, plain.dropout, bias=bias, batch_first=True)
        self.load_state_dict(plain.state_dict())
        self.scale = scale
        self.plugin = nn.Sequential(nn.Linear(width, middle), nn.Tanh(), nn.Linear(middle, 2 * width))

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, None]:
        """(B, N, d) as query, key and value alike."""
        x, width = query, self.embed_dim
        q, kv = F.linear(x, self.in_proj_weight, self.in_proj_bias).split([width, 2 * width], -1)
        k, v = (kv + self.scale * self.plugin(x)).chunk(2, -1)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


def prefixed(model: Classifier, middle: int, scale: float) -> Classifier:
    """A copy of a transformer with a plugin in every attention block.

    Raises:
        InputError: for a network without such a block.
    """
    made = copy.deepcopy(model)
    blocks = [path for path, m in made.named_modules() if isinstance(m, nn.MultiheadAttention) and m.batch_first]
    if not blocks:
        kind = type(model.net).__name__
        raise InputError("student", kind, "has no attention block (nn.MultiheadAttention); take one such as vit-64x4")
    for path in blocks:
        plain: Any = made.get_submodule(path)
        made.set_submodule(path, _Prefixed(plain, middle, scale).to(plain.in_proj_weight.device))
    return made


class FedPerfix(Method):
    """The shared transformer; plugins and heads stay at the clients."""

    student: Classifier
    clients: Clients | None = None
    _: KW_ONLY
    middle: Count = 256
    """m, the width inside a plugin."""
    scale: NonNegative = 0.8
    """s, what a plugin's output is multiplied by."""
    population: Count = 20
    """How many clients share the training set; the paper's 64."""
    split: str = "dirichlet-0.1"
    """How it is shared out: iid, dirichlet-ALPHA, shards-N, rotation-G or contrast-G."""
    participation: Fraction = 0.2
    """Share of the clients that a round asks; at least one. The paper's 0.125."""
    epochs: Count = 2
    """Passes over a client's rows in a round; the released code's 10."""
    batch: Count = 16
    """Rows a step at a client; the released code's 64."""
    lr: Positive = 0.05
    """The clients' learning rate; the released code's 0.005 for a network that was trained before."""
    momentum: Fraction = 0.0
    """Of the clients' SGD; it begins anew in every round."""

    def __post_init__(self) -> None:
        self.personal = prefixed(self.student, self.middle, self.scale)  # a client's; every client begins with it

    def own(self, path: str) -> bool:
        """Whether a parameter is in L."""
        return ".plugin." in path or path.startswith(f"{self.student.head}.")

    def shared(self, path: str) -> bool:
        return not self.own(path)

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters())}

    def broadcast(self, client: int) -> Payload:
        return take(self.student, "student", self.shared)

    def enter(self, client: Client, got: Payload) -> None:
        """The client's own model: what was sent, and L_k."""
        put(self.personal, got, "student")
        if client.state:
            put(self.personal, client.state, "own")

    def local(self, client: Client, got: Payload) -> Payload:
        self.enter(client, got)

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(self.personal(x), y)

        mean = train_locally(
            self.personal, client, loss, epochs=self.epochs, batch=self.batch, lr=self.lr, momentum=self.momentum
        )
        client.state = take(self.personal, "own", self.own)
        return {**take(self.personal, "student", self.shared), "loss": mean}

    def judge(self, client: Client, got: Payload) -> Payload:
        self.enter(client, got)
        return judged(self.personal, client)

    def updates(self, batch: Round, clock: Clock) -> Generator[Update, bool, None]:
        answers = exchange(self, batch, {**shapes(self.broadcast(0)), "loss": ()})
        if answers.replies:
            put(self.student, weighted_mean(answers.replies, "student"), "student")
        yield Update({}, logs=answers.logs)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        return federate(cls, setting, values)
