"""Born-again networks under label noise.

On clean small data a fresh network gains nothing from its predecessor. The claim is made where two fifths of the labels
are wrong, and where the first network has learnt many of those, but not yet all of them by heart.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from evidence._shared import accuracy, batches, images, probabilities, train
from limbeck.data.noise import limit, with_label_noise
from limbeck.methods.classification.supervised import Supervised
from limbeck.methods.self_distillation.ban import BAN
from limbeck.models.load import load_classifier
from limbeck.run.evidence import Result

CLAIM = "With 40 % wrong labels, a second-generation born-again network beats the same network retrained on labels."
STEPS = 400
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)  # the paper's optimiser: it learns most wrong labels, not all


def evidence(seed: int, data: Path | None = None) -> Result:
    """Test accuracy of generation 2 against a label-only retraining with generation 2's own seed."""
    pair = images(data)
    noisy = with_label_noise(limit(pair.train, 800, seed), 0.4, seed)

    def fresh(number: int) -> torch.nn.Module:
        return load_classifier("mlp-128", shape=noisy.shape, classes=noisy.classes, seed=100 * seed + number)

    control = train(Supervised(fresh(2)), batches(noisy, 3 * seed + 2), STEPS, optimizer=SGD).student
    generations, teacher = [], None
    for number in range(3):
        method = train(BAN(fresh(number), teacher), batches(noisy, 3 * seed + number), STEPS, optimizer=SGD)
        teacher = method.student
        generations.append(teacher)
    scores = [accuracy(model, pair.test) for model in generations]
    together = torch.stack([probabilities(model, pair.test) for model in generations]).mean(0)
    return Result(
        metric="test accuracy, %",
        baseline=accuracy(control, pair.test),
        method=scores[2],
        higher_is_better=True,
        versus="the same network retrained on the noisy labels",
        extra={
            "generation 0": scores[0],
            "generation 1": scores[1],
            "ensemble of the three": 100.0 * float((together.argmax(1) == pair.test.labels).float().mean()),
        },
    )
