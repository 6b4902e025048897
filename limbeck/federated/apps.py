"""One client and one server for the grid in this process, for Flower's simulation and for its deployment."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from limbeck.core.checkpoint import Checkpoint
from limbeck.core.fit import Record, fit
from limbeck.core.method import MakeOptimizer, Method
from limbeck.federated.client import Client, mixed
from limbeck.federated.payload import fault, from_record, to_record
from limbeck.federated.rounds import Clients, Rounds
from limbeck.models.load import seeded

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

__all__ = ["client_app", "server_app"]


def client_app(worker: Callable[[], Any], client: Callable[[int], Client]) -> ClientApp:
    """Flower's app of a client: ``train`` calls the method's ``local``, ``evaluate`` its ``judge``.

    The method begins every message with the weights it was made with, so that nothing passes from one client of a
    process to the next: what is to survive goes into ``client.state``.

    Args:
        worker: makes the method as it is at a client (``clients`` is ``None``), once a process. Its weights must be the
            same in every process: begin them from a seed.
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
        if not made:
            method = worker()
            made.extend((method, copy.deepcopy(method.state_dict())))
        method, first = made
        method.load_state_dict(first)
        method.train(task == "local")
        with seeded(mixed(int(asked["seed"]) + salt, here.round, here.number)):  # type: ignore[arg-type]
            sent = getattr(method, task)(here, from_record(message.content.array_records["payload"]))
        if fault(sent, None) is None and fault(here.state, None) is None:  # else it begins again from what it had
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


def server_app(
    method: Callable[[Clients], Method], *, population: int, participation: float, steps: int, optimizer: MakeOptimizer,
    seed: int = 0, timeout: float | None = None, checkpoint: Checkpoint | None = None,
    finish: Callable[[Method, Record | None], None] = lambda method, record: None,
) -> ServerApp:  # fmt: skip
    """Flower's app of a server: so many rounds of a method, driven by :func:`limbeck.core.fit.fit`.

    Args:
        method: makes the method as it is at the server, given the clients it asks.
        population: clients that are waited for.
        optimizer: moves what trains at the server.
        timeout: seconds until a client is late in a round.
        checkpoint: where the server resumes from; personal states stay with the clients.
        finish: what to do with the method in the end.
    """
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp

    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        made = method(Clients(grid, population, seed=seed, timeout=timeout))
        rounds = Rounds(population, participation, seed, coins=getattr(made, "privacy", "none") != "none")
        record = fit(made, rounds, optimizer, steps=steps, checkpoint=checkpoint)
        finish(made, record)

    return app
