"""What a teacher-signal store loses, weighs and how fast it reads, on a real language model and real text.

    python benchmarks/signals.py MODEL_FOLDER wikitext2_test.txt [--tokens 4096]

KL(full || stored) is in nats a token, over all tokens of the text's first rows of 256; bytes are those of the signal a
token, without the head that ``hidden`` keeps once. Reading is of shuffled batches of 16 rows, from files that the
operating system has in memory, checksums and decoding included; for ``hidden`` the states are decoded, the head is not
applied. For drawn words, the error of the cross-entropy with the teacher itself takes the place of the KL.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from limbeck.data.signals import StoredTeacher, capture, open_store, teacher_hash
from limbeck.data.text import Span, TextSet
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import TokenBatches, Tokens, TokenSet
from limbeck.losses.vocabulary import Sampled, Signal, Words
from limbeck.models.causal_lm import CausalLM

CONTEXT, BATCH, CHUNK = 256, 16, 256
KINDS = (
    ("hidden, 8 bits", {"kind": "hidden"}),
    ("hidden, 6 bits", {"kind": "hidden", "bits": 6}),
    ("top 64, uniform", {"kind": "topk", "k": 64}),
    ("top 256, uniform", {"kind": "topk", "k": 256}),
    ("sampled", {"kind": "sampled"}),
)


class Once:
    """A teacher that computes a batch once: the kinds are compared on the same words."""

    def __init__(self, model: CausalLM) -> None:
        self.model, self.tokenizer, self.context = model, model.tokenizer, model.context
        self.reference, self.device = model.reference, model.device
        self.fingerprint = teacher_hash(model)
        self.said = dict[tuple[int, ...], Words]()

    def __call__(self, batch: Tokens) -> Words:
        key = tuple(batch.key.tolist())
        if key not in self.said:
            self.said[key] = self.model(batch)
        return self.said[key]


def loss(live: Words, kept: Signal, mask: torch.Tensor) -> list[float]:
    """By token: KL(live || kept), or for drawn words the error of the cross-entropy of the teacher with itself."""
    at = mask.flatten().nonzero()[:, 0]
    found = list[float]()
    for part in at.split(CHUNK):
        p, rows = live.rows(part).log_probs(), kept.rows(part)
        if isinstance(rows, Sampled):
            found += ((rows.weight * -p.gather(-1, rows.index)).sum(-1) + (p.exp() * p).sum(-1)).tolist()
        else:
            found += (p.exp() * (p - rows.log_probs())).sum(-1).tolist()
    return found


def read(folder: Path, data: TokenSet, seconds: float) -> float:
    """Tokens a second, of a store opened anew."""
    teacher, batches = StoredTeacher(open_store(folder)), TokenBatches(data, BATCH)
    ready = list(batches) + list(batches)  # batches are made by another part: not timed here
    tokens, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for batch in ready:
            teacher(batch)
            tokens += batch.x.numel()
    return tokens / (time.perf_counter() - begun)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder of a causal language model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    net = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()
    model = CausalLM(net, AutoTokenizer.from_pretrained(given.model))
    model.reference = Path(given.model).name
    text = TextSet(((Span(given.text.read_text(encoding="utf-8")[: 8 * given.tokens], close=False),),))
    whole = tokenise(text, model.tokenizer, CONTEXT)
    data = whole.subset(range(given.tokens // CONTEXT))
    teacher = Once(model)
    order = list(TokenBatches(data, BATCH, shuffle=False))
    print(f"{data.words} tokens, {model.size} words, width {model.width}")
    print("kind               nats a token            bytes a token   read, tokens/s   capture - forward, s")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        begun = time.perf_counter()
        capture(teacher, data, Path(folder) / "first", kind="hidden", batch=BATCH)
        print(f"(forward and first capture: {time.perf_counter() - begun:.1f} s)")
        for number, (label, settings) in enumerate(KINDS):
            at = Path(folder) / str(number)
            begun = time.perf_counter()
            held = capture(teacher, data, at, batch=BATCH, **settings).describe()
            spent = time.perf_counter() - begun
            kept, lost = StoredTeacher(open_store(at)), list[float]()
            for batch in order:
                lost += loss(model.words(_hidden(teacher, batch)), kept(batch), batch.mask)
            speed = statistics.median(read(at, data, 1.0) for _ in range(3))
            said = f"{statistics.mean(lost):.5f}"
            if settings["kind"] == "sampled":
                said = f"mean {statistics.mean(lost):+.4f}, sd {statistics.pstdev(lost):.3f}"
            print(f"{label:18} {said:24}{held.bytes_per_token:13.1f}{speed:17,.0f}{spent:17.2f}", flush=True)


def _hidden(teacher: Once, batch: Tokens) -> torch.Tensor:
    """What the teacher said about these rows, wherever it said it."""
    rows = {key: said.hidden[k] for keys, said in teacher.said.items() for k, key in enumerate(keys)}
    return torch.stack([rows[key] for key in batch.key.tolist()])


if __name__ == "__main__":
    main()
