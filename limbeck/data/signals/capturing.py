"""What fills a store: shard after shard, each whole or not there."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from limbeck.core.checkpoint import write_atomic
from limbeck.core.modules import eval_mode
from limbeck.data.signals.files import FORMAT, alone, append, as_line
from limbeck.data.signals.identity import Teacher, name_of, teacher_hash, tokenizer_hash
from limbeck.data.signals.kinds import Hidden, rotation
from limbeck.data.signals.store import Mask, Store
from limbeck.data.tokens import TokenSet
from limbeck.errors import InputError
from limbeck.losses.vocabulary import Signal, Words

__all__ = ["capture"]

DRAWN_BYTES = 64
"""A token, in the kind ``sampled``."""


def capture(
    teacher: Teacher,
    data: TokenSet,
    folder: Path | str,
    *,
    kind: Literal["hidden", "topk", "sampled"] = "hidden",
    bits: Literal[6, 8] = 8,
    k: int = 0,
    tail: Literal["uniform", "none"] = "uniform",
    positions: Literal["learnt", "all"] = "learnt",
    batch: int = 16,
    seed: int = 0,
    shard: int = 64 << 20,
    seconds: float = 30.0,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """Keep what a teacher says about some rows; those that are there already are skipped.

    Kill it whenever you like and call it again: no row is lost or stored twice, and what is stored is what an
    undisturbed capture with the same ``batch`` stores.

    Args:
        teacher: put in eval mode meanwhile.
        data: rows in the teacher's own tokens.
        folder: local; made when it is not there.
        kind: ``hidden`` keeps the whole distribution (to about 1e-3 nats) in a byte a unit of the hidden state;
            ``topk`` the likeliest words; ``sampled`` words drawn without bias, for objectives that are linear in the
            teacher.
        bits: of ``hidden``.
        k: words a token; 0 for 64 of ``topk``, and for as many of ``sampled`` as 64 bytes hold.
        tail: of ``topk``: see :class:`limbeck.losses.vocabulary.TopK`.
        positions: ``learnt``: where ``y`` is a word; ``all``: every token.
        batch: rows at a time.
        seed: of the rotation and of the draws.
        shard: bytes after which a shard is written.
        seconds: after which one is written anyway: no more work than that is lost by a kill.
        progress: called with the rows done, skipped ones included, and all of them.

    Raises:
        InputError: for another tokenizer than the data's, a folder with signals of another teacher, tokenizer, kind or
            precision, a damaged shard, a folder in which another process captures, rows longer than the teacher's
            context.
    """
    folder = Path(folder)
    for name, given, known in (
        ("kind", kind, ("hidden", "topk", "sampled")), ("bits", bits, (6, 8)), ("tail", tail, ("uniform", "none")),
        ("positions", positions, ("learnt", "all")),
    ):  # fmt: skip
        if given not in known:
            raise InputError(name, given, f"is not one of {', '.join(map(str, known))}")
    if k < 0 or (kind == "topk" and k > len(data.tokenizer)):
        raise InputError("k", k, f"must be in 1 to {len(data.tokenizer)}, the number of words")
    if batch < 1:
        raise InputError("batch", batch, "must be positive")
    tokens = tokenizer_hash(data.tokenizer)
    if tokenizer_hash(teacher.tokenizer) != tokens:
        raise InputError("data", data.text.name, f"has other tokens than {name_of(teacher)}; use its tokenizer")
    longest = max(len(row.ids) for row in data.rows)
    if longest > teacher.context:
        raise InputError("context", longest, f"tokens in a row are more than the {teacher.context} of the teacher")
    k = k or (64 if kind == "topk" else DRAWN_BYTES // (4 if len(data.tokenizer) > 2**16 else 2))
    identity: dict[str, Any] = {
        "format": FORMAT, "kind": kind, "size": len(data.tokenizer), "tokenizer_hash": tokens,
        "teacher_hash": teacher_hash(teacher), "seed": seed,
        **({"bits": bits} if kind == "hidden" else {"k": k}), **({"tail": tail} if kind == "topk" else {}),
    }  # fmt: skip
    with alone(folder), eval_mode(*([teacher] if isinstance(teacher, nn.Module) else [])), torch.no_grad():
        if not (folder / "manifest.json").exists():
            _begin(folder, identity, teacher, data)
        store = Store(folder)
        store.check_same(identity, name_of(teacher))
        store.forget_missing()
        writer = _Writer(store, shard, seconds)
        made = store.kind
        if isinstance(made, Hidden):
            made = replace(made, turn=rotation(store.manifest["width"], seed))
        rows = _wanted(data, positions)
        left = {key: row for key, row in rows.items() if not store.holds(key, row.mask)}
        for key, row in left.items():
            if key in store:  # with fewer positions: what is written now stands for both
                left[key] = row._replace(mask=row.mask | store.mask(key)[: len(row.mask)])
        done = len(rows) - len(left)
        if progress:
            progress(done, len(rows))
        # the longest first: what does not fit in memory shows at once, and padding is short
        order = sorted(left, key=lambda key: (-len(left[key].mask), left[key].number))
        for begin in range(0, len(order), batch):
            keys = order[begin : begin + batch]
            said = data.take(torch.tensor([left[key].number for key in keys]))
            mask = torch.zeros(said.x.shape, dtype=torch.bool)
            for line, key in zip(mask, keys, strict=True):
                line[: len(left[key].mask)] = torch.from_numpy(left[key].mask)
            at = mask.flatten().nonzero()[:, 0].to(teacher.device)
            signal = _checked(teacher(said.to(teacher.device)), kind, store).rows(at)
            counts = mask.sum(1).tolist()
            parts = {name: part.cpu() for name, part in made.encode(signal, counts, keys).items()}
            writer.add(keys, [left[key].mask for key in keys], counts, parts)
            done += len(keys)
            if progress:
                progress(done, len(rows))
        writer.flush()
    return store


class _Wanted(NamedTuple):
    """A row to be stored: its number in the data and the positions."""

    number: int
    mask: Mask


def _wanted(data: TokenSet, positions: str) -> dict[int, _Wanted]:
    """By key; equal rows are one, at the positions of both."""
    found = dict[int, _Wanted]()
    for begin in range(0, len(data), 256):
        numbers = range(begin, min(begin + 256, len(data)))
        batch = data.take(torch.tensor(numbers))
        masks = (batch.segment > 0 if positions == "all" else batch.mask).numpy()
        for number, key, mask in zip(numbers, batch.key.tolist(), masks, strict=True):
            mask = mask[: len(data.rows[number].ids)].copy()
            before = found.get(key)
            found[key] = _Wanted(number, mask) if before is None else before._replace(mask=before.mask | mask)
    return found


class _Writer:
    """Collects rows and writes a shard when it is large or old enough."""

    def __init__(self, store: Store, most: int, seconds: float) -> None:
        self.store, self.folder, self.most, self.seconds = store, Path(store.folder), most, seconds
        self._clear()

    def _clear(self) -> None:
        self.keys, self.masks = list[int](), list[Mask]()
        self.counts, self.parts, self.bytes = list[int](), list[dict[str, Tensor]](), 0
        self.begun = time.monotonic()

    def add(self, keys: Sequence[int], masks: Sequence[Any], counts: Sequence[int], parts: dict[str, Tensor]) -> None:
        self.keys += keys
        self.masks += masks
        self.counts += counts
        self.parts.append(parts)
        self.bytes += sum(part.nbytes for part in parts.values())
        if self.bytes >= self.most or time.monotonic() - self.begun >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is there: first the file, whole, then the line that makes it count."""
        if not self.keys:
            return
        packed = [np.packbits(mask) for mask in self.masks]
        held = {name: torch.cat([part[name] for part in self.parts]) for name in self.parts[0]}
        written = save({
            **held,
            "key": torch.tensor(self.keys),
            "start": torch.tensor([0, *np.cumsum(self.counts).tolist()]),
            "mask": torch.from_numpy(np.concatenate(packed)),
            "mask_start": torch.tensor([0, *np.cumsum([len(mask) for mask in packed]).tolist()]),
        })  # fmt: skip
        taken = {shard["name"] for shard in self.store.shards}
        number = next(n for n in range(len(taken) + 1) if f"shard-{n:05d}.safetensors" not in taken)
        shard: dict[str, Any] = {
            "name": f"shard-{number:05d}.safetensors", "sha256": hashlib.sha256(written).hexdigest(),
            "rows": len(self.keys), "tokens": sum(self.counts), "bytes": len(written), "signal_bytes": self.bytes,
            "keys": np.asarray(self.keys, dtype="<i8").tobytes().hex(),
        }  # fmt: skip
        write_atomic(self.folder / shard["name"], written)
        append(self.folder / "shards.jsonl", as_line(shard))
        self.store.append(shard)
        counts = {"rows": len(self.store), "tokens": sum(shard["tokens"] for shard in self.store.shards)}
        self.store.manifest |= counts
        write_atomic(self.folder / "manifest.json", json.dumps(self.store.manifest, indent=1))
        self._clear()


def _begin(folder: Path, identity: Mapping[str, Any], teacher: Teacher, data: TokenSet) -> None:
    """The head, then the manifest, with which a store begins to be one."""
    manifest: dict[str, Any] = {
        **identity, "teacher": name_of(teacher), "context": data.context, "rows": 0, "tokens": 0
    }  # fmt: skip
    if identity["kind"] == "hidden":
        words = teacher(data.take(torch.tensor([0])).to(teacher.device))
        if not isinstance(words, Words) or words.weight is None:
            raise InputError("kind", "hidden", f"needs hidden states, and {name_of(teacher)} gives none; use topk")
        weight = words.weight.detach().cpu()
        # half precision is finer than the codes are
        kept = torch.float32 if weight.dtype in (torch.float32, torch.float64) else torch.float16
        tensors = {"weight": (weight.float() @ rotation(weight.shape[1], identity["seed"])).to(kept)}
        tensors |= {} if words.bias is None else {"bias": words.bias.detach().cpu().float()}
        head = save(tensors)
        write_atomic(folder / "head.safetensors", head)
        manifest["head"] = {"sha256": hashlib.sha256(head).hexdigest(), "bytes": len(head)}
        manifest |= {"width": weight.shape[1], "scale": words.scale, "softcap": words.softcap}
    write_atomic(folder / "manifest.json", json.dumps(manifest, indent=1))


def _checked(signal: Signal, kind: str, store: Store) -> Signal:
    """What the teacher said, when this kind can be made of it."""
    fits = isinstance(signal, Words) and (kind != "hidden" or signal.weight is not None)
    if not fits and not (kind == "topk" and not isinstance(signal, Words)):
        raise InputError(
            "kind", kind, f"cannot be made of the {type(signal).__name__} that this teacher gives; use topk"
        )
    size = signal.words if isinstance(signal, Words) else signal.size
    if size != store.size:
        raise InputError("teacher", size, f"words are not the {store.size} of its tokenizer")
    return signal
