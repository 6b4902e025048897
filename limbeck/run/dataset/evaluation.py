"""What a synthetic set is worth: fresh networks are trained on it and tried on held-out images."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from statistics import fmean

from torch import Tensor

from limbeck.data.images import ImageSet
from limbeck.models.classifier import Classifier
from limbeck.models.load import seeded
from limbeck.models.load_set import picture
from limbeck.models.synthetic import SyntheticSet
from limbeck.run.outcome import Evaluation, MadeSet
from limbeck.run.vision.evaluation import evaluate

__all__ = ["NETS", "evaluate_set", "trained"]

NETS = 3  # fresh networks a set is judged by
ACROSS = 12  # images of a class in the report's picture


def trained(made: SyntheticSet, net: Classifier, seed: int) -> Classifier:
    """The network, trained on the set in the set's own way; the caller's random state is left alone."""
    with seeded(seed):
        made.use(net, made)
    return net.eval()


def evaluate_set(
    made: SyntheticSet, network: Callable[[int], Classifier], test: ImageSet, targets: Tensor | None, *, real: int,
    full: float | None = None,
) -> Evaluation:  # fmt: skip
    """The means of what :data:`NETS` networks do that were trained on a set.

    Args:
        made: the set.
        network: a fresh network of a number.
        test: held-out images.
        targets: the teacher's log-probabilities of them, if any.
        real: how many images the set stands for.
        full: the accuracy of such a network when it is trained on all of those.
    """
    found = [evaluate(trained(made, network(k), k), test, targets) for k in range(NETS)]
    held = io.BytesIO()
    picture(made, ACROSS).save(held, "PNG")
    stored = made.budget
    facts = MadeSet(
        images=len(made), stored=stored.images, pixels=stored.pixels, labels=stored.labels, rates=stored.rates,
        real=real, full=full, networks=[one.accuracy for one in found], png=base64.b64encode(held.getvalue()).decode(),
    )  # fmt: skip

    def mean(name: str) -> float:
        return fmean(getattr(one, name) for one in found)

    first = found[0]
    return first.model_copy(
        update={
            "accuracy": mean("accuracy"), "nll": mean("nll"), "ece": mean("ece"), "made": facts,
            "reliability": [row for one in found for row in one.reliability],
            "per_class": [fmean(values) for values in zip(*(one.per_class for one in found), strict=True)],
            "agreement": None if first.agreement is None else mean("agreement"),
            "kl_to_teacher": None if first.kl_to_teacher is None else mean("kl_to_teacher"),
        }
    )  # fmt: skip
