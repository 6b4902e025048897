"""``limbeck capture``: what a teacher says about the rows of a run, kept in a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.data.signals import capture, describe
from limbeck.data.tokens import TokenSet
from limbeck.errors import InputError
from limbeck.models.load_lm import load_causal_lm
from limbeck.run.language.rows import CONTEXT, text_rows
from limbeck.run.language.task import words_of
from limbeck.run.parser import whole
from limbeck.run.progress import Show
from limbeck.run.settle import absolute, device_of, named
from limbeck.run.spec import make_spec

__all__ = ["capture_command"]

OF_RUN = ("data", "context", "limit", "long", "tokenizer", "pack", "device")


def capture_command(given: Mapping[str, Any]) -> str:
    """Capture the training and the test rows that a run with the same settings would read.

    Args:
        given: the command's flags; see :func:`limbeck.run.commands.capture`.

    Returns:
        What there is now, in a line or two.

    Raises:
        InputError: for a teacher, data or a store that cannot be.
    """
    for name in ("teacher", "data", "out"):
        if not given[name]:
            raise InputError(f"--{name}", "", "is missing")
    settings = {name: given[name] for name in OF_RUN if given[name] is not None}
    spec = make_spec({"method": "sft", "student": "llama-64x2", **settings})
    with named("teacher"):
        model = load_causal_lm(absolute(given["teacher"]), tokenizer=words_of(spec), context=spec.context or CONTEXT)
    teacher = model.to(device_of(spec.device))
    made = text_rows(spec, teacher.tokenizer)
    rows = TokenSet([*made.train.rows, *made.test.rows], made.text.train, teacher.tokenizer, made.context)
    sizes = {name: whole(f"--{name}", given[name], 0) for name in ("bits", "k", "batch")}
    with Show(quiet=given["quiet"]) as show:

        def progress(done: int, total: int) -> None:
            if show.bar is None:
                show.begin(f"capture  {given['kind']}", done, total)
            show.step(done, {"logs": {}})

        capture(
            teacher, rows, given["out"], kind=given["kind"], progress=progress, batch=sizes["batch"], k=sizes["k"],
            bits=sizes["bits"],  # pyright: ignore[reportArgumentType]  checked by capture
        )  # fmt: skip
    found = describe(given["out"])
    size = f"{found.bytes / 1e6:,.1f} MB, {found.bytes_per_token:,.1f} bytes a token"
    used = f"limbeck run METHOD --teacher store:{given['out']} --data {spec.data} --context {made.context}"
    used += " --pack yes" if made.pack else " --no-pack"  # methods differ in what they do unasked
    return f"{found.rows:,} rows, {found.tokens:,} tokens: {size}\nuse it with: {used} ..."
