"""What a classifier does on held-out images: accuracy, calibration, and how far it follows its teacher."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.core.fit import NonFinite
from limbeck.data.images import ImageSet
from limbeck.diagnostics.calibration import ece, reliability
from limbeck.diagnostics.fidelity import agreement, predictive_kl
from limbeck.errors import InputError
from limbeck.models.classifier import Classifier
from limbeck.run.evaluation import evaluating
from limbeck.run.outcome import Evaluation

__all__ = ["evaluate", "log_probabilities"]


def log_probabilities(model: Classifier, data: ImageSet, batch: int = 256) -> Tensor:
    """``log softmax`` of the logits on every image, unaugmented, in their order: (N, K) float32 on the CPU."""
    device, parts = model.mean.device, list[Tensor]()
    with evaluating(model):
        for rows in torch.arange(len(data)).split(batch):
            parts.append(model(data.take(rows)[0].to(device)).float().log_softmax(1).cpu())
    return torch.cat(parts)


def evaluate(
    model: Classifier, data: ImageSet, teacher_log_probs: Tensor | None = None, batch: int = 256
) -> Evaluation:
    """Everything a report says about a classifier's predictions.

    Args:
        model: left in the mode it was in.
        data: held-out images. Those of unknown class, -1, count for agreement and divergence only.
        teacher_log_probs: (N, K), the teacher's :func:`log_probabilities` on the same images.
        batch: images a forward pass; the result does not depend on it.

    Raises:
        InputError: when no label is known.
        NonFinite: when the classifier's logits are NaN or infinite.
    """
    found, labels = log_probabilities(model, data, batch), data.labels
    if not found.isfinite().all():
        row = int((~found.isfinite()).any(1).nonzero()[0])
        raise NonFinite(
            f"{data.name}, row {row}: the classifier's logits are not finite; its weights or the input are bad"
        )
    known = labels >= 0
    if not known.any():
        raise InputError(data.name, len(data), "images have no known label; an evaluation needs labels")
    p, y, classes = found[known], labels[known], found.shape[1]
    right = (p.argmax(1) == y).double()
    counts = torch.bincount(y, minlength=classes)
    per_class = torch.bincount(y, weights=right, minlength=classes) / counts.clamp(min=1)
    return Evaluation(
        count=len(y),
        accuracy=float(right.mean()),
        nll=-float(p.double().gather(1, y[:, None]).mean()),
        ece=ece(p, y),
        reliability=reliability(p, y),
        per_class=per_class.tolist(),
        per_class_count=counts.tolist(),
        agreement=None if teacher_log_probs is None else agreement(found, teacher_log_probs),
        kl_to_teacher=None if teacher_log_probs is None else predictive_kl(teacher_log_probs, found),
    )
