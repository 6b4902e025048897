"""Made-up outcomes for the tests of reports: every number is computed from simulated logits, none is written down."""

from __future__ import annotations

from typing import Any

import numpy as np

from limbeck.run.outcome import Arm, Cost, Curve, Evaluation, Finding, Outcome, paired_gain

IMAGES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
Array = np.ndarray[Any, np.dtype[np.float64]]

KD_CARD: dict[str, Any] = {
    "key": "kd",
    "title": "Distilling the Knowledge in a Neural Network",
    "authors": "Geoffrey Hinton, Oriol Vinyals, Jeff Dean",
    "year": 2015,
    "url": "https://arxiv.org/abs/1503.02531",
    "family": "classification",
    "summary": "The student matches the teacher's softened class probabilities as well as the labels.",
    "repo": "",
    "modality": "image",
    "teacher": "frozen",
    "data": "labelled",
    "signal": "logits",
    "loop": "supervised",
    "needs": ("logits",),
    "vanishes": ("kd",),
    "stationary": (),
    "fidelity": "paper",
    "notes": "The paper matches soft targets with cross-entropy; KL differs from it by the teacher's entropy.",
}


def log_softmax(z: Array) -> Array:
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def evaluate(logp: Array, y: Array, teacher: Array | None) -> Evaluation:
    """A slow NumPy evaluation of log-probabilities (N, K)."""
    right = logp.argmax(1) == y
    sure = np.exp(logp.max(1))
    place = np.minimum(np.ceil(sure * 15).astype(int) - 1, 14)
    bins = [(float(sure[place == b].mean()), float(right[place == b].mean()), int((place == b).sum()))
            for b in range(15) if (place == b).any()]  # fmt: skip
    classes = range(logp.shape[1])
    return Evaluation(
        count=len(y),
        accuracy=float(right.mean()),
        nll=float(-logp[np.arange(len(y)), y].mean()),
        ece=sum(abs(c - a) * n for c, a, n in bins) / len(y),
        reliability=bins,
        per_class=[float(right[y == k].mean()) if (y == k).any() else 0.0 for k in classes],
        per_class_count=[int((y == k).sum()) for k in classes],
        agreement=None if teacher is None else float((logp.argmax(1) == teacher.argmax(1)).mean()),
        kl_to_teacher=None if teacher is None else float((np.exp(teacher) * (teacher - logp)).sum(1).mean()),
    )


def outcome(
    *,
    classes: int = 10,
    seeds: int = 3,
    skill: float = 1.0,
    teacher: bool = True,
    images: int = 3000,
    points: int = 20,
    steps: int = 4000,
    empty: bool = False,
    world: int = 0,
    **changes: Any,
) -> Outcome:
    """An outcome that might have happened.

    Args:
        skill: the distilled student's grasp of the classes, in units of the control's; below 1 it loses.
        empty: whether the last class has no held-out image.
        world: the seed of the images and the teacher; runs of one world share data and control.
    """
    rng = np.random.default_rng(world)
    y = rng.integers(0, classes - empty, images)
    truth = np.eye(classes)[y]
    ease = rng.uniform(0.7, 1.3, (1, classes))
    hard = rng.normal(size=(images, classes))  # what makes an image hard, for everybody
    base = 2.2 * np.sqrt(np.log(classes))

    def network(grasp: float, own: np.random.Generator, heat: float) -> Array:
        noise = 0.85 * hard + 0.5 * own.normal(size=hard.shape)
        return log_softmax((base * grasp * ease * truth + noise) * heat * base)

    t = network(1.5, rng, 1.1)

    def arm(seed: int, kind: int, grasp: float) -> Arm:
        own = np.random.default_rng([world, seed, kind])
        heat = 1.35 if kind == 0 else 1.1
        logp = network(grasp * (1 + 0.006 * own.normal()), own, heat)
        if kind == 1 and teacher:
            logp = log_softmax(0.9 * logp + 0.1 * t)
        found = evaluate(logp, y, t if teacher else None)
        at = [round(steps * i / points) for i in range(1, points + 1)]
        way = [1 - (1 - 1 / classes) * np.exp(-(5.5 + kind) * (s / steps) ** 0.7) for s in at]
        bumps = 0.012 * own.normal(size=points) * (1 - np.array(at) / steps)
        curve = [float(np.clip(found.accuracy * w + b, 0, 1)) for w, b in zip(way, bumps, strict=True)]
        curve[-1] = found.accuracy
        loss = [float(2.3 * (1 - w) + 0.2) for w in way]
        return Arm(
            seed=seed,
            evaluation=found,
            curve=Curve(steps=at, accuracy=curve, loss=loss),
            seconds=(61.0, 96.0)[kind] + float(own.normal()),
            cached=kind == 0 and seed == 0,
        )

    control, distilled = ([arm(s, kind, grasp) for s in range(seeds)] for kind, grasp in ((0, 1.0), (1, skill)))
    names = IMAGES[:classes] if classes <= 10 else [f"class {k:03d}" for k in range(classes)]
    spec: dict[str, Any] = {
        "version": 1,
        "method": "kd",
        "values": {"tau": 4.0, "alpha": 0.9},
        "student": "resnet8",
        "teacher": ["teachers/cifar10-resnet56"] if teacher else [],
        "data": "data/cifar10.npz",
        "augment": "crop+flip",
        "steps": steps,
        "batch": 128,
        "optimizer": "sgd",
        "lr": 0.1,
        "seeds": seeds,
    }
    facts: dict[str, Any] = {
        "method": "kd",
        "card": KD_CARD,
        "values": {"tau": 4.0, "alpha": "Linear(1.0, 0.5)", "layers": ["net.layer2", "net.layer3"]},
        "spec": spec,
        "command": "limbeck run kd --student resnet8 --teacher teachers/cifar10-resnet56 --data data/cifar10.npz "
        "--augment crop+flip --steps 4000 --batch 128 --optimizer sgd --lr 0.1 --seeds 3 --out runs/kd",
        "classes": names,
        "teacher": evaluate(t, y, None) if teacher else None,
        "teacher_cost": Cost(parameters=855_770, flops=251_494_400, latency_ms=8.31, memory_mb=3.44)
        if teacher
        else None,
        "student_cost": Cost(parameters=78_042, flops=24_781_312, latency_ms=1.27, memory_mb=0.31),
        "control": control,
        "distilled": distilled,
        "gain": paired_gain(control, distilled),
        "preflight": [
            Finding(name="teacher is its own student", status="ok", measured="kd term 0, gradient 0"),
            Finding(name="class order", status="ok", measured="10 names, equal and in the same order"),
            Finding(name="teacher frozen", status="ok", measured="eval mode, no gradient after one step"),
            Finding(
                name="train and test overlap",
                status="warning",
                measured="3 of 3000 test images are in the training set",
                fix="remove them: `limbeck doctor` lists their rows",
            ),
            Finding(name="stored signals", status="skipped", measured="the teacher is run, nothing is stored"),
        ],
        "environment": {
            "limbeck": "0.1.0",
            "python": "3.11.9",
            "system": "Linux x86_64",
            "cores": 2,
            "accelerators": [],
            "versions": {"torch": "2.13.0", "numpy": "2.3.1"},
            "data": {"train": "5d1c0a44e2f09b7d", "test": f"a83e{world:012d}"},
        },
    }
    return Outcome(**{**facts, **changes})
