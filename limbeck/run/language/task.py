"""A run on text: causal language models, tokenised documents and the settings they came from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import nn

from limbeck.core.card import Card, find
from limbeck.core.modules import freeze
from limbeck.data.load_text import load_text
from limbeck.data.signals import StoredTeacher, open_store
from limbeck.data.text import TextSet
from limbeck.data.tokens import TokenBatches, TokenSet
from limbeck.errors import InputError
from limbeck.models.causal_lm import CausalLM
from limbeck.models.load_lm import LM_CARD, is_fresh, load_causal_lm, load_tokenizer, save_causal_lm
from limbeck.models.teachers import Ensemble, ServedTeacher
from limbeck.run.checks.said import Said
from limbeck.run.language.cost import lm_cost
from limbeck.run.language.evaluation import Targets, bits_per_byte, count, evaluate, signals
from limbeck.run.language.rows import CONTEXT, same_words, spread, spread_rows, text_rows
from limbeck.run.metric import BITS, Metric
from limbeck.run.outcome import Cost, Judged, TextEvaluation
from limbeck.run.settle import absolute, named, settled
from limbeck.run.spec import RunSpec
from limbeck.run.trials import Trials

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TextTask", "text_task", "words_of"]

EPOCHS = 3.0  # when neither steps nor epochs are given
BATCH = 16
RATES = {"adamw": 3e-3, "sgd": 0.1}
TRAINED_RATE = 1e-4  # of a student that begins from trained weights
JUDGED = 2**15  # words that a model is judged on, at most
WATCHED = 2**12  # and while it trains


@dataclass(frozen=True)
class TextTask:
    """Next-word prediction, as a :class:`limbeck.run.task.Task`.

    Args:
        student: a fresh student; the same seed gives the same weights, and the caller's random state is left alone.
        teachers: pretrained, frozen; perhaps none.
        train: rows that are trained on, in the student's tokens.
        test: held-out rows, as many as a model is judged on: nothing is trained on them.
        held_out: the held-out documents.
        spec: the resolved run file.
        view, test_view: the same rows in the teacher's tokens, where those differ.
        device: where the models are.
    """

    metric: ClassVar[Metric] = BITS
    control: ClassVar[str] = "sft"
    code: ClassVar[Sequence[str]] = (
        "losses", "methods/language/sft.py", "methods/language/_shared.py", "run/language/evaluation.py",
        "run/language/spelling.py",
    )  # fmt: skip

    student: Callable[[int], CausalLM]
    teachers: Sequence[nn.Module]
    train: TokenSet
    test: TokenSet
    held_out: TextSet
    spec: RunSpec
    view: TokenSet | None = None
    test_view: TokenSet | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def classes(self) -> Sequence[str]:
        return ()

    @property
    def data(self) -> Mapping[str, str]:
        return {"train": self.train.fingerprint, "test": self.test.fingerprint}

    def batches(self, seed: int) -> TokenBatches:
        size = self.spec.batch or BATCH
        return TokenBatches(self.train, size, seed=seed, drop_last=len(self.train) >= size, view=self.view)

    @property
    def control_values(self) -> Mapping[str, Any]:
        return {}

    @property
    def judging(self) -> str:
        return ""

    def shares(self) -> list[list[int]]:
        return []

    def as_control(self, found: Judged, kept: Path) -> Self:
        return self

    def accepts(self, model: nn.Module) -> bool:
        return isinstance(model, CausalLM)

    @cached_property
    def _targets(self) -> Targets | None:
        same = self.test_view is None and bool(self.teachers)
        return signals(self.teachers, self.test, self.device) if same else None

    def targets(self) -> Targets | None:
        return self._targets

    @cached_property
    def _watched(self) -> TokenSet:
        return spread(self.test, WATCHED)

    def evaluate(self, model: nn.Module, targets: Any = None) -> TextEvaluation:
        return self._with_tasks(model, evaluate(model, self.test, self.held_out, self.device, targets))

    def _with_tasks(self, model: nn.Module, found: TextEvaluation) -> TextEvaluation:
        if not self.spec.lm_eval or not isinstance(model, CausalLM):
            return found
        from limbeck.run.language.harness import harness

        return found.model_copy(update={"harness": harness(model, self.spec.lm_eval)})

    def further(self, model: nn.Module, found: Judged, trials: Trials) -> Judged:
        return found

    def score(self, model: nn.Module) -> float:
        return bits_per_byte(count(model, self._watched, self.device))

    def judged_teacher(self) -> TextEvaluation | None:
        """That of the first teacher; of a store or a server there is none."""
        found = self.teachers[0] if self.teachers else None
        if not isinstance(found, CausalLM | Ensemble):
            return None
        rows = self.test if self.test_view is None else self.test_view
        return self._with_tasks(found, evaluate(found, rows, self.held_out, self.device))

    def cost(self, model: nn.Module) -> Cost:
        assert isinstance(model, CausalLM)
        return lm_cost(model, self.spec.context or CONTEXT)

    def teacher_cost(self) -> Cost | None:
        """Of all teachers together; none of a store or a server."""
        every = [m for t in self.teachers for m in (t.teachers if isinstance(t, Ensemble) else [t])]
        costs = [self.cost(teacher) for teacher in every if isinstance(teacher, CausalLM)]
        if not costs or len(costs) < len(every):
            return None
        fields = ("parameters", "flops", "latency_ms", "memory_mb")
        sums = {name: sum(getattr(c, name) for c in costs) for name in fields}
        return Cost(**sums, per_second=1 / sum(1 / c.per_second for c in costs if c.per_second))

    def save(self, model: nn.Module, folder: Path) -> None:
        save_causal_lm(model, folder)

    def load(self, folder: Path) -> CausalLM:
        return load_causal_lm(str(folder)).to(self.device)

    def model_card(self, text: str, folder: Path) -> str:
        return LM_CARD.format(text=text)

    def bench(self, card: Card, values: Mapping[str, Any]) -> Any:
        from limbeck.run.language.bench import TextBench

        return TextBench(self, card, values)

    @property
    def checks(self) -> Mapping[str, Callable[[Any], Said]]:
        from limbeck.run.language.checks import CHECKS

        return CHECKS


def text_task(spec: RunSpec, device: torch.device) -> TextTask:
    """Load text and language models.

    Raises:
        InputError: for a reference that leads nowhere, and for models and data that do not fit each other.
    """
    spec = spec.model_copy(update={"lm_eval": [absolute(name) for name in spec.lm_eval]})
    if spec.lm_eval:
        from limbeck.run.language.harness import load_tasks

        load_tasks(tuple(spec.lm_eval))  # refuses here what it would refuse after the training
    words = words_of(spec)
    teachers = _teachers(spec, words, device)
    of_teacher: Any = next((t.tokenizer for t in teachers if hasattr(t, "tokenizer")), None)
    student = _student(spec, words or of_teacher, device)
    first = student(spec.first_seed)  # refuses here, before anything else is done, what it would refuse later
    for teacher in teachers:
        if isinstance(teacher, StoredTeacher):
            with named("teacher"):
                teacher.store.check_tokenizer(of_teacher or first.tokenizer)
    theirs = of_teacher if of_teacher is not None and not same_words(of_teacher, first.tokenizer) else None
    made = text_rows(spec, first.tokenizer, theirs)
    for name, model in (("student", first), *((f"teacher {i}", t) for i, t in enumerate(teachers, 1))):
        if made.context > getattr(model, "context", made.context):
            raise InputError("context", made.context, f"is more than the {name} was made for, {model.context}")
    test, kept = spread(made.test, JUDGED), made.test_view
    if kept is not None:
        kept = kept.subset(spread_rows(made.test, JUDGED))
    fresh = is_fresh(spec.student) or ":" in spec.student
    size, rate = spec.batch or BATCH, RATES[spec.optimizer] if fresh else TRAINED_RATE
    spec = spec.model_copy(update={"context": made.context, "pack": made.pack, "long": spec.long or "refuse"})
    task = TextTask(
        student, teachers, made.train, test, made.text.test, spec, made.view, kept, device
    )  # fmt: skip
    return replace(task, spec=settled(spec, len(task.batches(0)), batch=size, epochs=EPOCHS, rate=rate))


def words_of(spec: RunSpec) -> PreTrainedTokenizerBase | None:
    """The tokenizer that the run file names; of byte pairs, learnt from the training text."""
    if spec.tokenizer is None:
        return None
    learnt = spec.tokenizer.startswith("bpe-")
    text = load_text(spec.data).train if learnt else None
    texts = () if text is None else ("".join(span.text for span in document) for document in text.documents)
    return load_tokenizer(spec.tokenizer, texts)


def _teachers(spec: RunSpec, words: PreTrainedTokenizerBase | None, device: torch.device) -> list[nn.Module]:
    """Each by its reference; several are one, their mean, unless the method wants them apart."""
    made = list[nn.Module]()
    for reference in spec.teacher:
        with named("teacher"):
            made.append(freeze(_teacher(reference, words, spec, device).to(device)))
    apart = find(spec.method).teacher == "ensemble"
    networks = [teacher for teacher in made if isinstance(teacher, CausalLM)]
    if len(made) < 2 or apart:
        return made
    if len(networks) < len(made):
        raise InputError("teacher", len(made), "teachers are averaged, which takes networks in memory; name one")
    with named("teacher"):
        return [freeze(Ensemble(networks))]


def _teacher(
    reference: str, words: PreTrainedTokenizerBase | None, spec: RunSpec, device: torch.device
) -> CausalLM | StoredTeacher | ServedTeacher:
    if reference.startswith("store:"):
        return StoredTeacher(open_store(reference.removeprefix("store:"), words))
    if reference.startswith(("http://", "https://")):
        where, _, model = reference.partition("#")
        if words is None and is_fresh(spec.student):
            raise InputError("tokenizer", "", "is missing: a server does not say its own; name its model's folder")
        return ServedTeacher(where, model, words or _student(spec, None, device)(spec.first_seed).tokenizer)
    return load_causal_lm(reference, tokenizer=words, seed=spec.first_seed, context=spec.context or CONTEXT)


def _student(spec: RunSpec, words: PreTrainedTokenizerBase | None, device: torch.device) -> Callable[[int], CausalLM]:
    """Fresh weights are made anew for every seed; trained ones are read once and copied."""
    reference, context = spec.student, spec.context or CONTEXT
    folder = Path(reference.rpartition("@")[2]).expanduser()
    trained = any(folder.glob("*.safetensors")) if folder.is_dir() else folder.suffix == ".gguf" or "/" in reference
    trained = trained and not reference.startswith("lora-") and ":" not in reference
    kept = list[CausalLM]()

    def load(seed: int) -> CausalLM:
        with named("student"):
            return load_causal_lm(reference, tokenizer=words, seed=seed, context=context)

    def student(seed: int) -> CausalLM:
        if not trained:
            return load(seed).to(device)
        if not kept:
            kept.append(load(seed))
        return copy.deepcopy(kept[0]).to(device)

    return student
