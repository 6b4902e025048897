"""The commands. Each imports what it needs when it runs, so that those that list things start at once."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.errors import InputError, nearest
from limbeck.run.parser import parser_of, whole

if TYPE_CHECKING:
    from limbeck.run.outcome import Finding
    from limbeck.run.spec import RunSpec
    from limbeck.run.task import Task

__all__ = ["capture", "compare", "doctor", "evidence", "methods", "preflight", "report", "resume", "run", "show"]


def run(words: list[str]) -> None:
    """Distil, with preflight, control and report."""
    from limbeck.run.flags import run_settings

    parser = parser_of("run", "METHOD [--flag value ...]")
    own = parser.add_argument_group("the command")
    own.add_argument("--out", metavar="DIR", help="the run's folder (default runs/METHOD)")
    own.add_argument("--force", action="store_true", help="go on in spite of a failed preflight")
    own.add_argument("--no-preflight", action="store_true", help="do not look for silent failures")
    own.add_argument("--no-control-cache", action="store_true", help="train the control even when it is known")
    own.add_argument("--quiet", action="store_true", help="print nothing but the result and errors")
    spec, given = run_settings(parser, words)
    out = Path(given["out"] or f"runs/{spec.method}")
    if not out.joinpath("run.yaml").exists():
        from limbeck.run.folder import RunFolder

        RunFolder(out).check_new()  # before anything is loaded
    _distil(
        spec, out, look=not given["no_preflight"], force=given["force"], cache=not given["no_control_cache"],
        quiet=given["quiet"],
    )  # fmt: skip


def resume(words: list[str]) -> None:
    """Go on with a run."""
    parser = parser_of("resume", "DIR [--quiet]")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a run's folder")
    parser.add_argument("--no-control-cache", action="store_true", help="train the control even when it is known")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the result and errors")
    given = parser.parse_all(words)
    from limbeck.run.folder import RunFolder
    from limbeck.run.spec import make_spec, read_yaml

    folder = RunFolder(given["folder"])
    folder.check_run()
    spec = make_spec(read_yaml(folder.run_file))
    _distil(spec, folder.root, cache=not given["no_control_cache"], quiet=given["quiet"])


def _distil(
    spec: RunSpec, out: Path, *, look: bool = True, force: bool = False, cache: bool = True, quiet: bool = False
) -> None:
    from limbeck.run.folder import RunFolder
    from limbeck.run.pipeline import examine, run
    from limbeck.run.progress import Show
    from limbeck.run.report import sentence
    from limbeck.run.resolve import resolve
    from limbeck.run.terminal import print_findings

    main = os.environ.get("RANK", "0") == "0"  # of several processes, one speaks
    with Show(quiet=quiet or not main) as show:

        def check(task: Task) -> list[Finding]:
            found = examine(task) if look else []
            if found:
                print_findings(show.console, found)
            return found

        try:
            outcome = run(resolve(spec), RunFolder(out), show, check=check, force=force, cache=cache)
        except KeyboardInterrupt:
            begun = (out / "run.yaml").exists()
            raise KeyboardInterrupt(f"go on with: limbeck resume {out}" if begun else "nothing was written") from None
    if main:
        print(f"{sentence(outcome)}\nreport   {out / 'report.html'}\nstudent  {out / 'student'}")


def preflight(words: list[str]) -> None:
    """Examine a run without starting it."""
    from limbeck.run.flags import run_settings

    spec, _ = run_settings(parser_of("preflight", "METHOD [--flag value ...]"), words)
    from rich.console import Console

    from limbeck.run.pipeline import examine, refuse
    from limbeck.run.resolve import resolve
    from limbeck.run.terminal import print_findings

    found = examine(resolve(spec))
    print_findings(Console(), found)
    refuse(found)


def capture(words: list[str]) -> None:
    """Keep a language model's signals."""
    parser = parser_of("capture", "--teacher T --data D --out DIR [--flag value ...]")
    parser.add_argument("--teacher", metavar="text", help="a language model: a folder, a .gguf file or a Hub id")
    parser.add_argument("--data", metavar="text", help="as for `limbeck run`: the training and the test rows are kept")
    parser.add_argument("--out", metavar="DIR", type=Path, help="the store's folder; a capture that was killed goes on")
    parser.add_argument("--kind", default="hidden", metavar="hidden|topk|sampled", help="what is kept (default hidden)")
    parser.add_argument("--bits", default="8", metavar="6|8", help="of a hidden unit (default 8)")
    parser.add_argument("--k", default="0", metavar="int", help="words a token; 0 for the kind's own default")
    parser.add_argument("--batch", default="16", metavar="int", help="rows at a time (default 16)")
    parser.add_argument("--device", metavar="text", help="auto, cpu, cuda, cuda:1 or mps")
    for name in ("context", "limit", "long", "tokenizer"):
        parser.add_argument(f"--{name}", metavar="text", help="as for `limbeck run`")
    parser.add_argument("--pack", nargs="?", const="yes", metavar="yes|no", help="as for `limbeck run`")
    parser.add_argument("--no-pack", dest="pack", action="store_const", const="no", help="the same as --pack no")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the result and errors")
    given = parser.parse_all(words)
    from limbeck.run.language.capturing import capture_command

    print(capture_command(given))


def methods(words: list[str]) -> None:
    """List the methods."""
    from limbeck.core.card import cards
    from limbeck.run.evidence import recorded

    parser = parser_of("methods", "[--family F] [--grep WORD] [--json]")
    parser.add_argument("--family", help="only this family")
    parser.add_argument("--grep", metavar="WORD", help="only where the card says this, in capitals or not")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_all(words)
    known = list(cards().values())
    families = {card.family for card in known}
    if given["family"] and given["family"] not in families:
        raise InputError("--family", given["family"], "is no family" + nearest(given["family"], families))
    word = (given["grep"] or "").casefold()
    rows = [
        (card, recorded(card.key))
        for card in known
        if given["family"] in (None, card.family) and word in " ".join(map(str, asdict(card).values())).casefold()
    ]
    if given["json"]:
        print(json.dumps([{**asdict(card), "evidence": evidence} for card, evidence in rows], indent=1))
    else:
        from limbeck.run.terminal import print_methods

        print_methods(rows)


def show(words: list[str]) -> None:
    """Say all about a method."""
    parser = parser_of("show", "KEY")
    parser.add_argument("key", metavar="KEY", help="a method's key")
    from limbeck.core.card import find

    card = find(parser.parse_all(words)["key"])
    from limbeck.run.evidence import recorded
    from limbeck.run.flags import described
    from limbeck.run.spec import values_model
    from limbeck.run.terminal import print_card

    print_card(card, described(values_model(card.key), "method."), recorded(card.key))


def compare(words: list[str]) -> None:
    """Set several runs side by side."""
    parser = parser_of("compare", "DIR [DIR ...] [--out FILE] [--json]")
    parser.add_argument("folders", metavar="DIR", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--out", metavar="FILE", type=Path, help="a page to write as well")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_all(words)
    from limbeck.run.compare import compare_command

    print(compare_command(given["folders"], as_json=given["json"], out=given["out"]))


def report(words: list[str]) -> None:
    """Write a run's report again."""
    parser = parser_of("report", "DIR")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a finished run's folder")
    folder = parser.parse_all(words)["folder"]
    from limbeck.run.report import read_outcome, sentence, write_report

    outcome = read_outcome(folder)
    print(f"{sentence(outcome)}\nreport   {write_report(outcome, folder)}")


def evidence(words: list[str]) -> None:
    """Check a method's claim, or every method's."""
    parser = parser_of("evidence", "KEY [--seeds N] [--first-seed S] [--data PATH] [--json] [--no-write]")
    parser.add_argument("key", metavar="KEY", help="a method's key, or all")
    parser.add_argument("--seeds", default="3", metavar="int", help="how many (default 3, the fewest for a verdict)")
    parser.add_argument("--first-seed", default="0", metavar="int", help="they count up from here (default 0)")
    parser.add_argument("--data", type=Path, metavar="PATH", help="other images than the experiment's own")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--no-write", action="store_true", help="leave the record under evidence/results as it is")
    given = parser.parse_all(words)
    from limbeck.core.card import cards, find
    from limbeck.run.evidence import gather, home, record
    from limbeck.run.terminal import print_evidence

    first = whole("--first-seed", given["first_seed"], 0)
    seeds = range(first, first + whole("--seeds", given["seeds"], 1))
    wanted = list(cards().values()) if given["key"] == "all" else [find(given["key"])]
    kept: list[dict[str, Any]] = []
    for card in wanted:
        if given["key"] == "all" and not (home() / card.family / f"{card.key}.py").is_file():
            continue
        runs: list[tuple[int, Any, float]] = []
        for seed, result, seconds in gather(card.key, seeds, given["data"]):
            runs.append((seed, result, seconds))
            said = f"{result.baseline:.4g} -> {result.method:.4g} {result.metric}, {seconds:.0f} s"
            print(f"{card.key} seed {seed}: {said}", file=sys.stderr, flush=True)
        kept.append(record(card.key, runs, given["data"], write=not given["no_write"]))
        if not given["json"]:
            print_evidence(kept[-1])
    if given["json"]:
        print(json.dumps(kept if given["key"] == "all" else kept[0], indent=1))


def doctor(words: list[str]) -> None:
    """Look at this machine."""
    parser_of("doctor", "").parse_all(words)
    from rich.console import Console

    from limbeck.run.doctor import checks
    from limbeck.run.terminal import print_findings

    print_findings(Console(), checks(), "doctor")
