"""A whole run on text, from the command line to the report; what goes in must fit, what comes out must be true."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.card import find
from limbeck.data.text import Span, TextSet, arithmetic
from limbeck.data.tokenising import tokenise
from limbeck.errors import InputError
from limbeck.models.causal_lm import CausalLM
from limbeck.models.load_lm import load_causal_lm, save_causal_lm
from limbeck.models.tiny_lm import bpe_tokenizer, byte_tokenizer, llama
from limbeck.run.compare import compare_command
from limbeck.run.folder import RunFolder
from limbeck.run.language.evaluation import count, evaluate, signals
from limbeck.run.language.rows import spread
from limbeck.run.language.spelling import word_bytes
from limbeck.run.language.task import TextTask
from limbeck.run.outcome import Outcome, TextEvaluation
from limbeck.run.pipeline import run
from limbeck.run.preflight import preflight
from limbeck.run.progress import Show
from limbeck.run.report import read_outcome, sentence
from limbeck.run.resolve import resolve
from limbeck.run.spec import make_spec
from tests.run.conftest import Said
from tests.worlds import language_world

CPU = torch.device("cpu")
Settings = dict[str, Any]
Limbeck = Callable[..., Said]


@pytest.fixture(scope="session")
def lm_teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("lm") / "teacher"
    save_causal_lm(language_world().teachers[0], folder)
    return str(folder)


@pytest.fixture
def text_settings(lm_teacher: str) -> Settings:
    return {
        "method": "gkd", "student": "llama-16x1", "teacher": lm_teacher, "data": "sorting", "context": 16, "limit": 64,
        "steps": 12, "batch": 8, "seeds": 2, "eval_every": 6, "values": {"lmbda": 0, "beta": 0},
    }  # fmt: skip


def without_preflight(settings: Settings, out: Path, **options: Any) -> Outcome:
    return run(resolve(make_spec(settings)), RunFolder(out), Show(quiet=True), check=lambda _: [], **options)


def words(settings: Settings, *names: str) -> list[str]:
    flags = [(f"--{name.replace('_', '-')}", str(settings[name])) for name in names]
    return [w for pair in flags for w in pair] + ["--method.lmbda", "0", "--method.beta", "0"]


NAMES = ("student", "teacher", "data", "context", "limit", "steps", "batch", "seeds", "eval_every")


def test_the_command_line_runs_text(text_settings: Settings, tmp_path: Path, limbeck: Limbeck) -> None:
    flags = words({**text_settings, "seeds": 1}, *NAMES)
    said = limbeck("run", "gkd", *flags, "--out", str(tmp_path / "run"), "--quiet")
    assert said.status == 0, said.err
    assert "bits a byte" in said.out and "One seed cannot tell" in said.out
    outcome = read_outcome(tmp_path / "run")
    assert [f.status for f in outcome.preflight].count("failed") == 0
    arm = outcome.distilled[0]
    assert isinstance(arm.evaluation, TextEvaluation) and arm.curve.steps == [6, 12]
    assert len(arm.curve.bits_per_byte) == 2 and arm.curve.accuracy == []
    assert outcome.gain.per_seed[0] == pytest.approx(outcome.control[0].evaluation.score - arm.evaluation.score)
    assert outcome.teacher is not None and outcome.teacher_cost is not None
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Samples" in page and "Bits per byte" in page and "held-out image" not in page
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert outcome.command in card and "pipeline_tag: text-generation" in card
    assert limbeck("report", str(tmp_path / "run")).status == 0
    assert limbeck("preflight", "gkd", *flags).status == 0
    assert "Bits per byte" in compare_command([tmp_path / "run"], as_json=False, out=tmp_path)


def test_the_saved_student_is_the_one_that_was_judged(text_settings: Settings, tmp_path: Path) -> None:
    outcome = without_preflight(text_settings, tmp_path / "run")
    task = resolve(make_spec(text_settings))
    student = load_causal_lm(str(tmp_path / "run" / "student"))
    assert task.evaluate(student, task.targets()) == outcome.distilled[0].evaluation
    assert outcome.teacher == task.judged_teacher()
    facts = json.loads((tmp_path / "run" / "report.json").read_text())
    assert facts["spec"]["context"] == 16 and facts["spec"]["pack"] is False and facts["classes"] == []


def test_a_run_is_a_function_of_its_seed_and_is_done_once(
    text_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    first = without_preflight(text_settings, tmp_path / "a", cache=False)
    torch.manual_seed(2)
    second = without_preflight(text_settings, tmp_path / "b", cache=False)
    for one, two in ((first.control, second.control), (first.distilled, second.distilled)):
        assert [arm.evaluation for arm in one] == [arm.evaluation for arm in two]
        assert [arm.curve for arm in one] == [arm.curve for arm in two]
    monkeypatch.setattr("limbeck.run.training.iterate", lambda *_, **__: 1 // 0)
    assert without_preflight(text_settings, tmp_path / "a").gain == first.gain


class Killed(BaseException):
    """Nothing in limbeck catches it, as nothing survives a kill."""


def test_a_killed_run_goes_on_bit_for_bit(
    text_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limbeck.core.checkpoint import Checkpoint

    settings = {**text_settings, "seeds": 1, "checkpoint_seconds": 1e-6}
    whole = without_preflight(settings, tmp_path / "whole", cache=False)
    real, saves = Checkpoint.save, [0]

    def save(self: Checkpoint, *given: Any, **named: Any) -> Any:
        saves[0] += 1
        if saves[0] > 17:
            raise Killed
        return real(self, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "save", save)
        with pytest.raises(Killed):
            without_preflight(settings, tmp_path / "run", cache=False)
    again = without_preflight(settings, tmp_path / "run", cache=False)
    assert again.distilled[0].evaluation == whole.distilled[0].evaluation
    assert again.distilled[0].curve == whole.distilled[0].curve
    states = [load_causal_lm(str(tmp_path / name / "student")).state_dict() for name in ("whole", "run")]
    assert all(torch.equal(a, states[1][k]) for k, a in states[0].items())


def test_a_control_is_paid_for_once(text_settings: Settings, tmp_path: Path) -> None:
    first = without_preflight({**text_settings, "seeds": 1}, tmp_path / "a")
    second = without_preflight({**text_settings, "seeds": 1, "values": {"lmbda": 0, "beta": 1}}, tmp_path / "b")
    assert second.control[0].cached and second.control[0].evaluation == first.control[0].evaluation
    other = without_preflight({**text_settings, "seeds": 1, "context": 17}, tmp_path / "c")
    assert other.control[0].cached, "the rows are the same, so nothing has changed"
    assert not without_preflight({**text_settings, "seeds": 1, "limit": 60}, tmp_path / "d").control[0].cached


def test_sft_equals_its_control(text_settings: Settings, tmp_path: Path) -> None:
    settings = {**text_settings, "method": "sft", "values": {}, "teacher": [], "seeds": 1}
    outcome = without_preflight(settings, tmp_path / "run", cache=False)
    assert outcome.gain.per_seed == [0.0]
    assert "needs" in sentence(outcome) and "this run is the control" in sentence(outcome)


def test_a_teacher_with_other_words(text_settings: Settings, tmp_path: Path) -> None:
    texts = [f"{a}{b}>{a}{b}" for a in range(30) for b in range(30)]
    save_causal_lm(llama(16, 1, bpe_tokenizer(texts, 300), heads=2), tmp_path / "teacher")
    settings = {**text_settings, "teacher": [str(tmp_path / "teacher")], "tokenizer": "bytes", "seeds": 1}
    task = resolve(make_spec(settings))
    assert isinstance(task, TextTask) and task.view is not None
    batch = next(iter(task.batches(0)))
    assert batch.view is not None and batch.ends is not None and batch.view.ends is not None
    for k in range(len(batch.x)):
        pair = [t.tokenizer.decode(b.x[k][b.segment[k] > 0], skip_special_tokens=True)
                for t, b in ((task.train, batch), (task.view, batch.view))]  # fmt: skip
        assert pair[0] == pair[1], "the same document in both"
    assert task.targets() is None and task.judged_teacher() is not None
    found = preflight(task, find("gkd"), {})
    assert [f.status for f in found if f.name == "vocabulary"] == ["failed"] and found[-1].name == "vocabulary"


@pytest.mark.parametrize(
    ("changed", "field", "hint"),
    [
        ({"augment": "flip"}, "augment", "learns from text"),
        ({"size": 8}, "size", "learns from text"),
        ({"context": 4}, "context", "greater"),
        ({"tokenizer": "byte"}, "tokenizer", "bytes"),
        ({"student": "lama-16x1"}, "student", "llama-64x2"),
        ({"student": "llama-15x1"}, "width", "multiple"),
        ({"student": "weights.pt"}, "student", "pickle"),
        ({"teacher": "store:nowhere"}, "teacher", ""),
        ({"data": "nothing.xyz"}, "data", ".jsonl"),
        ({"context": 9}, "sorting", "--context"),
        ({"context": 70}, "context", "was made for"),
    ],
)
def test_what_does_not_fit_is_one_line(text_settings: Settings, changed: Settings, field: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(make_spec({**text_settings, **changed}))
    assert field in caught.value.field and hint in str(caught.value) and "\n" not in str(caught.value)


def test_text_settings_mean_nothing_to_images() -> None:
    for name, value in (("context", 64), ("pack", True), ("tokenizer", "bytes"), ("long", "drop")):
        with pytest.raises(InputError, match="learns from images"):
            make_spec({"method": "kd", "student": "mlp-16", "teacher": "t", "data": "digits", name: value})


# Evaluation


def test_every_number_equals_a_loop_over_words() -> None:
    world = language_world()
    model, [teacher] = world.student().train(), world.teachers
    found = evaluate(model, world.test, world.test.text, CPU, signals([teacher], world.test, CPU))
    nll, right, same, divergence, size = 0.0, 0, 0, 0.0, 0
    model.eval()
    n = 0
    for k in range(len(world.test)):
        batch = world.test.take(torch.tensor([k]))
        with torch.no_grad():
            q, p = (F.log_softmax(m.net(input_ids=batch.x).logits[0].double(), -1) for m in (model, teacher))
        for t in range(batch.x.shape[1]):
            y = int(batch.y[0, t])
            if y < 0:
                continue
            n, nll, size = n + 1, nll - float(q[t, y]), size + (y != world.test.tokenizer.eos_token_id)
            right, same = right + (int(q[t].argmax()) == y), same + (int(q[t].argmax()) == int(p[t].argmax()))
            divergence += sum(math.exp(a) * (a - b) for a, b in zip(p[t].tolist(), q[t].tolist(), strict=True))
    assert (found.count, found.bytes) == (n, size)
    assert found.nll == pytest.approx(nll / n, rel=1e-5) and found.accuracy == pytest.approx(right / n)
    assert found.bits_per_byte == pytest.approx(nll / math.log(2) / size, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nll / n), rel=1e-4)
    assert found.agreement == pytest.approx(same / n) and found.kl_to_teacher == pytest.approx(divergence / n, rel=1e-3)
    assert found.kl_to_teacher > 0.05, "or the test shows nothing"
    assert sum(count for _, _, count in found.reliability) == n


class Sorter(CausalLM):
    """Sorts what it is asked, and gets it wrong where the first digit is odd."""

    def generate(self, ids: Tensor, mask: Tensor, **_: Any) -> Tensor:
        asked = [self.tokenizer.decode(row[m.bool()])[:-1] for row, m in zip(ids, mask, strict=True)]
        said = ["".join(sorted(digits)) if int(digits[0]) % 2 == 0 else digits[:1] for digits in asked]
        rows = [[*self.tokenizer(answer).input_ids, self.eos] for answer in said]
        return torch.tensor([row + [self.pad] * (8 - len(row)) for row in rows])


def test_exact_match_counts_greedy_answers_that_are_the_documents() -> None:
    world = language_world()
    [teacher] = world.teachers
    sorter = copy.copy(teacher)
    sorter.__class__ = Sorter
    found = evaluate(sorter, world.test, world.test.text, CPU)
    odd = [int(d[0].text[0]) % 2 for d in world.test.text.documents]
    assert found.prompts == len(odd) and found.exact_match == pytest.approx(1 - sum(odd) / len(odd), abs=0.05)
    for sample in found.samples:
        assert "".join(sorted(sample.prompt.rstrip(">"))) == sample.reference
        assert sample.said == (sample.reference if int(sample.prompt[0]) % 2 == 0 else sample.prompt[:1])
    plain = TextSet(tuple((Span("a quick brown fox jumps over the dog " * 9),) for _ in range(3)))
    shown = evaluate(teacher, tokenise(plain, teacher.tokenizer, 64), plain, CPU)
    assert shown.exact_match is None and len(shown.samples) == 3
    assert all(plain.documents[0][0].text.startswith(s.prompt + s.reference[:5]) for s in shown.samples)


def test_bits_per_byte_compare_tokenizers() -> None:
    """The bytes that bits are divided by are those of the words to predict, however they are spelt."""
    text = TextSet(tuple((Span(d[0].text + d[1].text),) for d in arithmetic(80).train.documents))
    pairs = bpe_tokenizer((d[0].text for d in text.documents), 300)
    for tokenizer in (byte_tokenizer(), pairs):
        data = tokenise(text, tokenizer, 64)
        found = count(llama(16, 1, tokenizer, heads=2), data, CPU)
        written = sum(len(tokenizer.decode(row.ids[1:], skip_special_tokens=True).encode()) for row in data.rows)
        assert found.bytes == written, "all but each row's first word, EOS for nothing"
    sizes = word_bytes(pairs)
    assert int(sizes[pairs.eos_token_id]) == 0 and int(sizes.max()) > 1
    said = "naïve 東京 🙂\n"
    assert int(word_bytes(byte_tokenizer())[byte_tokenizer()(said).input_ids].sum()) == len(said.encode())


def test_a_spread_subset_has_about_so_many_words() -> None:
    data = language_world().test
    few = spread(data, 30)
    assert 0 < len(few) < len(data) and spread(data, 10**6) is data
    assert 20 <= sum(sum(row.learn) for row in few.rows) <= 40


def test_what_is_captured_teaches(text_settings: Settings, tmp_path: Path, limbeck: Limbeck) -> None:
    flags = ["--data", "sorting", "--context", "16", "--limit", "64", "--out", str(tmp_path / "store")]
    said = limbeck("capture", "--teacher", str(text_settings["teacher"]), *flags, "--quiet")
    assert said.status == 0 and "464 rows" in said.out, said.err
    assert limbeck("capture", "--teacher", str(text_settings["teacher"]), *flags, "--quiet").out == said.out
    assert limbeck("capture", "--teacher", "nowhere", *flags).status == 2
    assert limbeck("capture", *flags).status == 2
    settings = {**text_settings, "seeds": 1, "tokenizer": "bytes"}
    live = without_preflight(settings, tmp_path / "live")
    kept = without_preflight({**settings, "teacher": f"store:{tmp_path / 'store'}"}, tmp_path / "kept")
    assert kept.teacher is None and kept.teacher_cost is None
    assert kept.distilled[0].evaluation.score == pytest.approx(live.distilled[0].evaluation.score, rel=1e-2)
    assert kept.distilled[0].evaluation.agreement is not None, "the store holds the held-out rows too"
