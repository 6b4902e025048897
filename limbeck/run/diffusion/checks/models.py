"""Do teacher and student mean the same by time, noise and labels as the rest of the run does?"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from limbeck.models.denoiser import Denoised, Denoiser, guide
from limbeck.models.path import check_prediction, wide
from limbeck.run.checks.said import Said, failed, ok, skipped, warning
from limbeck.run.diffusion.bench import SampleBench as Bench
from limbeck.run.evaluation import evaluating

TIMES = (0.2, 0.5, 0.8)
APART = 1e-3  # of the state: how far x0 and eps may be from giving it back
LABELS = 10  # that are tried on a sample
WORTH = 0.98  # of the error of the mean image


def networks(bench: Bench) -> Iterator[tuple[str, Denoiser]]:
    """Copies of the student and of every teacher, by name."""
    yield "student", copy.deepcopy(bench.student)
    for i, teacher in enumerate(bench.task.teachers, 1):
        yield "the teacher" if len(bench.task.teachers) == 1 else f"teacher {i}", copy.deepcopy(teacher)


def said_at(model: Denoiser, bench: Bench, time: float, y: Tensor | None) -> tuple[Tensor, Denoised]:
    """The probe, noised to a time, and what a model sees in it."""
    t = torch.full((len(bench.probe.x),), time, device=bench.probe.x.device)
    x_t = model.path.noised(bench.probe.x, bench.noise, t)
    with evaluating(model):
        return x_t, model(x_t, t, y)


def error(found: Tensor, true: Tensor) -> float:
    """Mean squared."""
    return float((found - true).square().mean())


def consistent(bench: Bench) -> Said:
    """What is clean and what is noise give the state back: ``alpha x0 + sigma eps = x_t``, and finite."""
    worst = 0.0
    for name, model in networks(bench):
        for time in TIMES:
            x_t, said = said_at(model, bench, time, bench.probe.y)
            if not (said.x0.isfinite().all() and said.eps.isfinite().all()):
                measured = f"{name} sees NaN or infinite samples at t = {time:g}"
                return failed(measured, "Its weights are bad, or its prediction is another one than is stated.")
            back = model.path.noised(said.x0, said.eps, said.t)
            worst = max(worst, float((back - x_t).abs().max() / x_t.abs().max()))
            if worst > APART:
                measured = f"alpha x0 + sigma eps of {name} is off by {worst:.2g} of the state at t = {time:g}"
                return failed(measured, "Its path, or its kind of prediction, is another one than is stated.")
    return ok(f"alpha x0 + sigma eps gives the state back within {worst:.1g} at t = {', '.join(map(str, TIMES))}")


def direction(bench: Bench) -> Said:
    """Time 0 is clean and the score points to the data: from little noise, a step to t = 0 comes nearer to it."""
    if not bench.teaches:
        return skipped("no pretrained teacher takes part")
    shown = list[str]()
    for name, model in networks(bench):
        if name == "student":
            continue
        t, x = torch.tensor([0.2, 0.8], device=bench.probe.x.device), bench.probe.x
        a, b = model.path.sigma(t) / model.path.alpha(t)
        if not float(a) < float(b):
            measured = f"the path of {name} has {float(a):.3g} of noise at t = 0.2 and {float(b):.3g} at t = 0.8"
            return failed(measured, "Time runs from 0, clean, to 1, noise: give t, not 1 - t.")
        x_t, near = said_at(model, bench, 0.2, bench.probe.y)
        _, far = said_at(model, bench, 0.8, bench.probe.y)
        before = error(x_t / wide(model.path.alpha(near.t), x_t), x)
        shown.append(f"{before:.3g} to {error(near.x0, x):.3g}")
        if error(near.x0, x) >= before:
            measured = f"a step of {name} from t = 0.2 to 0 changes the squared distance to the data {shown[-1]}"
            fix = "The sign of its prediction, the kind of it, or the direction of its time is another than is stated."
            return failed(measured, fix)
        straight, turned = error(near.x0, x) + error(far.x0, x), sum(error(told_back(model, bench, s), x) for s in t)
        if turned < straight:
            measured = f"{name} sees the data better when it is told 1 - t: {turned:.3g} against {straight:.3g}"
            return failed(measured, "Time runs from 0, clean, to 1, noise: give the network t, not 1 - t.")
    return ok(f"a step from t = 0.2 to 0 brings the squared distance to held-out data from {'; '.join(shown)}")


def told_back(model: Denoiser, bench: Bench, time: Tensor) -> Tensor:
    """The clean samples that a network sees at a time when it is told one minus it."""
    y, t = bench.probe.y, time.expand(len(bench.probe.x))
    x_t = model.path.noised(bench.probe.x, bench.noise, t)
    with evaluating(model):
        turned = model.net(x_t, 1 - t, model._labels(y, x_t), model._extra(None, x_t))
    return model.path.solve(x_t, turned, t, check_prediction(model.prediction), model.data)[0]


def labels(bench: Bench) -> Said:
    """Labels make a difference, the null label is there, and guidance of scale 1 is no guidance."""
    teacher = bench.task.teachers[0] if bench.task.teachers else None
    if teacher is None or not teacher.classes:
        return skipped("there is no teacher that takes labels")
    names, data = list(teacher.classes), list(bench.task.classes)
    if len(names) != len(data):
        return failed(f"the teacher has {len(names)} classes, the data {len(data)}", "Give both the same classes.")
    model, known = copy.deepcopy(teacher), bench.probe.y.clamp(min=0)
    x_t, said = said_at(model, bench, 0.7, known)
    if not getattr(model.net, "null", True):
        return warning(f"{len(names)} classes without a null label", "Methods that guide, or leave labels out, cannot.")
    t = said.t
    with evaluating(model):
        bare, once = model(x_t, t).x0, guide(model, x_t, t, known, 1.0).x0
    gap, moved = float((once - said.x0).abs().max()), error(said.x0, bare) ** 0.5
    if gap > APART * float(said.x0.abs().max()):
        measured = f"guided at scale 1 it is off by {gap:.3g} from the labelled prediction"
        return failed(measured, "Guidance is u + w (c - u): its two halves, or its scale, are mixed up.")
    tried = min(len(names), LABELS)
    guesses = [said_at(model, bench, 0.7, (known + k) % len(names))[1].x0 for k in range(tried)]
    if moved < APART and max(error(x, said.x0) for x in guesses) ** 0.5 < APART:
        return warning("labels make no difference to the teacher", "It is unconditional in all but name: check y.")
    apart = torch.stack([(x - bench.probe.x).square().flatten(1).mean(1) for x in guesses])
    right = float((apart.argmin(0) == 0)[bench.probe.y >= 0].float().mean())
    measured = f"of {tried} labels, a sample's own lets the teacher see it best in {right:.0%} of cases"
    if right <= 1 / tried:
        return failed(measured, "The teacher knows the classes in another order than the data: give it theirs.")
    return ok(f"{measured}; guided at scale 1 the same as labelled")


def repeatable(bench: Bench) -> Said:
    """Two passes of a teacher in eval mode are identical: its dropout and noise are off."""
    if not bench.teaches:
        return skipped("no pretrained teacher takes part")
    for name, model in networks(bench):
        first, second = (said_at(model, bench, 0.5, bench.probe.y)[1].x0 for _ in range(2))
        gap = float((first - second).abs().max())
        if name != "student" and gap > 0:
            measured = f"two passes of {name} over the same states differ by {gap:.3g}"
            return failed(measured, "Something random is on in eval mode: pass training=self.training to F.dropout.")
    return ok("two passes over the same states are identical")


def worth(bench: Bench) -> Said:
    """The teacher sees through noise on held-out data: better than the mean image, and than an untrained student."""
    if not bench.teaches:
        return skipped("no pretrained teacher takes part")
    mean = bench.task.samples.take(torch.arange(min(512, len(bench.task.samples)))).x.mean(0).to(bench.probe.x)
    reached = dict[str, float]()
    for name, model in networks(bench):
        reached[name] = sum(error(said_at(model, bench, t, bench.probe.y)[1].x0, bench.probe.x) for t in TIMES) / 3
    student, blind = reached.pop("student"), error(mean.expand_as(bench.probe.x), bench.probe.x)
    shown = ", ".join(f"{number:.3g}" for number in reached.values())
    measured = f"squared error of the denoised held-out samples: teacher {shown}, mean image {blind:.3g}"
    if max(reached.values()) >= WORTH * blind:
        return failed(measured, "It has nothing to teach here: check its weights, its data and their range.")
    same = abs(student - min(reached.values())) < 1e-6 * blind
    measured += ", the student begins as its copy" if same else f", the student before training {student:.3g}"
    if not same and student < min(reached.values()):
        return warning(measured, "The student denoises better than its teacher already: are the two swapped?")
    return ok(measured)
