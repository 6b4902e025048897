"""Evidence for dataset distillation on digits: three steps on ten images, from the weights they were distilled for.

The network is a perceptron of 64 hidden units. The control takes three steps on ten random real images, one a class,
with the one of eight step sizes that is best on the test images: a choice in its favour. Beside it, the same for random
weights, judged on weights that were never seen.
"""

from __future__ import annotations

from pathlib import Path

from evidence._dataset import distilled, judged, sets, subset
from limbeck.methods.dataset.dd_wang import DatasetDistillation
from limbeck.models.synthetic import SyntheticSet
from limbeck.run.evidence import Result

CLAIM = "Three steps on ten distilled images, one a class, train a network that three on ten real images do not"
NET = "mlp-64x1"
RATES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)


def evidence(seed: int, data: Path | None = None) -> Result:
    """The same network, three steps each."""
    pair = sets(data)

    def made(weights: str) -> SyntheticSet:
        values: dict[str, object] = {"weights": weights, "inits": 4, "batch": 16, "rate": 0.1}
        return distilled(DatasetDistillation, pair.train, seed, steps=300, lr=0.02, kind=NET, values=values)

    def real(like: SyntheticSet) -> float:
        chosen = subset(pair.train, 1, seed)
        sets_of = (SyntheticSet(chosen.images, chosen.y, chosen.classes, rates=[r] * 3, use=like.use) for r in RATES)
        return max(judged(each, pair.test, seed, kind=NET) for each in sets_of)

    fixed, drawn = made("fixed"), made("random")
    return Result(
        metric="test accuracy after three steps, %",
        baseline=real(fixed),
        method=judged(fixed, pair.test, seed, kind=NET),
        higher_is_better=True,
        versus="three steps on ten random real images, from the same weights, at the best of eight step sizes",
        extra={"random weights": judged(drawn, pair.test, seed, kind=NET), "random weights, real images": real(drawn)},
    )
