"""A small personalised method for tests: the body is shared and averaged, the head never leaves its client."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import KW_ONLY

from torch import nn
from torch.nn import functional as F

from limbeck.core.method import Clock, Count, Fraction, Method, Update
from limbeck.federated.client import Client
from limbeck.federated.payload import Payload, put, shapes, take
from limbeck.federated.rounds import Clients, Round
from limbeck.methods.federated._shared import exchange, judged, train_locally, weighted_mean


def shared(path: str) -> bool:
    return not path.startswith("net.4")


def personal(path: str) -> bool:
    return not shared(path)


class Heads(Method):
    student: nn.Module
    clients: Clients | None = None
    _: KW_ONLY
    population: Count = 6
    split: str = "shards-2"
    participation: Fraction = 0.5
    epochs: Count = 1

    def broadcast(self, client: int) -> Payload:
        return take(self.student, "body", shared)

    def enter(self, client: Client, got: Payload) -> None:
        put(self.student, got, "body")
        if client.state:
            put(self.student, client.state, "head")

    def local(self, client: Client, got: Payload) -> Payload:
        self.enter(client, got)
        loss = train_locally(
            self.student, client, lambda x, y: F.cross_entropy(self.student(x), y), epochs=self.epochs, batch=8, lr=0.1
        )
        client.state = take(self.student, "head", personal)
        return {**take(self.student, "body", shared), "loss": loss}

    def judge(self, client: Client, got: Payload) -> Payload:
        self.enter(client, got)
        return judged(self.student, client)

    def updates(self, batch: Round, clock: Clock) -> Generator[Update, bool, None]:
        answers = exchange(self, batch, {**shapes(self.broadcast(0)), "loss": ()})
        if answers.replies:
            put(self.student, weighted_mean(answers.replies, "body"), "body")
        yield Update({}, logs=answers.logs)
