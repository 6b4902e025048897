"""A bank of experts: a function of its seed, on disk as in memory, trained once, refused where it is another's."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from limbeck.data.batches import Batches
from limbeck.errors import InputError
from limbeck.models.synthetic import initial
from limbeck.models.tiny import convnet
from limbeck.models.trajectories import Flat, Sgd, TrajectoryBank
from limbeck.models.unroll import Parameters
from limbeck.models.use import Descent
from tests.worlds import vision_world

WORLD = vision_world(plain=True)
PLAIN = Sgd(0.1, batch=48)


def bank(folder: Path | None = None, **values: object) -> TrajectoryBank:
    given = {"experts": 2, "length": 3, "training": PLAIN, "seed": 4, "folder": folder, **values}
    return TrajectoryBank(WORLD.student(1), WORLD.train, **given)


def same(a: Parameters, b: Parameters) -> bool:
    return all(torch.equal(p, b[name]) for name, p in a.items())


def test_an_expert_is_a_function_of_seed_and_number_and_leaves_the_generator_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    held, kept = bank(), bank(tmp_path / "bank")
    assert all(same(held.at(k, t), kept.at(k, t)) for k in (1, 0) for t in range(4))
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(held.at(0, 0), held.at(1, 0)) and not same(held.at(0, 0), bank(seed=5).at(0, 0))
    again = bank(tmp_path / "bank", experts=3, length=2, seed=9)  # its own seed and length go on
    assert same(again.at(0, 2), held.at(0, 2)) and same(again.at(2, 3), bank(experts=3).at(2, 3))
    with pytest.raises(IndexError):
        held.at(2, 0)


def test_a_moment_is_an_epoch_of_plain_steps_or_a_part_of_one() -> None:
    whole, parts = bank(), bank(per_epoch=3, length=9)
    for t in range(4):
        assert same(whole.at(1, t), parts.at(1, 3 * t))
    theta, x, y = parts.at(1, 0), *WORLD.train.take(torch.arange(len(WORLD.train)))
    moves = [{n: parts.at(1, t)[n] - p for n, p in theta.items()} for t in (1,)]
    mixed = (4 * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03) % 2**63
    first = next(iter(Batches(WORLD.train, 48, seed=mixed)))
    net = WORLD.student(1)
    net.load_state_dict({**net.state_dict(), **theta})
    F.cross_entropy(net(x[first.index]), y[first.index]).backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(moves[0][name], -0.1 * p.grad, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="per_epoch"):
        bank(per_epoch=4)


def test_what_is_whole_on_disk_is_not_trained_again_and_what_is_damaged_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bank(tmp_path)
    for k in (0, 1):
        first.at(k, 0)
    trained: list[int] = []
    train = TrajectoryBank._train
    monkeypatch.setattr(TrajectoryBank, "_train", lambda self, k: trained.append(k) or train(self, k))
    file = tmp_path / "expert-0001" / "trajectory.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    (tmp_path / ".expert-0000.part-1").mkdir()  # of a process that was killed while it wrote
    second = bank(tmp_path)
    second.at(0, 1)
    with pytest.warns(UserWarning, match="damaged"):
        second.at(1, 1)
    assert trained == [1] and file.read_bytes() == content


def test_a_bank_of_something_else_is_refused_in_one_line(tmp_path: Path) -> None:
    bank(tmp_path)
    other = convnet(7, shape=WORLD.train.shape, classes=WORLD.train.classes)
    fewer = WORLD.train.subset(range(100))
    given = {"experts": 2, "length": 3, "training": PLAIN, "folder": tmp_path}
    cases = [
        ("of other network", lambda: TrajectoryBank(other, WORLD.train, **given)),
        ("of other images", lambda: TrajectoryBank(WORLD.student(1), fewer, **given)),
        ("of other training", lambda: bank(tmp_path, training=Flat(0.1, batch=48))),
        ("of other begin", lambda: bank(tmp_path, begin=initial(WORLD.train, 1))),
        ("needs 4", lambda: bank(tmp_path, length=4)),
    ]
    for said, make in cases:
        with pytest.raises(InputError, match=said) as error:
            make()
        assert "\n" not in str(error.value) and "cannot be read" not in str(error.value)
    (tmp_path / "bank.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        bank(tmp_path)


def test_experts_may_begin_where_a_set_has_led() -> None:
    made = initial(WORLD.train, 2, use=Descent(steps=20))
    plain, after = bank(), bank(begin=made)
    net, x = WORLD.student(1), made().detach()

    def loss(theta: Parameters) -> float:
        net.load_state_dict({**net.state_dict(), **theta})
        return float(F.cross_entropy(net(x), made.y).detach())

    assert loss(after.at(0, 0)) < 0.5 * loss(plain.at(0, 0))


def test_flat_steps_follow_the_gradient_that_gsam_states() -> None:
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2).double()
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 2
    training = Flat(rate=0.5, rho=0.3, alpha=0.4)
    theta = torch.cat([p.detach().flatten() for p in net.parameters()])

    def slope(at: torch.Tensor) -> torch.Tensor:
        at = at.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(x @ at[:6].view(2, 3).T + at[6:], y), at)[0]

    g = slope(theta)
    g_p = slope(theta + 0.3 * g / g.norm())
    across = g - (g @ g_p / g_p.square().sum()) * g_p
    assert abs(float(across @ g_p)) < 1e-12 < float(across.norm())
    training.step(net, training.optimizer(net), x, y, epoch=0, epochs=1)
    found = torch.cat([p.detach().flatten() for p in net.parameters()])
    torch.testing.assert_close(found, theta - 0.5 * (g_p - 0.4 * across))
