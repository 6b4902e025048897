"""A step of DMD2 on a UNet of diffusers: limbeck against a loop written for it by hand, in one process.

    python benchmarks/diffusion_step.py [--rounds 10] [--widths 32 64 64]

One step of the critic, and every fifth one of the generator, with a discriminator on the critic's middle; a batch of 32
images of 8x8. Both loops begin with the same weights and take turns, A B B A, five steps at a time, so that whatever
else the machine does slows both alike. The ratio is that of the medians of processor time.
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
from torch.nn import functional as F

from limbeck.core.fit import iterate
from limbeck.core.modules import freeze
from limbeck.data.samples import Samples
from limbeck.methods.diffusion._shared import trainable
from limbeck.methods.diffusion.dmd2 import DMD2
from limbeck.models.denoiser import Denoiser
from limbeck.models.diffusers_net import unet
from limbeck.models.gan import FeatureDiscriminator

RATIO, BATCH = 5, 32
ADAMW = partial(torch.optim.AdamW, lr=1e-4)


def by_hand(teacher: Denoiser, batches: list[Samples]) -> Iterator[object]:
    """What somebody would write for this method and this network alone: v-prediction on a table of alphas."""
    table = torch.tensor((1.0, *teacher.path.alphas_cumprod))
    net, fixed, critic = (copy.deepcopy(teacher.net.model) for _ in range(3))
    for learns in (net, critic):
        learns.train().requires_grad_(True)
    head = FeatureDiscriminator((net.config.block_out_channels[-1], 2, 2))
    seen: list[torch.Tensor] = []
    critic.mid_block.register_forward_hook(lambda module, given, out: seen.append(out))
    first, second = ADAMW(net.parameters()), ADAMW([*critic.parameters(), *head.parameters()])

    def noised(x0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        step, eps = torch.randint(1, 1001, (len(x0),)), torch.randn_like(x0)
        alpha, sigma = (part.view(-1, 1, 1, 1) for part in (table[step].sqrt(), (1 - table[step]).sqrt()))
        return alpha * x0 + sigma * eps, step, eps, alpha, sigma

    def generate(batch: Samples) -> torch.Tensor:
        noise = torch.randn_like(batch.x)
        return -net(noise, torch.full((len(noise),), 999.0), batch.y, return_dict=False)[0]

    def logits(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x_t, step, *_ = noised(x)
        critic(x_t, step - 1.0, y, return_dict=False)
        return head(seen.pop())

    for k, batch in enumerate(itertools.cycle(batches)):
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


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds of five steps (default: 10)")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 64], help="of the UNet")
    given = parser.parse_args()
    torch.manual_seed(0)
    teacher = freeze(unet(given.widths, shape=(1, 8, 8), classes=10))
    rows = [torch.arange(BATCH) % 10 for _ in range(4)]
    batches = [Samples(torch.rand(BATCH, 1, 8, 8) * 2 - 1, y, torch.arange(BATCH)) for y in rows]
    method, steps = DMD2(trainable(teacher), teacher, ratio=RATIO), RATIO * (given.rounds + 1)
    running = [iter(iterate(method, batches, ADAMW, steps=steps)), by_hand(teacher, batches)]
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
