"""The generated page is the one that the cards and the recorded evidence give."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from limbeck.core.card import cards
from limbeck.run.evidence import recorded

DOCS = Path(__file__).parents[1] / "docs"


def test_the_catalogue_is_up_to_date_and_whole() -> None:
    made = importlib.util.spec_from_file_location("catalogue", DOCS / "catalogue.py")
    assert made is not None and made.loader is not None
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    page = (DOCS / "catalogue.md").read_text(encoding="utf-8")
    assert page == module.catalogue(), "run python docs/catalogue.py"
    assert all(f"| `{key}` |" in page for key in cards())
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert readme == module.short(readme), "run python docs/catalogue.py"


def test_every_method_has_a_verdict_by_the_rule_on_seeds_not_used_for_building() -> None:
    from limbeck.run.evidence import verdict

    for key in cards():
        found = recorded(key)
        assert found is not None, f"{key} has no recorded evidence: limbeck evidence {key} --first-seed 100"
        seeds = found["seeds"]
        assert len(seeds) >= 3 and min(run["seed"] for run in seeds) >= 100
        sign = 1 if seeds[0]["higher_is_better"] else -1
        gains = [sign * (run["method"] - run["baseline"]) for run in seeds]
        assert found["verdict"] == verdict(gains, found["margin"]), f"{key}: a verdict is computed, never written"
