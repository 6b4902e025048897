"""The driver takes the steps that a hand-written loop would take, and moves nobody else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core import fit as driver
from limbeck.core.fit import NonFinite, Record, fit, iterate
from limbeck.core.method import Clock, Count, Method, Update
from limbeck.core.modules import freeze
from limbeck.core.schedule import Cosine, Linear
from limbeck.core.source import mapped
from limbeck.core.watch import Watch
from limbeck.errors import InputError

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
Terms = dict[str, Tensor]


def net(*sizes: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    a, b, c = sizes
    return nn.Sequential(nn.Linear(a, b), nn.Tanh(), nn.Linear(b, c))


def rows(count: int = 12, batch: int = 4) -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(1)
    return [(torch.randn(batch, 4, generator=drawn), torch.randn(batch, 2, generator=drawn)) for _ in range(count)]


def apart(a: nn.Module, b: nn.Module) -> float:
    return max(float((p - q).detach().abs().max()) for p, q in zip(a.parameters(), b.parameters(), strict=True))


class Regression(Method):
    student: nn.Module

    def loss(self, batch: Any, clock: Clock) -> Terms:
        found = self.student(batch[0])
        return {"mse": F.mse_loss(found, batch[1]), "size": 0.01 * found.square().mean()}


class Game(Method):
    """A generator that learns through a critic, which is updated ``critic_steps`` times for each of its steps."""

    student: nn.Module
    critic: nn.Module
    _: KW_ONLY
    critic_steps: Count = 1

    def __post_init__(self) -> None:
        self.answers: list[bool] = []
        self.moved: list[tuple[float, float]] = []

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "critic": list(self.critic.parameters())}

    def updates(self, batch: Any, clock: Clock) -> Generator[Update, bool, None]:
        x, y = batch
        for _ in range(self.critic_steps):
            wrong = self.critic(self.student(x).detach()).sigmoid()
            self.answers.append((yield Update({"real": -self.critic(y).mean(), "fake": wrong.mean()}, "critic")))
        before = copy.deepcopy([self.student, self.critic])
        loss = -self.critic(self.student(x)).mean()
        self.answers.append((yield Update({"fool": loss}, logs={"seen": loss.detach() + 1})))
        self.moved.append((apart(before[0], self.student), apart(before[1], self.critic)))


def by_hand(student: nn.Module, data: list[tuple[Tensor, Tensor]], clip: float | None = None) -> None:
    optimizer = SGD(student.parameters())
    for x, y in data:
        optimizer.zero_grad()
        found = student(x)
        (F.mse_loss(found, y) + 0.01 * found.square().mean()).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(student.parameters(), clip)
        optimizer.step()


def test_equals_a_loop_written_by_hand() -> None:
    mine, theirs = net(4, 5, 2), net(4, 5, 2)
    record = fit(Regression(mine), rows(), SGD, steps=12)
    by_hand(theirs, rows())
    assert apart(mine, theirs) == 0 and apart(mine, net(4, 5, 2)) > 1e-2
    assert record is not None and record.step == 11 and set(record.logs) == {"mse", "size", "loss"}
    said = record.floats()
    assert said["loss"] == pytest.approx(said["mse"] + said["size"])


def test_accumulation_equals_the_whole_batch() -> None:
    small, large = net(4, 5, 2), net(4, 5, 2)
    data = rows()
    merged = [tuple(torch.cat(parts) for parts in zip(*data[k : k + 3], strict=True)) for k in range(0, 12, 3)]
    fit(Regression(small), data, SGD, steps=4, accumulate=3)
    fit(Regression(large), merged, SGD, steps=4)
    assert apart(small, large) < 1e-6 < apart(small, net(4, 5, 2))


def test_data_begin_again() -> None:
    mine, theirs = net(4, 5, 2), net(4, 5, 2)
    fit(Regression(mine), rows(5), SGD, steps=12)
    by_hand(theirs, (rows(5) * 3)[:12])
    assert apart(mine, theirs) == 0


def test_clip() -> None:
    mine, theirs = net(4, 5, 2), net(4, 5, 2)
    norms = [float(r.logs["gradient_norm"]) for r in iterate(Regression(mine), rows(), SGD, steps=12, clip=0.05)]
    by_hand(theirs, rows(), clip=0.05)
    assert apart(mine, theirs) == 0 and min(norms) > 0.05
    loose = net(4, 5, 2)
    fit(Regression(loose), rows(), SGD, steps=12, clip=1e9)
    by_hand(theirs := net(4, 5, 2), rows())
    assert apart(loose, theirs) < 1e-6


def test_gradients_of_what_no_optimiser_moves_do_not_pile_up() -> None:
    """The norm under ``clip`` is that of one step, also where a built optimiser holds some of a player's weights."""
    mine, data = net(4, 5, 2), rows(1, 4)
    optimizer = torch.optim.SGD(mine[-1].parameters(), lr=0.0)
    norms = [float(r.logs["gradient_norm"]) for r in iterate(Regression(mine), data, optimizer, steps=3, clip=1e9)]
    assert norms[0] > 0 and norms[1:] == [norms[0]] * 2


def test_accumulated_gradients_are_clipped_once() -> None:
    small, large = net(4, 5, 2), net(4, 5, 2)
    data = rows()
    merged = [tuple(torch.cat(parts) for parts in zip(*data[k : k + 3], strict=True)) for k in range(0, 12, 3)]
    fit(Regression(small), data, SGD, steps=4, accumulate=3, clip=0.05)
    fit(Regression(large), merged, SGD, steps=4, clip=0.05)
    assert apart(small, large) < 1e-6


def test_rates_follow_the_schedule_and_come_back() -> None:
    method = Regression(net(4, 5, 2))
    first, second = method.student[0].parameters(), method.student[2].parameters()
    built = torch.optim.SGD([{"params": list(first), "lr": 0.4}, {"params": list(second), "lr": 0.1}])
    seen = [
        [group["lr"] for group in built.param_groups]
        for _ in iterate(method, rows(), built, steps=3, lr=Linear(1.0, 0.5))
    ]
    assert seen == [[0.4, 0.1], pytest.approx([0.3, 0.075]), pytest.approx([0.2, 0.05])]
    assert [group["lr"] for group in built.param_groups] == [0.4, 0.1]  # the next round begins where this one did
    for record in iterate(method, rows(), built, steps=3, lr=Cosine()):
        if record.step == 1:
            break
    assert [group["lr"] for group in built.param_groups] == [0.4, 0.1]


def test_schedule_changes_the_steps() -> None:
    steady, scheduled = net(4, 5, 2), net(4, 5, 2)
    fit(Regression(steady), rows(), SGD, steps=6)
    fit(Regression(scheduled), rows(), SGD, steps=6, lr=Cosine())
    assert apart(steady, scheduled) > 1e-3


class Precise(Method):
    student: nn.Module

    def updates(self, batch: Any, clock: Clock) -> Generator[Update, bool, None]:
        with torch.no_grad():
            self.student(batch[0])  # what is cast without gradient must not be reused with it
        found = self.student(batch[0])
        self.first = found.dtype
        yield Update({"mse": F.mse_loss(found.float(), batch[1])})
        self.second = self.student(batch[0]).dtype


def test_bf16_runs_the_forward_passes_only() -> None:
    method = Precise(net(4, 5, 2))
    fit(method, rows(), SGD, steps=12, precision="bf16")
    assert method.first == method.second == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")
    assert all(p.dtype == torch.float32 for p in method.parameters())
    exact = Precise(net(4, 5, 2))
    fit(exact, rows(), SGD, steps=12)
    assert exact.first == torch.float32 and 0 < apart(method, exact) < 0.05 < apart(exact.student, net(4, 5, 2))


def test_factories_and_built_optimisers_are_the_same() -> None:
    def game(make: Callable[[Game], Any]) -> Game:
        method = Game(net(4, 5, 2), net(2, 5, 1, seed=1))
        fit(method, rows(), make(method), steps=4)
        return method

    by_factory = game(lambda _: SGD)
    by_player = game(lambda m: {"student": SGD, "critic": SGD(m.critic.parameters())})
    built = game(lambda m: {"critic": SGD(m.critic.parameters()), "student": SGD(m.student.parameters())})
    assert apart(by_factory, by_player) == apart(by_factory, built) == 0
    own_rates = game(lambda _: {"student": SGD, "critic": partial(SGD, lr=0.01)})
    assert apart(by_factory.critic, own_rates.critic) > 1e-3


def test_a_built_optimiser_keeps_its_state_between_fits() -> None:
    method, whole = Regression(net(4, 5, 2)), Regression(net(4, 5, 2))
    optimizer = SGD(method.parameters())
    for part in (rows()[:6], rows()[6:]):
        fit(method, part, optimizer, steps=6)
    fit(whole, rows(), SGD, steps=12)
    assert apart(method, whole) == 0


def test_optimisers_of_others_are_refused() -> None:
    method = Game(net(4, 5, 2), net(2, 5, 1))
    for given, said in (
        (SGD(method.parameters()), "one built optimiser was given for the players student, critic"),
        ({"student": SGD}, r"optimisers were given for \['student'\]; the players are"),
        ({"student": SGD, "critic": SGD, "judge": SGD}, "judge"),
        ({"student": SGD(method.parameters()), "critic": SGD}, "'student' moves parameters that are not its own"),
    ):
        with pytest.raises(ValueError, match=said):
            fit(method, rows(), given, steps=1)  # type: ignore[arg-type]


class Stranger(Method):
    student: nn.Module

    def updates(self, batch: Any, clock: Clock) -> Generator[Update, bool, None]:
        yield Update({"loss": self.student(batch[0]).mean()}, "judge")


def test_an_unknown_player_is_named() -> None:
    with pytest.raises(ValueError, match="no player is called 'judge'; there are student"):
        fit(Stranger(net(4, 5, 2)), rows(), SGD, steps=1)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_players_loss_moves_nobody_else(accumulate: int) -> None:
    """Every generator step leaves the critic as it was, and the other way round, although gradients flow through."""
    method = Game(net(4, 5, 2), net(2, 5, 1, seed=1), critic_steps=2)
    fit(method, rows(), SGD, steps=4, accumulate=accumulate)
    steps = method.moved[accumulate - 1 :: accumulate]
    assert len(steps) == 4 and all(mine > 1e-5 and other == 0 for mine, other in steps)
    assert all(mine == other == 0 for k, (mine, other) in enumerate(method.moved) if (k + 1) % accumulate)
    assert method.answers == ([False] * 3 * (accumulate - 1) + [True] * 3) * 4


def test_a_game_equals_detached_players_by_hand() -> None:
    """Accumulated over two batches, against a loop that asks autograd for each player's gradients alone."""
    method, hand = Game(net(4, 5, 2), net(2, 5, 1, seed=1)), Game(net(4, 5, 2), net(2, 5, 1, seed=1))
    fit(method, rows(), SGD, steps=6, accumulate=2)
    players = hand.players()
    optimizers = {name: SGD(own) for name, own in players.items()}
    sums: dict[str, list[Tensor]] = {}
    for number, batch in enumerate(rows()):
        updates = hand.updates(batch, Clock(0, 1))
        update: Update | None = next(updates)
        while update is not None:
            own = players[update.player]
            gradients = torch.autograd.grad(update.loss / 2, own)
            held = sums.get(update.player, [torch.zeros_like(p) for p in own])
            sums[update.player] = [a + b for a, b in zip(held, gradients, strict=True)]
            if number % 2:
                for p, gradient in zip(own, sums.pop(update.player), strict=True):
                    p.grad = gradient
                optimizers[update.player].step()
            update = next(updates, None)
    assert apart(method, hand) < 1e-6 < apart(method.student, net(4, 5, 2))


def test_trainable_parameters_of_no_player_stay() -> None:
    class Guest(Method):
        student: nn.Module
        guest: nn.Module

        def players(self) -> dict[str, list[nn.Parameter]]:
            return {"student": list(self.student.parameters())}

        def loss(self, batch: Any, clock: Clock) -> Tensor:
            return self.guest(self.student(batch[0])).square().mean()

    method = Guest(net(4, 5, 2), net(2, 5, 1, seed=1))
    fit(method, rows(), partial(SGD, weight_decay=0.1), steps=3)
    assert apart(method.guest, net(2, 5, 1, seed=1)) == 0 and all(p.grad is None for p in method.parameters())


def test_gradients_left_by_others_are_no_part_of_the_first_step() -> None:
    mine, theirs = net(4, 5, 2), net(4, 5, 2)
    (100 * mine(torch.ones(1, 4)).sum()).backward()
    fit(Regression(mine), rows(), SGD, steps=2)
    by_hand(theirs, rows()[:2])
    assert apart(mine, theirs) == 0


class Collector(torch.optim.SGD):
    """Counts the first term twice, and notes the order of what it is told."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)
        self.told: list[str] = []
        self.held: dict[nn.Parameter, Tensor] = {}

    def collect(self, term: str) -> None:
        self.told.append(term)
        for p in self.param_groups[0]["params"]:
            assert p.grad is not None
            self.held[p] = self.held.get(p, torch.zeros_like(p)) + (2 if term == "mse" else 1) * p.grad
            p.grad = None

    def step(self, closure: Any = None) -> None:
        self.told.append("step")
        for p, gradient in self.held.items():
            p.grad = gradient
        self.held = {}
        super().step()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_optimiser_that_wants_each_term_gets_it(accumulate: int) -> None:
    method = Regression(net(4, 5, 2))
    optimizer = Collector(method.parameters())
    fit(method, rows(), optimizer, steps=2, accumulate=accumulate)
    assert optimizer.told == ["mse", "size"] * accumulate + ["step"] + ["mse", "size"] * accumulate + ["step"]
    expected = net(4, 5, 2)
    plain = torch.optim.SGD(expected.parameters(), lr=0.1)
    for k in range(2):
        plain.zero_grad()
        for x, y in rows()[k * accumulate : (k + 1) * accumulate]:
            found = expected(x)
            ((2 * F.mse_loss(found, y) + 0.01 * found.square().mean()) / accumulate).backward()
        plain.step()
    assert apart(method.student, expected) < 1e-6


class Poison(Method):
    student: nn.Module
    _: KW_ONLY
    term: str = "second"
    kind: float = float("nan")
    at: int = 2

    def loss(self, batch: Any, clock: Clock) -> Terms:
        z = self.student(batch[0]).square().mean()
        spoilt = self.kind if clock.step == self.at else 1.0
        return {name: z * (spoilt if name == self.term else 1.0) for name in ("first", "second")}


@pytest.mark.parametrize("kind", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("term", ["first", "second"])
def test_a_loss_that_is_not_finite_is_named_before_it_does_harm(kind: float, term: str) -> None:
    method, healthy = Poison(net(4, 5, 2), term=term, kind=kind), Poison(net(4, 5, 2), kind=1.0)
    with pytest.raises(NonFinite, match=rf"step 2, player student: '{term}' is not finite.*learning rate"):
        fit(method, rows(), SGD, steps=9)
    fit(healthy, rows(), SGD, steps=2)
    assert apart(method, healthy) == 0


def test_a_gradient_that_is_not_finite_is_found_by_clipping() -> None:
    class Root(Method):
        student: nn.Module

        def loss(self, batch: Any, clock: Clock) -> Tensor:
            return self.student(batch[0]).mul(0).square().sum().sqrt()  # 0, with the gradient 0 / 0

    method = Root(net(4, 5, 2))
    with pytest.raises(NonFinite, match="'gradient_norm' is not finite"):
        fit(method, rows(), SGD, steps=3, clip=1.0)
    assert apart(method, Root(net(4, 5, 2))) == 0


def test_terms_are_found_late_but_surely_where_looking_costs() -> None:
    """On an accelerator the driver looks at sixteen updates together; here it is told that the CPU is one."""
    watch = Watch(16)
    fine, bad = {"a": torch.tensor(1.0)}, {"a": torch.tensor(1.0), "b": torch.tensor(float("nan"))}
    for step in range(15):
        watch.see(step, "student", bad if step == 7 else fine, (bad["b"] if step == 7 else fine["a"]))
    with pytest.raises(NonFinite, match="step 7, player student: 'b'"):
        watch.see(15, "student", fine, fine["a"])
    watch.look()


def test_records_are_not_numbers_until_asked() -> None:
    method = Game(net(4, 5, 2), net(2, 5, 1))
    [*_, record] = iterate(method, rows(), SGD, steps=3)
    assert all(isinstance(s, Tensor) and not s.requires_grad and s.ndim == 0 for s in record.logs.values())
    assert set(record.logs) == {"critic/real", "critic/fake", "critic/loss", "fool", "seen", "loss"}
    assert all(isinstance(number, float) for number in record.floats().values())


def test_the_driver_asks_no_device_for_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the watch set as for an accelerator, no scalar is read within its sixteen updates."""
    monkeypatch.setattr(driver, "Watch", lambda _: Watch(16))
    with monkeypatch.context() as patched:
        for name in ("__float__", "__bool__", "__int__", "item", "tolist"):
            patched.setattr(Tensor, name, refuse)
        running = iterate(Regression(net(4, 5, 2)), rows(), partial(torch.optim.SGD, lr=0.1), steps=12)
        for _ in range(8):
            next(running)


def refuse(*_: object) -> None:
    raise AssertionError("this would wait for the device")


def test_reports() -> None:
    said: list[int] = []
    fit(Regression(net(4, 5, 2)), rows(), SGD, steps=7, every=3, report=lambda r: said.append(r.step))
    fit(Regression(net(4, 5, 2)), rows(), SGD, steps=2, report=lambda r: said.append(r.step))
    assert said == [2, 5, 6, 1]


def test_iterate_is_lazy() -> None:
    method = Regression(net(4, 5, 2))
    running: Iterator[Record] = iterate(method, rows(), SGD, steps=3)
    assert apart(method.student, net(4, 5, 2)) == 0
    assert next(running).step == 0 and apart(method.student, net(4, 5, 2)) > 0
    assert fit(method, rows(), SGD, steps=0) is None


@pytest.mark.parametrize("data", [[], iter(())])
def test_empty_data_are_refused(data: Any) -> None:
    with pytest.raises(InputError, match=r"data: .* is empty"):
        fit(Regression(net(4, 5, 2)), data, SGD, steps=1)


def test_data_that_run_out_for_good_are_refused() -> None:
    with pytest.raises(InputError, match="is empty"):
        fit(Regression(net(4, 5, 2)), iter(rows(2)), SGD, steps=3)


def test_a_method_may_need_no_data() -> None:
    class Own(Method):
        student: nn.Module

        def loss(self, batch: None, clock: Clock) -> Tensor:
            assert batch is None
            return self.student(torch.ones(1, 4)).square().mean()

    record = fit(Own(net(4, 5, 2)), None, SGD, steps=60)
    assert record is not None and record.floats()["loss"] < 1e-3


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", -1), ("clip", 0.0), ("clip", float("nan")), ("accumulate", 0), ("precision", "fp16")],
)
def test_settings_out_of_range_are_refused(name: str, value: Any) -> None:
    settings: dict[str, Any] = {"steps": 1, name: value}
    with pytest.raises(InputError, match=name):
        fit(Regression(net(4, 5, 2)), rows(), SGD, **settings)


def test_modes() -> None:
    """Training mode for everything but what is frozen, whatever the mode was before."""

    class Two(Method):
        student: nn.Module
        teacher: nn.Module

        def loss(self, batch: Any, clock: Clock) -> Tensor:
            assert self.student.training and not self.teacher.training
            return F.mse_loss(self.student(batch[0]), self.teacher(batch[0]))

    method = Two(net(4, 5, 2).eval(), freeze(net(4, 6, 2)))
    fit(method, rows(), SGD, steps=1)
    assert apart(method.teacher, net(4, 6, 2)) == 0


class Named(NamedTuple):
    x: Tensor
    parts: list[Tensor]
    texts: list[str]


def test_batches_of_any_build_are_moved() -> None:
    @dataclass
    class Holder:
        x: Tensor
        more: dict[str, Any]

    batch = Named(torch.ones(2), [torch.ones(1)], ["a", "b"])
    held = Holder(torch.ones(2), {"y": (torch.ones(3), 5)})
    moved = mapped((batch, held), lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf)
    assert isinstance(moved[0], Named) and moved[0].x.is_meta and moved[0].parts[0].is_meta
    assert moved[0].texts == ["a", "b"] and moved[1].x.is_meta and moved[1].more["y"][0].is_meta
    assert moved[1].more["y"][1] == 5 and not held.x.is_meta


def test_an_update_without_terms_logs_and_takes_no_step() -> None:
    class Talks(Method):
        student: nn.Module

        def updates(self, batch: Any, clock: Clock) -> Generator[Update, bool, None]:
            yield Update({}, logs={"answered": torch.tensor(3.0)})

    student = nn.Linear(2, 1)
    before = [p.clone() for p in student.parameters()]
    heavy = partial(torch.optim.AdamW, lr=1.0, weight_decay=0.5)
    record = fit(Talks(student), None, heavy, steps=2, clip=1.0)
    assert record is not None and record.floats() == {"answered": 3.0}
    assert all(torch.equal(p, held) for p, held in zip(student.parameters(), before, strict=True))
