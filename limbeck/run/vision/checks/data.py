"""Are the images what they should be?"""

from __future__ import annotations

from collections import defaultdict

import torch

from limbeck.data.batches import Images
from limbeck.errors import InputError
from limbeck.models.classifier import Classifier, same_classes
from limbeck.run.checks.said import Said, failed, ok, skipped, warning
from limbeck.run.vision.bench import ImageBench as Bench

LEAK = 0.01  # share of the test set that is also trained on, from which a result means nothing
IMBALANCE = 20.0  # images of the largest class for one of the smallest
SCALE = (0.1, 10.0)  # standard deviation of pixels after normalisation
OFFSET = 3.0  # their mean


def classes(bench: Bench) -> Said:
    """Data, teachers and student speak of the same classes in the same order, and their heads are as wide."""
    task, names = bench.task, list(bench.task.classes)
    held = [("train", task.train.classes), ("test", task.test.classes), ("student", bench.student.classes)]
    held += [(f"teacher {i}", teacher.classes) for i, teacher in enumerate(task.teachers, 1)]
    try:
        for field, theirs in held:
            same_classes(field, theirs, names)
    except InputError as error:
        return failed(str(error), "Give every model and data set the same classes in the same order.")
    for said, data in (("training", task.train), ("test", task.test)):
        unknown = int((data.labels < 0).sum())
        if unknown and (bench.card.data == "labelled" or said == "test"):
            return failed(f"{unknown} of {len(data)} {said} images have no label", "Label them or leave them out.")
    return ok(f"{len(names)} classes, the same and in the same order in {', '.join(field for field, _ in held)}")


def balance(bench: Bench) -> Said:
    """Every class has images, and none has very many more than another."""
    count, names = len(bench.task.classes), bench.task.classes
    train, test = (
        torch.bincount(data.labels[data.labels >= 0], minlength=count) for data in (bench.task.train, bench.task.test)
    )
    for said, counts in (("training", train), ("test", test)):
        empty = [names[k] for k in (counts == 0).nonzero()[:, 0].tolist()]
        if empty:
            shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
            return warning(f"{len(empty)} of {count} classes have no {said} image: {shown}", "Add some, or drop them.")
    small, large = int(train.min()), int(train.max())
    measured = f"{small} to {large} training images a class"
    if large > IMBALANCE * small:
        return warning(measured, "Rare classes learn little: read the per-class accuracies, or balance the data.")
    return ok(measured)


def overlap(bench: Bench) -> Said:
    """No test image, pixel for pixel, is trained on."""
    known = set(bench.task.train.hashes)
    shared = [row for row, name in enumerate(bench.task.test.hashes) if name in known]
    measured = f"{len(shared)} of {len(bench.task.test)} test images are also in the training set"
    if not shared:
        return ok(measured)
    fix = f"Drop them from one of the two (the first is test row {shared[0]})."
    return failed(measured, fix) if len(shared) > LEAK * len(bench.task.test) else warning(measured, fix)


def conflicts(bench: Bench) -> Said:
    """Equal training images have equal labels."""
    seen, labels = defaultdict[str, list[int]](list), bench.task.train.labels.tolist()
    for row, name in enumerate(bench.task.train.hashes):
        seen[name].append(row)
    copies = sum(len(rows) - 1 for rows in seen.values())
    torn = [rows for rows in seen.values() if len({labels[row] for row in rows}) > 1]
    if torn:
        rows = ", ".join(map(str, torn[0][:4]))
        measured = f"{len(torn)} training images occur with different labels, as rows {rows} do"
        return warning(measured, "Decide on one label, or drop them.")
    return ok(f"{copies} duplicates among {len(labels)} training images, none with another label")


def pixels(bench: Bench) -> Said:
    """Batches hold finite pixels in [0, 1], and every network normalises them to a sensible scale."""
    batch = next(iter(bench.batches))
    for said, x in (("student", batch.x), ("teacher", batch.teacher_x)):
        if not x.isfinite().all():
            rows = batch.index[(~x.isfinite()).flatten(1).any(1)].tolist()
            return failed(f"training row {rows[0]} has NaN or infinite pixels", "Look at the augmentation.")
        low, high = float(x.min()), float(x.max())
        if low < -0.01 or high > 1.01:
            measured = f"the {said}'s pixels range from {low:.3g} to {high:.3g}"
            return failed(measured, "Give images in [0, 1]: the classifiers normalise them themselves.")
    networks = [("student", bench.student, batch.x)]
    networks += [(f"teacher {i}", teacher, batch.teacher_x) for i, teacher in enumerate(bench.task.teachers, 1)]
    scales = [(said, *_normalised(model, x)) for said, model, x in networks]
    measured = "; ".join(
        f"{said}: mean {mean:.2f}, std {std:.2f} after its normalisation" for said, mean, std in scales
    )
    for said, mean, std in scales:
        if not (SCALE[0] < std < SCALE[1] and abs(mean) < OFFSET):
            fix = f"Pixels are in [0, 1]: set the {said}'s mean and std in that unit, and divide by 255 only once."
            return failed(measured, fix)
    return ok(measured)


def _normalised(model: Classifier, x: torch.Tensor) -> tuple[float, float]:
    z = (x.to(model.mean) - model.mean) / model.std
    return float(z.mean()), float(z.std())


def index(bench: Bench) -> Said:
    """A batch's ``index`` leads to its images and labels: what is stored under it belongs to that sample."""
    run = bench.batches
    batch, data = next(iter(run)), run.dataset
    if not _rows_exist(batch, len(data)):
        return failed("a batch's index points outside of the training set", "Give rows of the training set.")
    clean, labels = data.take(batch.index)
    unchanged = batch.x if run.augment in (None, "none") else batch.view if run.teacher_view == "clean" else None
    wrong = labels != batch.y
    if unchanged is not None:
        wrong |= (unchanged - clean).abs().flatten(1).amax(1) > 1e-6
    what = "labels" if unchanged is None else "images and labels"
    if wrong.any():
        measured = f"{int(wrong.sum())} of {len(wrong)} samples of a batch are not the rows that its index names"
        return failed(measured, "Number samples by their row in the training set, not by their place in the stream.")
    return ok(f"the {what} of {len(wrong)} samples are those of their rows")


def _rows_exist(batch: Images, rows: int) -> bool:
    return int(batch.index.min()) >= 0 and int(batch.index.max()) < rows


def last_batch(bench: Bench) -> Said:
    """No batch of one sample meets batch normalisation."""
    run = bench.batches
    norms = [m for m in bench.student.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return skipped("the student has no batch normalisation")
    if run.batch == 1 or (len(run.dataset) % run.batch == 1 and not run.drop_last):
        measured = f"a batch of {run.batch} leaves one of {len(run.dataset)} images alone"
        return warning(measured, "Its batch statistics mean nothing: choose another batch size.")
    return ok(f"batches of {run.batch} of {len(run.dataset)} images, none of a single image")
