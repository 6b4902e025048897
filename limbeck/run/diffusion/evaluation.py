"""What a generative model makes, against held-out data: distances, coverage, labels, and samples to look at."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.core.fit import NonFinite
from limbeck.data.images import DataPair
from limbeck.data.samples import SampleSet
from limbeck.diagnostics.generation import diversity, frechet, precision_recall, sliced_wasserstein
from limbeck.models.autoencoder import Autoencoder
from limbeck.models.denoiser import Denoiser
from limbeck.models.sampling import Ode, Sampler
from limbeck.run.diffusion.judge import Judge, judge_of
from limbeck.run.diffusion.pictures import strip_of
from limbeck.run.outcome import SampleEvaluation, Strip

__all__ = ["Reference", "evaluate", "score"]

COUNT = 1000  # samples that a model is judged by
WATCHED = 8000  # evaluations of the network while it trains: fewer samples of a sampler with many steps
FEWEST = 200
AGAINST = 2000  # held-out images, at most
ROWS = 250  # samples made at a time
SHOWN = 10
SHORT = (1, 2, 4, 8)  # steps that a teacher is shown at
NOISE = 777  # the seed of every sampler's noise


class Reference:
    """The held-out data of a run, as its judge sees them. Everything is worked out once.

    Args:
        data: the images.
        device: where the judge is.
        autoencoder: of models that make latents.
    """

    def __init__(self, data: DataPair, device: torch.device, autoencoder: Autoencoder | None = None) -> None:
        self.autoencoder = autoencoder
        self.judge: Judge = judge_of(data, device)
        test = data.test if len(data.test) <= AGAINST else data.test.limited(count=AGAINST)
        train = data.train if len(data.train) <= AGAINST else data.train.limited(count=AGAINST)
        self.samples = SampleSet.of(test).take(torch.arange(len(test)))
        rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:COUNT]
        known = SampleSet.of(train).take(rows)
        self.features, _ = self.judge.look(self.samples.x)
        self.floor = frechet(self.judge.look(known.x)[0], self.features)
        self.spread = diversity(self.features, self.samples.y)

    def labels(self, count: int) -> Tensor:
        """As the held-out data have them; some are -1 where those are."""
        y = self.samples.y
        return y[torch.arange(count) % len(y)]

    def shown(self) -> Tensor:
        """Rows to look at: one of every class in turn, or the first ten."""
        y, rows = self.samples.y[:COUNT], list[int]()
        for label in y.unique().tolist():
            rows += (y == label).nonzero()[:1, 0].tolist()
        rows = rows[:: -(-len(rows) // SHOWN)] if len(rows) > SHOWN else rows
        rows += [k for k in range(len(y)) if k not in rows][: max(0, SHOWN - len(rows))]
        return torch.tensor(rows[:SHOWN])

    def distance(self, x: Tensor) -> float:
        """The Frechet distance of samples in [-1, 1] to the held-out data, in the judge's features."""
        return frechet(self.judge.look(x)[0], self.features)


def made(model: Denoiser, reference: Reference, count: int, sampler: Sampler | None = None) -> Tensor:
    """Images (count, C, H, W) on the CPU, from the same noise and labels for every model; latents are decoded.

    Raises:
        NonFinite: when the model makes what is not finite.
    """
    drawn = torch.Generator().manual_seed(NOISE)
    noise, y = torch.randn(count, *model.shape, generator=drawn), reference.labels(count)
    place = next((p.device for p in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    parts = [
        model.generate(e.to(place), label.to(place), sampler=sampler, generator=drawn).cpu()
        for e, label in zip(noise.split(ROWS), y.split(ROWS), strict=True)
    ]
    x = torch.cat(parts)
    if not x.isfinite().all():
        row = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
        raise NonFinite(f"sample {row} of the model is not finite; its training diverged, or its weights are bad")
    return x if reference.autoencoder is None else reference.autoencoder.decode(x).clamp(-1, 1)


def score(model: Denoiser, reference: Reference, sampler: Sampler | None = None) -> float:
    """The headline number alone, while a model trains; of fewer samples where each takes many steps."""
    steps = (sampler or model.sampler).nfe
    return reference.distance(made(model, reference, min(COUNT, max(FEWEST, WATCHED // steps)), sampler))


def evaluate(
    model: Denoiser, reference: Reference, name: str, sampler: Sampler | None = None, *, short: bool = False
) -> SampleEvaluation:
    """Everything a report says about a model's samples.

    Args:
        name: what the report calls it.
        sampler: in place of the model's own.
        short: whether it is also shown at 1, 2, 4 and 8 steps.
    """
    how = sampler or model.sampler
    x, y, judge = made(model, reference, COUNT, how), reference.labels(COUNT), reference.judge
    features, seen = judge.look(x)
    precision, recall = precision_recall(features, reference.features)
    distance, rows = frechet(features, reference.features), reference.shown()
    strips = [Strip(name=name, nfe=how.nfe, frechet=distance, png=strip_of(x[rows]))]
    if short:
        for steps in SHORT:
            if steps < how.nfe:
                few = made(model, reference, COUNT, Ode(steps))
                near = reference.distance(few)
                strips.append(Strip(name=name, nfe=steps, frechet=near, png=strip_of(few[rows])))
        held = strip_of(reference.samples.x[rows])
        strips.append(Strip(name="Held-out images", nfe=0, frechet=None, png=held))
    known = y >= 0
    labelled = bool(model.classes) and judge.accuracy is not None and bool(known.any())
    return SampleEvaluation(
        count=COUNT,
        against=len(reference.features),
        judge=judge.said,
        frechet=distance,
        floor=reference.floor,
        precision=precision,
        recall=recall,
        sliced_wasserstein=sliced_wasserstein(x.flatten(1), reference.samples.x.flatten(1)),
        diversity=diversity(features, y) / reference.spread,
        class_accuracy=float((seen[known] == y[known]).float().mean()) if labelled else None,
        nfe=how.nfe,
        strips=strips,
    )
