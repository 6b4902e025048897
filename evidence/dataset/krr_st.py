"""Evidence for KRR-ST on digits: twenty pairs pre-train a network, five labels a class are for a linear probe.

The encoder, the students' own kind of network, is trained by Barlow Twins on the training images without their labels.
The control is twenty random real images with the encoder's features as their targets. Both pre-train two fresh networks
by the same number of steps of plain MSE; each is probed with five draws of the labelled images. Beside it, networks
without pre-training, the encoder itself, and how well the encoder's features of test images are predicted.
"""

from __future__ import annotations

import copy
from pathlib import Path
from statistics import fmean

import torch
from torch.nn import functional as F

from evidence._dataset import distilled, encoder, net, sets, subset
from evidence._shared import accuracy
from limbeck.methods.dataset.krr_st import KrrSt, regression
from limbeck.models.classifier import Classifier
from limbeck.models.load import seeded
from limbeck.models.pretraining import Pretraining, embed, probe
from limbeck.models.synthetic import SyntheticSet
from limbeck.run.evidence import Result

CLAIM = "A network pre-trained on twenty distilled pairs serves a linear probe better than one on as many real images"
NETS, DRAWS, LABELS = 2, 5, 5


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same networks, steps and labels for both."""
    pair = sets(data)
    teacher = encoder(pair.train, seed)
    few = [subset(pair.train, LABELS, 100 * seed + k) for k in range(DRAWS)]
    unseen, _ = pair.test.take(torch.arange(len(pair.test)))

    def probed(model: Classifier) -> float:
        found: list[float] = []
        for labelled in few:
            fitted = copy.deepcopy(model)
            probe(fitted, labelled().detach(), labelled.y)
            found.append(accuracy(fitted, pair.test))
        return fmean(found)

    def trained(made: SyntheticSet) -> list[Classifier]:
        models = [net(pair.train, 1000 * seed + 7 + k) for k in range(NETS)]
        for k, model in enumerate(models):
            assert isinstance(made.use, Pretraining)
            with seeded(1000 * seed + k):
                made.use.pretrain(model, made)
        return models

    @torch.no_grad()
    def error(made: SyntheticSet, model: Classifier) -> float:
        assert made.targets is not None
        found = regression(embed(model, made()), made.targets, embed(model, unseen), 1e-6)
        return F.mse_loss(found, embed(teacher, unseen).double()).item()

    def run(steps: int) -> SyntheticSet:
        values: dict[str, object] = {"per_class": 2, "pool": 5}
        return distilled(KrrSt, pair.train, seed, steps=steps, values=values, teachers=(teacher,))

    made, real = run(300), run(0)  # without a step they are the random real images that it begins with
    ours, theirs = trained(made), trained(real)
    return Result(
        metric="test accuracy of linear probes with five labels a class, %",
        baseline=fmean(map(probed, theirs)),
        method=fmean(map(probed, ours)),
        higher_is_better=True,
        versus="as many random real images with the encoder's features",
        extra={
            "no pre-training": fmean(probed(net(pair.train, 1000 * seed + 7 + k)) for k in range(NETS)),
            "the encoder itself": probed(teacher),
            "error of predicted features": fmean(error(made, model) for model in ours),
            "error of predicted features, real images": fmean(error(real, model) for model in theirs),
        },
    )
