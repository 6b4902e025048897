"""The teacher-signal store: what a teacher says about every row, computed once, kept on disk, found by the row's hash.

A store is a folder:

- ``manifest.json``: format, kind and precision, the hashes of teacher and tokenizer, counts;
- ``head.safetensors``: for the kind ``hidden``, the teacher's output head, rotated;
- ``shard-00000.safetensors``, ...: the signals of some rows each;
- ``shards.jsonl``: a line for every whole shard, with its checksum and the keys of its rows.

A shard is written beside its place and renamed, and counts from when its line is there: a capture that is killed at
any moment goes on where the last whole shard ended. Only positions where a word is to be learnt are kept, unless all
are asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from limbeck.core.checkpoint import write_atomic
from limbeck.data._signal_kinds import Drawn, Hidden, Kind, Likeliest, rotation
from limbeck.data.tokens import Tokens, TokenSet
from limbeck.errors import InputError, brief
from limbeck.losses.vocabulary import Signal, Words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Description", "Store", "StoredTeacher", "Teacher", "capture", "describe", "open_store", "teacher_hash",
    "tokenizer_hash", "weights_hash",
]  # fmt: skip

FORMAT = 1
DRAWN_BYTES = 64
"""A token, in the kind ``sampled``."""
PROBES = ("Hello, world!", " the  3.14\n\tdef f(x):", "naïve 東京 🙂")


class Teacher(Protocol):
    """Whatever answers a batch of tokens: a ``CausalLM``, an ensemble, a server."""

    tokenizer: PreTrainedTokenizerBase
    reference: str
    context: int

    @property
    def device(self) -> torch.device:
        """Where it wants its batches."""
        ...

    def __call__(self, batch: Tokens) -> Signal:
        """(B, T) tokens to a signal over (B, T)."""
        ...


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
        raise InputError("data", data.text.name, f"has other tokens than {_name(teacher)}; use its tokenizer")
    longest = max(len(row.ids) for row in data.rows)
    if longest > teacher.context:
        raise InputError("context", longest, f"tokens in a row are more than the {teacher.context} of the teacher")
    k = k or (64 if kind == "topk" else DRAWN_BYTES // (4 if len(data.tokenizer) > 2**16 else 2))
    identity: dict[str, Any] = {
        "format": FORMAT, "kind": kind, "size": len(data.tokenizer), "tokenizer_hash": tokens,
        "teacher_hash": teacher_hash(teacher), "seed": seed,
        **({"bits": bits} if kind == "hidden" else {"k": k}), **({"tail": tail} if kind == "topk" else {}),
    }  # fmt: skip
    with _alone(folder), _evaluating(teacher), torch.no_grad():
        if not (folder / "manifest.json").exists():
            _begin(folder, identity, teacher, data)
        store = Store(folder)
        store.check_same(identity, _name(teacher))
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
        self.manifest: dict[str, Any] = _manifest(self.folder)
        self.shards = list[dict[str, Any]]()
        self._at = dict[int, Row]()
        self._open = dict[int, dict[str, Tensor]]()
        for line in _fetch(self.folder, "shards.jsonl", missing=b"").split(b"\n")[:-1]:  # a torn line has no end
            self.append(json.loads(line))
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

    def mask(self, key: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(n,) bool: which positions of a row are stored; padded at the right."""
        row = self._at[key]
        part = self._shard(row.shard)
        begin, end = part["mask_start"][row.number : row.number + 2].tolist()
        return np.unpackbits(part["mask"][begin:end].numpy()).astype(bool)

    def holds(self, key: int, wanted: np.ndarray[Any, np.dtype[np.bool_]]) -> bool:
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
        text = b"".join(_line(shard) for shard in kept)
        if text != _fetch(self.folder, "shards.jsonl", missing=b""):  # or a torn line stands at the end
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
        if not _remote(self.folder):
            return Path(self.folder) / name
        if self._copies is None:
            self._copies = tempfile.TemporaryDirectory(prefix="limbeck-store-")
        copy = Path(self._copies.name) / name
        copy.write_bytes(_fetch(self.folder, name))
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


def teacher_hash(teacher: Teacher) -> str:
    """Of its weights; of what it calls itself (``fingerprint``) where it has none at hand."""
    named: str | None = getattr(teacher, "fingerprint", None)
    if named is not None:
        return named
    return weights_hash(teacher.state_dict() if isinstance(teacher, nn.Module) else {})


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and numbers."""
    said = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        said.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        said.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return said.hexdigest()[:16]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of its words, its end of text and how it splits some samples, so that it does not depend on how it is kept."""
    words = sorted(tokenizer.get_vocab().items())
    split = [tokenizer(text, add_special_tokens=False).input_ids for text in PROBES]
    return hashlib.sha256(json.dumps([words, tokenizer.eos_token_id, split]).encode()).hexdigest()[:16]


class _Wanted(NamedTuple):
    """A row to be stored: its number in the data and the positions."""

    number: int
    mask: np.ndarray[Any, np.dtype[np.bool_]]


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
        self.keys, self.masks = list[int](), list[np.ndarray[Any, np.dtype[np.bool_]]]()
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
        _append(self.folder / "shards.jsonl", _line(shard))
        self.store.append(shard)
        counts = {"rows": len(self.store), "tokens": sum(shard["tokens"] for shard in self.store.shards)}
        self.store.manifest |= counts
        write_atomic(self.folder / "manifest.json", json.dumps(self.store.manifest, indent=1))
        self._clear()


def _begin(folder: Path, identity: Mapping[str, Any], teacher: Teacher, data: TokenSet) -> None:
    """The head, then the manifest, with which a store begins to be one."""
    manifest: dict[str, Any] = {
        **identity, "teacher": _name(teacher), "context": data.context, "rows": 0, "tokens": 0
    }  # fmt: skip
    if identity["kind"] == "hidden":
        words = teacher(data.take(torch.tensor([0])).to(teacher.device))
        if not isinstance(words, Words) or words.weight is None:
            raise InputError("kind", "hidden", f"needs hidden states, and {_name(teacher)} gives none; use topk")
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


def _name(teacher: Teacher) -> str:
    return teacher.reference or type(teacher).__name__


@contextmanager
def _evaluating(teacher: Teacher) -> Generator[None]:
    modes = {m: m.training for m in teacher.modules()} if isinstance(teacher, nn.Module) else {}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """One process captures into a folder; the lock goes with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError("store", str(folder), f"cannot be written ({error.strerror}); choose another folder") from None
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows
            pass
        except OSError:
            raise InputError("store", str(folder), "is being captured by another process; wait for it") from None
        yield


def _line(shard: Mapping[str, Any]) -> bytes:
    return json.dumps(shard).encode() + b"\n"


def _append(path: Path, line: bytes) -> None:
    try:
        with path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError("store", str(path), f"cannot be written ({error.strerror}); free space, then go on") from None


def _manifest(folder: str) -> dict[str, Any]:
    try:
        held = json.loads(_fetch(folder, "manifest.json"))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError("store", folder, "has a damaged manifest.json; capture to another folder") from None
    if held.get("format") != FORMAT:
        raise InputError("store", folder, f"has format {held.get('format')}, not {FORMAT}; capture it again")
    return held


def _remote(folder: str) -> bool:
    return "://" in folder


def _fetch(folder: str, name: str, missing: bytes | None = None) -> bytes:
    """A file of a store; ``missing`` where there is none."""
    where = f"{folder.rstrip('/')}/{name}"
    try:
        if not _remote(folder):
            return Path(where).read_bytes()
        if folder.startswith(("http://", "https://")):
            with urllib.request.urlopen(where, timeout=60) as answer:  # noqa: S310
                return answer.read()
        import fsspec

        with fsspec.open(where, "rb") as file:
            return file.read()  # type: ignore[union-attr]
    except Exception as error:  # every file system has exceptions of its own
        absent = isinstance(error, FileNotFoundError) or getattr(error, "code", 0) == 404
        if absent and missing is not None:
            return missing
        fix = "is no store: it has no manifest.json; capture one" if absent and name == "manifest.json" else ""
        raise InputError("store", folder, fix or f"gives no {name} ({brief(error)})") from None
