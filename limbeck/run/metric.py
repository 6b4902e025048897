"""What a kind of run is judged by: the headline number, which way it is better, and how it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ACCURACY", "BITS", "FRECHET", "METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """The headline number of a modality.

    Args:
        field: its name in an evaluation, a learning curve and the log.
        name: in a sentence, such as "accuracy".
        unit: of a gain.
        item: what is judged, one of many: an image, a word.
        on: what it is judged on, in a sentence.
        less: the word for less of the unit, where less is better; else nothing.
        scale: from the number to the gain's unit; negative where less is better, so that a gain is positive.
        digits: of the number, and the fewest of a gain.
        percent: whether the number is shown as a per cent.
        highest: what it cannot pass.
    """

    field: str
    name: str
    unit: str
    item: str
    on: str
    less: str
    scale: float
    digits: int
    percent: bool
    highest: float | None

    def show(self, number: float) -> str:
        """The number as people read it."""
        return f"{100 * number:.{self.digits}f} %" if self.percent else f"{number:.{self.digits}f}"

    def gain(self, control: float, method: float) -> float:
        """How much better the method is, in the gain's unit."""
        return self.scale * (method - control)

    def gain_digits(self, values: Sequence[float]) -> int:
        """So many as it takes, and one more where a number that is not zero would look like it."""
        half = 0.5 * 10.0**-self.gain_least
        return self.gain_least + (0 if all(v == 0 or abs(v) >= half for v in values) else 1)

    @property
    def gain_least(self) -> int:
        return 1 if self.percent else self.digits


ACCURACY = Metric("accuracy", "accuracy", "points", "image", "images", "", 100.0, 1, True, 1.0)
BITS = Metric("bits_per_byte", "bits per byte", "bits per byte", "word", "text", "fewer", -1.0, 3, False, None)
FRECHET = Metric("frechet", "Frechet distance", "Frechet distance", "image", "images", "less", -1.0, 2, False, None)
METRICS = (ACCURACY, BITS, FRECHET)
