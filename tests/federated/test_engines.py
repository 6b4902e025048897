"""One app, several engines: Flower's serialised messages here, and its simulation where ray is installed."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from limbeck.federated.grid import in_process
from limbeck.federated.payload import fault, from_record, part, put, shapes, size, take, to_record
from tests.federated import flower_app

RAY = importlib.util.find_spec("ray") is not None


def said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMBECK_SAID", str(folder / "said.json"))
    return folder / "said.json"


def here(path: Path) -> dict[str, list[float]]:
    from flwr.app import Context, RecordDict

    flower_app.server(in_process(flower_app.client, flower_app.POPULATION), Context(0, 0, {}, RecordDict(), {}))
    return {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}


def test_the_app_runs_in_this_process_and_repeats_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = said(tmp_path, monkeypatch)
    found, start = here(path), [float(v.double().sum()) for v in flower_app.student().state_dict().values()]
    assert found == here(path) and found["shared"] != start


@pytest.mark.skipif(not RAY, reason="Flower's simulation needs ray")
def test_flowers_simulation_finds_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.simulation import run_simulation

    path = said(tmp_path, monkeypatch)
    alone = here(path)
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"include_dashboard": False}}
    run_simulation(flower_app.server, flower_app.client, flower_app.POPULATION, backend_config=resources)
    assert {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"} == alone


def test_messages_survive_flowers_wire_bit_for_bit() -> None:
    from flwr.app import Message, RecordDict
    from flwr.common.serde import message_from_proto, message_to_proto

    payload = take(flower_app.student(), "student") | {"loss": torch.tensor(0.1), "rows": torch.zeros(0, 3)}
    message = in_process(flower_app.client, 1).create_message(RecordDict({"p": to_record(payload)}), "train", 1, "0")
    sent = message_from_proto(message_to_proto(message))
    assert isinstance(sent, Message)
    back = from_record(sent.content.array_records["p"])
    assert list(back) == list(payload)
    assert all(torch.equal(v, back[k]) and v.dtype == back[k].dtype for k, v in payload.items())


def test_payloads_name_what_does_not_fit() -> None:
    model, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    payload = take(model, "body", lambda path: path == "weight")
    assert set(payload) == {"body/weight"} and size(payload) == 24 and set(part(payload, "body")) == {"weight"}
    kept = other.bias.clone()
    put(other, payload, "body")
    assert torch.equal(other.weight, model.weight) and torch.equal(other.bias, kept)
    payload["body/weight"].zero_()
    assert not torch.equal(model.weight, payload["body/weight"]), "a payload is a copy"
    for wrong, message in (
        ({"body/weights": torch.zeros(3, 2)}, "did you mean 'weight'"),
        ({"body/weight": torch.zeros(2, 3)}, r"not the module's shape \[3, 2\]"),
        ({"head/weight": torch.zeros(3, 2)}, "'body' is not in it"),
    ):
        with pytest.raises(ValueError, match=message):
            put(other, wrong, "body")
    like = {**shapes(payload), "rows": (-1, 4)}
    assert fault({**payload, "rows": torch.zeros(7, 4)}, like) is None
    assert fault({**payload, "rows": torch.zeros(7, 5)}, like) == "rows: shape [7, 5] instead of [-1, 4]"
