"""The same client and server code for the grid in this process, Flower's simulation and Flower's deployment."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from limbeck.federated.client import Client, mixed
from limbeck.federated.payload import Payload, from_record, to_record
from limbeck.models.load import seeded

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

__all__ = ["Worker", "client_app"]


class Worker(Protocol):
    """What a method does at a client."""

    def local(self, client: Client, got: Payload) -> Payload: ...

    def judge(self, client: Client, got: Payload) -> Payload: ...


def client_app(worker: Callable[[Client], Any], client: Callable[[int], Client]) -> ClientApp:
    """Flower's app of a client: ``train`` calls the method's ``local``, ``evaluate`` its ``judge``.

    The method begins every message with the weights it was made with, so that nothing passes from one client of a
    process to the next: what is to survive goes into ``client.state``.

    Args:
        worker: the method at a client (``clients`` is ``None``); asked once a process.
        client: the client of a ``partition-id``, with its data.
    """
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app, made = ClientApp(), list[Any]()

    def answer(message: Message, context: Context, task: str, salt: int) -> Message:
        here = client(int(context.node_config["partition-id"]))
        asked = message.content.config_records["round"]
        here.round = int(asked["number"])  # type: ignore[arg-type]
        here.state = from_record(context.state.array_records.get("personal", ArrayRecord()))
        with seeded(mixed(int(asked["seed"]) + salt, here.round, here.number)):  # type: ignore[arg-type]
            if not made:
                method = worker(here)
                made.extend((method, copy.deepcopy(method.state_dict())))
            method, first = made
            method.load_state_dict(first)
            method.train(task == "local")
            sent = getattr(method, task)(here, from_record(message.content.array_records["payload"]))
        context.state["personal"] = to_record(here.state)
        about = MetricRecord({"client": here.number, "samples": len(here.train)})
        return Message(RecordDict({"payload": to_record(sent), "about": about}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer(message, context, "local", 0)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer(message, context, "judge", 1)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        about = MetricRecord({"client": number, "samples": len(client(number).train)})
        return Message(RecordDict({"about": about}), reply_to=message)

    return app
