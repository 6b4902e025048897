"""Flower's grid in this process: its messages, its contexts and its client app, one client after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from limbeck.federated.payload import Payload, from_record, to_record

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid

__all__ = ["in_process"]


def in_process(app: ClientApp, clients: int, weather: Callable[[int, int], None] = lambda client, number: None) -> Grid:
    """A grid of so many nodes whose messages are answered at once by ``app``; node k + 1 is client k.

    Args:
        weather: called with client and round before a client is asked, for tests of what networks do. After a
            ``ConnectionError`` the client answers with an error, after a ``TimeoutError`` not at all; any other
            exception, from here or from a method's own code, is a bug and is raised.
    """
    from flwr.app import Context, Error, Message, Metadata, RecordDict
    from flwr.serverapp import Grid

    class InProcess(Grid):
        """``state_dict`` holds every client's personal state, so that a checkpoint of the method does."""

        def __init__(self) -> None:
            self.contexts = {
                k + 1: Context(0, k + 1, {"partition-id": k, "num-partitions": clients}, RecordDict(), {})
                for k in range(clients)
            }
            self.weather = weather
            self.replies = dict[str, Message]()
            self.pushed = 0

        def set_run(self, run: Any) -> None:
            raise NotImplementedError("a grid in this process has no run of its own")

        @property
        def run(self) -> Any:
            raise NotImplementedError("a grid in this process has no run of its own")

        def get_node_ids(self) -> Iterable[int]:
            return list(self.contexts)

        def create_message(
            self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
        ) -> Message:
            self.pushed += 1
            about = Metadata(
                run_id=0, message_id=str(self.pushed), src_node_id=0, dst_node_id=dst_node_id, reply_to_message_id="",
                group_id=group_id, created_at=0.0, ttl=ttl or 3600.0, message_type=message_type,
            )  # fmt: skip
            return Message(content=content, metadata=about)

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            ids = list[str]()
            for message in messages:
                about = message.metadata
                ids.append(about.message_id)
                context = self.contexts[about.dst_node_id]
                try:
                    self.weather(int(context.node_config["partition-id"]), int(about.group_id or 0))
                    self.replies[about.message_id] = app(message, context)
                except ConnectionError as error:
                    self.replies[about.message_id] = Message(Error(0, str(error)), reply_to=message)
                except TimeoutError:
                    pass
            return ids

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            return [self.replies.pop(number) for number in message_ids if number in self.replies]

        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            return self.pull_messages(self.push_messages(messages))

        def state_dict(self) -> dict[str, Payload]:
            held = {k: c.state.array_records.get("personal") for k, c in self.contexts.items()}
            return {str(k - 1): from_record(record) for k, record in held.items() if record}

        def load_state_dict(self, state: dict[str, Payload]) -> None:
            for node, context in self.contexts.items():
                context.state = RecordDict({"personal": to_record(state.get(str(node - 1), {}))})

    return InProcess()
