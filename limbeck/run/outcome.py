"""What a run found, as typed data: written to ``report.json``, read by ``report`` and ``compare``."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Tag

from limbeck.run.metric import ACCURACY, BITS, FRECHET, Metric

__all__ = [
    "TAGS", "Arm", "Continual", "Cost", "Curve", "Evaluation", "Finding", "Gain", "Judged", "MadeSet", "Outcome",
    "Sample", "SampleEvaluation", "Search", "Strip", "TextEvaluation", "interval", "paired_gain",
]  # fmt: skip

VERSION = 1


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Finding(_Facts):
    """One preflight check: what was measured, and what to do about it."""

    name: str
    status: Literal["ok", "warning", "failed", "skipped"]
    measured: str
    fix: str = ""


class _Predictions(_Facts):
    """What is said of every classifier, of images or of the next word. Accuracies in [0, 1], divergences in nats."""

    metric: ClassVar[Metric]
    count: int  # images or words
    accuracy: float
    nll: float
    ece: float  # expected calibration error, 15 equal-width bins of the top probability
    reliability: list[tuple[float, float, int]]  # a bin's mean confidence, its accuracy, its count; empty bins left out
    agreement: float | None = None  # share on which it decides as the teacher does
    kl_to_teacher: float | None = None  # KL(teacher || student) at temperature 1

    @property
    def score(self) -> float:
        """The headline number."""
        return getattr(self, self.metric.field)


class Search(_Facts):
    """Architectures, and the held-out accuracy of each when it is trained on a set, and on all images."""

    names: list[str]
    by_set: list[float]
    by_all: list[float]
    correlation: float | None  # of their ranks, in [-1, 1]; none where one side ranks nothing
    pick: str  # the set's first choice
    picked: float  # what it reaches, trained on all images


class Continual(_Facts):
    """Classes that come in turn: how many were seen, and the held-out accuracy among them, with a set for memory."""

    classes: list[int]
    accuracy: list[float]


class MadeSet(_Facts):
    """A synthetic set, its price and its picture."""

    images: int  # that networks see
    stored: int  # that are kept; of tiled or shared ones fewer
    pixels: int  # numbers kept for images
    labels: int  # and for labels
    rates: int  # and for step sizes
    real: int  # images it stands for
    full: float | None  # accuracy of a network that was trained on all of those
    networks: list[float]  # accuracies of those that were trained on the set
    png: str  # base64
    search: Search | None = None  # these two when asked for
    continual: Continual | None = None


class Evaluation(_Predictions):
    """A classifier on held-out images; or several, that were trained on a synthetic set, on average."""

    metric: ClassVar[Metric] = ACCURACY
    per_class: list[float]
    per_class_count: list[int]
    made: MadeSet | None = None


class Sample(_Facts):
    """A held-out prompt, how its document goes on, and how a model does."""

    prompt: str
    reference: str
    said: str


class TextEvaluation(_Predictions):
    """A language model on held-out text; the count is of words (tokens) to predict, EOS among them."""

    metric: ClassVar[Metric] = BITS
    bits_per_byte: float  # of the predicted words' UTF-8 bytes, so that tokenizers can be compared
    perplexity: float
    bytes: int
    exact_match: float | None = None  # share of prompts whose completion greedy decoding gives word for word
    prompts: int = 0  # that it was tried on
    samples: list[Sample] = []
    harness: dict[str, float] = {}  # tasks of lm-eval, when asked for: "task/metric"


class Strip(_Facts):
    """Some samples of a sampler, side by side, from the same noise and labels as every other strip of a run."""

    name: str
    nfe: int  # evaluations of the network for one of them; 0 where none was made
    frechet: float | None
    png: str  # base64


class SampleEvaluation(_Facts):
    """A generative model, by its samples against held-out data. Distances are in the judge's features."""

    metric: ClassVar[Metric] = FRECHET
    count: int  # of samples
    against: int  # of held-out ones
    judge: str  # what the features are of
    frechet: float
    floor: float  # that of as many training samples
    precision: float
    recall: float
    sliced_wasserstein: float  # of the samples themselves
    diversity: float  # mean distance within a class, in units of the data's own
    class_accuracy: float | None = None  # how often the judge sees the class that was asked for
    nfe: int
    strips: list[Strip] = []

    @property
    def score(self) -> float:
        """The headline number."""
        return self.frechet


TAGS = ("image", "text", "samples")


def _kind(given: Any) -> str:
    named = given if isinstance(given, dict) else vars(given)
    return "text" if "bits_per_byte" in named else "samples" if "frechet" in named else "image"


Judged = Annotated[
    Annotated[Evaluation, Tag("image")]
    | Annotated[TextEvaluation, Tag("text")]
    | Annotated[SampleEvaluation, Tag("samples")],
    Discriminator(_kind),
]


class Cost(_Facts):
    """What a model costs. Latency is the median on this machine of an image, or of a word that is generated;
    ``flops`` counts the forward pass of one of them, a multiply-add as two."""

    parameters: int
    flops: int
    latency_ms: float
    memory_mb: float  # parameters and buffers
    per_second: float | None = None  # words read a second, in one row as long as the context


class Curve(_Facts):
    """How a training went, on held-out images."""

    steps: list[int]
    accuracy: list[float] = []
    loss: list[float]  # mean training loss since the point before
    bits_per_byte: list[float] = []
    frechet: list[float] = []

    def of(self, metric: Metric) -> list[float]:
        """The headline number at each step."""
        return getattr(self, metric.field)


class Arm(_Facts):
    """One training, of the control or of the method."""

    seed: int
    evaluation: Judged
    curve: Curve
    seconds: float
    cached: bool = False


class Gain(_Facts):
    """How much better the method is than the control over paired seeds, in points of accuracy, in bits per byte or
    in distance, with a 95 % t interval (none below two seeds)."""

    mean: float
    low: float | None
    high: float | None
    per_seed: list[float]


class Outcome(_Facts):
    """Everything a report shows."""

    version: int = VERSION
    method: str
    card: dict[str, Any]
    values: dict[str, Any]  # the method's hyper-parameters
    spec: dict[str, Any]  # the resolved run file
    command: str
    classes: list[str]
    shares: list[list[int]] = []  # images of each class at every client, in the first seed
    teacher: Judged | None
    teacher_cost: Cost | None
    student_cost: Cost
    control: list[Arm]
    distilled: list[Arm]
    gain: Gain
    preflight: list[Finding]
    environment: dict[str, Any]
    notes: list[str] = []

    @property
    def metric(self) -> Metric:
        """What the run is judged by."""
        return self.distilled[0].evaluation.metric


# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def interval(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Mean and 95 % t interval, or ``None`` with fewer than two values."""
    if len(values) < 2:
        return None
    mean, freedom = fmean(values), len(values) - 1
    half = (_T95[freedom - 1] if freedom <= len(_T95) else 1.96) * stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def paired_gain(control: Sequence[Arm], distilled: Sequence[Arm]) -> Gain:
    """The gain of a method over its control, seed by seed."""
    base = {arm.seed: arm.evaluation.score for arm in control}
    gains = [arm.evaluation.metric.gain(base[arm.seed], arm.evaluation.score) for arm in distilled]
    found = interval(gains)
    mean, low, high = found if found is not None else (fmean(gains), None, None)
    return Gain(mean=mean, low=low, high=high, per_seed=gains)
