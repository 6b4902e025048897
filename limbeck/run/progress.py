"""What a person sees while a run trains: a bar with rate and time left, or a few lines when nobody is watching."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from limbeck.run.metric import METRICS

__all__ = ["Show"]

LINE_EVERY_S = 20.0  # between two lines where there is no terminal


class Show:
    """Progress on standard error; ``with`` restores the terminal whatever happens."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=12), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[now]}"),
            console=self.console, transient=True, disable=not self.console.is_terminal or quiet,
        )  # fmt: skip
        self.bar: TaskID | None = None
        self.name, self.begun, self.said, self.first, self.steps = "", 0.0, 0.0, 0, 0

    def __enter__(self) -> Show:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self.bars.stop()

    def line(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, markup=False, soft_wrap=True)

    def begin(self, name: str, step: int, steps: int) -> None:
        """A training begins, perhaps in its middle."""
        self.end()
        self.name, self.first, self.steps = name, step, steps
        self.begun = self.said = time.monotonic()
        self.bar = self.bars.add_task(name, total=steps, completed=step, rate="", now="")

    def step(self, done: int, row: Mapping[str, Any] | None) -> None:
        """A step is done; ``row`` is what was logged after it, if anything."""
        if self.bar is None:
            return
        self.bars.update(self.bar, completed=done)
        if row is None:
            return
        now = time.monotonic()
        rate = (done - self.first) / max(now - self.begun, 1e-9)
        shown = [f"loss {row['logs']['loss']:.4g}"] if "loss" in row["logs"] else []
        scores = [m for m in METRICS if m.field in row]
        shown += [f"{metric.name} {metric.show(row[metric.field])}" for metric in scores]
        self.bars.update(self.bar, rate=f"{rate:.3g}/s")
        if shown and (scores or self.bars.disable):
            self.bars.update(self.bar, now=" ".join(shown))
        if self.bars.disable and now - self.said >= LINE_EVERY_S:
            self.said, left = now, (self.steps - done) / max(rate, 1e-9)
            self.line(f"{self.name}  {done}/{self.steps}  {rate:.3g}/s  {left:.0f} s left  {'  '.join(shown)}")

    def end(self) -> None:
        """The training is over."""
        if self.bar is not None:
            self.bars.remove_task(self.bar)
            self.bar = None
