"""From a run file to models and data."""

from __future__ import annotations

from limbeck.core.card import find
from limbeck.errors import InputError
from limbeck.run.doctor import installed
from limbeck.run.settle import device_of
from limbeck.run.spec import RunSpec
from limbeck.run.task import Task

__all__ = ["resolve"]


def resolve(spec: RunSpec) -> Task:
    """Load the data and the teachers, and settle steps, learning rate, device and paths.

    Raises:
        InputError: for a reference that leads nowhere, and for models and data that do not fit each other.
    """
    card = find(spec.method)
    if card.makes:
        where = f"limbeck.methods.{card.family}.{card.key}"
        raise InputError(
            "method", card.key, f"makes {card.makes}, which a run cannot keep or compare; use {where} from Python"
        )
    served = card.modality == "federated"  # the teachers are the clients
    if not spec.teacher and not served and card.teacher in ("frozen", "ensemble", "black_box", "trainable"):
        raise InputError("teacher", "", f"is missing: {card.key} learns from one; name a folder, a file or a Hub id")
    for tracker in spec.trackers:
        if installed(tracker) is None:
            raise InputError("trackers", tracker, f"is not installed; pip install {tracker}")
    device = device_of(spec.device)
    if card.modality == "text":
        from limbeck.run.language.task import text_task

        return text_task(spec, device)
    if card.modality == "diffusion":
        from limbeck.run.diffusion.task import sample_task

        return sample_task(spec, device)
    if card.modality == "dataset":
        from limbeck.run.dataset.task import set_task

        return set_task(spec, device)
    if card.modality == "federated":
        from limbeck.run.federated.task import federated_task

        return federated_task(spec, device)
    from limbeck.run.vision.task import image_task

    return image_task(spec, device)
