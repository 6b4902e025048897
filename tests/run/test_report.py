"""The report says what the numbers say, to people and programs, and nothing that should stay secret."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.run.outcome import Finding, Gain, Outcome, interval
from limbeck.run.plots import Scale, mean_line, pooled, ticks
from limbeck.run.redact import REDACTED, redact, redact_command, redact_text
from limbeck.run.report import read_outcome, sentence, write_report
from limbeck.run.settings import broken
from limbeck.run.view import view
from limbeck.run.words import duration, latency, points, quantity, share, span
from tests.run.fakes import KD_CARD, evaluate, log_softmax, outcome


class Page(HTMLParser):
    """A page taken apart: elements with their attributes and their own text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(html)
        self.close()
        assert not self.open, [tag for tag, *_ in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        element = (tag, {name: value or "" for name, value in attrs}, list[str]())
        self.elements.append(element)
        if tag not in {"meta", "link", "br"}:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, _, text in self.open:
            text.append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str], str]]:
        return [(attrs, " ".join("".join(text).split())) for name, attrs, text in self.elements if name == tag]

    @property
    def text(self) -> str:
        [(_, text)] = self.all("body")
        return text.replace("\N{MINUS SIGN}", "-").replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")


def write(made: Outcome, folder: Path) -> Page:
    return Page(write_report(made, folder).read_text(encoding="utf-8"))


def with_gain(per_seed: list[float], **changes: Any) -> Outcome:
    """An outcome whose gain is given; the sentence is made of nothing else."""
    found = interval(per_seed)
    mean, low, high = found if found else (per_seed[0], None, None)
    made = outcome(seeds=1, images=60, points=2, **changes)
    return made.model_copy(update={"gain": Gain(mean=mean, low=low, high=high, per_seed=per_seed)})


OVER = "the same student without the teacher"


@pytest.mark.parametrize(
    ("per_seed", "changes", "said"),
    [
        (
            [1.5, 1.8, 2.1],
            {},
            f"The student gained 1.8 points [1.1, 2.5] over {OVER} (3 seeds), at 10 % of the teacher's cost.",
        ),
        (
            [-1.5, -1.8, -2.1],
            {},
            f"The student lost 1.8 points [1.1, 2.5] against {OVER} (3 seeds), at 10 % of the teacher's cost.",
        ),
        (
            [-1.0, 0.3, 2.2],
            {},
            f"No clear difference: +0.5 points [-3.5, +4.5] against {OVER} (3 seeds), at 10 % of the teacher's cost. "
            "The 95 % interval includes 0.",
        ),
        (
            [1.8],
            {},
            f"The student gained 1.8 points over {OVER}, in one seed, at 10 % of the teacher's cost. "
            "One seed cannot tell a gain from chance.",
        ),
        (
            [-0.8],
            {},
            f"The student lost 0.8 points against {OVER}, in one seed, at 10 % of the teacher's cost. "
            "One seed cannot tell a gain from chance.",
        ),
        (
            [0.0],
            {},
            f"The student scored the same as {OVER}, at 10 % of the teacher's cost. "
            "One seed cannot tell a gain from chance.",
        ),
        (
            [1.5, 1.8, 2.1],
            {"teacher": False},
            "The student gained 1.8 points [1.1, 2.5] over the same student without distillation (3 seeds).",
        ),
        (
            [0.02, 0.03, 0.04],
            {"teacher": False},
            "The student gained 0.03 points [0.01, 0.05] over the same student without distillation (3 seeds).",
        ),
        (
            [0.0, 0.0],
            {"teacher": False},
            "No clear difference: 0.0 points [0.0, 0.0] against the same student without distillation (2 seeds). "
            "The 95 % interval includes 0.",
        ),
    ],
)
def test_sentence(per_seed: list[float], changes: dict[str, Any], said: str) -> None:
    assert sentence(with_gain(per_seed, **changes)) == said


def test_sentence_of_a_control_claims_no_gain() -> None:
    made = outcome(seeds=2, images=200, card={**KD_CARD, "key": "supervised", "signal": "none"}, method="supervised")
    said = sentence(made)
    assert "gained" not in said and "this run is the control" in said
    mean = np.mean([arm.evaluation.accuracy for arm in made.distilled])
    assert f"{100 * mean:.1f} %" in said


@given(st.lists(st.floats(-60, 60), min_size=1, max_size=6))
def test_a_sentence_is_never_more_certain_than_its_interval(per_seed: list[float]) -> None:
    said, found = sentence(with_gain(per_seed)), interval(per_seed)
    if found is None:
        assert "One seed cannot tell" in said
    else:
        _, low, high = found
        assert said.startswith("The student gained") == (low > 0)
        assert said.startswith("The student lost") == (high < 0)
        assert said.startswith("No clear difference") == (low <= 0 <= high)


def test_numbers_in_words() -> None:
    assert [share(9, 100), share(4, 1000), share(1, 10**6), share(100, 100), share(23, 10), share(40, 1)] == [
        "9 %", "0.4 %", "less than 0.1 %", "100 %", "2.3 times", "40 times",
    ]  # fmt: skip
    assert [quantity(v) for v in (0, 12, 999.6, 78_042, 251_494_400, 3.2e9, 1.5e15)] == [
        "0", "12", "1 k", "78 k", "251 M", "3.2 G", "1,500 T",
    ]  # fmt: skip
    assert [duration(v) for v in (0.04, 48.2, 59.7, 200, 7500)] == [
        "0.0 s",
        "48 s",
        "1 min 00 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
    assert [latency(v) for v in (8.312, 1.0, 0.9996, 0.0584)] == ["8.31 ms", "1 ms", "1 ms", "58.4 µs"]
    assert [points(v) for v in (1.84, -1.84, 0.0, -0.001, 0.04)] == ["+1.8", "-1.8", "0.0", "0.00", "+0.04"]
    assert span(Gain(mean=1.0, low=0.01, high=2.0, per_seed=[])) == "+1.00 [+0.01, +2.00]"


def test_report_files(tmp_path: Path) -> None:
    made = outcome(images=300)
    path = write_report(made, tmp_path / "new" / "run")
    assert path == tmp_path / "new" / "run" / "report.html"
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "report.json"]
    assert read_outcome(path.parent).model_dump_json() == made.model_dump_json()


def test_what_is_not_a_number_survives_the_file(tmp_path: Path) -> None:
    made = outcome(images=100, seeds=1)
    arm = made.distilled[0]
    curve = arm.curve.model_copy(update={"loss": [float("nan"), float("inf"), *arm.curve.loss[2:]]})
    write_report(made.model_copy(update={"distilled": [arm.model_copy(update={"curve": curve})]}), tmp_path)
    loss = read_outcome(tmp_path).distilled[0].curve.loss
    assert np.isnan(loss[0]) and loss[1] == float("inf") and loss[2:] == arm.curve.loss[2:]


def test_a_report_that_cannot_be_written_is_one_line_and_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_report(outcome(images=50, seeds=1), tmp_path / "file" / "run")
    write_report(outcome(images=50, seeds=1), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.glob("report.*")}
    broken_card = outcome(images=50, seeds=1).model_copy(update={"distilled": []})
    with pytest.raises(Exception):  # noqa: B017  whatever goes wrong while the page is made
        write_report(broken_card, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.glob("report.*")} == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "holds no report.json; name the folder of a run"),
        ("run.yaml", "finish the run with `limbeck resume`"),
        ("{", "is damaged: it is not JSON"),
        ("[" * 10_000, "is damaged: it is not JSON"),
        (b"\xff\xfe\x00", "is damaged: it is not JSON"),
        ("[]", "is damaged at the whole"),
        ('{"version": 2}', "has version 2, newer than 1; upgrade limbeck"),
        ('{"version": 1}', "is damaged at method"),
    ],
)
def test_reading_what_is_no_report(tmp_path: Path, content: str | bytes | None, said: str) -> None:
    if content == "run.yaml":
        (tmp_path / content).write_text("")
    elif content is not None:
        (tmp_path / "report.json").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        read_outcome(tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_with_a_field_of_the_wrong_kind(tmp_path: Path) -> None:
    write_report(outcome(images=50, seeds=1), tmp_path)
    facts = json.loads((tmp_path / "report.json").read_text())
    facts["control"][0]["evaluation"]["accuracy"] = "high"
    (tmp_path / "report.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=re.escape("damaged at control.0.evaluation.accuracy")):
        read_outcome(tmp_path)


EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)>"


def test_nothing_from_outside_becomes_markup(tmp_path: Path) -> None:
    card = {**KD_CARD, "title": EVIL, "authors": EVIL, "url": "javascript:alert(4)", "summary": EVIL, "notes": EVIL}
    made = outcome(
        images=400,
        card=card,
        method=EVIL,
        classes=10,
        values={EVIL: EVIL},
        command=f"limbeck run kd --out {shlex.quote(EVIL)}",
        notes=[EVIL, f"`{EVIL}`"],
        preflight=[Finding(name=EVIL, status="failed", measured=EVIL, fix=f"do `{EVIL}`")],
        environment={EVIL: {EVIL: [EVIL]}},
    )
    spec = {**made.spec, "student": EVIL, "teacher": [EVIL], "data": EVIL}
    page = write(made.model_copy(update={"classes": [EVIL + str(k) for k in range(10)], "spec": spec}), tmp_path)
    assert not {tag for tag, *_ in page.elements} & {"script", "img", "iframe", "object", "embed", "form", "base"}
    for _, attributes, _ in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert not any(value.strip().lower().startswith("javascript:") for value in attributes.values())
    shown = page.text
    assert shown.count("<script>alert(1)</script>") > 10  # said as text, where it stands
    titles = [text for _, text in page.all("h1")]
    assert EVIL.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}") in titles[0] or EVIL in titles[0]


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    write_report(outcome(images=300), tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    for tag, attributes, _ in page.elements:
        assert "src" not in attributes and "srcset" not in attributes
        target = attributes.get("href", "#")
        assert target.startswith(("#", "data:")) or (tag == "a" and target == KD_CARD["url"])
    assert not re.search(r"url\((?!#)|@import|@font-face", html)
    [policy] = [a["content"] for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src" not in policy


TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWx"
SECRETS = [
    TOKEN,
    "hunter2hunter2",
    "sk-proj-abcdefghijklmnop0123",
    "ghp_" + "a1" * 18,
    "AKIAABCDEFGHIJKLMNOP",
    "s3cr3t/with+slash",
]


def test_secrets_reach_neither_file(tmp_path: Path) -> None:
    hub, password, openai, github, aws, spaced = SECRETS
    made = outcome(
        images=60,
        seeds=1,
        command=shlex.join(
            [
                "limbeck",
                "run",
                "kd",
                "--teacher",
                f"https://me:{password}@example.org/t?sig={spaced}&v=3",
                "--hub-token",
                hub,
            ]
        )
        + f" --wandb.api-key={shlex.quote(spaced)} --note {github}",
        notes=[f"logged in as {hub}", f"Authorization: Bearer {openai}"],
        values={"tau": 4.0, "api_key": password, "nested": {"password": [password, {"x": spaced}]}},
        environment={"HF_TOKEN": hub, "AWS_ACCESS_KEY_ID": aws, "cache_key": "3f2a", "tokenizer": "gpt2"},
        preflight=[Finding(name="data", status="ok", measured=f"read from s3://{aws}:{spaced}@bucket")],
    )
    made = made.model_copy(
        update={"spec": {**made.spec, "data": f"https://{hub}@example.org/d.npz", "eos_token": "</s>"}}
    )
    write_report(made, tmp_path)
    for path in (tmp_path / "report.json", tmp_path / "report.html"):
        held = path.read_text(encoding="utf-8")
        assert [secret for secret in SECRETS if secret in held] == []
        assert held.count(REDACTED) >= 9
        for kept in ("example.org", "gpt2", "3f2a", "--hub-token"):
            assert kept in held
    assert read_outcome(tmp_path).spec["eos_token"] == "</s>"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("limbeck run kd --token abc --steps 3", f"limbeck run kd --token {REDACTED} --steps 3"),
        ("limbeck run kd '--password=a b c' --steps 3", f"limbeck run kd --password={REDACTED} --steps 3"),
        ("limbeck run kd --password 'a b c'", f"limbeck run kd --password {REDACTED}"),
        ("HF_TOKEN=abc limbeck run kd", f"HF_TOKEN={REDACTED} limbeck run kd"),
        (f"limbeck run kd --note '{TOKEN}' \"{TOKEN}\" --x", f"limbeck run kd --note '{REDACTED}' \"{REDACTED}\" --x"),
        ("an unclosed ' --token abc", f"an unclosed ' --token {REDACTED}"),
    ],
)
def test_redaction_of_commands(text: str, shown: str) -> None:
    assert redact_command(text) == shown
    assert redact_command(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://u:p@h/x and https://v:w@i/y", f"see https://{REDACTED}@h/x and https://{REDACTED}@i/y"),
        ("https://u:p@ss/w@host/x", f"https://{REDACTED}@host/x"),
        (f"https://{TOKEN}@host/x", f"https://{REDACTED}@host/x"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\nxyz", REDACTED),
    ],
)
def test_redaction_of_text(text: str, shown: str) -> None:
    assert redact_text(text) == shown
    assert redact_text(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "limbeck run kd --teacher timm/resnet50.a1_in1k --tokenizer gpt2 --tokens 300 --steps 3",
        "git@github.com:a/b at 0f5e7a8d0f5e7a8d0f5e7a8d0f5e7a8d0f5e7a8d",
        "limbeck run kd --data 'my folder' --method.key=value",
        "the token is not here; task-risk-assessment-classification",
        "~/data and $HOME stay",
        "https://host:8080/model@main and https://host/model@v2",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_text(text) == redact_command(text) == text


def test_redaction_keeps_the_shape_of_a_tree() -> None:
    tree = {"token": "x", "key": "kd", "use_auth": True, "max_tokens": 5, "secret": {"a": ["b", None]}, "n": (1, 2.5)}
    assert redact(tree) == {
        "token": REDACTED, "key": "kd", "use_auth": True, "max_tokens": 5, "secret": {"a": [REDACTED, None]},
        "n": [1, 2.5],
    }  # fmt: skip


@given(st.lists(st.text(min_size=1).filter(lambda word: "\n" not in word), min_size=1))
def test_the_command_shown_is_the_command(words: list[str]) -> None:
    command = shlex.join(["limbeck", *words])
    assert shlex.split(broken(command).replace("\\\n", " ")) == shlex.split(command)


CASES: dict[str, dict[str, Any]] = {
    "ten": {},
    "one seed": {"seeds": 1},
    "loss": {"skill": 0.85},
    "hundred": {"classes": 100, "images": 2000},
    "no teacher": {"teacher": False},
    "two classes": {"classes": 2, "images": 100},
    "empty class": {"empty": True},
    "one point": {"points": 1},
    "no preflight": {"preflight": [], "notes": ["Taken from the cache."], "values": {}},
    "supervised": {"card": {**KD_CARD, "signal": "none"}},
}


@pytest.mark.parametrize("case", CASES)
def test_the_page_is_well_built(case: str, tmp_path: Path) -> None:
    page = write(outcome(**{"images": 400, **CASES[case]}), tmp_path)
    assert page.all("html")[0][0]["lang"] == "en"
    for landmark in ("header", "main", "nav", "footer"):
        assert len(page.all(landmark)) == 1
    levels = [int(tag[1]) for tag, *_ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [a["id"] for _, a, _ in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, a, _ in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set(a.get(name, "").split()) <= set(ids)
        if a.get("href", "").startswith("#"):
            assert a["href"][1:] in ids
    assert all("scope" in a for a, _ in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(text for _, text in page.all("caption") + page.all("h2") + page.all("summary"))
    svgs = page.all("svg")
    assert len(svgs) == 3 and all(a["role"] == "img" and ("aria-labelledby" in a or "aria-label" in a) for a, _ in svgs)
    assert len(page.all("title")) == len(page.all("desc")) + 1 == 3
    assert sentence(outcome(**{"images": 400, **CASES[case]})) in page.text.replace("\N{NO-BREAK SPACE}", " ")


def cells(page: Page, caption: str) -> list[list[str]]:
    """The body of the table with that caption."""
    found: list[list[str]] = []
    inside = body = False
    for tag, _, text in page.elements:
        words = " ".join("".join(text).split())
        if tag == "table":
            inside = words.startswith(caption)
            body = False
        elif inside and tag == "tbody":
            body = True
        elif inside and body and tag == "tr":
            found.append([])
        elif inside and body and tag in ("th", "td") and found:
            found[-1].append(words.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-"))
    return found


def test_the_numbers_shown_are_the_numbers(tmp_path: Path) -> None:
    made = outcome(images=700)
    page = write(made, tmp_path)
    assert made.teacher is not None
    figures = [text.replace("\N{NO-BREAK SPACE}", " ") for a, text in page.all("dd") if a.get("class") == "value"]
    accuracies = [np.mean([a.evaluation.accuracy for a in arms]) for arms in (made.distilled, made.control)]
    assert figures[:3] == [f"{100 * a:.1f} %" for a in (*accuracies, made.teacher.accuracy)]
    assert figures[3:] == ["9 %", "10 %", "15 %"]  # 78,042 / 855,770; 24.78 M / 251.5 M; 1.27 / 8.31
    seeds = cells(page, "Gain over the control")
    for row, control, distilled in zip(seeds, made.control, made.distilled, strict=False):
        gain = 100 * (distilled.evaluation.accuracy - control.evaluation.accuracy)
        assert row[0] == f"Seed {control.seed}" and float(row[2]) == pytest.approx(gain, abs=0.0501)
    assert seeds[3][0] == "Mean" and seeds[3][2] == span(made.gain)
    ece = {row[0]: row[1:] for row in cells(page, "On held-out images")}
    assert ece["Teacher"] == [f"{100 * made.teacher.ece:.1f} %", f"{made.teacher.nll:.3f}"]
    assert ece["Control"][0] == f"{100 * np.mean([arm.evaluation.ece for arm in made.control]):.1f} %"
    agree = {row[0]: row[2] for row in cells(page, "Agreement with the teacher")}
    assert agree["Distilled"] == f"{100 * np.mean([arm.evaluation.agreement for arm in made.distilled]):.1f} %"
    curve = cells(page, "Held-out accuracy by step")
    assert [row[0] for row in curve] == [f"{step:,}" for step in made.control[0].curve.steps]
    assert curve[-1][1] == f"{100 * np.mean([arm.curve.accuracy[-1] for arm in made.control]):.1f} %"
    cost = {row[0]: row[1:] for row in cells(page, "Running the network")}
    assert cost["Parameters"] == ["855,770", "78,042", "9 %"]
    assert cost["Latency of one image"] == ["8.31 ms", "1.27 ms", "15 %"]
    assert cost["Memory of the weights"] == ["3.44 MB", "310 kB", "9 %"]
    checks = cells(page, "Checks")
    assert [row[0] for row in checks] == ["✓ ok", "✓ ok", "✓ ok", "! warning", "– skipped"]


def test_classes_are_sorted_and_the_ends_of_many_are_shown(tmp_path: Path) -> None:
    made = outcome(classes=1000, images=8000, seeds=2, points=3)
    page = write(made, tmp_path)
    shown = [row for row in cells(page, "Gain by class the 10 best") if len(row) > 1]
    every = cells(page, "Gain by class, best first")
    counts = made.control[0].evaluation.per_class_count
    assert len(shown) == 20 and len(every) == sum(count > 0 for count in counts)
    gains = [float(row[-1]) for row in every]
    assert gains == sorted(gains, reverse=True)
    assert [row[0] for row in shown] == [row[0] for row in every[:10] + every[-10:]]
    k = int(every[0][0].removeprefix("class "))
    mean = [np.mean([arm.evaluation.per_class[k] for arm in arms]) for arms in (made.control, made.distilled)]
    assert float(every[0][-1]) == pytest.approx(100 * (mean[1] - mean[0]), abs=0.0501) and every[0][1] == f"{counts[k]}"


def test_a_class_without_images_is_named_and_not_drawn(tmp_path: Path) -> None:
    page = write(outcome(empty=True, images=300), tmp_path)
    assert "Without held-out images: truck." in page.text
    assert "truck" not in [row[0] for row in cells(page, "Gain by class")]


def test_two_classes(tmp_path: Path) -> None:
    page = write(outcome(classes=2, images=100), tmp_path)
    assert {row[0] for row in cells(page, "Gain by class")} == {"airplane", "automobile"}


def test_charts_stay_small(tmp_path: Path) -> None:
    write_report(outcome(seeds=10, points=1000, classes=3, images=300), tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    sizes = [len(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]
    assert len(sizes) == 3 and max(sizes) < 100_000


def test_the_curves_are_drawn_where_the_numbers_are(tmp_path: Path) -> None:
    """The scale is read off the ticks; the ends of the mean lines and the teacher's line must lie at their values."""
    made = outcome(images=900)
    write_report(made, tmp_path)
    [svg] = re.findall(r'<svg[^>]*class="wide".*?</svg>', (tmp_path / "report.html").read_text(), re.DOTALL)
    labels = re.findall(r'<text x="54" y="([\d.]+)" class="end">([\d.]+) %', svg)
    (y0, v0), (y1, v1) = ((float(y) - 4, float(v)) for y, v in (labels[0], labels[-1]))

    def value(y: str) -> float:
        return v0 + (float(y) - y0) * (v1 - v0) / (y1 - y0)

    for kind, arms in (("control", made.control), ("method", made.distilled)):
        [line] = re.findall(rf'<path d="M([^"]*)" class="{kind} mean"', svg)
        assert value(line.split("L")[-1].split()[1]) == pytest.approx(
            100 * np.mean([arm.curve.accuracy[-1] for arm in arms]), abs=0.05
        )
        assert len(re.findall(rf'class="{kind} seed"', svg)) == 3
    assert made.teacher is not None
    [y] = re.findall(r'<path d="M62 ([\d.]+)H546" class="teacher"', svg)
    assert value(y) == pytest.approx(100 * made.teacher.accuracy, abs=0.05)


def test_mean_line_keeps_the_steps_that_all_seeds_have() -> None:
    assert mean_line([[(1, 0.2), (2, 0.4), (3, 0.9)], [(2, 0.6), (3, 0.7), (4, 1.0)]]) == [
        (2, pytest.approx(0.5)),
        (3, pytest.approx(0.8)),
    ]
    assert list(mean_line([])) == []


def test_pooled_bins_are_those_of_all_predictions_together() -> None:
    rng = np.random.default_rng(3)
    parts = []
    for _ in range(3):
        y = rng.integers(0, 4, 200)
        logp = log_softmax(1.5 * np.eye(4)[y] + rng.normal(size=(200, 4)))
        parts.append((logp, y))
    every = evaluate(np.concatenate([p for p, _ in parts]), np.concatenate([y for _, y in parts]), None)
    found = pooled([evaluate(p, y, None).reliability for p, y in parts])
    assert [n for *_, n in found] == [n for *_, n in every.reliability]
    np.testing.assert_allclose([b[:2] for b in found], [b[:2] for b in every.reliability], rtol=1e-12)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_round_and_inside(low: float, width: float, about: int) -> None:
    high = low + width
    found = ticks(low, high, about)
    assert len(found) <= 2 * about + 2
    slack = 1e-6 * max(abs(low), abs(high), width)
    assert all(low - slack <= tick <= high + slack for tick in found)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.booleans())
def test_a_scale_keeps_everything_inside_in_order(values: list[float], zero: bool) -> None:
    scale = Scale.around(values, zero=zero)
    at = [scale.at(value) for value in sorted(values)]
    assert all(0 < place < 100 for place in at) and at == sorted(at)
    assert not zero or scale.zero is not None


def test_the_gap_closed_is_told_only_for_a_clear_gain() -> None:
    assert "of the gap to the teacher" in str(view(outcome())["gain_words"])
    assert "of the gap to the teacher" not in str(view(outcome(skill=0.93))["gain_words"])
    assert "of the gap to the teacher" not in str(view(outcome(teacher=False, skill=1.1))["gain_words"])


def test_the_right_edge_belongs_to_a_bin() -> None:
    """As in :func:`limbeck.diagnostics.calibration.reliability`: bins are (i / 15, (i + 1) / 15]."""
    assert len(pooled([[(3 / 15, 1.0, 10)], [(2.5 / 15, 0.0, 10)]])) == 1
    assert len(pooled([[(3 / 15, 1.0, 10)], [(3.5 / 15, 0.0, 10)]])) == 2
    assert pooled([[(1.0, 1.0, 10)], [(0.95, 0.0, 10)]]) == [(pytest.approx(0.975), 0.5, 20)]
