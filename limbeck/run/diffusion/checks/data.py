"""Are the samples what they should be?"""

from __future__ import annotations

import torch

from limbeck.run.checks.said import Said, failed, ok, warning
from limbeck.run.diffusion.bench import SampleBench as Bench

LEAK = 0.01  # share of the test set that is also trained on, from which a result means nothing
SPREAD = 3.0  # how far the standard deviation of latents may be from one, as a factor
REACH = 0.2  # how far beyond zero samples in [-1, 1] go, at least


def overlap(bench: Bench) -> Said:
    """No test image, pixel for pixel, is trained on: a model that repeats its training data would look perfect."""
    known = set(bench.task.train.hashes)
    shared = [row for row, name in enumerate(bench.task.test.hashes) if name in known]
    measured = f"{len(shared)} of {len(bench.task.test)} test images are also in the training set"
    if not shared:
        return ok(measured)
    fix = f"Drop them from one of the two (the first is test row {shared[0]})."
    return failed(measured, fix) if len(shared) > LEAK * len(bench.task.test) else warning(measured, fix)


def span(bench: Bench) -> Said:
    """Batches hold finite samples in [-1, 1], the models' units, or latents near variance one: noise of that variance
    must hide them at time 1."""
    x = next(iter(bench.batches)).x
    if not x.isfinite().all():
        return failed("a training batch has NaN or infinite samples", "Leave such rows out.")
    low, high = float(x.min()), float(x.max())
    measured = f"from {low:.3g} to {high:.3g}, standard deviation {float(x.std()):.2f}"
    if bench.task.autoencoder is not None:
        if 1 / SPREAD < float(x.std()) < SPREAD:
            return ok(f"latents {measured}")
        fix = "Latents should be near 1: give the autoencoder the scaling_factor that makes them so."
        return warning(f"latents {measured}", fix)
    if low < -1.01 or high > 1.01:
        return failed(measured, "Samples must be in [-1, 1]: divide pixels by 127.5 and take 1 away.")
    if low > -REACH or high < REACH:
        return failed(measured, "They look like [0, 1]: a diffusion model reads [-1, 1], so take 2 x - 1.")
    return ok(measured)


def index(bench: Bench) -> Said:
    """A batch's ``index`` leads to its samples and labels: what is stored under it belongs to that sample."""
    batch, data = next(iter(bench.batches)), bench.task.samples
    if int(batch.index.min()) < 0 or int(batch.index.max()) >= len(data):
        return failed("a batch's index points outside of the training set", "Give rows of the training set.")
    held = data.take(batch.index)
    wrong = (batch.y != held.y) | ((batch.x - held.x).abs().flatten(1).amax(1) > 1e-6)
    if wrong.any():
        measured = f"{int(wrong.sum())} of {len(wrong)} samples of a batch are not the rows that its index names"
        return failed(measured, "Number samples by their row in the training set, not by their place in the stream.")
    return ok(f"the samples and labels of {len(torch.unique(batch.index))} rows are those of their rows")
