"""Every federated method against FedAvg, after as many rounds and after as many bytes, on label-skewed clients.

    python benchmarks/federated.py --out runs/federated
    python benchmarks/federated.py --out runs/federated --data TRAIN.parquet,TEST.parquet --seeds 3

20 clients share the training images by Dirichlet(0.1), 20 % of them take part in a round. A fifth of the images is set
aside for all methods alike; FedDF reads it without labels, FedMD with them, the others not. Network, first weights,
clients, who takes part, epochs, batch and the clients' learning rate are the same for all methods; transformers, which
FedPerfix needs, have a FedAvg of their own. FedAvg runs four times as long, so that its accuracy after as many bytes as
any method sent can be read off the same run. An accuracy is the mean over the measures of the last quarter of the
rounds, because it jumps with who took part.

Every result is a file in the folder: a killed benchmark goes on where it was, and more seeds or methods can be asked
for later. The tables and pictures there (federated.md, *.svg) are of all that is in the folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from federated_tables import write

from limbeck import __version__, iterate
from limbeck.core.card import cards, find, method_class
from limbeck.core.checkpoint import write_atomic
from limbeck.core.method import Method, hyperparameters
from limbeck.data.images import DataPair, ImageSet
from limbeck.data.load import load_data
from limbeck.errors import InputError
from limbeck.federated.rounds import Rounds
from limbeck.methods.federated._shared import build
from limbeck.methods.federated.group_pfl import GroupPFL
from limbeck.models.classifier import Classifier
from limbeck.models.load import seeded
from limbeck.models.tiny import convnet, vit
from limbeck.run.progress import Show
from limbeck.run.vision.evaluation import log_probabilities

CLIENTS, PUBLIC, LONG = 20, 0.2, 4
SAME = {"population": CLIENTS, "split": "dirichlet-0.1", "participation": 0.2, "epochs": 2, "batch": 16, "lr": 0.1}
TUNED = {**SAME, "groups": 1, "shared": 1.0, "fall": 1.0, "finetune": 2}  # one model, fine-tuned as clients train
SERVER = partial(torch.optim.Adam, lr=1e-3)  # moves what trains at the server
FULL_SIZE = {"size": 16, "train": 2000, "test": 1000}  # what other data than digits are brought to
NO_SHARED_MODEL = ("fedd2s", "fedperfix")
TRANSFORMERS = ("fedavg-vit", "fedperfix")


@dataclass(frozen=True)
class World:
    """A data set and its name."""

    name: str
    pair: DataPair

    @classmethod
    def of(cls, reference: str) -> World:
        if reference == "digits":
            return cls("digits", load_data("digits"))
        pair = load_data(reference, size=FULL_SIZE["size"])
        train, test = pair.train.limited(count=FULL_SIZE["train"]), pair.test.limited(count=FULL_SIZE["test"])
        return cls(name_of(reference), DataPair(train, test))


def name_of(reference: str) -> str:
    """``cifar10`` of ``folder/cifar10_train.parquet,...``."""
    return Path(reference.split(",")[0]).stem.removesuffix("_train")


def key_of(arm: str) -> str:
    return arm.removesuffix("-vit")


def values_of(arm: str, world: str) -> dict[str, Any]:
    """A method's values: those of all, and its own where its defaults do not fit this comparison."""
    steps = 6 if world == "digits" else 10  # two epochs of a mean client
    own: dict[str, dict[str, Any]] = {
        "fedgen": {"alpha": 1.0, "beta": 1.0},  # its defaults diverge at this learning rate
        "group_pfl": {"fall": 0.5},  # that of its evidence; a tenth a level leaves too little at this rate
        "self_fl": {"most": steps},
        "fedlgd": {} if world == "digits" else {"augment": "colour+crop+erase+flip+rotate"},  # the paper's
    }
    fields = hyperparameters(method_class(find(key_of(arm))))
    return {n: v for n, v in {**SAME, **own.get(arm, {})}.items() if n in fields}


def network(arm: str, images: ImageSet, seed: int) -> Classifier:
    """Its weights depend on the seed alone. Neither has batch norm, whose averages skewed clients spoil."""
    make: Callable[[], Classifier] = partial(convnet, 32, 2, shape=images.shape, classes=images.classes)
    if arm in TRANSFORMERS:
        make = partial(vit, 32, 2, shape=images.shape, classes=images.classes)
    with seeded(seed):
        return make()


def personal(method: Any, number: int) -> float:
    """The mean over clients of the accuracy, %, of each one's model on its own test images."""
    asked = {k: method.broadcast(k) for k in range(CLIENTS)}
    told = [reply.payload for reply in method.clients.ask(asked, number, task="evaluate").replies]
    return 100.0 * fmean(float(p["correct"] / p["count"]) for p in told if p["count"] > 0)


def run(
    arm: str, world: World, seed: int, rounds: int, every: int, step: Callable[[int], None]
) -> list[dict[str, float]]:  # fmt: skip
    """The arm's curve: accuracies and bytes sent so far, from round 0 on, after every so many rounds."""
    private, public = world.pair.train.split(PUBLIC, seed)
    unlabelled = replace(public, labels=torch.full_like(public.labels, -1))
    given = {"feddf": {"public": unlabelled}, "fedmd": {"public": public}}.get(arm)

    def made(cls: type[Method], values: Mapping[str, Any]) -> tuple[Any, Rounds]:
        torch.manual_seed(seed)
        net = network(arm, private, seed)
        return build(cls, net, private, values, seed=seed, test=world.pair.test, given=given)

    method, batches = made(method_class(find(key_of(arm))), values_of(arm, world.name))
    tuned = made(GroupPFL, TUNED)[0] if key_of(arm) == "fedavg" else None
    sent, curve = {"down": 0.0, "up": 0.0}, list[dict[str, float]]()

    def measure(done: int) -> None:
        found = {"round": done, **sent, "personal": personal(method, done)}
        if arm not in NO_SHARED_MODEL:
            test = world.pair.test
            right = log_probabilities(method.student, test).argmax(1) == test.labels
            found["shared"] = 100.0 * float(right.double().mean())
        if tuned is not None:
            tuned.student.load_state_dict(method.student.state_dict())
            found["tuned"] = personal(tuned, done)
        curve.append(found)

    measure(0)
    for record in iterate(method, batches, SERVER, steps=rounds):
        done, logs = record.step + 1, record.floats()
        for way in sent:
            sent[way] += sum(v for n, v in logs.items() if n.rsplit("/")[-1] == f"bytes_{way}")
        if done % every == 0 or done == rounds:
            measure(done)
        step(done)
    return curve


def facts_of(arm: str, world: str, rounds: int) -> dict[str, Any]:
    """What a result depends on but for its seed: a folder holds results of one kind."""
    bounds = None if world == "digits" else FULL_SIZE
    return {"rounds": rounds, "values": values_of(arm, world), "public": PUBLIC, "images": bounds}


def work(given: argparse.Namespace, arms: Sequence[str], show: Show) -> None:
    """All results that the folder has not yet, a seed after the other."""
    worlds = dict[str, World]()
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        for reference in given.data:
            for arm in arms:
                name = name_of(reference)
                rounds = given.rounds * (LONG if arm == "fedavg" else 1)
                file = given.out / name / f"{arm}-{seed}.json"
                facts = facts_of(arm, name, rounds)
                if file.is_file():
                    if json.loads(file.read_text(encoding="utf-8"))["facts"] != facts:
                        raise InputError("out", str(file), "is of another setting; give another folder")
                    continue
                if name not in worlds:
                    worlds[name] = World.of(reference)
                title, begun = f"{name}, {arm}, seed {seed}", time.process_time()
                show.begin(title, 0, rounds)
                curve = run(
                    arm, worlds[name], seed, rounds, max(1, given.rounds // 10), lambda done: show.step(done, None)
                )
                show.end()
                seconds = time.process_time() - begun
                result: Mapping[str, Any] = {
                    "arm": arm, "seed": seed, "facts": facts, "curve": curve, "seconds": seconds,
                    "versions": {"limbeck": __version__, "torch": torch.__version__},
                }  # fmt: skip
                write_atomic(file, json.dumps(result, indent=1) + "\n")
                last = ", ".join(f"{n} {curve[-1][n]:.1f} %" for n in ("shared", "personal") if n in curve[-1])
                show.line(f"{title}: {last}, {seconds:.0f} s")


def main() -> int:
    known = [key for key, card in cards().items() if card.family == "federated"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, the tables and the pictures")
    parser.add_argument("--data", nargs="+", default=["digits"], help="digits, or TRAIN.parquet,TEST.parquet")
    parser.add_argument("--methods", nargs="+", default=known, choices=known, metavar="KEY", help="(default: all)")
    parser.add_argument("--rounds", type=int, default=40, help="of every method; FedAvg's run is four times as long")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    chosen = dict.fromkeys(["fedavg", *(["fedavg-vit"] if "fedperfix" in given.methods else []), *given.methods])
    try:
        with Show() as show:
            work(given, list(chosen), show)
        print(write(given.out))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on with {given.out}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
