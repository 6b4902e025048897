"""A store to read from, and the teacher that it makes."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from limbeck.core.checkpoint import write_atomic
from limbeck.data.signals.files import as_line, fetch, manifest, remote
from limbeck.data.signals.identity import tokenizer_hash
from limbeck.data.signals.kinds import Drawn, Hidden, Kind, Likeliest
from limbeck.data.tokens import Tokens
from limbeck.errors import InputError
from limbeck.losses.vocabulary import Signal, Words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Description", "Mask", "Store", "StoredTeacher", "describe", "open_store"]

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Description:
    """What is in a store."""

    kind: str
    precision: str
    rows: int
    tokens: int
    bytes: int
    """Of all files."""
    bytes_per_token: float
    """Of the signal alone."""
    size: int
    context: int
    teacher: str
    teacher_hash: str
    tokenizer_hash: str


class Row(NamedTuple):
    """Where a row is."""

    shard: int
    number: int


class Store:
    """Signals on disk. Use :func:`open_store`; copies share it, and other processes may read it too.

    Args:
        folder: local, ``http(s)://`` or any other that fsspec knows; remote files are copied once to a temporary
            folder.

    Raises:
        InputError: when there is no store, or its format is not known.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = str(folder)
        self._copies: tempfile.TemporaryDirectory[str] | None = None
        self.manifest: dict[str, Any] = manifest(self.folder)
        self.shards = list[dict[str, Any]]()
        self._at = dict[int, Row]()
        self._open = dict[int, dict[str, Tensor]]()
        for line in fetch(self.folder, "shards.jsonl", missing=b"").split(b"\n")[:-1]:  # a torn line has no end
            try:
                self.append(json.loads(line))
            except (ValueError, KeyError):
                raise InputError(
                    "store", self.folder, "has a damaged shards.jsonl; capture to another folder"
                ) from None
        self.kind = self._kind()

    def __deepcopy__(self, memo: object) -> Store:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.folder,)

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, key: int) -> bool:
        return key in self._at

    @property
    def size(self) -> int:
        """Number of words."""
        return self.manifest["size"]

    def append(self, shard: dict[str, Any]) -> None:
        """Take in a shard: its line."""
        self.shards.append(shard)
        keys = np.frombuffer(bytes.fromhex(shard["keys"]), dtype="<i8").tolist()
        self._at.update({key: Row(len(self.shards) - 1, number) for number, key in enumerate(keys)})

    def mask(self, key: int) -> Mask:
        """(n,) bool: which positions of a row are stored; padded at the right."""
        row = self._at[key]
        part = self._shard(row.shard)
        begin, end = part["mask_start"][row.number : row.number + 2].tolist()
        return np.unpackbits(part["mask"][begin:end].numpy()).astype(bool)

    def holds(self, key: int, wanted: Mask) -> bool:
        """Whether a row is stored at all positions wanted."""
        return key in self and not bool((wanted & ~self.mask(key)[: len(wanted)]).any())

    def read(self, batch: Tokens) -> Signal:
        """The signal over (B, T), where the batch is. Positions that are not to be learnt hold anything.

        Raises:
            InputError: for rows or positions that are not stored, and damaged shards.
        """
        shape, keys, fields = batch.x.shape, batch.key.tolist(), self.fields
        stored, pieces = torch.zeros(shape, dtype=torch.bool), list[dict[str, Tensor]]()
        for line, key in zip(stored, keys, strict=True):
            if key not in self:
                raise self._missing(key)
            mask = self.mask(key)[: shape[1]]
            line[: len(mask)] = torch.from_numpy(mask)
            row = self._at[key]
            part = self._shard(row.shard)
            begin, end = part["start"][row.number : row.number + 2].tolist()
            pieces.append({name: part[name][begin:end] for name in fields})
        if bool((batch.mask.cpu() & ~stored).any()):
            raise InputError("store", self.folder, "lacks positions that are to be learnt; capture these rows again")
        parts = {name: torch.cat([piece[name] for piece in pieces]) for name in fields}
        if not bool(stored.all()):
            at, none = stored.flatten().nonzero()[:, 0], (~stored).flatten().nonzero()[:, 0]
            for name, blank in self.kind.blank.items():
                whole = blank.new_empty((stored.numel(), *blank.shape)).index_copy_(0, at, parts[name])
                parts[name] = whole.index_copy_(0, none, blank.expand(len(none), *blank.shape))
        there = {name: part.view(*shape, *part.shape[1:]).to(batch.x.device) for name, part in parts.items()}
        return self.kind.decode(there)

    @property
    def fields(self) -> tuple[str, ...]:
        """The tensors that the kind keeps for every token."""
        return tuple(self.kind.blank)

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse rows made by another tokenizer.

        Raises:
            InputError: when it is another.
        """
        if tokenizer_hash(tokenizer) != self.manifest["tokenizer_hash"]:
            raise InputError("store", self.folder, "was captured with another tokenizer; capture with this one")

    def check_same(self, identity: Mapping[str, Any], name: str) -> None:
        """Refuse to go on with another teacher, tokenizer, kind or precision.

        Raises:
            InputError: when one differs.
        """
        said = {
            "tokenizer_hash": "holds signals over another tokenizer's words",
            "teacher_hash": f"holds signals of another teacher ({self.manifest['teacher']}) than {name}, or its "
            "weights changed",
        }
        for field in ("tokenizer_hash", "teacher_hash", *identity):
            held, given = self.manifest.get(field), identity[field]
            if held != given:
                raise InputError(
                    "store",
                    self.folder,
                    f"{said.get(field, f'has {field} {held}, not {given}')}; capture to another folder",
                )

    def forget_missing(self) -> None:
        """Drop shards whose files were deleted and files that were never finished, check the others; local only.

        Raises:
            InputError: for a damaged one.
        """
        for abandoned in Path(self.folder).glob(".*.part-*"):  # by a process that was killed while it wrote
            abandoned.unlink()
        kept = [s for s in self.shards if (Path(self.folder) / s["name"]).exists()]
        text = b"".join(as_line(shard) for shard in kept)
        if text != fetch(self.folder, "shards.jsonl", missing=b""):  # or a torn line stands at the end
            write_atomic(Path(self.folder) / "shards.jsonl", text)
        self.shards, self._at = [], {}
        self._open.clear()
        for number, shard in enumerate(kept):
            self.append(shard)
            self._shard(number)

    def describe(self) -> Description:
        """What is in it."""
        held, tokens = self.manifest, sum(shard["tokens"] for shard in self.shards)
        head = held["head"]["bytes"] if held.get("head") else 0
        precision = f"{held['bits']} bits" if self.kind.name == "hidden" else f"{held['k']} words"
        precision += f", {held['tail']} tail" if self.kind.name == "topk" else ""
        return Description(
            self.kind.name, precision, len(self), tokens, head + sum(shard["bytes"] for shard in self.shards),
            sum(shard["signal_bytes"] for shard in self.shards) / max(tokens, 1), self.size, held["context"],
            held["teacher"], held["teacher_hash"], held["tokenizer_hash"],
        )  # fmt: skip

    def _shard(self, number: int) -> dict[str, Tensor]:
        """Its tensors, memory-mapped; the checksum is looked at when it is opened."""
        if number not in self._open:
            shard = self.shards[number]
            again = f"is damaged; delete it and capture again: only its {shard['rows']} rows are computed anew"
            again = "is damaged, there or on its way; copy the store again" if remote(self.folder) else again
            self._open[number] = self._tensors(shard["name"], shard["sha256"], again)
        return self._open[number]

    def _tensors(self, name: str, sha256: str, fix: str) -> dict[str, Tensor]:
        path = self._local(name)
        where = f"{self.folder.rstrip('/')}/{name}"
        try:
            with path.open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError as error:
            raise InputError("store", where, f"cannot be read ({error.strerror}); capture again") from None
        if not whole:
            raise InputError("store", where, fix)
        return load_file(path)

    def _local(self, name: str) -> Path:
        if not remote(self.folder):
            return Path(self.folder) / name
        if self._copies is None:
            self._copies = tempfile.TemporaryDirectory(prefix="limbeck-store-")
        copy = Path(self._copies.name) / name
        copy.write_bytes(fetch(self.folder, name))
        return copy

    def _kind(self) -> Kind:
        held = self.manifest
        match held["kind"]:
            case "topk":
                return Likeliest(held["k"], held["size"], held["tail"])
            case "sampled":
                return Drawn(held["k"], held["size"], held["seed"])
            case _:
                fix = "is damaged; capture to another folder"
                head = self._tensors("head.safetensors", held["head"]["sha256"], fix)
                weight, bias = head["weight"].float(), head.get("bias")
                bias = None if bias is None else bias.float()
                words = Words(weight[:0], weight, bias, held["scale"], held["softcap"], held["size"])
                return Hidden(held["bits"], words)

    def _missing(self, key: int) -> InputError:
        if key == 0:
            return InputError("teacher", self.folder, "has no signals for rows that were generated; use a live teacher")
        return InputError(
            "store", self.folder, f"has no signals for a row of the data (key {key}); capture this data, in the same "
            "context and packing",
        )  # fmt: skip


class StoredTeacher(nn.Module):
    """A teacher that reads: ``StoredTeacher(store)(batch)`` is what the teacher said about the batch.

    It has no parameters; where it is moved, a rotated head moves too.

    Attributes:
        capabilities: what a method may ask of it.
        size: the number of words.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store, self.size = store, store.size
        head = store.kind.head if isinstance(store.kind, Hidden) else None
        self.register_buffer("weight", None if head is None else head.weight, persistent=False)
        self.register_buffer("bias", None if head is None else head.bias, persistent=False)

    @property
    def capabilities(self) -> frozenset[str]:
        """Of what is stored, for rows that are stored."""
        of = {"hidden": ("logits", "topk", "sampled_logprobs"), "topk": ("topk",), "sampled": ("sampled_logprobs",)}
        return frozenset(of[self.store.kind.name])

    def forward(self, batch: Tokens) -> Signal:
        """(B, T) tokens to ``Words``, ``TopK`` or ``Sampled`` over (B, T).

        Raises:
            InputError: for rows that are not stored.
        """
        signal = self.store.read(batch)
        return signal._replace(weight=self.weight, bias=self.bias) if isinstance(signal, Words) else signal


def open_store(folder: Path | str, tokenizer: PreTrainedTokenizerBase | None = None) -> Store:
    """A store to read from.

    Args:
        folder: local, ``http(s)://`` or any other that fsspec knows.
        tokenizer: what the rows to come were made with, to be refused when the store's was another.

    Raises:
        InputError: when there is none, its format is not known, or the tokenizer is another.
    """
    store = Store(folder)
    if tokenizer is not None:
        store.check_tokenizer(tokenizer)
    return store


def describe(folder: Path | str) -> Description:
    """What is in a store."""
    return Store(folder).describe()
