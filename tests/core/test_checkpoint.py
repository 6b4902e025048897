"""A run that was killed goes on bit for bit, and no crash leaves half a checkpoint behind."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import KW_ONLY, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from limbeck.core import checkpoint as files
from limbeck.core.checkpoint import Checkpoint, atomic_folder, restore_rng, rng_state, write_atomic
from limbeck.core.fit import NonFinite, fit, iterate
from limbeck.core.method import Clock, Method, Positive, Update
from limbeck.core.modules import Ema, freeze
from limbeck.core.schedule import Cosine
from limbeck.data.stream import Stream
from limbeck.errors import InputError

ADAM = partial(torch.optim.AdamW, lr=1e-2)
STEPS = 9


class Counter:
    """A field that keeps state without being a module."""

    def __init__(self) -> None:
        self.seen: dict[int, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"seen": dict(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class Rich(Method):
    """Two players, a moving average, statistics, a buffer, random numbers of three kinds."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    tau: Positive = 2.0
    counter: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.critic = nn.Linear(3, 1)
        self.ema = Ema(self.student, 0.9)
        self.register_buffer("bank", torch.zeros(3))

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "critic": list(self.critic.parameters())}

    def updates(self, batch: Any, clock: Clock) -> Generator[Update, bool, None]:
        x = batch[0] + 0.1 * torch.randn_like(batch[0]) + 0.1 * float(np.random.rand()) + 0.1 * random.random()  # noqa: NPY002
        z, target = self.student(x), self.teacher(x)
        yield Update({"critic": self.critic(z.detach()).mean() - self.critic(target).mean() * 0.5}, "critic")
        if (yield Update({"kd": F.mse_loss(z / self.tau, target), "fool": -0.1 * self.critic(z).mean()})):
            self.ema.update(self.student)
            self.bank.lerp_(z.detach().mean(0), 0.5)
            self.counter.seen[clock.step] = float(self.bank[0])


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of checkpoints are written here; to wait for the disk each time proves nothing more."""
    monkeypatch.setattr(files, "_sync", lambda _: None)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3))


def rich() -> Rich:
    method = Rich(net(), net(1))
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    return method


def rows() -> Tensor:
    return torch.randn(20, 4, generator=torch.Generator().manual_seed(3))


class Epochs:
    """Plain data without ``state_dict`` that count their own epochs where one ends."""

    def __init__(self) -> None:
        self.epoch = 0

    def __iter__(self) -> Iterator[tuple[Tensor]]:
        for part in rows().split(6):
            yield (part + self.epoch,)
        self.epoch += 1


class Augmented(Dataset[Any]):
    """Draws from the global generator whenever a row is read."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor]:
        return (rows()[index] + 0.1 * torch.randn(4),)


class Rows(Stream[tuple[Tensor]]):
    """Like the library's own batches: every ``iter`` is the next epoch, also after a resume at the end of one."""

    def make(self, index: Tensor) -> tuple[Tensor]:
        return (rows()[index],)


DATA: dict[str, Callable[[], Iterable[Any]]] = {
    "list": lambda: [(part,) for part in rows().split(6)],
    "own epochs": Epochs,
    "one-shot": lambda: ((rows()[k : k + 3],) for k in range(3 * STEPS)),
    "stream": lambda: Rows(20, 6, seed=1, shuffle=True, drop_last=False),
    "loader": lambda: DataLoader(TensorDataset(rows()), batch_size=6, shuffle=True),
    "loader that augments": lambda: DataLoader(Augmented(), batch_size=6, shuffle=True),
    "loader with a generator": lambda: DataLoader(
        TensorDataset(rows()), batch_size=6, shuffle=True, generator=torch.Generator().manual_seed(2)
    ),
    "stateful": lambda: StatefulDataLoader(TensorDataset(rows()), batch_size=6, shuffle=True),
    "stateful with a generator": lambda: StatefulDataLoader(
        TensorDataset(rows()), batch_size=6, shuffle=True, generator=torch.Generator().manual_seed(2)
    ),
    "stateful that augments": lambda: StatefulDataLoader(Augmented(), batch_size=6, shuffle=True),
}


def run(kept: Checkpoint | None, data: Callable[[], Iterable[Any]], stop: int = STEPS) -> tuple[Rich, dict[str, Any]]:
    """Everything that a run is, in new objects; abandoned in the step after ``stop`` steps."""
    method, optimizers = rich(), dict[str, torch.optim.Optimizer]()

    def make(name: str, parameters: Any) -> torch.optim.Optimizer:
        optimizers[name] = ADAM(parameters)
        return optimizers[name]

    makers = {name: partial(make, name) for name in ("student", "critic")}
    for record in iterate(method, data(), makers, steps=STEPS, lr=Cosine(), accumulate=2, checkpoint=kept):
        if record.step == stop:
            break
    return method, {name: o.state_dict()["state"] for name, o in optimizers.items()} | {"next": torch.rand(3)}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


@pytest.mark.parametrize("stop", [0, 3, 4, 7, 8])  # an epoch is 4 batches, 2 steps: in its middle and at its end
@pytest.mark.parametrize("kind", DATA)
def test_resume_is_exact(kind: str, stop: int, tmp_path: Path) -> None:
    straight, after = run(Checkpoint(tmp_path / "a", every=1), DATA[kind])
    run(Checkpoint(tmp_path / "b", every=1), DATA[kind], stop)
    resumed, after_resume = run(Checkpoint(tmp_path / "b", every=1), DATA[kind])
    assert same(dict(resumed.state_dict()), dict(straight.state_dict()))
    assert list(resumed.counter.seen) == list(range(STEPS))
    assert straight.bank.abs().sum() > 0
    assert same(after_resume, after)
    assert snapshot(tmp_path / "b") == snapshot(tmp_path / "a"), "what is on disk is the same, byte for byte"


def test_writing_checkpoints_changes_nothing(tmp_path: Path) -> None:
    without, _ = run(None, DATA["loader"])
    written, _ = run(Checkpoint(tmp_path, every=2), DATA["loader"])
    assert same(dict(written.state_dict()), dict(without.state_dict()))


def test_a_finished_fit_is_loaded(tmp_path: Path) -> None:
    straight, _ = run(Checkpoint(tmp_path), DATA["list"])
    again = rich()
    assert fit(again, DATA["list"](), ADAM, steps=STEPS, checkpoint=Checkpoint(tmp_path)) is None
    assert same(dict(again.state_dict()), dict(straight.state_dict()))


class Plain(Method):
    student: nn.Module

    def loss(self, batch: Any, clock: Clock) -> Tensor:
        return self.student(batch[0]).square().mean()


class Other(Method):
    student: nn.Module

    def loss(self, batch: Any, clock: Clock) -> Tensor:
        return self.student(batch[0]).abs().mean()


def test_checkpoints_of_others_are_refused(tmp_path: Path) -> None:
    data = DATA["list"]()
    fit(Plain(net()), data, ADAM, steps=3, checkpoint=Checkpoint(tmp_path))
    before = snapshot(tmp_path)
    wider = nn.Sequential(nn.Linear(4, 7), nn.BatchNorm1d(7), nn.Dropout(0.3), nn.Linear(7, 3))
    sgd = partial(torch.optim.SGD, lr=0.1)
    for method, make, steps, said in (
        (Other(net()), ADAM, 3, r"checkpoint: 'of Plain' is not this method's, Other; use another folder"),
        (Plain(wider), ADAM, 3, r"checkpoint: 'student.0.bias'"),
        (Plain(nn.Sequential(*net(), nn.Linear(3, 3))), ADAM, 3, r"checkpoint: 'student.4.bias'"),
        (Plain(net()), ADAM, 2, r"steps: '2' is less than the 3"),
        (Plain(net()), lambda p: sgd([{"params": [q]} for q in p]), 4, r"checkpoint: 'optimiser of student'"),
    ):
        with pytest.raises(InputError, match=said):
            fit(method, data, make, steps=steps, checkpoint=Checkpoint(tmp_path))
    assert snapshot(tmp_path) == before


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_when_and_how_many(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "a", every=3, seconds=0, keep=3)
    assert [step for step in range(1, 12) if kept.due(step, 11)] == [3, 6, 9, 11]
    run(kept, DATA["list"])
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [f"step-{n:08d}" for n in (3, 6, 9)]
    never = Checkpoint(tmp_path / "b", seconds=0)
    assert [step for step in range(1, 12) if never.due(step, 11)] == [11]
    timed = Checkpoint(tmp_path / "c", seconds=0.05)
    assert not timed.due(1, 11)
    time.sleep(0.06)
    assert timed.due(1, 11)
    assert not timed.due(1, 11, agree=lambda _: True) and timed.due(16, 40, agree=lambda answer: answer)
    assert not timed.due(16, 40, agree=lambda _: False)


def saved(folder: Path, *steps: int) -> Checkpoint:
    kept = Checkpoint(folder)
    for step in steps:
        kept.save(step, {"step": step, "tensor": torch.full((50,), float(step))})
    return kept


@pytest.mark.parametrize(
    "harm",
    [
        lambda p: (p / "tensors.safetensors").write_bytes((p / "tensors.safetensors").read_bytes()[:-1] + b"\x7f"),
        lambda p: (p / "state.json").write_text((p / "state.json").read_text().replace("2", "3")),
        lambda p: (p / "tensors.safetensors").write_bytes(b""),
        lambda p: (p / "state.json").unlink(),
        lambda p: (p / "sha256").unlink(),
        lambda p: (p / "sha256").write_bytes(b"\xff\xfe"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(harm: Callable[[Path], Any], tmp_path: Path) -> None:
    kept = saved(tmp_path, 1, 2)
    harm(tmp_path / "step-00000002")
    with pytest.warns(UserWarning, match="step-00000002 is damaged .* using the one before it"):
        found = kept.load()
    assert found is not None and found[0] == found[1]["step"] == 1 and found[1]["tensor"][0] == 1
    kept.save(2, {"step": 2})
    assert kept.load() == (2, {"step": 2})  # the damaged one is replaced


def test_when_all_are_damaged_the_run_begins_anew(tmp_path: Path) -> None:
    kept = saved(tmp_path, 5)
    (tmp_path / "step-00000005" / "sha256").write_text("")
    with pytest.warns(UserWarning, match="damaged"):
        assert kept.load() is None
    saved(tmp_path, 1, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "never").load() is None and not (tmp_path / "never").exists()


class Killed(BaseException):
    """Stands for the end of a process: nothing that runs after it counts."""


@pytest.mark.parametrize("moment", ["_sync", "rename"])
def test_a_crash_before_the_rename_leaves_the_one_before(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 1)

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(files.shutil, "rmtree", lambda *_, **__: None)  # a killed process tidies nothing
        patched.setattr(*((files, "_sync", die) if moment == "_sync" else (Path, "rename", die)))
        with pytest.raises(Killed):
            saved(tmp_path, 2)
    assert any(p.name.startswith(".step-00000002.part-") for p in tmp_path.iterdir())
    kept = Checkpoint(tmp_path)
    found = kept.load()
    assert found is not None and found[0] == 1
    saved(tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["save_file", "_digest", "_sync"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 1)
    before = snapshot(tmp_path)
    monkeypatch.setattr(files, where, full)
    with pytest.raises(InputError, match=r"output: .*step-00000002' cannot be written .*No space left on device"):
        saved(tmp_path, 2)
    assert snapshot(tmp_path) == before and not list(tmp_path.glob(".*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_of_the_real_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What safetensors itself raises when the kernel says ENOSPC."""
    real = files.save_file
    monkeypatch.setattr(files, "save_file", lambda tensors, _: real(tensors, "/dev/full"))
    with pytest.raises(InputError, match="cannot be written"):
        saved(tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        saved(tmp_path / "file" / "below", 1)


def test_other_errors_are_not_disguised_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic_folder(tmp_path / "a") as part:
        (part / "x").write_text("half")
        raise KeyError("mine")
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match="state/odd: a set cannot be kept"):
        Checkpoint(tmp_path / "b").save(1, {"state": {"odd": {1, 2}}})
    assert not list(tmp_path.iterdir())


def test_write_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file"
    write_atomic(path, "one")
    write_atomic(path, b"two")
    assert path.read_text() == "two" and [p.name for p in path.parent.iterdir()] == ["file"]
    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(InputError, match="No space left"):
        write_atomic(path, "three")
    assert path.read_text() == "two" and [p.name for p in path.parent.iterdir()] == ["file"]


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=5),
    st.lists(st.floats(-1, 1, width=32), max_size=4).map(torch.tensor),
)  # fmt: skip
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(-5, 5)), inner, max_size=3),
    ),
    max_leaves=8,
)


def exactly(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(exactly(x, y) for x, y in zip(a.values(), b.values(), strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(exactly(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@given(st.dictionaries(st.text(max_size=3), trees, max_size=3))
def test_any_tree_comes_back(tree: dict[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    plain = json.loads(json.dumps(files._flatten(tree, "", tensors)))
    assert exactly(files._restore(plain, tensors), tree)


def test_what_trees_hold(tmp_path: Path) -> None:
    shared = torch.arange(6.0).view(2, 3)
    tree = {
        "tied": (shared, shared, shared.t()),
        "a/b": torch.ones(1), "a": {"b": torch.zeros(1)}, 1: torch.ones(2), "1": torch.zeros(2),
        "kinds": [torch.tensor(1.5, dtype=torch.bfloat16), torch.tensor([True]), torch.empty(0), torch.tensor(3)],
        "array": np.array([1, 2**32 - 1], dtype=np.uint32), "scalar": np.float64(0.1), "inf": float("inf"),
    }  # fmt: skip
    kept = Checkpoint(tmp_path)
    kept.save(1, tree)  # type: ignore[arg-type]
    found = kept.load()
    assert found is not None
    back: dict[Any, Any] = found[1]
    assert back["array"].dtype == np.uint32 and back["array"].tolist() == [1, 2**32 - 1]
    tree["array"] = back["array"] = None
    assert back["scalar"] == 0.1 and list(back) == list(tree)
    tree["scalar"] = back["scalar"] = None
    assert exactly(back, tree)


def test_generators_come_back() -> None:
    def drawn() -> list[float]:
        old = np.random
        return [float(torch.rand(())), float(old.rand()), float(old.standard_normal()), random.gauss(0, 1)]

    drawn()
    tensors: dict[str, Tensor] = {}
    plain = json.dumps(files._flatten(rng_state(), "", tensors))
    expected = [drawn(), drawn()]
    restore_rng(files._restore(json.loads(plain), tensors))
    assert [drawn(), drawn()] == expected


def test_nothing_is_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle")

    for module, name in (
        (pickle, "dump"), (pickle, "dumps"), (pickle, "load"), (pickle, "loads"), (pickle, "Pickler"),
        (pickle, "Unpickler"), (torch, "save"), (torch, "load"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, refuse)
    run(Checkpoint(tmp_path, every=2), DATA["list"], 4)
    run(Checkpoint(tmp_path, every=2), DATA["list"])
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert path.name in ("tensors.safetensors", "state.json", "sha256")
            assert not path.read_bytes().startswith((b"\x80", b"PK"))


def test_spoilt_weights_are_never_written(tmp_path: Path) -> None:
    """The loss is finite, its gradient is not, and the last step has no later loss that would tell."""

    class Root(Method):
        student: nn.Module

        def loss(self, batch: Any, clock: Clock) -> Tensor:
            z = self.student(batch[0])
            return (z * 0).square().sum().sqrt() if clock.step == 1 else z.square().mean()

    with pytest.raises(NonFinite, match=r"step 1: parameter 'student\.0\.weight' is not finite"):
        fit(Root(net()), DATA["list"](), ADAM, steps=2, checkpoint=Checkpoint(tmp_path, every=1))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


KILLED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)  # as the tests: sums depend on it
from tests.core.test_checkpoint import ADAM, DATA, Checkpoint, iterate, rich
kept = Checkpoint(Path(sys.argv[1]), every=1)
for record in iterate(rich(), DATA["stateful"](), ADAM, steps=int(sys.argv[2]), checkpoint=kept):
    print(record.step, flush=True)
"""


def test_killed_and_resumed(tmp_path: Path) -> None:
    """A real ``kill -9`` while every step is being written."""
    steps, root = 60, Path(__file__).parents[2]
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(steps)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=root)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 4:
            break
    time.sleep(0.2 * random.Random(os.getpid()).random())
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = Checkpoint(tmp_path / "killed").load()
    assert found is not None and 4 <= found[0] < steps
    ends: list[Method] = []
    for folder in ("killed", "straight"):
        method = rich()
        fit(method, DATA["stateful"](), ADAM, steps=steps, checkpoint=Checkpoint(tmp_path / folder))
        ends.append(method)
    assert same(dict(ends[0].state_dict()), dict(ends[1].state_dict()))
