"""Two processes equal one: replicas and FSDP2 over gloo. All scenarios of a kind run in one pair of processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from dataclasses import KW_ONLY
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from limbeck.core import fit as driver
from limbeck.core.checkpoint import Checkpoint
from limbeck.core.distributed import distribute
from limbeck.core.fit import NonFinite, fit, iterate
from limbeck.core.method import Clock, Method, Update
from limbeck.core.modules import Ema, freeze
from limbeck.errors import InputError

ROWS, STEPS, LIMIT = 8, 3, 100.0
ADAM = partial(torch.optim.AdamW, lr=1e-2)


def mlp(*sizes: int, seed: int = 0) -> nn.Sequential:
    """Not the same on every process: to make them equal is the library's work."""
    torch.manual_seed(seed + 100 * int(os.environ.get("RANK", "0")))
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def pairs(rows: int = ROWS) -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(7)
    return [(torch.randn(rows, 4, generator=drawn), torch.randn(rows, 4, generator=drawn)) for _ in range(STEPS)]


def loader(kind: type[DataLoader[Any]] = DataLoader, rows: int = 2 * ROWS, shuffle: bool = True) -> DataLoader[Any]:
    x, drawn = torch.cat([x for x, _ in pairs()])[:rows], torch.Generator().manual_seed(5)
    return kind(TensorDataset(x), batch_size=ROWS, shuffle=shuffle, generator=drawn)


def full(tensor: Tensor) -> Tensor:
    return getattr(tensor, "full_tensor", lambda: tensor)().detach().clone()


def weights(method: nn.Module) -> dict[str, Tensor]:
    return {name: full(tensor) for name, tensor in method.state_dict().items() if isinstance(tensor, Tensor)}


class Adversarial(Method):
    """A generator whose loss flows through the critic, and its moving average."""

    student: nn.Module
    critic: nn.Module

    def __post_init__(self) -> None:
        self.ema = Ema(self.student, 0.5)

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "critic": list(self.critic.parameters())}

    def updates(self, batch: Any, clock: Clock) -> Generator[Update, bool, None]:
        noise, real = batch
        fake = self.student(noise).detach()
        terms = {"real": F.softplus(-self.critic(real)).mean(), "fake": F.softplus(self.critic(fake)).mean()}
        yield Update(terms, "critic")
        if (yield Update({"adversarial": F.softplus(-self.critic(self.student(noise))).mean()})):
            self.ema.update(self.student)


class Distil(Method):
    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    dropout: float = 0.0

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Any, clock: Clock) -> dict[str, Tensor]:
        x = F.dropout(batch["x"] if isinstance(batch, dict) else batch[0], self.dropout)
        with torch.no_grad():
            target = (self.teacher(x) / 2).softmax(1)
        z = self.student(x)
        return {"kd": -4 * (target * (z / 2).log_softmax(1)).sum(1).mean(), "ce": F.cross_entropy(z, target.argmax(1))}


class Parts(Method):
    """A bare parameter, a layer that is also called alone, a layer that is never called."""

    student: nn.Module
    unused: nn.Module

    def __post_init__(self) -> None:
        self.scale = nn.Parameter(torch.full((), 1.0 + int(os.environ.get("RANK", "0"))))

    def loss(self, batch: Any, clock: Clock) -> dict[str, Tensor]:
        part = self.scale * self.student[0](batch[0])
        return {"part": part.square().mean(), "whole": self.student(batch[0]).square().mean()}


class Normal(Method):
    student: nn.Module

    def loss(self, batch: Any, clock: Clock) -> Tensor:
        return (self.student(batch[0]) - 1).square().mean()


class Sparse(Method):
    """The second half of the rows uses a layer that the first half does not."""

    student: nn.Module
    sometimes: nn.Module

    def loss(self, batch: Any, clock: Clock) -> Tensor:
        z = self.student(batch[0])
        return (z.sum(1) + (self.sometimes(z).sum(1) * batch[1] if batch[1].any() else 0)).square().mean()


class Noise(Method):
    student: nn.Module

    def updates(self, batch: Any, clock: Clock) -> Generator[Update, bool, None]:
        self.drawn = torch.randn(3)
        yield Update({"loss": self.student(batch[0]).square().mean()})


class TermSum(torch.optim.SGD):
    """Takes the gradient of each term and counts the one called ``kd`` twice."""

    @torch.no_grad()
    def collect(self, term: str) -> None:
        for p in self.param_groups[0]["params"]:
            held = self.state[p].setdefault("held", torch.zeros_like(p))
            held += (2 if term == "kd" else 1) * p.grad
            p.grad = None

    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            p.grad = self.state[p].pop("held")
        super().step()


def adversarial(accelerator: Accelerator | None, folder: Path, **settings: Any) -> dict[str, Tensor]:
    method = Adversarial(mlp(4, 5, 4), mlp(4, 6, 1, seed=1))
    record = fit(method, pairs(), ADAM, steps=STEPS, accelerator=accelerator, **settings)
    assert record is not None
    return weights(method) | {f"log.{name}": scalar for name, scalar in record.logs.items()}


def accumulated(accelerator: Accelerator | None, folder: Path) -> dict[str, Tensor]:
    return adversarial(accelerator, folder, accumulate=2, clip=0.05)


def distilled(
    accelerator: Accelerator | None, folder: Path, data: Callable[[], Any] = pairs, make: Any = ADAM
) -> dict[str, Tensor]:
    method = Distil(mlp(4, 5, 3), mlp(4, 8, 3, seed=1))
    fit(method, data(), make, steps=2 * STEPS, accelerator=accelerator)
    return weights(method)


def mappings() -> list[dict[str, Any]]:
    return [{"x": x, "scale": torch.tensor(2.0), "texts": [str(i) for i in range(ROWS)]} for x, _ in pairs()]


def parts(accelerator: Accelerator | None, folder: Path) -> dict[str, Tensor]:
    method = Parts(mlp(4, 5, 3), mlp(4, 2, seed=1))
    fit(method, pairs(), ADAM, steps=STEPS, accelerator=accelerator)
    return weights(method)


def sparse(accelerator: Accelerator | None, folder: Path) -> dict[str, Tensor]:
    rows = [(x, (torch.arange(ROWS) >= ROWS // 2).float()) for x, _ in pairs()]
    method = Sparse(mlp(4, 5, 3), mlp(3, 2, seed=1))
    fit(method, rows, ADAM, steps=STEPS, accelerator=accelerator)
    return weights(method)


def normal(accelerator: Accelerator | None, folder: Path) -> dict[str, Tensor]:
    method = Normal(nn.Sequential(mlp(4, 5), nn.BatchNorm1d(5)))
    fit(method, pairs(), ADAM, steps=STEPS, accelerator=accelerator)
    return weights(method)


def noise(accelerator: Accelerator | None, folder: Path) -> dict[str, Tensor]:
    method = Noise(mlp(4, 3))
    fit(method, pairs(), ADAM, steps=STEPS, accelerator=accelerator)
    return {"during": method.drawn, "after": torch.randn(3)}


def unseeded(accelerator: Accelerator | None, folder: Path) -> dict[str, Tensor]:
    """The rows that a process reads of shuffled loaders without a generator, where the global ones differ."""
    found: dict[str, Tensor] = {}
    for kind in (DataLoader, StatefulDataLoader):
        torch.manual_seed(int(os.environ.get("RANK", "0")))
        data = kind(TensorDataset(torch.arange(4 * ROWS)), batch_size=ROWS, shuffle=True)
        own = distribute(Normal(mlp(4, 5)), data, accelerator) if accelerator is not None else data
        assert own is not None
        found[kind.__name__] = torch.cat([batch[0] for batch in own])
    return found


def resumed(accelerator: Accelerator | None, folder: Path) -> dict[str, Tensor]:
    """Stopped in the second epoch by whoever consumes it, and gone on with in other objects."""
    found: dict[str, Tensor] = {}
    for name, stops in (("straight", [8]), ("resumed", [5, 8])):
        for stop in stops:
            method = Distil(mlp(4, 5, 3), mlp(4, 8, 3, seed=1), dropout=0.3)
            torch.manual_seed(11)
            kept = Checkpoint(folder / name, every=5, seconds=1e-9)
            data = loader(StatefulDataLoader, rows=2 * ROWS + 1)  # three batches; the last has no row for the second
            for record in iterate(method, data, ADAM, steps=8, accelerator=accelerator, checkpoint=kept):
                if record.step == stop:  # after the checkpoint of that many steps
                    break
        found |= {f"{name}.{key}": value for key, value in weights(method).items()}
    return found


def spoilt(accelerator: Accelerator | None, folder: Path) -> dict[str, Tensor]:
    """A bad row of one process stops all of them, with the same words."""
    (first, rest), *others = pairs()
    first[-1, 0] = float("nan")
    with pytest.raises(NonFinite, match="step 0, player critic: 'fake' is not finite"):
        fit(Adversarial(mlp(4, 5, 4), mlp(4, 6, 1)), [(first, rest), *others], ADAM, steps=1, accelerator=accelerator)
    return {}


def inputs_only(accelerator: Accelerator | None, folder: Path) -> dict[str, Tensor]:
    """The driver with ``backward(inputs=...)`` in place of setting gradients aside."""
    plain = Tensor.backward

    def shortcut(player: Any, update: Update, parts: int, last: bool, team: Any) -> dict[str, Tensor]:
        plain(update.loss, inputs=player.own)
        if team is not None:
            team.average(player.own)
        return {"loss": update.loss.detach()}

    with patch.object(driver._Player, "backward", shortcut), patch.object(Ema, "update"):
        method = Adversarial(mlp(4, 5, 4), mlp(4, 6, 1, seed=1))
        fit(method, pairs(), ADAM, steps=STEPS, accelerator=accelerator)
        return {name: value for name, value in weights(method).items() if not name.startswith("ema.")}


def bare(accelerator: Accelerator | None, folder: Path) -> dict[str, Tensor]:
    if accelerator is not None:
        with pytest.raises(InputError, match=r"Parts.scale.*FSDP2 cannot shard"):
            distribute(Parts(mlp(4, 5, 3), mlp(4, 2)), pairs(), accelerator)
    return {}


def stale(accelerator: Accelerator | None, folder: Path) -> dict[str, Tensor]:
    """An optimiser that was built before the weights were sharded would move nothing."""
    method = Distil(mlp(4, 5, 3), mlp(4, 8, 3))
    built = ADAM(method.student.parameters())
    if accelerator is not None:
        with pytest.raises(ValueError, match="sharded"):
            fit(method, pairs(), built, steps=1, accelerator=accelerator)
    return {}


def ddp(accelerator: Accelerator | None, folder: Path) -> dict[str, Tensor]:
    """Gradients under DistributedDataParallel: of two terms one after the other, and of a layer called alone."""
    net, (x, _), found = mlp(4, 5, 2), pairs()[0], dict[str, Tensor]()
    if accelerator is not None:
        for p in net.parameters():
            dist.broadcast(p.detach(), 0)
        x = x.chunk(2)[accelerator.process_index]
    model = net if accelerator is None else DistributedDataParallel(net, find_unused_parameters=True)
    z = model(x)
    z[:, 0].square().mean().backward(retain_graph=True)
    z[:, 1].square().mean().backward()
    found["terms"] = net[0].weight.grad.clone()
    model.zero_grad()
    net[0](x).square().mean().backward()
    found["layer"] = net[0].weight.grad.clone()
    return found


BOTH: dict[str, Callable[[Accelerator | None, Path], dict[str, Tensor]]] = {
    "adversarial": adversarial,
    "accumulated": accumulated,
    "distilled": distilled,
    "terms": partial(distilled, make=partial(TermSum, lr=0.1)),
    "resumed": resumed,
    "inputs_only": inputs_only,
    "spoilt": spoilt,
}
REPLICAS = BOTH | {
    "loader": partial(distilled, data=loader),
    "stateful": partial(distilled, data=partial(loader, StatefulDataLoader)),
    "ragged": partial(distilled, data=partial(pairs, ROWS + 1)),
    "ragged_loader": partial(distilled, data=partial(loader, rows=2 * ROWS + 1, shuffle=False)),
    "unseeded": unseeded,
    "mappings": partial(distilled, data=mappings),
    "parts": parts, "sparse": sparse, "normal": normal, "noise": noise, "ddp": ddp,
}  # fmt: skip
SHARDED = BOTH | {"bare": bare, "stale": stale}
Both = tuple[Path, list[dict[str, Tensor]]]


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    accelerator, found = Accelerator(cpu=True), dict[str, Tensor]()
    for name, scenario in REPLICAS.items():
        for key, tensor in scenario(accelerator, folder / name).items():
            found[f"replicas/{name}/{key}"] = tensor.contiguous()
    # Accelerate offers FSDP2 on accelerators only; torch shards over gloo just as well
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
    for name, scenario in SHARDED.items():
        for key, tensor in scenario(accelerator, folder / "sharded" / name).items():
            found[f"sharded/{name}/{key}"] = tensor.contiguous()
    save_file(found, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("both")
    running = torch.multiprocessing.start_processes(work, (folder,), nprocs=2, join=False, start_method="spawn")
    end = time.monotonic() + LIMIT
    try:
        while not running.join(timeout=1.0):
            assert time.monotonic() < end, "the two processes wait for each other"
    finally:
        for process in running.processes:
            process.kill()
    return folder, [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


@pytest.fixture(scope="module")
def replicas(both: Both) -> list[dict[str, Tensor]]:
    return [_below(found, "replicas/") for found in both[1]]


@pytest.fixture(scope="module")
def sharded(both: Both) -> list[dict[str, Tensor]]:
    return [_below(found, "sharded/") for found in both[1]]


def _below(found: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


def difference(found: dict[str, Tensor], name: str, single: dict[str, Tensor]) -> float:
    return max(float((found[f"{name}/{key}"] - value).abs().max()) for key, value in single.items())


EXACT = ["adversarial", "accumulated", "distilled", "terms"]


@pytest.mark.parametrize("name", [*EXACT, "loader", "stateful", "mappings", "parts", "sparse"])
def test_replicas_equal_one_process(name: str, replicas: list[dict[str, Tensor]], tmp_path: Path) -> None:
    single = REPLICAS[name](None, tmp_path)
    for found in replicas:
        assert difference(found, name, single) < 2e-6


@pytest.mark.parametrize("name", EXACT)
def test_shards_equal_one_process(name: str, sharded: list[dict[str, Tensor]], tmp_path: Path) -> None:
    single = SHARDED[name](None, tmp_path)
    for found in sharded:
        assert difference(found, name, single) < 2e-6


def test_players_moved(tmp_path: Path) -> None:
    """The comparisons above are of runs in which every player went somewhere."""
    before, after = weights(Adversarial(mlp(4, 5, 4), mlp(4, 6, 1, seed=1))), adversarial(None, tmp_path)
    for part in ("student.", "critic.", "ema."):
        assert max(float((after[k] - v).abs().max()) for k, v in before.items() if k.startswith(part)) > 1e-3


def test_shortcut_is_silently_wrong_when_sharded(
    replicas: list[dict[str, Tensor]], sharded: list[dict[str, Tensor]], tmp_path: Path
) -> None:
    """Why the driver sets gradients aside: ``backward(inputs=...)`` agrees on replicas and not under FSDP2."""
    single = inputs_only(None, tmp_path)
    expected = {key: value for key, value in adversarial(None, tmp_path).items() if key in single}
    assert max(float((single[key] - value).abs().max()) for key, value in expected.items()) < 1e-6
    assert difference(replicas[0], "inputs_only", expected) < 2e-6
    assert difference(sharded[0], "inputs_only", expected) > 1e-3


def test_ddp_wrapper_is_silently_wrong(replicas: list[dict[str, Tensor]], tmp_path: Path) -> None:
    """Why replicas are not wrapped: the wrapper leaves these gradients as each process found them."""
    single = ddp(None, tmp_path)
    for key, value in single.items():
        assert float((replicas[0][f"ddp/{key}"] - value).abs().max()) > 1e-3
        assert not torch.equal(replicas[0][f"ddp/{key}"], replicas[1][f"ddp/{key}"])


@pytest.mark.parametrize("kind", ["replicas", "sharded"])
def test_resume_is_exact(kind: str, request: pytest.FixtureRequest) -> None:
    """With dropout, of which each process draws its own, and data that shuffle."""
    for found in request.getfixturevalue(kind):
        names = [name for name in found if name.startswith("resumed/straight.student")]
        assert len(names) == 4
        for name in names:
            assert torch.equal(found[name], found[name.replace("straight", "resumed")])


def test_a_checkpoint_of_two_processes_is_refused_by_one(both: Both) -> None:
    folder = both[0] / "resumed" / "straight"
    with pytest.raises(InputError, match=r"processes.*2 began"):
        fit(Distil(mlp(4, 5, 3), mlp(4, 8, 3)), pairs(), ADAM, steps=8, checkpoint=Checkpoint(folder))


def test_a_ragged_batch_loses_its_odd_rows(replicas: list[dict[str, Tensor]], tmp_path: Path) -> None:
    single = distilled(None, tmp_path, data=lambda: [(x[:ROWS], y[:ROWS]) for x, y in pairs(ROWS + 1)])
    assert difference(replicas[0], "ragged", single) < 2e-6
    single = distilled(None, tmp_path, data=partial(loader, shuffle=False))
    assert difference(replicas[0], "ragged_loader", single) < 2e-6


@pytest.mark.parametrize("kind", ["DataLoader", "StatefulDataLoader"])
def test_an_unseeded_shuffle_is_one_order(kind: str, replicas: list[dict[str, Tensor]]) -> None:
    first, second = (found[f"unseeded/{kind}"].tolist() for found in replicas)
    assert len(first) == len(second) == 2 * ROWS
    assert sorted(first + second) == list(range(4 * ROWS)) and first != sorted(first)


def test_statistics_are_shared(replicas: list[dict[str, Tensor]], tmp_path: Path) -> None:
    """The running mean is the one of all rows; both processes hold the same."""
    found, single = replicas[0], normal(None, tmp_path)
    names = [f"normal/{name}" for name in single if "running" in name]
    assert len(names) == 2 and all(torch.equal(found[name], replicas[1][name]) for name in names)
    one_step = Normal(nn.Sequential(mlp(4, 5), nn.BatchNorm1d(5)))
    assert not torch.equal(found["normal/student.1.running_mean"], one_step.student[1].running_mean)


def test_processes_draw_apart_during_a_fit_and_together_after_it(replicas: list[dict[str, Tensor]]) -> None:
    first, second = replicas
    assert not torch.equal(first["noise/during"], second["noise/during"])
    assert torch.equal(first["noise/after"], second["noise/after"])
