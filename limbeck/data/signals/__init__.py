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

from limbeck.data.signals.capturing import capture
from limbeck.data.signals.identity import Teacher, teacher_hash, tokenizer_hash, weights_hash
from limbeck.data.signals.store import Description, Store, StoredTeacher, describe, open_store

__all__ = [
    "Description", "Store", "StoredTeacher", "Teacher", "capture", "describe", "open_store", "teacher_hash",
    "tokenizer_hash", "weights_hash",
]  # fmt: skip
