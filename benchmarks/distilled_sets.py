"""Distilled data sets against as many random real images used alike: all image methods, on digits and CIFAR-10, at one
and ten images a class.

    python benchmarks/distilled_sets.py --out runs/sets-table
    python benchmarks/distilled_sets.py --out runs/sets-table --data digits TRAIN.parquet,TEST.parquet --seeds 10
    python benchmarks/distilled_sets.py --out runs/sets-table --data digits --methods mtt cda --per-class 1

A job is a method on a data set, at a size, under a seed; the set that it makes trains fresh networks, which are tried
on the test images. Beside it stands the control: as many random real images, with the same labels, augmentation and
step sizes, another draw for every network. What real images reach with plain labels is the job ``random``, and what all
of them reach is ``full``. FOLDER/results has a file for every job that is done, so that a killed command goes on where
it was; a job whose settings have changed since is done again. Teachers and experts are trained once for each data set
and kept in FOLDER. The table is printed, and written to FOLDER/table.md.

Images that are not 8x8 are brought to 16x16, so that all of it takes an hour or two of one core. The settings below
were chosen on seed 0, some on 1 too; the table is of seeds from 10 on. Two methods are not here: mirage is of graphs,
and what krr_st makes trains encoders, not classifiers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limbeck.core.card import find, method_class
from limbeck.core.checkpoint import write_atomic
from limbeck.core.fit import fit
from limbeck.core.method import Method, Setting
from limbeck.core.modules import freeze
from limbeck.core.schedule import Cosine
from limbeck.data.augment import augmentation
from limbeck.data.batches import Batches
from limbeck.data.images import DataPair
from limbeck.data.load import load_data
from limbeck.models.classifier import Classifier
from limbeck.models.load import load_classifier, save_classifier, seeded
from limbeck.models.pretraining import embed
from limbeck.models.synthetic import SyntheticSet, initial, used_like
from limbeck.models.use import Descent, descend
from limbeck.run.dataset.evaluation import trained
from limbeck.run.vision.evaluation import evaluate

NET = "convnet-32x2", "convnet-16x2"  # on digits and on photos
NETS = 3  # fresh networks a set is judged by


@dataclass(frozen=True)
class Settings:
    """How a method is run: Adam on pixels, with betas (0.5, 0.9) and a cosine where images are recovered from teachers.

    Args:
        steps: optimiser steps on digits and on photos.
        lr: its step size.
        values: hyper-parameters; the others are the method's own.
        photos: what is otherwise there.
        ten: what is otherwise at ten images a class.
        teachers: kinds of networks, trained on all images; ``encoder`` is one that has seen no label.
    """

    steps: tuple[int, int]
    lr: float
    values: Mapping[str, Any] = field(default_factory=dict)
    photos: Mapping[str, Any] = field(default_factory=dict)
    ten: Mapping[str, Any] = field(default_factory=dict)
    teachers: tuple[str, ...] = ()


TEACHER, SECOND = "cnn-32-64-128", "cnn-32-64"
LABELS = {"lower": 0.5, "flip": False, "tau": 4.0}
EXPERTS = {"steps": 10, "span": 2, "latest": 4, "rate": 0.05, "experts": 5, "expert_rate": 0.05, "expert_batch": 64}
OFTEN = {"per_epoch": 8, "expert_batch": 256}  # an epoch of 50,000 images is long
SMOOTH = {**EXPERTS, "rate": 0.005, "expert_rate": 0.01}
SETTINGS: dict[str, Settings] = {
    "datadam": Settings((300, 300), 0.01, {"attention": 0.0}, {"batch": 32}),
    "cudd": Settings((150, 150), 0.02, {**LABELS, "r_bn": 0.3}, {"flip": True}, teachers=(TEACHER,)),
    "cv_dd": Settings((150, 150), 0.02, {**LABELS, "r_bn": 0.3}, {"flip": True}, teachers=(TEACHER, SECOND)),
    "cda": Settings((300, 150), 0.005, {**LABELS, "how": "real", "r_bn": 0.05}, {"flip": True}, teachers=(TEACHER,)),
    "infer_ufc": Settings((200, 200), 0.01, {"tau": 4.0}, teachers=(TEACHER, SECOND)),
    "hello": Settings((300, 200), 0.003, LABELS, {"flip": True}, teachers=(TEACHER, "encoder")),
    "dream": Settings((60, 60), 0.01, {"factor": 1, "clusters": 32, "batch": 32, "inner": 50}),
    "mtt": Settings((70, 40), 0.03, EXPERTS, OFTEN),
    "att": Settings((70, 40), 0.03, {**EXPERTS, "decay": 0.95}, OFTEN),
    "pdd": Settings((70, 40), 0.03, {**EXPERTS, "stages": 1}, OFTEN, {"stages": 2}),
    "ftd": Settings((70, 40), 0.03, {**EXPERTS, "rho": 0.05, "decay": 0.95}, OFTEN),
    "dd_wang": Settings((150, 80), 0.02, {"rate": 0.1, "inits": 2, "batch": 16}, {}, {"epochs": 1, "inits": 1}),
    "ast": Settings((70, 40), 0.03, SMOOTH, OFTEN),
}
EXPERTS_OF = {"mtt": "plain", "att": "plain", "ftd": "flat", "ast": "smooth"}
REFERENCES = ("random", "full")


class Images:
    """A data set, and what is trained on all of it once and kept in a folder."""

    def __init__(self, reference: str, folder: Path) -> None:
        self.photos = reference != "digits"
        self.reference, self.name = reference, Path(reference.split(",")[0]).stem.removesuffix("_train")
        self.folder = folder / self.name
        self.augment = "crop+flip" if self.photos else "shift+rotate"

    @cached_property
    def pair(self) -> DataPair:
        return load_data(self.reference, size=16 if self.photos else None)

    @cached_property
    def whole(self) -> tuple[Tensor, Tensor]:
        return self.pair.train.take(torch.arange(len(self.pair.train)))

    def net(self, seed: int, kind: str = "") -> Classifier:
        """Fresh."""
        return load_classifier(
            kind or NET[self.photos], shape=self.pair.train.shape, classes=self.pair.train.classes, seed=seed
        )

    def accuracy(self, net: Classifier) -> float:
        """On the test images, %."""
        return 100 * evaluate(net, self.pair.test).accuracy

    def kept(self, kind: str) -> Classifier:
        """A teacher, or the encoder."""
        folder = self.folder / "teachers" / kind
        if not folder.is_dir():
            net = self.net(99, TEACHER if kind == "encoder" else kind)
            with seeded(99):
                if kind == "encoder":
                    self.encode(net)
                else:
                    self.learn(net, 1000 if self.photos else 600)
            save_classifier(net, folder)
        return freeze(load_classifier(str(folder)))

    def learn(self, net: Classifier, steps: int) -> None:
        descend(net, *self.whole, steps=steps, rate=0.05, batch=128, augment=self.augment)

    def encode(self, net: Classifier) -> None:
        """Barlow Twins (Zbontar et al. 2021, https://arxiv.org/abs/2103.03230), without its projector."""
        x = self.whole[0]
        change = augmentation(self.augment + ("+colour" if self.photos else "+erase"), self.pair.train.shape)
        assert change is not None
        optimizer = torch.optim.Adam(net.parameters(), 1e-3)
        for _ in range(250):
            rows = torch.randperm(len(x))[:256]
            a, b = ((f - f.mean(0)) / (f.std(0) + 1e-4) for f in (embed(net, change(x[rows])) for _ in range(2)))
            c = a.T @ b / len(rows)
            loss = (c.diagonal() - 1).square().sum() + 5e-3 * (c.square().sum() - c.diagonal().square().sum())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        net.eval()


class Job(NamedTuple):
    """A method, or one of :data:`REFERENCES`, on a data set, at a size, under a seed."""

    images: Images
    per_class: int
    method: str
    seed: int

    @property
    def file(self) -> Path:
        return self.images.folder / "results" / f"{self.method}-{self.per_class}-{self.seed}.json"

    @property
    def values(self) -> dict[str, Any]:
        """The method's hyper-parameters."""
        of, photos, known = SETTINGS[self.method], self.images.photos, method_class(find(self.method)).__annotations__
        bank = self.images.folder / "experts" / EXPERTS_OF.get(self.method, "")
        size = "per_class" if "per_class" in known else "steps"  # an image of every class for each of dd_wang's steps
        found: dict[str, Any] = {size: self.per_class}
        found |= {"augment": self.images.augment} if "augment" in known else {}
        found |= {"bank": str(bank)} if self.method in EXPERTS_OF else {}
        return found | {**of.values, **(of.photos if photos else {}), **(of.ten if self.per_class > 1 else {})}

    @property
    def settings(self) -> str:
        """All that decides the result."""
        own = ""
        if self.method not in REFERENCES:
            of, values = SETTINGS[self.method], {k: v for k, v in self.values.items() if k != "bank"}
            own = f" {of.steps[self.images.photos]} steps of {of.lr:g} {values} {' '.join(of.teachers)}"
        return f"{NETS} {NET[self.images.photos]} {self.images.augment}{own}"

    def done(self) -> dict[str, Any] | None:
        """What was found by the same settings."""
        found = json.loads(self.file.read_bytes()) if self.file.is_file() else {}
        return found if found.get("settings") == self.settings else None

    def made(self) -> SyntheticSet:
        """What the method makes."""
        of, train = SETTINGS[self.method], self.images.pair.train
        steps, cls = of.steps[self.images.photos], method_class(find(self.method))
        adam = partial(torch.optim.Adam, lr=of.lr, betas=(0.5, 0.9) if of.teachers else (0.9, 0.999))

        def run(method: Method, *, name: str = "fit", data: Any = None, steps: int = steps) -> None:
            source = Batches(train, 64, seed=self.seed) if data is None else data
            fit(method, source, adam, steps=steps, lr=Cosine() if of.teachers else None)

        with seeded(self.seed):
            found = cls.distil(
                Setting(
                    lambda: self.images.net(int(torch.randint(2**31, ()))), [self.images.kept(k) for k in of.teachers],
                    Batches(train, 64, seed=self.seed), steps, run,
                ),
                self.values,
            )  # fmt: skip
        assert isinstance(found, SyntheticSet)
        return found

    def judged(self, number: int, made: SyntheticSet) -> float:
        """The accuracy of a fresh network that is trained on a set in the set's own way."""
        seed = 1000 * self.seed + number
        return self.images.accuracy(trained(made, self.images.net(seed + 500), seed))

    def real(self, number: int, factor: int = 1) -> SyntheticSet:
        """Random real images, another draw for every network."""
        plain = Descent(augment=self.images.augment)
        seed = 1000 * self.seed + number
        return initial(self.images.pair.train, self.per_class, factor=factor, seed=seed, use=plain)

    def alike(self, made: SyntheticSet) -> list[float]:
        """What random real images reach that are used as a set is."""
        factor, plain = getattr(made.images, "factor", 1), self._replace(method="random")
        if made.use == Descent(augment=self.images.augment) and factor == 1:
            return (plain.done() or plain.run())["distilled"]
        return [self.judged(k, used_like(made, self.real(k, factor))) for k in range(NETS)]

    def run(self) -> dict[str, Any]:
        """Do it and write what was found."""
        began, found = time.process_time(), dict[str, Any]()
        if self.method == "full":
            net = self.images.net(self.seed)
            with seeded(self.seed):
                self.images.learn(net, 1000 if self.images.photos else 600)
            found["distilled"] = [self.images.accuracy(net)]
        elif self.method == "random":
            found["distilled"] = [self.judged(k, self.real(k)) for k in range(NETS)]
        else:
            made = self.made()
            found["making"] = round(time.process_time() - began, 1)
            found["distilled"] = [self.judged(k, made) for k in range(NETS)]
            found["alike"] = self.alike(made)
            found["stored"] = made.budget._asdict()
        found |= {"settings": self.settings, "seconds": round(time.process_time() - began, 1)}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.file, json.dumps(found, indent=1) + "\n")
        return found


def jobs(images: Images, sizes: list[int], methods: list[str], seeds: list[int]) -> Iterator[Job]:
    """Those that can be, all seeds of a method together."""
    for method in methods:
        for per_class in [0] if method == "full" else sizes:
            if method == "infer_ufc" and per_class == 1:
                continue  # its patterns alone cost more
            yield from (Job(images, per_class, method, seed) for seed in (seeds[:1] if method == "full" else seeds))


def said(values: list[float]) -> str:
    """A mean, and how far single seeds are from it."""
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{fmean(values):.1f}{spread}"


class Row(NamedTuple):
    """What a method was found to be worth: means over networks, a number a seed."""

    method: str
    own: list[float]
    alike: list[float]
    use: list[float]
    making: float

    @property
    def gains(self) -> list[float]:
        return [a - b for a, b in zip(self.own, self.alike, strict=True)]

    def __str__(self) -> str:
        wins, use = sum(g > 0 for g in self.gains), f"{fmean(self.use):+.1f}" if self.use else ""
        cells = (
            self.method,
            said(self.own),
            said(self.alike),
            f"{fmean(self.gains):+.1f}",
            f"{wins}/{len(self.own)}",
            use,
        )
        return f"| {' | '.join(cells)} | {self.making:.0f} s |"


def row(method: str, of: Mapping[int, dict[str, Any]], plain: Mapping[int, float]) -> Row:
    """What its jobs found, by seed."""
    alike = {seed: fmean(found["alike"]) for seed, found in of.items()}
    use = [at - plain[seed] for seed, at in alike.items() if seed in plain]
    own, making = [fmean(found["distilled"]) for found in of.values()], fmean(found["making"] for found in of.values())
    return Row(method, own, list(alike.values()), use, making)


def table(images: Images, sizes: list[int], methods: list[str], seeds: list[int]) -> Iterator[str]:
    """Markdown of what is there."""
    full = [found["distilled"] for job in jobs(images, sizes, ["full"], seeds) if (found := job.done())]
    for per_class in sizes:
        held = {name: dict[int, dict[str, Any]]() for name in methods}
        for job in jobs(images, [per_class], [m for m in methods if m != "full"], seeds):
            if found := job.done():
                held[job.method][job.seed] = found
        plain = {seed: fmean(found["distilled"]) for seed, found in held.get("random", {}).items()}
        rows = [row(name, of, plain) for name, of in held.items() if name not in REFERENCES and of]
        rows.sort(key=lambda one: -fmean(one.gains))
        if rows:
            yield f"\n**{images.name}, {per_class} a class.**"
            yield f"Random real images, plain labels: {said(list(plain.values()))} %." if plain else ""
            yield f"All images: {said([fmean(of) for of in full])} %." if full else ""
            yield "\n| Method | Its set, % | Real images used alike, % | Gain | Seeds | The use alone | To make |"
            yield "|---|---|---|---|---|---|---|"
            yield from map(str, rows)
            better = [one.method for one in rows if min(one.gains) > 0]
            rest = [one.method for one in rows if min(one.gains) <= 0]
            yield f"\nBetter than real images used alike on every seed: {', '.join(better) or 'none'}."
            yield f"Not: {', '.join(rest) or 'none'}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of results, teachers and experts")
    parser.add_argument("--data", nargs="+", default=["digits"], help="digits, and TRAIN.parquet,TEST.parquet")
    parser.add_argument("--per-class", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--methods", nargs="+", default=[*REFERENCES, *SETTINGS], choices=[*REFERENCES, *SETTINGS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--table", action="store_true", help="of what is there; run nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)  # sums in another order are other numbers
    sets = [Images(reference, given.out) for reference in given.data]
    todo = [job for images in sets for job in jobs(images, given.per_class, given.methods, given.seeds)]
    for number, job in enumerate([] if given.table else todo, 1):
        if job.done() is None:
            found = job.run()
            alike = f", alike {fmean(found['alike']):.1f}" if "alike" in found else ""
            name = f"{job.images.name}, {job.per_class} a class, {job.method}, seed {job.seed}"
            print(
                f"{number}/{len(todo)} {name}: {fmean(found['distilled']):.1f}{alike}, {found['seconds']} s", flush=True
            )
    lines = [line for images in sets for line in table(images, given.per_class, given.methods, given.seeds)]
    write_atomic(given.out / "table.md", "\n".join(lines).strip() + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
