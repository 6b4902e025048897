"""The tables and pictures of benchmarks/federated.py, from the results in its folder."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from limbeck.core.checkpoint import write_atomic
from limbeck.run.outcome import interval
from limbeck.run.plots import plain, ticks

SHARED = ("fedprox", "feddf", "fedmd", "fedgen", "fedftg", "fedlgd", "fedjets")
PERSONAL = ("apfl", "pgfed", "self_fl", "group_pfl", "fedmd", "fedjets", "fedd2s", "fedperfix")
Curve = Sequence[Mapping[str, float]]
Runs = Mapping[str, Mapping[int, Any]]  # by arm and seed


def sent(point: Mapping[str, float]) -> float:
    return point["down"] + point["up"]


def late(curve: Curve, name: str, by: str, limit: float) -> float:
    """Mean over the measures in the last quarter of so many rounds, or bytes; else the last one before the limit."""
    along = {"round": lambda p: p["round"], "bytes": sent}[by]
    before = [p for p in curve if along(p) <= limit * (1 + 1e-9)]
    return fmean([p[name] for p in before if along(p) > 0.75 * limit] or [before[-1][name]])


def base_of(arm: str) -> str:
    return "fedavg-vit" if arm == "fedperfix" else "fedavg"


def gain(runs: Runs, arm: str, name: str, against: str, by: str) -> str:
    """Mean and 95 % interval over the seeds that both have, in points; bold where it is without zero."""
    gains = list[float]()
    for seed, curve in runs[arm].items():
        base = runs[base_of(arm)].get(seed)
        if base is not None:
            end = curve[-1]
            limit = end["round"] if by == "round" else min(sent(end), sent(base[-1]))
            gains.append(late(curve, name, "round", end["round"]) - late(base, against, by, limit))
    mean, low, high = interval(gains) or (fmean(gains), -math.inf, math.inf)
    said = f"{mean:+.1f}" + (f" [{low:+.1f}, {high:+.1f}]" if len(gains) > 1 else "")
    said = said.replace("-", "\N{MINUS SIGN}")
    return f"**{said}**" if low > 0 or high < 0 else said


def level(curves: Mapping[int, Curve], name: str, rounds: float | None = None) -> str:
    return f"{fmean(late(c, name, 'round', rounds or c[-1]['round']) for c in curves.values()):.1f}"


def bought(runs: Runs, arm: str) -> str:
    """How many rounds of FedAvg the method's bytes buy, and whether its run was that long."""
    base = next(iter(runs[base_of(arm)].values()))
    total = fmean(sent(curve[-1]) for curve in runs[arm].values())
    rounds, most = total / sent(base[-1]) * base[-1]["round"], base[-1]["round"]
    return f"{rounds:.0f}" if rounds <= most * 1.005 else f"{rounds:.0f}, of which {most:.0f} were run"


def megabytes(curves: Mapping[int, Curve], rounds: float) -> str:
    """Sent to clients and back by so many rounds."""
    ends = [next(p for p in reversed(curve) if p["round"] <= rounds) for curve in curves.values()]
    return " + ".join(f"{fmean(p[way] for p in ends) / 1e6:.1f}" for way in ("down", "up"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(runs: Runs, rounds: float) -> str:
    """Both, of one data set, after so many rounds."""

    def named(arm: str) -> str:
        few = "" if len(runs[arm]) == len(runs["fedavg"]) else f" ({len(runs[arm])} of the seeds)"
        return f"`{arm}`{few}"

    def end(arm: str) -> list[str]:
        return [megabytes(runs[arm], rounds), bought(runs, arm)]

    one = [["`fedavg`", level(runs["fedavg"], "shared", rounds), "", "", *end("fedavg")[:1], f"{rounds:.0f}"]]
    for arm in SHARED:
        if arm in runs:
            gains = [gain(runs, arm, "shared", "shared", by) for by in ("round", "bytes")]
            one.append([named(arm), level(runs[arm], "shared"), *gains, *end(arm)])
    two = list[list[str]]()
    for base, title in (("fedavg", "`fedavg`"), ("fedavg-vit", "`fedavg`, transformer")):
        for name, more in (("personal", ""), ("tuned", ", tuned")) if base in runs else ():
            held = level(runs[base], name, rounds)
            two.append([title + more, held, *[""] * 4, megabytes(runs[base], rounds), f"{rounds:.0f}"])
    for arm in PERSONAL:
        if arm in runs:
            gains = [gain(runs, arm, "personal", on, by) for on in ("personal", "tuned") for by in ("round", "bytes")]
            two.append([named(arm), level(runs[arm], "personal"), *gains, *end(arm)])
    last = ["MB down + up", "rounds of FedAvg for them"]
    first = table(["One model for all", "accuracy, %", "gain, as many rounds", "gain, as many bytes", *last], one)
    gained = [f"over {who}, {by}" for who in ("FedAvg", "tuned FedAvg") for by in ("rounds", "bytes")]
    return f"{first}\n\n{table(['A model a client', 'accuracy, %', *gained, *last], two)}\n"


def write(folder: Path) -> str:
    """Write federated.md and a picture a data set; the tables as text."""
    said = list[str]()
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        runs: dict[str, dict[int, Curve]] = defaultdict(dict)
        spent = 0.0
        for file in sorted(place.glob("*.json")):
            found = json.loads(file.read_text(encoding="utf-8"))
            runs[found["arm"]][found["seed"]] = found["curve"]
            spent += found["seconds"]
        others = [curve for arm, curves in runs.items() if arm != "fedavg" for curve in curves.values()]
        if "fedavg" not in runs or not others:
            continue
        rounds, seeds = others[0][-1]["round"], sorted(runs["fedavg"])
        about = f"{rounds:.0f} rounds, seeds {seeds[0]} to {seeds[-1]}, {spent / 60:.0f} minutes of one core"
        said.append(f"## {place.name}\n\n{about}\n\n{tables(runs, rounds)}")
        write_atomic(folder / f"{place.name}.svg", picture(runs))
    text = "\n".join(said)
    write_atomic(folder / "federated.md", text)
    return text


STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#545d69}.end{text-anchor:end}.middle{text-anchor:middle}"
    ".grid{stroke:#e9ecf0}.fedavg{stroke:#47618a;stroke-width:2.6;fill:none}"
    ".tuned{stroke:#47618a;stroke-width:1.6;stroke-dasharray:7 5;fill:none}circle{fill:#b0470a}"
)


def picture(runs: Runs) -> str:
    """Accuracy against all bytes sent: FedAvg's curves, and where every other method ended."""
    panels = [
        ("One model for all", "shared", [a for a in SHARED if a in runs], {"fedavg": "shared"}),
        ("A model a client", "personal", [a for a in PERSONAL if a in runs and a != "fedperfix"],
         {"fedavg": "personal", "tuned": "tuned"}),
    ]  # fmt: skip
    drawn = "".join(
        f'<g transform="translate({470 * k} 0)">{panel(runs, *given)}</g>' for k, given in enumerate(panels)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 940 380" role="img"><title>Accuracy against bytes sent: '
        "FedAvg as a line, fine-tuned at the clients dashed, other methods as dots</title>"
        f'<style>{STYLE}</style><rect width="940" height="380" fill="#fff"/>{drawn}</svg>\n'
    )


def panel(runs: Runs, title: str, name: str, arms: Sequence[str], lines: Mapping[str, str]) -> str:
    """One panel of 470 x 380."""
    left, right, top, bottom = 46, 400, 40, 336
    fedavg = list(runs["fedavg"].values())
    at = [fmean(sent(c[k]) for c in fedavg) / 1e6 for k in range(len(fedavg[0]))]
    spots = {arm: (fmean(sent(c[-1]) for c in runs[arm].values()) / 1e6, float(level(runs[arm], name))) for arm in arms}
    along = {
        kind: [
            (at[k], fmean(late(c, of, "round", c[k]["round"]) for c in fedavg)) for k in range(1, len(at))
        ]
        for kind, of in lines.items()
    }  # fmt: skip
    everything = [p for points in (*along.values(), spots.values()) for p in points]
    low_x, high_x = (math.log10(f(p[0] for p in everything)) for f in (min, max))
    low, high = min(p[1] for p in everything) - 2, max(p[1] for p in everything) + 2

    def x(v: float) -> float:
        return left + (right - left) * (math.log10(v) - low_x) / (high_x - low_x)

    def y(v: float) -> float:
        return top + (bottom - top) * (high - v) / (high - low)

    parts = [f'<text x="{left}" y="20">{title}: accuracy, %</text>']
    for v in ticks(low, high):
        parts.append(f'<path class="grid" d="M{left} {y(v):.1f}H{right}"/>')
        parts.append(f'<text class="end" x="{left - 6}" y="{y(v) + 4:.1f}">{plain(v)}</text>')
    for power in range(math.floor(low_x), math.ceil(high_x)):
        for v in (m * 10.0**power for m in (1, 2, 5)):
            if low_x <= math.log10(v) <= high_x:
                parts.append(f'<text class="middle" x="{x(v):.1f}" y="{bottom + 18}">{plain(v)}</text>')
    parts.append(f'<text class="middle" x="{(left + right) / 2}" y="{bottom + 36}">MB sent, both ways (log)</text>')
    for kind, points in along.items():
        d = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in points)
        parts.append(f'<path class="{kind}" d="M{d}"/>')
        said, away = {"fedavg": ("FedAvg", 22), "tuned": ("FedAvg, tuned", -8)}[kind]
        a, b = points[-1]
        parts.append(f'<text class="end" x="{x(a):.1f}" y="{y(b) + away:.1f}">{said}</text>')
    names = list[tuple[float, float]]()
    for arm, (a, b) in sorted(spots.items(), key=lambda item: -item[1][1]):
        below = [v + 13 for u, v in names if abs(u - x(a)) < 70]  # names below one another
        names.append((x(a), max([y(b) + 4, *below])))
        parts.append(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="4.5"/>')
        parts.append(f'<text x="{x(a) + 8:.1f}" y="{names[-1][1]:.1f}">{arm}</text>')
    return "".join(parts)
