"""Makes the pages that are generated: the catalogue from the cards and their evidence, the
README's table of them, the first page from the README, the guide from CONTRIBUTING.

Run it by hand, or let mkdocs run it as a hook before it builds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from limbeck.core.card import cards
from limbeck.run.evidence import recorded

DOCS = Path(__file__).parent
MARKS = "<!-- methods: made by docs/catalogue.py -->", "<!-- end of methods -->"
HEAD = """# Methods and evidence

One file per published work. *Evidence* is a small experiment that anyone can run (`limbeck evidence KEY`); its verdict
is computed by a rule fixed beforehand from the seeds named in `evidence/results/`, and never edited. A verdict of
**does not hold** is about this small scale, not about the paper. *Reconstruction* means that some equation or constant
had to be assumed: the method's card says which.

| Key | Work | What it does | Fidelity | Evidence |
|---|---|---|---|---|
"""


def row(key: str) -> str:
    """One line of the table."""
    card = cards()[key]
    work = f"[{card.title}]({card.url}) ({card.authors.split(',')[0]} et al., {card.year})"
    if "," not in card.authors:
        work = work.replace(" et al.", "")
    return f"| `{key}` | {work} | {card.summary} | {card.fidelity} | {verdict(recorded(key))} |"


def verdict(found: dict[str, Any] | None) -> str:
    """The verdict with its numbers."""
    if found is None:
        return "not recorded"
    gain, seeds = found["gain"], len(found["seeds"])
    span = f" [{gain['low']:.2f}, {gain['high']:.2f}]" if "low" in gain else ""
    return f"**{found['verdict']}**: {found['metric']} {gain['mean']:+.2f}{span}, {seeds} seeds. {found['claim']}"


def short(text: str) -> str:
    """The first page's table of all methods, between its marks."""
    rows = [
        f"| [`{key}`](limbeck/methods/{card.family}/{key}.py) | {card.summary} | {said['verdict'] if said else ''} |"
        for key, card in cards().items()
        for said in [recorded(key)]
    ]
    table = "\n".join([MARKS[0], "| Key | What it does | Evidence |", "|---|---|---|", *rows, MARKS[1]])
    before, rest = text.split(MARKS[0])
    return before + table + rest.split(MARKS[1])[1]


def catalogue() -> str:
    """The page of all methods."""
    families = sorted({card.family for card in cards().values()})
    parts = [HEAD + "\n".join(row(key) for key, card in cards().items() if card.family == families[0])]
    parts += [
        f"\n## {family.replace('_', ' ').capitalize()}\n\n"
        + "\n".join(HEAD.splitlines()[-2:])
        + "\n"
        + "\n".join(row(key) for key, card in cards().items() if card.family == family)
        for family in families[1:]
    ]
    return "\n".join(parts) + "\n"


def write() -> None:
    """Write the generated pages."""
    (DOCS / "catalogue.md").write_text(catalogue(), encoding="utf-8")
    first = DOCS.parent / "README.md"
    first.write_text(short(first.read_text(encoding="utf-8")), encoding="utf-8")
    for source, page in (("README.md", "index.md"), ("CONTRIBUTING.md", "contributing.md")):
        text = (DOCS.parent / source).read_text(encoding="utf-8").replace("](docs/", "](")
        text = re.sub(r"\[(`\w+`)\]\(limbeck/[^)]*\)", r"\1", text).replace("](CONTRIBUTING.md)", "](contributing.md)")
        (DOCS / page).write_text(text, encoding="utf-8")


def on_pre_build(config: object) -> None:
    """The hook that mkdocs calls."""
    write()


if __name__ == "__main__":
    write()
