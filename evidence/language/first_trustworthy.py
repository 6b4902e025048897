"""FIRST's own comparison: fine-tuning on labels against five recalibrated words of a teacher, from one student."""

from __future__ import annotations

from pathlib import Path

import torch

from evidence._language import batches, lm, prose, prose_teacher, rows, train, words_of
from limbeck.data.tokens import TokenBatches, TokenSet
from limbeck.diagnostics.calibration import ece
from limbeck.methods.language.first_trustworthy import First
from limbeck.methods.language.sft import SFT
from limbeck.models.causal_lm import CausalLM
from limbeck.run.evidence import Result

CLAIM = (
    "From one trained student, FIRST (five words of a fine-tuned teacher, recalibrated) is more to be trusted than "
    "fine-tuning on the labels as long: accuracy minus calibration error on held-out words is higher."
)
DOCUMENTS, WARM, STEPS, RATE = 150, 150, 150, 2e-3


@torch.no_grad()
def trust(model: CausalLM, held: TokenSet) -> tuple[float, float]:
    """Accuracy and expected calibration error of the next word, %."""
    model.eval()
    said, wanted = list[torch.Tensor](), list[torch.Tensor]()
    for batch in TokenBatches(held, 32, shuffle=False):
        said.append(model(batch).rows(batch.mask).log_probs())
        wanted.append(batch.y[batch.mask])
    q, y = torch.cat(said), torch.cat(wanted)
    return 100 * float((q.argmax(1) == y).float().mean()), 100 * ece(q, y)


def evidence(seed: int, data: Path | None = None) -> Result:
    """A tenth of the rows is held out of FIRST's training to choose the temperature; fine-tuning sees all of them."""
    pair = prose(data)
    tokenizer = words_of(pair, 512)
    whole = rows(pair.train, tokenizer)
    taught, few, held = prose_teacher(whole, seed), whole.subset(range(DOCUMENTS)), rows(pair.test, tokenizer)
    held = held.subset(range(min(len(held), 150)))

    def arm(recalibrate: str | None) -> tuple[float, float, float]:
        student = lm(48, 1, tokenizer, seed)
        torch.manual_seed(seed)
        train(SFT(student), batches(few, seed), WARM)
        torch.manual_seed(seed + 1)
        if recalibrate is None:
            train(SFT(student), batches(few, seed + 1), STEPS, RATE)
            return *trust(student, held), 1.0
        every = few.subset(range(0, len(few), 10))
        rest = few.subset([k for k in range(len(few)) if k % 10])
        made = First(student, taught, recalibrate=recalibrate)
        if recalibrate == "temperature":
            made.tau = made.best_tau(batches(every, seed))
        train(made, batches(rest, seed + 1), STEPS, RATE)
        return *trust(student, held), made.tau or 1.0

    tuned, first, plain = arm(None), arm("temperature"), arm("none")
    return Result(
        metric="accuracy minus calibration error on held-out words, %",
        baseline=tuned[0] - tuned[1],
        method=first[0] - first[1],
        higher_is_better=True,
        versus="fine-tuning on the labels",
        extra={
            "fine-tuning, accuracy, %": tuned[0], "fine-tuning, calibration error, %": tuned[1],
            "FIRST, accuracy, %": first[0], "FIRST, calibration error, %": first[1], "temperature": first[2],
            "five words as they are, accuracy, %": plain[0], "five words as they are, calibration error, %": plain[1],
        },
    )  # fmt: skip
