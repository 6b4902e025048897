"""Tiny worlds to test methods in: a toy problem that convolutions learn, a trained teacher, a smaller student."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.checkpoint import Checkpoint
from limbeck.core.fit import fit
from limbeck.core.method import Method, Setting
from limbeck.core.modules import freeze
from limbeck.data.batches import Batches
from limbeck.data.graphs import GraphBatches, GraphSet, motifs
from limbeck.data.images import ImageSet
from limbeck.data.samples import SampleBatches, SampleSet
from limbeck.data.text import TextPair, TextSet, sorting
from limbeck.data.tokenising import tokenise
from limbeck.data.tokens import TokenBatches, TokenSet
from limbeck.models.causal_lm import CausalLM
from limbeck.models.classifier import Classifier
from limbeck.models.denoiser import Denoiser
from limbeck.models.gnn import GraphClassifier, gin
from limbeck.models.tiny import cnn, convnet, vit
from limbeck.models.tiny_denoiser import mlp
from limbeck.models.tiny_lm import bpe_tokenizer, byte_tokenizer, llama

SHAPE, CLASSES = (3, 16, 16), ("ant", "bee", "cat", "dog", "eel", "fox")
TOKENS = ("fedperfix",)  # methods of transformers alone
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def _setting(world: Any, batches: Callable[[], Any], steps: int, folder: Path | None) -> Setting:
    """Students number 0, 1, ... of a world, copies of its teachers, fresh batches, and a fit under plain SGD."""
    seeds = itertools.count()

    def run(method: Method, *, name: str = "fit", data: Iterable[Any] | None = None, steps: int = steps) -> None:
        kept = Checkpoint(folder / name, every=1, seconds=0) if folder is not None else None
        fit(method, batches() if data is None else data, SGD, steps=steps, checkpoint=kept)

    return Setting(lambda: world.student(next(seeds)), copy.deepcopy(world.teachers), batches(), steps, run)


@dataclass(frozen=True)
class VisionWorld:
    """Six classes of 3x16x16 images; every call and attribute is a pure function of the seed."""

    seed: int
    train: ImageSet
    test: ImageSet
    data: Batches
    teachers: tuple[Classifier, ...]
    plain: bool = False
    tokens: bool = False

    def student(self, seed: int = 0) -> Classifier:
        """A fresh student, narrower than the teachers: stages (6, 8, 8) and (10, 8, 8), penultimate (10,); or, plain,
        a network without batch norm: stages (6, 8, 8) and (6, 4, 4), penultimate (96,); or, of tokens, a transformer of
        one block: stage (64, 16), penultimate (16,)."""
        if self.plain or self.tokens:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1000 * self.seed + seed)
                if self.tokens:
                    return vit(16, 1, shape=SHAPE, classes=CLASSES)
                return convnet(6, 2, shape=SHAPE, classes=CLASSES)
        return _fresh(1000 * self.seed + seed, 6, 10)

    def batch(self, rows: int = 8) -> Any:
        """The first rows of the training set, as one batch."""
        return next(iter(self.data.plain(rows)))

    def setting(self, steps: int = 3, folder: Path | None = None) -> Setting:
        """What a run would hand to ``Method.distil``; with a folder, every fit keeps a checkpoint a step in it."""
        return _setting(self, lambda: self.data.with_data(self.train), steps, folder)


def vision_world(
    seed: int = 0, *, teachers: int = 1, batch: int = 16, plain: bool = False, tokens: bool = False
) -> VisionWorld:
    """A world with its own copies: nothing that is done to it reaches another test. ``plain``: students have no batch
    norm. ``tokens``: they are transformers."""
    train, test = _images(seed)
    trained = tuple(copy.deepcopy(_teacher(seed, k)) for k in range(teachers))
    return VisionWorld(seed, train, test, Batches(train, batch, seed=seed), trained, plain, tokens)


def accuracy(model: Classifier, data: ImageSet) -> float:
    """Share of images whose class is found, in eval mode."""
    model.eval()
    with torch.no_grad():
        x, y = data.take(torch.arange(len(data)))
        return float((model(x).argmax(1) == y).float().mean())


@cache
def _images(seed: int) -> tuple[ImageSet, ImageSet]:
    """A smooth pattern a class, moved by up to two pixels, with noise."""
    drawn = torch.Generator().manual_seed(seed)
    patterns = F.interpolate(torch.rand(len(CLASSES), 3, 5, 5, generator=drawn), 16, mode="bicubic")
    labels = torch.arange(240) % len(CLASSES)
    moves = torch.randint(-2, 3, (240, 2), generator=drawn).tolist()
    clean = torch.stack([patterns[k].roll(move, (1, 2)) for k, move in zip(labels, moves, strict=True)])
    images = (clean + 0.15 * torch.randn(clean.shape, generator=drawn)).clamp(0, 1)
    whole = ImageSet((255 * images).to(torch.uint8), labels, CLASSES, "toy")
    return whole.subset(range(144)), whole.subset(range(144, 240))


def _fresh(seed: int, *widths: int) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cnn(*widths, shape=SHAPE, classes=CLASSES)


@cache
def _teacher(seed: int, number: int) -> Classifier:
    """Stages (12, 8, 8) and (20, 8, 8), penultimate (20,)."""
    teacher = _fresh(1_000_000 + 1000 * seed + number, 12, 20)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=1e-2)
    data = Batches(_images(seed)[0], 48, seed=number)
    for batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(data)), 30):
        loss: Tensor = F.cross_entropy(teacher(batch.x), batch.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return freeze(teacher)


@dataclass(frozen=True)
class LanguageWorld:
    """Three digits to put in order, in bytes; every call and attribute is a pure function of the seed."""

    seed: int
    train: TokenSet
    test: TokenSet
    data: TokenBatches
    teachers: tuple[CausalLM, ...]

    def student(self, seed: int = 0) -> CausalLM:
        """A fresh student, narrower and shallower than the teachers: width 16, two blocks, two heads."""
        return _fresh_lm(1000 * self.seed + seed, 16, 2)

    def batch(self, rows: int = 8) -> Any:
        """The first rows of the training set, as one batch."""
        return next(iter(self.data.plain(rows)))

    def batches(self, batch: int, seed: int) -> TokenBatches:
        """Fresh batches of the training set."""
        return TokenBatches(self.train, batch, seed=seed, view=self.data.view)

    def setting(self, steps: int = 3, folder: Path | None = None) -> Setting:
        """What a run would hand to ``Method.distil``; with a folder, every fit keeps a checkpoint a step in it."""
        return _setting(self, lambda: self.batches(self.data.batch, self.seed), steps, folder)


def language_world(seed: int = 0, *, teachers: int = 1, batch: int = 16, crossed: bool = False) -> LanguageWorld:
    """A world with its own copies. ``crossed``: the teacher has words of several bytes, the batches carry its view."""
    train, test, seen = _text(seed, crossed)
    trained = tuple(copy.deepcopy(_lm_teacher(seed, k, crossed)) for k in range(teachers))
    return LanguageWorld(seed, train, test, TokenBatches(train, batch, seed=seed, view=seen), trained)


@cache
def _text(seed: int, crossed: bool) -> tuple[TokenSet, TokenSet, TokenSet | None]:
    pair = TextPair(*(_domains(part) for part in sorting(160, digits=3, seed=seed)))
    train, test = (tokenise(part, byte_tokenizer(), 16, offsets=crossed) for part in pair)
    return train, test, tokenise(pair.train, _pairs(seed), 16, offsets=True) if crossed else None


def _domains(text: TextSet) -> TextSet:
    """Two kinds of tasks, by their first digit."""
    return replace(text, domains=tuple("low" if document[0].text < "5" else "high" for document in text.documents))


@cache
def _pairs(seed: int) -> Any:
    """Words of one to three digits."""
    return bpe_tokenizer((span.text for document in sorting(160, 3, seed).train.documents for span in document), 300)


def _fresh_lm(seed: int, width: int, depth: int, tokenizer: Any = None) -> CausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return llama(width, depth, tokenizer or byte_tokenizer(), heads=2, context=64)


@cache
def _lm_teacher(seed: int, number: int, crossed: bool) -> CausalLM:
    """Width 32, three blocks, two heads."""
    train, _, seen = _text(seed, crossed)
    teacher = _fresh_lm(1_000_000 + 1000 * seed + number, 32, 3, _pairs(seed) if crossed else None)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=1e-2)
    data = TokenBatches(train if seen is None else seen, 48, seed=number)
    for batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(data)), 30):
        loss = F.cross_entropy(teacher(batch).logits().flatten(0, 1), batch.y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return freeze(teacher)


@dataclass(frozen=True)
class DiffusionWorld:
    """Three classes of 1x4x4 images in [-1, 1]; every call and attribute is a pure function of the seed."""

    seed: int
    train: SampleSet
    data: SampleBatches
    teachers: tuple[Denoiser, ...]

    def student(self, seed: int = 0) -> Denoiser:
        """A fresh student, narrower and shallower than the teachers: width 16, two blocks."""
        return _fresh_denoiser(1000 * self.seed + seed, 16, 2)

    def batch(self, rows: int = 8) -> Any:
        """The first rows of the training set, as one batch."""
        return next(iter(self.data.plain(rows)))

    def setting(self, steps: int = 3, folder: Path | None = None) -> Setting:
        """What a run would hand to ``Method.distil``; with a folder, every fit keeps a checkpoint a step in it."""
        return _setting(self, lambda: self.data.with_data(self.train), steps, folder)


def diffusion_world(seed: int = 0, *, teachers: int = 1, batch: int = 16) -> DiffusionWorld:
    """A world with its own copies: nothing that is done to it reaches another test."""
    train = _samples(seed)
    trained = tuple(copy.deepcopy(_denoiser(seed, k)) for k in range(teachers))
    return DiffusionWorld(seed, train, SampleBatches(train, batch, seed=seed), trained)


@cache
def _samples(seed: int) -> SampleSet:
    """A pattern a class, with noise."""
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.arange(96) % 3
    patterns = torch.randn(3, 1, 4, 4, generator=drawn).sign() * 0.7
    images = patterns[labels] + 0.1 * torch.randn(96, 1, 4, 4, generator=drawn)
    return SampleSet(images.clamp(-1, 1), labels, ("ant", "bee", "cat"), "toy")


def _fresh_denoiser(seed: int, width: int, depth: int) -> Denoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return mlp(width, depth, shape=(1, 4, 4), classes=("ant", "bee", "cat"))


@cache
def _denoiser(seed: int, number: int) -> Denoiser:
    """Width 32, three blocks; a flow that predicts velocities, trained with labels and without."""
    from limbeck.methods.diffusion.denoising import Denoising

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        teacher = _fresh_denoiser(1_000_000 + 1000 * seed + number, 32, 3)
        data = SampleBatches(_samples(seed), 48, seed=number)
        fit(Denoising(teacher, unlabelled=0.2), data, partial(torch.optim.Adam, lr=3e-3), steps=80)
    return freeze(teacher)


@dataclass(frozen=True)
class GraphWorld:
    """Three motifs in random trees; every call and attribute is a pure function of the seed."""

    seed: int
    train: GraphSet
    data: GraphBatches
    teachers: tuple[()] = ()

    def student(self, seed: int = 0) -> GraphClassifier:
        """A fresh student: width 8, two layers."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * self.seed + seed)
            return gin(8, 2, kinds=self.train.kinds, edge_kinds=self.train.edge_kinds, classes=self.train.classes)

    def batch(self, rows: int = 8) -> Any:
        """The first rows of the training set, as one batch."""
        return next(iter(self.data.plain(rows)))


def graph_world(seed: int = 0, *, batch: int = 16) -> GraphWorld:
    """A world of 60 graphs, without teachers."""
    train = motifs(60, seed=seed)
    return GraphWorld(seed, train, GraphBatches(train, batch, seed=seed))
