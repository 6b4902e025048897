"""Language losses and controllers in two processes: uneven rows, tied and sharded heads, state that must be equal."""

from __future__ import annotations

import copy
import itertools
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from limbeck.core.card import cards, method_class
from limbeck.core.checkpoint import Checkpoint
from limbeck.core.fit import fit, iterate
from limbeck.core.method import Clock, Method, Setting, hyperparameters
from limbeck.core.modules import each_of, freeze, in_step
from limbeck.data.text import Span, TextSet
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import TokenBatches, Tokens
from limbeck.losses.divergence import kl
from limbeck.losses.vocabulary import ForwardKL, token_loss
from limbeck.methods.language.ddk import DDK
from limbeck.methods.language.distiller_mi_alpha import DistillerMIAlpha
from limbeck.methods.language.gkd import GKD
from limbeck.methods.language.paced import PACED
from limbeck.methods.language.sft import SFT
from limbeck.methods.language.taid import TAID
from limbeck.methods.language.tvdpp import TVDPlusPlus
from limbeck.models.causal_lm import CausalLM
from limbeck.models.tiny_lm import byte_tokenizer, llama
from tests.worlds import language_world

ROWS, STEPS, LIMIT = 8, 4, 240.0
SGD = partial(torch.optim.SGD, lr=0.05)  # not Adam, whose steps hide a factor
Found = dict[str, Tensor]


def lm(seed: int, width: int = 16, tied: bool = True) -> CausalLM:
    """Not the same in every process: to make them equal is the library's work."""
    torch.manual_seed(seed + 100 * int(os.environ.get("RANK", "0")))
    return llama(width, 2, byte_tokenizer(), heads=2, context=64, tied=tied)


def rows() -> TokenBatches:
    """Batches whose first half of rows has completions of two words, the second half of up to 20; two domains."""
    documents, domains = list[Any](), list[str]()
    for k in range(5 * ROWS):
        said = "abcdefghij"[k % 10] * (1 if k % ROWS < ROWS // 2 else 3 + k % 17)
        documents.append((Span(f"{k:02d}=", False), Span(said)))
        domains.append("short" if k % 3 else "long")
    text = TextSet(tuple(documents), domains=tuple(domains))
    return TokenBatches(tokenise(text, byte_tokenizer(), 32), ROWS, shuffle=False)


def full(tensor: Tensor) -> Tensor:
    return getattr(tensor, "full_tensor", lambda: tensor)().detach().clone()


def state(method: nn.Module) -> Found:
    """Everything that a checkpoint would hold, frozen networks apart."""
    return {name: full(x) for name, x in method.state_dict().items() if "teacher." not in name and torch.is_tensor(x)}


def teacher() -> CausalLM:
    """Sure of what it says: the student has something to learn."""
    found = lm(7, 24)
    found.net.model.norm.weight.data *= 20
    return freeze(found)


class Plain(Method):
    """The vocabulary loss from all logits at once: the reference."""

    student: nn.Module
    teacher: nn.Module

    def loss(self, batch: Tokens, clock: Clock) -> Tensor:
        with torch.no_grad():
            p = self.teacher(batch).log_probs()
        return (batch.weight * kl(p, self.student(batch).log_probs())).sum()


def trained(make: Callable[[], Method], accelerator: Accelerator | None, folder: Path, **settings: Any) -> Found:
    method = make()
    record = fit(method, rows(), SGD, steps=STEPS, accelerator=accelerator, **settings)
    assert record is not None
    return state(method) | {f"log.{name}": scalar for name, scalar in record.logs.items()}


def chunked(accelerator: Accelerator | None, folder: Path, tied: bool = True, **settings: Any) -> Found:
    return trained(lambda: GKD(lm(0, tied=tied), teacher(), beta=0.0, lmbda=0.0), accelerator, folder, **settings)


def labelled(accelerator: Accelerator | None, folder: Path) -> Found:
    """Labels and words of the teacher in one sweep, weighed unequally."""
    return trained(lambda: DDK(lm(0), teacher(), gamma=0.3), accelerator, folder)


def control(accelerator: Accelerator | None, folder: Path, tied: bool = True) -> Found:
    """The head is multiplied with once more in the backward."""
    return trained(lambda: SFT(lm(0, tied=tied)), accelerator, folder)


def helped(accelerator: Accelerator | None, folder: Path) -> Found:
    """Linear maps beside the student, which have none of the blocks that shards are made of."""
    student = lm(0)
    found = trained(lambda: DistillerMIAlpha(student, teacher(), intermediate="mse", features=999), accelerator, folder)
    if accelerator is not None and accelerator.distributed_type is DistributedType.FSDP:
        assert all(isinstance(block, FSDPModule) for block in student.net.model.layers)
    return found


def saving(plain: bool, accelerator: Accelerator | None, folder: Path) -> Found:
    """Checkpointed blocks under bfloat16 autocast, the head tied to the embedding."""

    def make() -> Method:
        student = lm(0)
        if not plain:
            student.net.gradient_checkpointing_enable()
        return Plain(student, teacher()) if plain else GKD(student, teacher(), beta=0.0, lmbda=0.0)

    return trained(make, accelerator, folder, precision="bf16")


def taid(accelerator: Accelerator | None, folder: Path) -> Found:
    return resumed(lambda: TAID(lm(0), teacher(), alpha=0.5, beta=0.5), accelerator, folder)


def passes(said: Tokens, batch: Tokens) -> Tensor:
    """A verifier that passes none to all of the four answers to a row, by its number, whatever they say."""
    return (torch.arange(len(batch.index)) % 4 < batch.index % 5).float()


def paced(accelerator: Accelerator | None, folder: Path) -> Found:
    """Pass rates are taken twice; the divergence is on the data."""
    make = lambda: PACED(lm(0), teacher(), passes, examples=5 * ROWS, rollouts=4, longest=2, switch=1.0)  # noqa: E731
    return resumed(make, accelerator, folder)


def resumed(make: Callable[[], Method], accelerator: Accelerator | None, folder: Path) -> Found:
    """Straight, and stopped after half the steps and gone on with in other objects."""
    found: Found = {}
    for name, stops in (("straight", [STEPS]), ("resumed", [STEPS // 2 + 1, STEPS])):
        for stop in stops:
            method, kept = make(), Checkpoint(folder / name, every=1, seconds=1e-9)
            for record in iterate(method, rows(), SGD, steps=STEPS, accelerator=accelerator, checkpoint=kept):
                if record.step == stop:
                    break
        found |= {f"{name}.{key}": value for key, value in state(method).items()}
    return found


def ddk(accelerator: Accelerator | None, folder: Path) -> Found:
    """The whole procedure: rows held out, a mixture that r steers; killed on the way, and run again."""
    found: Found = {}
    for name, kills in (("straight", [99]), ("resumed", [3, 99])):
        for kill in kills:
            made = list[Method]()

            def run(method: Method, *, data: Any, made: Any = made, name: str = name, kill: int = kill) -> None:
                made.append(method)
                kept = Checkpoint(folder / name, every=1, seconds=1e-9)
                for record in iterate(method, data, SGD, steps=STEPS, accelerator=accelerator, checkpoint=kept):
                    if record.step == kill:
                        break

            DDK.distil(Setting(partial(lm, 0), [teacher()], rows(), STEPS, run), {"every": 1, "held_out": 0.2})
        found |= {f"{name}.{key}": value for key, value in state(made[0]).items()}
    return found


def ddp(accelerator: Accelerator | None, folder: Path) -> Found:
    """A training loop of one's own, with torch's wrapper: one backward of one forward, which it is made for."""
    found: Found = {}
    batch = next(iter(rows()))
    for tied in (True, False):
        student, source = lm(3, tied=tied), teacher()
        for tensor in (*student.parameters(), *source.parameters()) if accelerator is not None else ():
            dist.broadcast(tensor.detach(), 0)
        model, own = student, batch
        if accelerator is not None:
            model = DistributedDataParallel(student)
            own = batch.rows(torch.arange(ROWS).chunk(2)[accelerator.process_index])
        with torch.no_grad():
            signal = source(own)
        with in_step(True):
            weight = own.weight
        said = model(own)
        found_loss = token_loss(ForwardKL(), signal, said, 0.3 * weight, labels=own.y, label_weight=weight)
        (found_loss.total + found_loss.ce).backward()
        found |= {f"{tied}.{name}": p.grad.clone() for name, p in student.named_parameters()}
    return found


def every(accelerator: Accelerator | None, folder: Path) -> Found:
    """Each method's whole procedure: the student that it gives, and what its methods count on the way."""
    found: Found = {}
    for card in cards().values():
        if card.family != "language":
            continue
        kind, seeds, made = method_class(card), itertools.count(), list[Method]()
        world = language_world(teachers=1 if card.teacher != "none" else 0, crossed=card.tokenizers == "any")

        def run(method: Method, *, data: Any = None, made: Any = made, world: Any = world, **_: Any) -> None:
            made.append(method)
            given = world.batches(4, 0) if data is None else data
            fit(method, given, partial(torch.optim.SGD, lr=0.1), steps=1, accelerator=accelerator)

        students = lambda world=world, seeds=seeds: world.student(next(seeds))  # noqa: E731
        values = {"longest": 4} if "longest" in hyperparameters(kind) else {}
        student = kind.distil(Setting(students, copy.deepcopy(world.teachers), world.batches(4, 0), 2, run), values)
        found[f"{card.key}.student"] = torch.cat([p.detach().reshape(-1) for p in student.parameters()])
        for k, method in enumerate(made):
            own = {n: b for n, b in method.named_buffers() if "teacher." not in n}
            found |= {f"{card.key}.{k}.{name}": buffer.clone() for name, buffer in own.items()}
    return found


def answered(accelerator: Accelerator | None, folder: Path) -> Found:
    """Answers of the student's own, whose lengths differ, or those of the data, by a coin that all must share."""
    return trained(lambda: GKD(lm(0), teacher(), lmbda=0.5, longest=6), accelerator, folder)


def either(accelerator: Accelerator | None, folder: Path) -> Found:
    """Two kinds of steps with terms of different names, by a coin that all must share."""
    return trained(lambda: TVDPlusPlus(lm(0), teacher(), regular=0.5), accelerator, folder) if accelerator else {}


BOTH: dict[str, Callable[[Accelerator | None, Path], Found]] = {
    "chunked": chunked, "labelled": labelled, "control": control, "taid": taid, "answered": answered,
    "untied": partial(chunked, tied=False), "untied_control": partial(control, tied=False),
    "saving": partial(saving, False), "helped": helped,
}  # fmt: skip
REPLICAS = BOTH | {"ddk": ddk, "paced": paced, "ddp": ddp, "either": either, "every": every}
SHARDED = BOTH | {"paced": paced}


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
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, cpu_ram_efficient_loading=False, auto_wrap_policy="transformer_based_wrap",
    )  # fmt: skip
    for name, scenario in SHARDED.items():
        for key, tensor in scenario(accelerator, folder / "sharded" / name).items():
            found[f"sharded/{name}/{key}"] = tensor.contiguous()
    save_file(found, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    folder = tmp_path_factory.mktemp("both")
    running = torch.multiprocessing.start_processes(work, (folder,), nprocs=2, join=False, start_method="spawn")
    end = time.monotonic() + LIMIT
    try:
        while not running.join(timeout=1.0):
            assert time.monotonic() < end, "the two processes wait for each other"
    finally:
        for process in running.processes:
            process.kill()
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


def below(found: Found, prefix: str) -> Found:
    kept = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    assert kept, prefix
    return kept


def apart(found: Found, wanted: Found) -> float:
    """The largest difference in a tensor, as a share of its largest entry; logs are of fewer digits."""
    assert found.keys() == wanted.keys()
    pairs = [(found[name].double(), wanted[name].double()) for name in wanted if wanted[name].numel()]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=0.01)) for a, b in pairs)


EXACT = ["chunked", "untied", "labelled", "control", "untied_control", "taid", "paced"]


@pytest.mark.parametrize("name", [*EXACT, "ddk", "ddp"])
def test_replicas_equal_one_process(name: str, both: list[Found], tmp_path: Path) -> None:
    single = REPLICAS[name](None, tmp_path)
    for found in both:
        assert apart(below(found, f"replicas/{name}/"), single) < 2e-5


@pytest.mark.parametrize("name", EXACT)
def test_shards_equal_one_process(name: str, both: list[Found], tmp_path: Path) -> None:
    single = SHARDED[name](None, tmp_path)
    for found in both:
        assert apart(below(found, f"sharded/{name}/"), single) < 2e-5


@pytest.mark.parametrize("name", ["taid", "paced", "ddk"])
def test_controllers_moved_and_are_taken_up_again_where_they_were(name: str, both: list[Found]) -> None:
    """The comparisons above are of controllers that did something; a killed run has theirs, bit for bit."""
    begun = {"taid": ("t", 0.4), "paced": ("rates", 0.0), "ddk": ("log_r", -0.6931)}
    for kind in ("replicas", "sharded") if name in SHARDED else ("replicas",):
        for found in both:
            straight, again = (below(found, f"{kind}/{name}/{part}.") for part in ("straight", "resumed"))
            assert straight.keys() == again.keys()
            for key, value in straight.items():
                assert torch.equal(value, again[key]), key
            which, start = begun[name]
            assert float((straight[which] - start).abs().max()) > 0.01


@pytest.mark.parametrize("kind", ["replicas", "sharded"])
def test_checkpointed_blocks_under_autocast_agree_with_the_plain_form(
    kind: str, both: list[Found], tmp_path: Path
) -> None:
    plain, started = saving(True, None, tmp_path), state(GKD(lm(0), teacher()))
    for found in both:
        got = below(found, f"{kind}/saving/")
        assert float(got["log.loss"]) == pytest.approx(float(plain["log.loss"]), rel=2e-3)
        for name, before in started.items():
            moved = plain[name] - before
            assert float((got[name] - plain[name]).norm()) < 0.05 * float(moved.norm()) > 0


@pytest.mark.parametrize("name", ["answered", "either", "every"])
def test_both_processes_have_one_student_whatever_is_drawn(name: str, both: list[Found]) -> None:
    for kind in ("replicas", "sharded") if name in SHARDED else ("replicas",):
        first, second = (below(found, f"{kind}/{name}/") for found in both)
        assert first.keys() == second.keys()
        wrong = [key for key in first if not torch.equal(first[key], second[key])]
        assert not wrong
    if name == "every":
        assert {card.key for card in cards().values() if card.family == "language"} == {k.split(".")[0] for k in first}


def test_shards_equal_replicas_beside_parts_that_have_no_blocks(both: list[Found]) -> None:
    for found in both:
        assert apart(below(found, "sharded/helped/"), below(found, "replicas/helped/")) < 2e-5


def test_outside_of_a_step_a_mean_is_that_of_the_own_rows() -> None:
    """What one process evaluates, the others need not know of."""
    mask = torch.tensor([[True, False], [True, True]])
    wanted = torch.tensor([[1.0, 0.0], [1.0, 1.0]]) / 3
    assert torch.equal(each_of(mask), wanted)
    assert torch.equal(each_of(~mask & mask), torch.zeros(2, 2))
    with in_step(True):
        assert torch.equal(each_of(mask), wanted)  # of one process
