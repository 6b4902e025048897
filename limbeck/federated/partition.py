"""Who has which rows, and how they look there: pure functions of labels and seed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from limbeck.data.images import ImageSet
from limbeck.errors import InputError

__all__ = ["alike", "dirichlet", "iid", "partition", "shards", "skewed"]

LEAST = 2  # rows a client: batch norm cannot train on one


def partition(split: str, labels: Tensor, clients: int, seed: int) -> list[Tensor]:
    """The rows (int64) of every client, by the name of a split.

    Args:
        split: ``iid``; ``dirichlet-ALPHA``; ``shards-N``: every client has N shards of the rows sorted by class;
            ``rotation-G`` or ``contrast-G``: equal shares, which look different in G groups of clients
            (:func:`skewed`).
        labels: (N,) int64, all known.

    Raises:
        InputError: for a name that is none of these, unknown labels, or too few rows for so many clients.
    """
    if clients < 1 or len(labels) < LEAST * clients:
        raise InputError(
            "population", clients, f"clients cannot share {len(labels)} rows; use at most {len(labels) // LEAST}"
        )
    if len(labels) and int(labels.min()) < 0:
        raise InputError("labels", "-1", "is among them; a partition by class needs every label")
    kind, _, number = split.partition("-")
    try:
        match kind, number:
            case "iid", "":
                return iid(labels, clients, seed)
            case "dirichlet", _ if float(number) > 0:
                return dirichlet(labels, clients, float(number), seed)
            case (("rotation" | "contrast"), _) if int(number) > 1:
                return iid(labels, clients, seed)
            case "shards", _ if int(number) > 0:
                return shards(labels, clients, int(number), seed)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
    raise InputError("split", split, "is none of iid, dirichlet-ALPHA (0.1), shards-N (2), "
                     "rotation-G and contrast-G (2)")  # fmt: skip


def iid(labels: Tensor, clients: int, seed: int) -> list[Tensor]:
    """Equal parts of a shuffled set."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    return [rows.sort().values for rows in order.tensor_split(clients)]


def shards(labels: Tensor, clients: int, each: int, seed: int) -> list[Tensor]:
    """McMahan et al. 2017: the rows sorted by class, cut into ``clients * each`` shards, ``each`` to every client."""
    drawn = np.random.default_rng(seed)
    shuffled = torch.from_numpy(drawn.permutation(len(labels)))
    pieces = shuffled[labels[shuffled].argsort(stable=True)].tensor_split(clients * each)
    if len(labels) < clients * each:
        raise InputError("split", f"shards-{each}", f"cuts {len(labels)} rows into {clients * each} pieces; use fewer")
    order = drawn.permutation(clients * each).reshape(clients, each)
    return [torch.cat([pieces[k] for k in own]).sort().values for own in order]


def dirichlet(labels: Tensor, clients: int, alpha: float, seed: int) -> list[Tensor]:
    """Every class is dealt in proportions from Dir(alpha) (Yurochkin et al. 2019, https://arxiv.org/abs/1905.12022).

    A client that has its fair share of all rows gets none of the classes that are left (as in FedMA's and FedGen's
    code), and whoever has fewer than two rows in the end takes them from the client that has most.
    """
    drawn, held = np.random.default_rng(seed), [list[int]() for _ in range(clients)]
    for k in drawn.permutation(labels.unique().numpy()):
        rows = drawn.permutation(np.flatnonzero(labels.numpy() == k))
        room = np.array([len(own) < len(labels) / clients for own in held])
        share = drawn.dirichlet(np.full(clients, alpha)) * room
        if not share.sum() > 0:  # a small alpha may put all of a class where there is no room
            share = room / room.sum()
        cuts = (np.cumsum(share / share.sum())[:-1] * len(rows)).astype(int)
        for own, more in zip(held, np.split(rows, cuts), strict=True):
            own.extend(more.tolist())
    for own in held:
        while len(own) < LEAST:
            own.append(max(held, key=len).pop())
    return [torch.tensor(sorted(own)) for own in held]


def skewed(split: str, client: int, images: ImageSet) -> ImageSet:
    """A client's images as they look there: client k is of group g = k mod G.

    ``rotation-G`` turns them by 180 g / G degrees, ``contrast-G`` multiplies their distance to mid-grey by 1 - g / G;
    any other split leaves them as they are.
    """
    kind, _, number = split.partition("-")
    if kind not in ("rotation", "contrast") or (g := client % int(number) / int(number)) == 0:
        return images
    x, _ = images.take(torch.arange(len(images)))
    if kind == "contrast":
        return replace(images, images=0.5 + (1 - g) * (x - 0.5))
    turn = torch.tensor(math.pi * g)
    turned = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()]).reshape(2, 2)
    by = torch.cat([turned, torch.zeros(2, 1)], 1).expand(len(x), 2, 3)
    grid = functional.affine_grid(by, list(x.shape), align_corners=False)
    seen = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return replace(images, images=seen.clamp(0, 1))


def alike(parts: list[Tensor], labels: Tensor, others: Tensor, seed: int) -> list[Tensor]:
    """Deal another set (``others`` are its labels) so that every client gets its own share of every class.

    A client with a third of the training set's sixes gets a third of the test set's sixes. Shares are rounded, so that
    a client with few rows may get none.
    """
    drawn, dealt = np.random.default_rng(seed), [list[int]() for _ in parts]
    for k in labels.unique().tolist():
        have = np.array([int((labels[rows] == k).sum()) for rows in parts])
        rows = drawn.permutation(np.flatnonzero(others.numpy() == k))
        cuts = np.rint(np.cumsum(have / have.sum())[:-1] * len(rows)).astype(int)
        for own, more in zip(dealt, np.split(rows, cuts), strict=True):
            own.extend(more.tolist())
    return [torch.tensor(sorted(own), dtype=torch.int64) for own in dealt]
