"""What a report shows of distilled sets alone: their images, and what they cost to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from limbeck.run.outcome import Arm, Evaluation, MadeSet, Outcome, Search
from limbeck.run.words import counted, is_control, percent, share

__all__ = ["distilled_set"]


def distilled_set(o: Outcome) -> dict[str, object] | None:
    """Pictures and prices of the first seed; ``None`` for a run that makes a model."""
    arms = [("Real images" if is_control(o) else "Distilled", "method", o.distilled)]
    arms += [] if is_control(o) else [("Random real images", "control", o.control)]
    sets = {name: _sets(arm) for name, _, arm in arms}
    held = [(name, kind, sets[name][0]) for name, kind, _ in arms if sets[name]]
    if not held:
        return None
    made = held[0][2]
    words = f"{counted(made.stored, 'image')} are kept of {made.real:,}, {share(made.stored, made.real)}"
    words += f", and decoded to {made.images:,}." if made.images != made.stored else "."
    words += f" {counted(len(made.networks), 'fresh network')} were trained on each set, alike."
    rows = [
        (name, f"{m.stored:,}", f"{m.pixels:,}", f"{m.labels + m.rates:,}", ", ".join(map(percent, m.networks)))
        for name, _, m in held
    ]
    return {
        "words": words,
        "pictures": [(kind, name, m.png, f"{name}, class by class") for name, kind, m in held],
        "rows": rows,
        "search": _search(sets) if "search" in o.spec.get("transfer", ()) else None,
        "continual": _continual(sets) if made.continual else None,
    }


def _sets(arm: Sequence[Arm]) -> list[MadeSet]:
    """Of every seed."""
    found = [one.evaluation for one in arm]
    return [e.made for e in found if isinstance(e, Evaluation) and e.made is not None]


def _search(sets: Mapping[str, Sequence[MadeSet]]) -> dict[str, object]:
    """Ranks of architectures; no rows where the set trains one network's first weights alone."""
    found = {name: [m.search for m in made if m.search is not None] for name, made in sets.items()}
    first = next(iter(found.values()))
    if not first:
        return {"words": "Architectures were not ranked: the set is for the first weights of one network.", "rows": []}
    words = f"{counted(len(first[0].names), 'architecture')} were trained on each set and on all images. The first "
    words += "choice of a set is the one that scored best on it; the rank correlation says how alike both rankings are."
    rows = [(name, _correlation(s), ", ".join(sorted({one.pick for one in s})), percent(fmean(one.picked for one in s)))
            for name, s in found.items()]  # fmt: skip
    all_of = first[0].by_all
    rows.append(("All images", "1.00", first[0].names[all_of.index(max(all_of))], percent(max(all_of))))
    return {"words": words, "rows": rows}


def _correlation(found: Sequence[Search]) -> str:
    known = [one.correlation for one in found if one.correlation is not None]
    return f"{fmean(known):.2f}" if known else "\N{EN DASH}"


def _continual(sets: Mapping[str, Sequence[MadeSet]]) -> dict[str, object]:
    """Accuracy after every turn, mean over seeds, and the mean over turns."""
    found = {name: [m.continual for m in made if m.continual is not None] for name, made in sets.items()}
    turns = next(iter(found.values()))[0].classes
    curves = {name: [fmean(v) for v in zip(*(one.accuracy for one in of), strict=True)] for name, of in found.items()}
    words = "Classes came in turn, and of those seen only the set's images were kept. After every turn fresh networks "
    words += "were trained on these alone, and tell the classes seen so far apart."
    rows = [(str(count), [percent(curve[turn]) for curve in curves.values()]) for turn, count in enumerate(turns)]
    rows.append(("Mean", [percent(fmean(curve)) for curve in curves.values()]))
    return {"words": words, "names": list(curves), "rows": rows}
