"""What else a distilled set may be good for: to choose an architecture by, and to remember classes by.

Both are tried as they were when such sets were proposed (Zhao et al. 2021, https://arxiv.org/abs/2006.05929; Zhao and
Bilen 2023, https://arxiv.org/abs/2110.04181):

- **search**: every architecture of a grid is trained on the set and on all images. What counts is whether both put them
  in the same order (Spearman), and what the set's first choice reaches when it is trained on all images.
- **continual**: classes come in turn, and of those that were seen the set's images are all that is kept. After every
  turn a fresh network is trained on them alone and told which classes it has seen (GDumb: Prabhu et al., ECCV 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean

from limbeck.data.images import ImageSet
from limbeck.diagnostics.ranks import spearman
from limbeck.errors import InputError
from limbeck.models.classifier import Classifier
from limbeck.models.load import load_classifier
from limbeck.models.synthetic import Plain, SyntheticSet
from limbeck.models.use import InOrder
from limbeck.run.dataset.evaluation import NETS, trained
from limbeck.run.outcome import Continual, Search
from limbeck.run.vision.evaluation import evaluate, log_probabilities

__all__ = ["architectures", "continual", "first", "search"]

GRID = (
    "mlp-64", "mlp-256x2", "convnet-16x1", "convnet-64x1", "convnet-16x2", "convnet-64x2", "convnet-16x3",
    "convnet-64x3", "cnn-16-32", "cnn-16-32-64",
)  # fmt: skip
TURNS = 5
Measure = Callable[[str, Mapping[str, Callable[[], float]]], list[float]]


def architectures(data: ImageSet) -> dict[str, Callable[[], Classifier]]:
    """The grid's architectures that take such images, by name: each call makes the same fresh network."""
    made = {name: partial(load_classifier, name, shape=data.shape, classes=data.classes) for name in GRID}

    def fits(make: Callable[[], Classifier]) -> bool:
        try:
            make()
        except InputError:  # more stages than the image can be halved
            return False
        return True

    return {name: make for name, make in made.items() if fits(make)}


def search(
    made: SyntheticSet, test: ImageSet, on_all: Callable[[Classifier], float], measure: Measure, measure_all: Measure
) -> Search | None:
    """Architectures, ranked by the set and by all images.

    Args:
        made: the set.
        test: held-out images.
        on_all: the accuracy of a fresh network once it is trained on all images.
        measure: of the set (see :class:`limbeck.run.trials.Trials`).
        measure_all: of all images: those numbers are the same for every set.

    Returns:
        ``None`` for a set that was distilled for one network's first weights: it trains no other.
    """
    if isinstance(made.use, InOrder) and made.use.begin is not None:
        return None
    device, grid = made.stored_y.device, architectures(test)

    def all_of(make: Callable[[], Classifier]) -> float:
        return on_all(make().to(device))

    def set_of(make: Callable[[], Classifier]) -> float:
        return evaluate(trained(made, make().to(device), 0), test).accuracy

    by_all = measure_all("search", {name: partial(all_of, make) for name, make in grid.items()})
    by_set = measure("search", {name: partial(set_of, make) for name, make in grid.items()})
    pick = by_set.index(max(by_set))
    return Search(
        names=list(grid), by_set=by_set, by_all=by_all, correlation=spearman(by_set, by_all), pick=list(grid)[pick],
        picked=by_all[pick],
    )  # fmt: skip


def continual(made: SyntheticSet, network: Callable[[int], Classifier], test: ImageSet, measure: Measure) -> Continual:
    """Classes in their own order, two or more a turn; how well those seen so far are told apart.

    Args:
        made: the set.
        network: a fresh network of a number.
        test: held-out images.
        measure: of the set.
    """
    classes = len(made.classes)
    turns = max(1, min(TURNS, classes // 2))
    seen = [round(turn * classes / turns) for turn in range(1, turns + 1)]

    def score(count: int, number: int) -> float:
        net = trained(first(made, count), network(number), number)
        known = (test.labels >= 0) & (test.labels < count)
        found = log_probabilities(net, test)[known, :count].argmax(1)
        return float((found == test.labels[known]).double().mean())

    tried = {f"{n} classes, network {k}": partial(score, n, k) for n in seen for k in range(NETS)}
    found = measure("continual", tried)
    return Continual(classes=seen, accuracy=[fmean(found[t * NETS : (t + 1) * NETS]) for t in range(turns)])


def first(made: SyntheticSet, count: int) -> SyntheticSet:
    """The images of the first classes, decoded, with their labels, step sizes and use."""
    rows = made.y < count
    targets = None if made.targets is None else made.targets.detach()[rows]
    rates: Sequence[float] = () if made.rates is None else made.rates.detach().tolist()
    return SyntheticSet(
        Plain(made().detach()[rows]), made.y[rows], made.classes[:count], targets=targets, rates=rates, use=made.use,
        name=made.name,
    )  # fmt: skip
