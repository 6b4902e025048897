"""The contract carries every shape that distillation takes: each of them, small and whole, and it learns.

Every threshold is one that the untrained student misses by far, and so does the shape with its essential part cut.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from limbeck.core.checkpoint import Checkpoint
from limbeck.core.fit import fit, iterate
from limbeck.core.method import Clock, Count, Method, NonNegative, Positive, Setting, Update
from limbeck.core.modules import freeze

CLASSES, WIDTH = 4, 6
ADAM = partial(torch.optim.Adam, lr=0.01)
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
Rows = list[tuple[Tensor, Tensor]]


def net(hidden: int = 16, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def drawn(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points around four centres, close enough together that they must be learned."""
    generator = torch.Generator().manual_seed(seed)
    centres = 1.5 * torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    y = torch.randint(CLASSES, (count,), generator=generator)
    return centres[y] + torch.randn(count, WIDTH, generator=generator), y


def batches(count: int = 16, size: int = 32, seed: int = 1) -> Rows:
    x, y = drawn(count * size, seed)
    return list(zip(x.split(size), y.split(size), strict=True))


TEST_X, TEST_Y = drawn(1000, 99)


def accuracy(model: nn.Module) -> float:
    with torch.no_grad():
        return float((model(TEST_X).argmax(1) == TEST_Y).float().mean())


def agreement(a: nn.Module, b: nn.Module) -> float:
    with torch.no_grad():
        return float((a(TEST_X).argmax(1) == b(TEST_X).argmax(1)).float().mean())


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of logits, averaged over rows."""
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


class Supervised(Method):
    student: nn.Module

    def loss(self, batch: Any, clock: Clock) -> Tensor:
        return F.cross_entropy(self.student(batch[0]), batch[1])


@cache
def _trained() -> nn.Module:
    teacher = net(32, seed=5)
    fit(Supervised(teacher), batches(), ADAM, steps=100)
    return freeze(teacher)


@pytest.fixture
def teacher() -> nn.Module:
    assert accuracy(_trained()) > 0.9 > 0.5 > accuracy(net(32, seed=5))
    return copy.deepcopy(_trained())


# 1. A logit loss


class Logits(Method):
    student: nn.Module
    teacher: nn.Module

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Any, clock: Clock) -> Tensor:
        return kl(self.teacher(batch[0]), self.student(batch[0]))


def test_logit_loss(teacher: nn.Module) -> None:
    """No label is seen: what the student knows, it has from the teacher."""
    student = net()
    fit(Logits(student, teacher), [(x, None) for x, _ in batches()], ADAM, steps=150)
    assert accuracy(net()) < 0.5 and agreement(student, teacher) > 0.95 and accuracy(student) > 0.9


# 2. On-policy: the student writes its own batch inside ``updates``

WORDS, START = 5, 5


class Bigram(nn.Module):
    """Logits of the next word given the last one."""

    def __init__(self, seed: int, scale: float) -> None:
        super().__init__()
        self.table = nn.Parameter(scale * torch.randn(WORDS + 1, WORDS, generator=torch.Generator().manual_seed(seed)))

    def forward(self, words: Tensor) -> Tensor:
        return self.table[words]

    @torch.no_grad()
    def write(self, count: int, length: int) -> Tensor:
        words = torch.full((count, 1), START)
        for _ in range(length):
            new = torch.multinomial(self(words[:, -1]).softmax(-1), 1)
            words = torch.cat([words, new], 1)
        return words


class OnPolicy(Method):
    student: Bigram
    teacher: Bigram
    _: KW_ONLY
    length: Count = 6

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.words_written = torch.zeros(WORDS)

    def updates(self, batch: None, clock: Clock) -> Generator[Update, bool, None]:
        written = self.student.write(32, self.length)
        self.words_written += torch.bincount(written[:, 1:].flatten(), minlength=WORDS)
        context = written[:, :-1]
        yield Update({"reverse_kl": kl(self.student(context), self.teacher(context))})


def test_on_policy_sampling() -> None:
    torch.manual_seed(0)
    student, teacher = Bigram(1, 0.1), Bigram(2, 1.5)
    everywhere = torch.arange(WORDS + 1)
    method = OnPolicy(student, teacher)

    @torch.no_grad()
    def gap() -> float:
        return float(kl(student(everywhere), teacher(everywhere)))

    assert gap() > 0.5
    fit(method, None, partial(torch.optim.Adam, lr=0.1), steps=150)
    assert gap() < 0.001
    share = method.words_written / method.words_written.sum()
    target = torch.bincount(teacher.write(2000, 6)[:, 1:].flatten(), minlength=WORDS) / 12000
    assert float((share - target).abs().max()) < 0.04  # the batches became those that the teacher would write
    assert float((target - 1 / WORDS).abs().max()) > 0.1  # which are not those it began with


# 3. Generator and critic, several critic steps for one of the generator


class Adversarial(Method):
    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    critic_steps: Count = 3
    penalty: NonNegative = 0.2

    def __post_init__(self) -> None:
        freeze(self.teacher)
        self.critic = nn.Sequential(nn.Linear(1, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "critic": list(self.critic.parameters())}

    def updates(self, batch: None, clock: Clock) -> Generator[Update, bool, None]:
        real = self.teacher(torch.randn(64, 1)).requires_grad_(True)
        said = self.critic(real)
        [slope] = torch.autograd.grad(said.sum(), real, create_graph=True)
        fake = F.softplus(self.critic(self.student(torch.randn(64, 1)).detach())).mean()
        terms = {"real": F.softplus(-said).mean(), "fake": fake, "r1": self.penalty * slope.square().mean()}
        yield Update(terms, "critic")
        if clock.step % self.critic_steps == 0:
            yield Update({"fool": F.softplus(-self.critic(self.student(torch.randn(64, 1)))).mean()})


def affine(scale: float, shift: float) -> nn.Linear:
    made = nn.Linear(1, 1)
    nn.init.constant_(made.weight, scale)
    nn.init.constant_(made.bias, shift)
    return made


def test_generator_and_critic() -> None:
    """The student sees the teacher's samples only through the critic, which learns three times as often."""
    torch.manual_seed(0)
    student, teacher = affine(1.0, 0.0), affine(0.5, 3.0)
    method = Adversarial(student, teacher)
    seen = [set(r.logs) for r in iterate(method, None, partial(torch.optim.Adam, lr=0.02, betas=(0.5, 0.9)), steps=900)]
    assert sum("loss" in names for names in seen) == 300 and all("critic/loss" in names for names in seen)
    shift, scale = student.bias.item(), abs(student.weight.item())
    assert abs(shift - 3) < 0.4 and abs(scale - 0.5) < 0.3


# 4. A bilevel step: data that teach a fresh network, through its unrolled training


class Pool(nn.Module):
    """Learned points, some of each class. They are the student here."""

    def __init__(self, each: int) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.randn(each * CLASSES, WIDTH, generator=torch.Generator().manual_seed(3)))
        self.register_buffer("y", torch.arange(CLASSES).repeat(each))


def train_on(pool: Pool, seed: int, steps: int, create_graph: bool) -> tuple[nn.Module, dict[str, Tensor]]:
    fresh = net(seed=seed)
    weights = {name: p.detach().clone().requires_grad_(True) for name, p in fresh.named_parameters()}
    for _ in range(steps):
        loss = F.cross_entropy(functional_call(fresh, weights, (pool.x,)), pool.y)
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph)
        weights = {name: w - 0.5 * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
    return fresh, weights


class Condense(Method):
    student: Pool
    _: KW_ONLY
    inner: Count = 5

    def loss(self, batch: Any, clock: Clock) -> Tensor:
        fresh, weights = train_on(self.student, clock.step % 7, self.inner, create_graph=True)
        return F.cross_entropy(functional_call(fresh, weights, (batch[0],)), batch[1])


def test_unrolled_bilevel_step() -> None:
    def taught(pool: Pool) -> float:
        fresh, weights = train_on(pool, seed=1000, steps=5, create_graph=False)
        return accuracy(lambda x: functional_call(fresh, weights, (x,)))  # type: ignore[arg-type]

    pool, labels = Pool(each=1), Pool(each=1).y
    fit(Condense(pool), batches(), partial(torch.optim.Adam, lr=0.05), steps=60)
    assert taught(Pool(each=1)) < 0.6 and taught(pool) > 0.8 and torch.equal(pool.y, labels)


# 5. Federated rounds: a plain function that calls ``fit`` for every client and averages


def federated(clients: list[Rows], rounds: int, steps: int) -> nn.Module:
    server = net()
    for _ in range(rounds):
        locals_ = [copy.deepcopy(server) for _ in clients]
        for student, data in zip(locals_, clients, strict=True):
            fit(Supervised(student), data, SGD, steps=steps)
        states = [student.state_dict() for student in locals_]
        server.load_state_dict({name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]})
    return server


def test_federated_rounds() -> None:
    """Each client sees two of the four classes; only the average knows all."""
    x, y = drawn(512, 1)
    clients: list[Rows] = []
    for own in ((0, 1), (2, 3)):
        mine = torch.isin(y, torch.tensor(own))
        clients.append(list(zip(x[mine].split(32), y[mine].split(32), strict=True)))
    alone = net()
    fit(Supervised(alone), clients[0], SGD, steps=60)
    assert accuracy(alone) < 0.6 and accuracy(federated(clients, rounds=15, steps=4)) > 0.85


# 6. Rows to rows, then a plain fit


def confident(rows: Iterable[Tensor], teacher: nn.Module, threshold: float) -> Iterator[tuple[Tensor, Tensor]]:
    """What the teacher is sure of, with the teacher's label."""
    for x in rows:
        with torch.no_grad():
            probability, label = teacher(x).softmax(1).max(1)
        sure = probability > threshold
        yield x[sure], label[sure]


def test_rows_to_rows_then_fit(teacher: nn.Module) -> None:
    student = net()
    rows = list(confident((x for x, _ in batches()), teacher, 0.6))
    kept = sum(len(x) for x, _ in rows)
    assert 300 < kept < 512
    fit(Supervised(student), rows, ADAM, steps=150)
    assert agreement(student, teacher) > 0.9 and accuracy(student) > 0.85


# 7. Mutual learning: two players, each the other's teacher


class Mutual(Method):
    student: nn.Module
    peer: nn.Module
    _: KW_ONLY
    weight: NonNegative = 1.0

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "peer": list(self.peer.parameters())}

    def updates(self, batch: Any, clock: Clock) -> Generator[Update, bool, None]:
        x, y = batch
        for player, me, other in (("student", self.student, self.peer), ("peer", self.peer, self.student)):
            z = me(x)
            yield Update({"ce": F.cross_entropy(z, y), "mimicry": self.weight * kl(other(x).detach(), z)}, player)


def test_mutual_learning() -> None:
    """Both learn, and they end closer to each other than two that learn alone."""
    apart: list[float] = []
    for weight in (0.0, 3.0):
        method = Mutual(net(seed=1), net(8, seed=2), weight=weight)
        fit(method, batches(), ADAM, steps=60)
        assert accuracy(method.student) > 0.85 and accuracy(method.peer) > 0.85
        with torch.no_grad():
            apart.append(float(kl(method.student(TEST_X), method.peer(TEST_X))))
    assert apart[1] < 0.5 * apart[0]


# 8. A backward for each term: an optimiser with a momentum for each (Zhao et al. 2023)


class Dot(torch.optim.Optimizer):
    """``v_kd <- g_kd + (mu + delta) v_kd``, ``v_task <- g_task + (mu - delta) v_task``, a step along both."""

    def __init__(self, parameters: Any, lr: float = 0.05, momentum: float = 0.9, delta: float = 0.05) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "delta": delta})

    @torch.no_grad()
    def collect(self, term: str) -> None:
        for group in self.param_groups:
            momentum = group["momentum"] + (group["delta"] if term == "kd" else -group["delta"])
            for p in group["params"]:
                velocity = self.state[p].setdefault(term, torch.zeros_like(p))
                velocity.mul_(momentum).add_(p.grad)
                p.grad = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * sum(self.state[p].values()))


class Blend(Method):
    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    delta: NonNegative = 0.05

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def optimizers(self, make: Callable[..., torch.optim.Optimizer]) -> dict[str, torch.optim.Optimizer]:
        return {"student": Dot(self.student.parameters(), delta=self.delta)}

    def loss(self, batch: Any, clock: Clock) -> dict[str, Tensor]:
        z = self.student(batch[0])
        return {"task": F.cross_entropy(z, batch[1]), "kd": kl(self.teacher(batch[0]), z)}


def test_backward_for_each_term(teacher: nn.Module) -> None:
    """With ``delta`` 0 it is momentum SGD on the sum; otherwise the two terms are seen to be apart."""
    same, apart, plain = net(), net(), net()
    fit(Blend(same, teacher, delta=0.0), batches(), SGD, steps=40)
    fit(Blend(apart, teacher, delta=0.05), batches(), SGD, steps=40)
    fit(Blend(plain, teacher), batches(), {"student": SGD}, steps=40)

    def gap(a: nn.Module, b: nn.Module) -> float:
        return max(float((p - q).detach().abs().max()) for p, q in zip(a.parameters(), b.parameters(), strict=True))

    assert gap(same, plain) < 1e-5 and gap(apart, plain) > 1e-2
    assert agreement(apart, teacher) > 0.9 and agreement(net(), teacher) < 0.5


# 9. A teacher that learns to teach: its head moves towards what the student can follow


class Friendly(Method):
    student: nn.Module
    teacher: nn.Sequential
    _: KW_ONLY
    towards: NonNegative = 1.0

    def __post_init__(self) -> None:
        freeze(self.teacher[0])

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "teacher": list(self.teacher[2].parameters())}

    def updates(self, batch: Any, clock: Clock) -> Generator[Update, bool, None]:
        x, y = batch
        t = self.teacher(x)
        terms = {"ce": F.cross_entropy(t, y), "towards": self.towards * kl(self.student(x).detach(), t)}
        yield Update(terms, "teacher")
        yield Update({"kd": kl(self.teacher(x).detach(), self.student(x))})


def test_trainable_teacher(teacher: nn.Sequential) -> None:
    """A student of two hidden units cannot follow; a teacher that meets it is closer, and still teaches."""
    gaps: list[float] = []
    for towards in (0.0, 3.0):
        mentor, student = copy.deepcopy(teacher).requires_grad_(True), net(2, seed=1)
        before = copy.deepcopy(mentor)
        fit(Friendly(student, mentor, towards=towards), batches(), ADAM, steps=300)
        assert torch.equal(mentor[0].weight, before[0].weight) and not torch.equal(mentor[2].weight, before[2].weight)
        assert accuracy(student) > 0.7 and accuracy(mentor) > 0.85
        with torch.no_grad():
            gaps.append(float(kl(mentor(TEST_X), student(TEST_X))))
    assert gaps[1] < 0.5 * gaps[0]


# 10. Generations: more than one fit, through ``distil``


class Generation(Method):
    """Born again: the student of one generation teaches the next, which sees no label."""

    student: nn.Module
    teacher: nn.Module
    _: KW_ONLY
    generations: Count = 3
    tau: Positive = 1.0

    def __post_init__(self) -> None:
        freeze(self.teacher)

    def loss(self, batch: Any, clock: Clock) -> Tensor:
        return kl(self.teacher(batch[0]) / self.tau, self.student(batch[0]) / self.tau)

    @classmethod
    def distil(cls, setting: Setting, values: Mapping[str, Any]) -> nn.Module:
        student = setting.student()
        setting.fit(Supervised(student), name="generation-1")
        for number in range(2, 1 + cls.generations):
            teacher, student = freeze(student), setting.student()
            setting.fit(cls(student, teacher, **values), name=f"generation-{number}")
        return student


def procedure(folder: Path, stop: int = 10**6) -> tuple[list[str], Callable[[], nn.Module]]:
    """What a run hands to ``distil``; killed after ``stop`` steps in all."""
    names, made, left = list[str](), list[int](), [stop]

    def student() -> nn.Module:
        made.append(len(made))
        return net(seed=len(made))

    def run(method: Method, *, name: str = "fit", data: Any = None, steps: int = 60) -> None:
        names.append(name)
        kept = Checkpoint(folder / name, every=10, seconds=0)
        for _ in iterate(method, batches(), ADAM, steps=steps, checkpoint=kept):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

    setting = Setting(student, (), batches(), 60, run)
    return names, lambda: Generation.distil(setting, {"tau": 2.0})


def test_generations(tmp_path: Path) -> None:
    names, distil = procedure(tmp_path / "straight")
    final = distil()
    assert names == ["generation-1", "generation-2", "generation-3"]
    assert accuracy(final) > 0.88 and accuracy(net(seed=3)) < 0.5
    _, killed = procedure(tmp_path / "killed", stop=95)
    with pytest.raises(KeyboardInterrupt):
        killed()
    names, again = procedure(tmp_path / "killed")
    resumed = again()
    assert names == ["generation-1", "generation-2", "generation-3"]
    assert all(torch.equal(p, q) for p, q in zip(resumed.parameters(), final.parameters(), strict=True))
