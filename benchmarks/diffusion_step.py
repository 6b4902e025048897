"""A step of DMD2 and one of SANA-Sprint (sCM with its GAN) on a UNet of diffusers: limbeck against loops by hand.

    python benchmarks/diffusion_step.py [--method dmd2|sana_sprint] [--rounds 10] [--widths 32 64 64]

DMD2: one step of the critic, and every fifth one of the generator, with a discriminator on the critic's middle.
SANA-Sprint: sCM's tangent by a JVP, the student's step and that of the discriminator on the teacher's middle. A batch
of 32 images of 8x8, one process. Both loops begin with the same weights and take turns, A B B A, five steps at a time,
so that whatever else the machine does slows both alike. The ratio is that of the medians of processor time.

Measured on a busy machine: DMD2 1.002 at 1.1 M parameters, 1.060 at 0.18 M; SANA-Sprint, four rounds, 1.05 and 1.06 at
1.1 M. What it costs more is the reading of the model on TrigFlow's path, small operations that a JVP makes dear.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Iterator
from functools import partial

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from limbeck.core.fit import iterate
from limbeck.core.method import Method
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.dmd2 import DMD2
from limbeck.methods.diffusion.sana_sprint import SanaSprint
from limbeck.models.denoiser import Denoiser
from limbeck.models.diffusers_net import unet
from limbeck.models.gan import FeatureDiscriminator
from limbeck.models.tiny_denoiser import WAVES, waves

RATIO, BATCH = 5, 32
ADAMW = partial(torch.optim.AdamW, lr=1e-4)


def dmd2_by_hand(teacher: Denoiser, batches: list[Samples], steps: int) -> Iterator[Tensor]:
    """What somebody would write for this method and this network alone: v-prediction on a table of alphas."""
    table = torch.tensor((1.0, *teacher.path.alphas_cumprod))
    net, fixed, critic = (copy.deepcopy(teacher.net.model) for _ in range(3))
    for learns in (net, critic):
        learns.train().requires_grad_(True)
    head = FeatureDiscriminator((net.config.block_out_channels[-1], 2, 2))
    seen: list[Tensor] = []
    critic.mid_block.register_forward_hook(lambda module, given, out: seen.append(out))
    first, second = ADAMW(net.parameters()), ADAMW([*critic.parameters(), *head.parameters()])

    def noised(x0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        step, eps = torch.randint(1, 1001, (len(x0),)), torch.randn_like(x0)
        alpha, sigma = (part.view(-1, 1, 1, 1) for part in (table[step].sqrt(), (1 - table[step]).sqrt()))
        return alpha * x0 + sigma * eps, step, eps, alpha, sigma

    def generate(batch: Samples) -> Tensor:
        noise = torch.randn_like(batch.x)
        return -net(noise, torch.full((len(noise),), 999.0), batch.y, return_dict=False)[0]

    def logits(x: Tensor, y: Tensor) -> Tensor:
        x_t, step, *_ = noised(x)
        critic(x_t, step - 1.0, y, return_dict=False)
        return head(seen.pop())

    for k, batch in enumerate(itertools.islice(itertools.cycle(batches), steps)):
        if k % RATIO == 0:
            critic.requires_grad_(False), head.requires_grad_(False)
            x = generate(batch)
            with torch.no_grad():
                x_t, step, _, alpha, sigma = noised(x)
                real = alpha * x_t - sigma * fixed(x_t, step - 1.0, batch.y, return_dict=False)[0]
                fake = alpha * x_t - sigma * critic(x_t, step - 1.0, batch.y, return_dict=False)[0]
                gap = (fake - real) / (x - real).abs().flatten(1).mean(1).view(-1, 1, 1, 1)
            seen.clear()
            loss = F.mse_loss(x, (x - gap).detach()) / 2 + 3e-3 * F.softplus(-logits(x, batch.y)).mean()
            loss.backward()
            first.step(), first.zero_grad()
            critic.requires_grad_(True), head.requires_grad_(True)
        with torch.no_grad():
            x = generate(batch)
        x_t, step, eps, alpha, sigma = noised(x)
        said = alpha * critic(x_t, step - 1.0, batch.y, return_dict=False)[0] + sigma * x_t
        seen.clear()
        fake, real = logits(x, batch.y), logits(batch.x, batch.y)
        loss = F.mse_loss(said, eps) + 1e-2 * (F.softplus(fake).mean() + F.softplus(-real).mean())
        loss.backward()
        second.step(), second.zero_grad()
        yield loss.detach()


def sana_sprint_by_hand(teacher: Denoiser, batches: list[Samples], steps: int) -> Iterator[Tensor]:
    """The same for sCM: on this table a prediction of v is TrigFlow's F once its time is found by its angle."""
    angles = torch.cat([torch.zeros(1), torch.tensor(teacher.path.alphas_cumprod).sqrt().acos()])
    net, fixed = (copy.deepcopy(teacher.net.model) for _ in range(2))
    net.train().requires_grad_(True)
    for module in net.modules():  # torch's group norm has no forward derivative where channels come last
        if isinstance(module, Attention):
            module.register_forward_hook(lambda module, given, out: out.contiguous())
    head = FeatureDiscriminator((net.config.block_out_channels[-1], 2, 2))
    u = nn.Sequential(nn.Linear(1 + 2 * WAVES, 32), nn.SiLU(), nn.Linear(32, 1))
    nn.init.zeros_(u[2].weight), nn.init.zeros_(u[2].bias)
    seen: list[Tensor] = []
    fixed.mid_block.register_forward_hook(lambda module, given, out: seen.append(out))
    first, second = ADAMW([*net.parameters(), *u.parameters()]), ADAMW(head.parameters())

    def v(model: nn.Module, x: Tensor, angle: Tensor, y: Tensor) -> Tensor:
        low = (torch.searchsorted(angles, angle, right=True) - 1).clamp(max=len(angles) - 2)
        step = low + (angle - angles[low]) / (angles[low + 1] - angles[low])
        return model(x, (step - 1).clamp(0, len(angles) - 2), y, return_dict=False)[0]

    def draw(mean: float, std: float) -> Tensor:
        return ((mean + std * torch.randn(BATCH)).exp() / 0.5).atan()

    def turned(x0: Tensor, angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cos, sin = angle.cos().view(-1, 1, 1, 1), angle.sin().view(-1, 1, 1, 1)
        return cos * x0 + sin * torch.randn_like(x0), cos, sin

    def generate(batch: Samples) -> Tensor:
        angle = draw(0.2, 1.6)
        angle = torch.where(torch.rand(BATCH) < 0.5, torch.pi / 2, angle)
        x_t, cos, sin = turned(batch.x, angle)
        return cos * x_t - sin * v(net, x_t, angle, batch.y)

    def logits(x: Tensor, y: Tensor) -> Tensor:
        angle = draw(-0.6, 1.0)
        seen.clear()
        v(fixed, turned(x, angle)[0], angle, y)
        return head(seen.pop())

    for k, batch in enumerate(itertools.islice(itertools.cycle(batches), steps)):
        y, r, angle = batch.y, min(1.0, (k + 1) / (0.2 * steps)), draw(0.2, 1.6)
        x_t, cos, sin = turned(batch.x, angle)
        with torch.no_grad():
            slope = v(fixed, x_t, angle, y)
            along = (cos * sin * slope, angle.cos() * angle.sin())
            with sdpa_kernel(SDPBackend.MATH):  # torch's fused attention has no forward derivative
                said, change = torch.func.jvp(lambda x, a: v(net, x, a, y), (x_t, angle), along)  # noqa: B023
            g = -0.5 * (cos**2 * (said - slope) + r * (cos * sin * x_t + change))
            g /= g.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 0.1
        said, log_variance = v(net, x_t, angle, y), u(waves(angle[:, None] * 2 / torch.pi))[:, 0]
        off = (said - (said.detach() + g)).square().flatten(1).mean(1)
        scm = (off * (-log_variance).exp() / (0.5 * angle.tan()) + log_variance).mean()
        head.requires_grad_(False)
        (scm - 0.5 * logits(generate(batch), y).mean()).backward()
        first.step(), first.zero_grad()
        head.requires_grad_(True)
        with torch.no_grad():
            fake = generate(batch)
        told = F.relu(1 + logits(fake, y)).mean() + F.relu(1 - logits(batch.x, y)).mean()
        (told / 2).backward()
        second.step(), second.zero_grad()
        yield scm.detach()


METHODS = {
    "dmd2": (lambda student, teacher: DMD2(student, teacher, ratio=RATIO), dmd2_by_hand),
    "sana_sprint": (SanaSprint, sana_sprint_by_hand),
}


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default="dmd2", help="whose step (default: dmd2)")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds of five steps (default: 10)")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 64], help="of the UNet")
    given = parser.parse_args()
    torch.manual_seed(0)
    teacher = freeze(unet(given.widths, shape=(1, 8, 8), classes=10))
    rows = [torch.arange(BATCH) % 10 for _ in range(4)]
    batches = [Samples(torch.rand(BATCH, 1, 8, 8) * 2 - 1, y, torch.arange(BATCH)) for y in rows]
    make, by_hand = METHODS[given.method]
    method: Method = make(trainable(teacher), teacher)
    steps = RATIO * (given.rounds + 1)
    running = [iter(iterate(method, batches, ADAMW, steps=steps)), by_hand(teacher, batches, steps)]
    spent: tuple[list[float], list[float]] = ([], [])
    for turn in range(given.rounds + 1):  # the first warms up
        for which in (0, 1) if turn % 2 else (1, 0):
            begun = time.process_time()
            for _ in range(RATIO):
                next(running[which])
            if turn:
                spent[which].append((time.process_time() - begun) / RATIO)
    ours, theirs = (1e3 * statistics.median(times) for times in spent)
    size = sum(p.numel() for p in teacher.parameters())
    print(f"{size:,} parameters: limbeck {ours:.1f} ms a step, by hand {theirs:.1f} ms, ratio {ours / theirs:.3f}")


if __name__ == "__main__":
    main()
