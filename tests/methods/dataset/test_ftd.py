"""FTD: what it gives is the moving average of its images, and its experts' surroundings are flatter than plain
ones'."""

import torch
from torch.nn import functional as F

from limbeck import fit
from limbeck.core.method import Setting
from limbeck.data.batches import Batches
from limbeck.methods.dataset.ftd import FlatTrajectories
from limbeck.models.trajectories import Flat, Sgd, TrajectoryBank
from tests.worlds import SGD, vision_world

WORLD = vision_world(plain=True)
SMALL = {"per_class": 1, "steps": 2, "latest": 2, "span": 1, "experts": 2, "augment": "none", "expert_rate": 0.1}


def test_the_images_are_the_average_from_the_first_ones_on() -> None:
    seen: list[torch.Tensor] = []
    methods: list[FlatTrajectories] = []

    def run(method: FlatTrajectories, *, data: object) -> None:
        methods.append(method)
        seen.append(method.student().detach().clone())
        see = lambda record: seen.append(method.student().detach().clone())  # noqa: E731
        fit(method, data, SGD, steps=4, every=1, report=see)

    torch.manual_seed(0)
    setting = Setting(WORLD.student, (), Batches(WORLD.train), 4, run)
    made = FlatTrajectories.distil(setting, {**SMALL, "decay": 0.7})
    expected = seen[0]
    for pixels in seen[1:]:
        expected = 0.7 * expected + 0.3 * pixels
    torch.testing.assert_close(made(), expected)
    assert len(seen) == 5 and not torch.allclose(made(), seen[-1], atol=1e-4)
    assert methods[0].trajectories.training == Flat(0.1, 0.01, 0.3, 256)


def test_flat_experts_rise_less_when_their_weights_are_disturbed() -> None:
    x, y = WORLD.train.take(torch.arange(len(WORLD.train)))
    net = WORLD.student()

    def rises(training: Flat | Sgd) -> float:
        bank = TrajectoryBank(net, WORLD.train, experts=1, length=150, training=training, seed=1)
        theta = {n: p.requires_grad_() for n, p in bank.at(0, 150).items()}
        loss = F.cross_entropy(torch.func.functional_call(net, theta, (x,)), y)
        slopes = torch.autograd.grad(loss, list(theta.values()))
        size = torch.stack([g.square().sum() for g in slopes]).sum().sqrt()
        there = {n: p.detach() + 0.2 * g / size for (n, p), g in zip(theta.items(), slopes, strict=True)}
        return (F.cross_entropy(torch.func.functional_call(net, there, (x,)), y) - loss).item()

    assert rises(Flat(0.1, rho=0.2, alpha=0.3)) < 0.9 * rises(Sgd(0.1))
