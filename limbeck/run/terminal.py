"""What commands print: tables for people. Rich cuts and folds them to the terminal's width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from limbeck.core.card import Card
from limbeck.run.outcome import Finding

__all__ = ["print_card", "print_evidence", "print_findings", "print_methods"]

MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "failed": "[bold red]failed[/]", "skipped": "[dim]-[/]"}
VERDICTS = {"holds": "green", "does not hold": "red", "inconclusive": "yellow"}


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("key", "year", "evidence"))
    return table


def _verdict(evidence: Mapping[str, Any] | None) -> Text:
    said = str(evidence["verdict"]) if evidence else "none yet"
    return Text(said, style=VERDICTS.get(said, "dim"))


def print_methods(rows: Iterable[tuple[Card, Mapping[str, Any] | None]]) -> None:
    """One line a method."""
    table = _table("key", "year", "evidence", "what it does")
    for card, evidence in rows:
        table.add_row(card.key, str(card.year), _verdict(evidence), Text(card.summary))
    console = Console()
    console = console if console.is_terminal else Console(width=200)  # one line a method for grep
    console.print(table)
    console.print("`limbeck show KEY` says more about one.", style="dim", markup=False)


def print_card(card: Card, values: Sequence[tuple[str, str, str]], evidence: Mapping[str, Any] | None) -> None:
    """Everything that is known of a method."""
    console = Console(highlight=False)
    console.print(Text(f"{card.key}: {card.title}", style="bold"))
    console.print(Text(f"{card.authors}, {card.year}. {card.url}" + (f"  Code: {card.repo}" if card.repo else "")))
    console.print(Text(f"\n{card.summary}\n"))
    table = Table(box=None, pad_edge=False, show_header=False)
    needs = ", ".join(card.needs) or "nothing"
    facts = {
        "family": card.family, "modality": card.modality, "teacher": f"{card.teacher}; it must serve: {needs}",
        "data": card.data, "signal": card.signal, "loop": card.loop, "fidelity": card.fidelity, "notes": card.notes,
    }  # fmt: skip
    for name, said in facts.items():
        if said:
            table.add_row(name, Text(said))
    claim = str(evidence["claim"]) if evidence else "`limbeck evidence " + card.key + "` runs its experiment"
    table.add_row("evidence", Text.assemble(_verdict(evidence), ": ", claim))
    console.print(table)
    if values:
        flags = _table("flag", "kind", "meaning")
        for name, kind, meaning in values:
            flags.add_row(Text(name), Text(kind), Text(meaning))
        console.print(flags)
    teacher = "" if card.teacher in ("none", "online", "previous") else "--teacher TEACHER "
    example = f"limbeck run {card.key} {teacher}--student cnn-8-16 --data digits --out runs/{card.key}"
    console.print(Text(f"Example: {example}"))


def print_evidence(facts: Mapping[str, Any]) -> None:
    """A method's claim, what was measured, and the verdict."""
    gain = facts["gain"]
    span = f" [{gain['low']:+.3g}, {gain['high']:+.3g}]" if "low" in gain else ""
    Console(highlight=False).print(
        Text.assemble((facts["key"], "bold"), ": ", _verdict(facts), f". {facts['claim']}\n"),
        Text(f"gain {gain['mean']:+.3g}{span} over {facts['versus']}; {facts['metric']}; {len(facts['seeds'])} seeds"),
        sep="",
    )


def print_findings(console: Console, findings: Iterable[Finding], title: str = "preflight") -> None:
    """The table of a preflight, or of the doctor."""
    table = _table(title, "", "found")
    for f in findings:
        table.add_row(Text(f.name), MARKS[f.status], Text(f.measured + (f"\n-> {f.fix}" if f.fix else "")))
    console.print(table)
