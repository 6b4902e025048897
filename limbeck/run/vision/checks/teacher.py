"""Does the teacher have something to teach, and can it serve the method?"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from limbeck.models.classifier import Classifier
from limbeck.run.checks.said import Said, failed, ok, skipped, warning
from limbeck.run.evaluation import evaluating
from limbeck.run.vision.bench import ImageBench as Bench
from limbeck.run.vision.evaluation import log_probabilities

REORDERED = 0.1  # accuracy that another class order must add, on images it was not chosen by
WEAK = 1 / 3  # of the way from chance to perfect


def repeatable(bench: Bench) -> Said:
    """Two passes of a teacher in eval mode are identical: its dropout and noise are off."""
    if not bench.teaches:
        return skipped("no pretrained teacher takes part")
    for i, original in enumerate(bench.task.teachers, 1):
        teacher = copy.deepcopy(original)
        x = bench.batch.teacher_x.to(teacher.mean.device)
        with evaluating(teacher):
            first, second = teacher(x), teacher(x)
        gap = float((first - second).abs().max())
        if gap > 0:
            measured = f"two passes of teacher {i} over the same images differ by {gap:.3g}"
            return failed(measured, "Something random is on in eval mode: pass training=self.training to F.dropout.")
    return ok("two passes over the same images are identical")


def class_order(bench: Bench) -> Said:
    """The teacher's logits are in the order of the labels: no other order fits them much better.

    The best order is found on half of the images and judged on the other half, so that with many classes and few images
    it gains nothing by chance.
    """
    if not bench.teaches:
        return skipped("no pretrained teacher takes part")
    said: list[str] = []
    mixed = torch.randperm(len(bench.probe), generator=torch.Generator().manual_seed(0))  # rows may be sorted by class
    for i, p in enumerate(bench.predictions, 1):
        chosen, y, half = p.argmax(1)[mixed], bench.probe.labels[mixed], len(p) // 2
        order = _best_order(chosen[:half], y[:half], p.shape[1])
        before = float((chosen[half:] == y[half:]).double().mean())
        after = float((order[chosen[half:]] == y[half:]).double().mean())
        moved = [k for k in range(p.shape[1]) if int(order[k]) != k]
        if moved and after - before > REORDERED:
            names, k = bench.task.classes, moved[0]
            measured = f"teacher {i} is right on {before:.1%} of held-out images, and on {after:.1%} with its classes"
            measured += f" reordered: what it calls {names[k]!r} is labelled {names[int(order[k])]!r}"
            return failed(measured, "The teacher was trained with another class order; give its class names, in order.")
        said.append(f"{before:.1%} as they are, {after:.1%} in the best order")
    return ok("accuracy of the teacher's classes: " + "; ".join(said))


def _best_order(chosen: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The permutation of the classes that makes most predictions right; as they are where nothing tells."""
    from scipy.optimize import linear_sum_assignment

    confusion = torch.bincount(chosen * classes + labels, minlength=classes**2).view(classes, classes).double()
    rows, columns = linear_sum_assignment((confusion + 1e-3 * torch.eye(classes)).numpy(), maximize=True)
    order = np.empty(classes, dtype=np.int64)
    order[rows] = columns
    return torch.from_numpy(order)


def worth(bench: Bench) -> Said:
    """The teacher knows more than chance and than the untrained student, and is not the smaller network."""
    if not bench.teaches:
        return skipped("no pretrained teacher takes part")
    labels = bench.probe.labels
    chance = float(torch.bincount(labels).max()) / len(labels)
    untrained = _accuracy(log_probabilities(copy.deepcopy(bench.student), bench.probe), labels)
    reached = [_accuracy(p, labels) for p in bench.predictions]
    margin = 3 * (chance * (1 - chance) / len(labels)) ** 0.5
    shown = ", ".join(f"{accuracy:.1%}" for accuracy in reached)
    measured = f"on {len(labels)} held-out images the teacher is right on {shown}, the untrained student on"
    measured += f" {untrained:.1%}, the commonest class on {chance:.1%}"
    if min(reached) <= max(chance + margin, untrained):
        return failed(measured, "It has nothing to teach here: check its weights, its classes and its normalisation.")
    if min(reached) < chance + WEAK * (1 - chance):
        return warning(measured, "It is weak on these data; train or fine-tune it on them first.")
    small = [_parameters(t) for t in bench.task.teachers]
    if bench.card.loop not in ("self", "generations") and max(small) < _parameters(bench.student):
        measured += f"; it has {max(small):,} parameters, the student {_parameters(bench.student):,}"
        return warning(measured, "The student is the larger network: are the two swapped?")
    return ok(measured)


def _accuracy(p: Tensor, labels: Tensor) -> float:
    return float((p.argmax(1) == labels).double().mean())


def _parameters(model: Classifier) -> int:
    return sum(p.numel() for p in model.parameters())
