"""PDD: earlier parts count and stay, networks start where they lead, and the set is used in its stages."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from limbeck.core.method import Setting
from limbeck.core.schedule import Clock
from limbeck.data.batches import Batches, Images
from limbeck.errors import InputError
from limbeck.methods.dataset._trajectories import gap, minibatches, segment
from limbeck.methods.dataset.pdd import Progressive
from limbeck.models.load_set import load_set, save_set
from limbeck.models.synthetic import SyntheticSet
from limbeck.models.unroll import start, unroll
from limbeck.models.use import Staged
from tests.worlds import vision_world

WORLD = vision_world(plain=True)
CLOCK = Clock(0, 1)
SMALL = {
    "per_class": 4, "stages": 2, "steps": 3, "latest": 2, "span": 1, "experts": 2, "augment": "none",
    "expert_rate": 0.1, "training_steps": 40,
}  # fmt: skip


def built(before: SyntheticSet | None = None, **values: object) -> Progressive:
    torch.manual_seed(0)
    return Progressive(WORLD.train, WORLD.student(), before, **{**SMALL, **values})


def real() -> Images:
    rows = torch.arange(36)
    return Images(*WORLD.train.take(rows), rows)


def test_the_union_is_trained_on_but_only_the_new_part_learns() -> None:
    first = built().joined()
    method = built(first)
    torch.manual_seed(1)
    loss = method.loss(real(), CLOCK)["match"]
    loss.backward()
    torch.manual_seed(1)
    piece = segment(method.trajectories, 2, 1)
    new = method.student().detach().requires_grad_()
    x, y = torch.cat([first().detach(), new]), torch.cat([first.y, method.student.y])
    rate = method.student.rates[0].detach()
    data = minibatches(x, y, rate, size=100, steps=3, change=method.change)
    slow = gap(unroll(method.net, start(piece.begin), data)[-1].theta, piece)
    torch.testing.assert_close(loss, slow)
    torch.testing.assert_close(
        method.student.images.pixels.grad, torch.autograd.grad(slow, new)[0], rtol=1e-3, atol=1e-6
    )
    assert first.images.pixels.grad is None and not any(p.requires_grad for p in first.parameters())


def test_the_networks_of_a_stage_are_several_that_the_earlier_part_has_trained() -> None:
    net = WORLD.student()
    for base in ("trajectories", "features"):
        first = built(base=base, rate=0.1).joined()
        bank = built(first, base=base).trajectories
        for k in range(2):
            net.load_state_dict({**net.state_dict(), **bank.at(k, 0)})
            assert (
                F.cross_entropy(net(first()), first.y).item() < 0.5 < F.cross_entropy(WORLD.student()(first()), first.y)
            )
        assert not torch.equal(bank.at(0, 0)["net.3.weight"], bank.at(1, 0)["net.3.weight"])


def test_a_set_is_joined_kept_and_used_stage_by_stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setting = Setting(WORLD.student, (), Batches(WORLD.train), 4, lambda method, **_: None)
    parts: list[torch.Tensor] = []
    monkeypatch.setattr(Progressive, "loss", None)
    joined = Progressive.joined
    monkeypatch.setattr(Progressive, "joined", lambda self: parts.append(self.student().detach()) or joined(self))
    torch.manual_seed(0)
    made = Progressive.distil(setting, {**SMALL, "rate": 0.03})
    assert isinstance(made.use, Staged) and made.use.stages == 2 and made.use.steps == 20
    stage = made.use.of_stage(made)
    assert torch.equal(made.y, torch.arange(6).repeat_interleave(4)) and torch.equal(stage, torch.arange(24) // 2 % 2)
    for k in (0, 1):
        torch.testing.assert_close(made()[stage == k], parts[k])
    torch.testing.assert_close(made.rates, torch.tensor([0.03, 0.03]))
    save_set(made, tmp_path / "set")
    made = load_set(tmp_path / "set")
    seen: list[tuple[int, int, float]] = []
    monkeypatch.setattr(
        "limbeck.models.use.descend", lambda net, x, y, *, steps, rate, **_: seen.append((len(x), steps, rate))
    )
    made.use(WORLD.student(), made)
    assert [(n, s, round(r, 4)) for n, s, r in seen] == [(12, 20, 0.03), (24, 20, 0.03)]


def test_features_of_the_union_are_matched_and_parts_must_be_equal() -> None:
    method = built(built(base="features").joined(), base="features", per_class=4)
    found = method.loss(real(), CLOCK)["match"]
    found.backward()
    assert found.item() > 0 and method.student.images.pixels.grad.abs().sum() > 0 and method.student.rates is None
    both = torch.cat([method.before(), method.student()]).detach(), torch.cat([method.before.y, method.student.y])
    assert method.loss(Images(*both, torch.arange(24)), CLOCK)["match"].item() < 1e-8
    with pytest.raises(InputError, match="per_class"):
        built(per_class=5)
