"""Runs on samples: from a teacher to a few-step student, its report and plain diffusers; bad input is a line."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from limbeck import fit
from limbeck.core.schedule import Cosine
from limbeck.data.images import DataPair
from limbeck.data.load import load_data
from limbeck.data.samples import SampleBatches, SampleSet
from limbeck.diagnostics.generation import frechet
from limbeck.errors import InputError
from limbeck.methods.diffusion.denoising import Denoising
from limbeck.models.load_denoiser import load_denoiser
from limbeck.models.sampling import FewStep, Ode
from limbeck.models.save_denoiser import save_denoiser
from limbeck.models.tiny_denoiser import mlp
from limbeck.run.compare import compare
from limbeck.run.diffusion import evaluation, judge
from limbeck.run.diffusion.evaluation import Reference, evaluate
from limbeck.run.diffusion.pictures import strip_of
from limbeck.run.diffusion.task import SampleTask
from limbeck.run.outcome import Outcome, SampleEvaluation
from limbeck.run.pipeline import distil
from limbeck.run.report import read_outcome
from limbeck.run.resolve import resolve
from limbeck.run.spec import make_spec
from limbeck.run.words import sentence
from tests.run.conftest import Said
from tests.run.test_browser import CONTRAST, Visit, chromium

__all__ = ["chromium"]  # the fixture

Settings = dict[str, Any]
Folder = Callable[..., str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole file, so that the judge is trained once."""
    return tmp_path_factory.mktemp("diffusion")


@pytest.fixture(autouse=True)
def cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, for every test; and fewer samples than a real run is judged by."""
    monkeypatch.setenv("LIMBECK_CACHE", str(home / "cache"))
    monkeypatch.setattr(evaluation, "COUNT", 200)
    monkeypatch.setattr(judge, "STEPS", 150)
    return home / "cache" / "controls"


@pytest.fixture(scope="module")
def teacher(home: Path) -> str:
    """A class-conditional flow on digits, in limbeck's own format."""
    digits = load_data("digits").train
    model = load_denoiser("mlp-96x2", shape=digits.shape, classes=digits.classes)
    torch.manual_seed(0)
    batches = SampleBatches(SampleSet.of(digits), 128, drop_last=True)
    adam = partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.0)
    fit(Denoising(model), batches, adam, steps=700, lr=Cosine(), clip=1.0)
    model.sampler = Ode(20)
    save_denoiser(model, home / "teacher")
    return str(home / "teacher")


@pytest.fixture
def settings(teacher: str) -> Settings:
    return {"method": "dmd2", "teacher": teacher, "data": "digits", "steps": 60, "seeds": 1, "lr": 5e-4, "batch": 32,
            "eval_every": 20}  # fmt: skip


@pytest.fixture(scope="module")
def finished(teacher: str, home: Path) -> tuple[Path, Outcome]:
    """A run that several tests read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMBECK_CACHE", str(home / "cache"))
        patch.setattr(evaluation, "COUNT", 200)
        patch.setattr(judge, "STEPS", 150)
        given = {"method": "dmd2", "teacher": teacher, "data": "digits", "steps": 60, "seeds": 2, "lr": 5e-4,
                 "batch": 32, "eval_every": 20}  # fmt: skip
        return home / "run", distil(given, home / "run")


def test_a_run_leaves_everything_it_promises(finished: tuple[Path, Outcome]) -> None:
    folder, outcome = finished
    assert read_outcome(folder) == outcome
    found, control, teacher = outcome.distilled[0].evaluation, outcome.control[0].evaluation, outcome.teacher
    assert isinstance(found, SampleEvaluation) and isinstance(control, SampleEvaluation)
    assert isinstance(teacher, SampleEvaluation)
    assert found.nfe == control.nfe == 1 and teacher.nfe == 20
    assert [s.nfe for s in teacher.strips] == [20, 1, 2, 4, 8, 0]
    assert outcome.gain.per_seed[0] == pytest.approx(control.frechet - found.frechet)  # less is better
    assert teacher.frechet < control.frechet  # in many steps against one
    assert found.floor < teacher.frechet and found.class_accuracy is not None and found.class_accuracy > 0.5
    assert [f.status for f in outcome.preflight if f.status in ("failed", "warning")] == []
    assert outcome.teacher_cost is not None
    assert outcome.teacher_cost.flops == pytest.approx(20 * outcome.student_cost.flops, rel=0.01)
    assert outcome.student_cost.parameters == outcome.teacher_cost.parameters


def test_the_curves_have_points_though_the_student_steps_once_in_five(finished: tuple[Path, Outcome]) -> None:
    _, outcome = finished
    for arm in (*outcome.distilled, *outcome.control):
        assert arm.curve.steps == [20, 40, 60] and len(arm.curve.frechet) == 3
        assert all(loss > 0 for loss in arm.curve.loss)
    assert outcome.control[0].curve.frechet[-1] == pytest.approx(outcome.control[0].evaluation.score)
    assert outcome.distilled[0].curve.frechet[-1] == pytest.approx(outcome.distilled[0].evaluation.score)


def test_the_students_folder_gives_the_judged_samples(finished: tuple[Path, Outcome]) -> None:
    folder, outcome = finished
    student = load_denoiser(str(folder / "student"))
    assert student.sampler == FewStep((1.0,)) and student.classes == tuple(outcome.classes)
    reference = Reference(DataPair(*load_data("digits")), torch.device("cpu"))
    again = evaluate(student, reference, "Student")
    assert again == outcome.distilled[0].evaluation
    card = (folder / "student" / "README.md").read_text()
    assert "repeat single training samples" in card and "FewStep" in card


def test_the_page_and_the_sentence(finished: tuple[Path, Outcome], limbeck: Callable[..., Said]) -> None:
    folder, outcome = finished
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 8 and "Reliability" not in page and "Calibration" not in page
    for words in ("Teacher", "8 steps", "Sliced Wasserstein", "Frechet distance less", "random weights"):
        assert (words in page) == (words != "random weights")
    said = sentence(outcome)
    assert said.startswith("The student makes images in 1 step at a Frechet distance of ") and "at 5 %" in said
    assert limbeck("report", str(folder)).status == 0
    assert (folder / "report.html").read_text() == page


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark"), (320, "light")])
def test_the_pictures_are_seen_on_every_screen(
    finished: tuple[Path, Outcome], chromium: Any, width: int, scheme: str
) -> None:
    with Visit(chromium, finished[0] / "report.html", width, color_scheme=scheme, offline=True) as visit:
        assert visit.complaints == [] and visit.page.evaluate("document.documentElement.scrollWidth") <= width
        pictures = visit.page.locator("td.pixels img")
        assert pictures.count() == 8
        for picture in pictures.all():
            shown, drawn = picture.evaluate("e => [e.naturalWidth, e.getBoundingClientRect().width]")
            assert shown == 10 * 8 + 9 and drawn >= 200 and picture.get_attribute("alt")
        assert [row for row in visit.page.evaluate(CONTRAST) if row[1] < row[2]] == []
        caption = visit.page.get_by_role("table", name="The same noise and labels in every row")
        assert caption.get_by_role("row").count() == (9 if width > 640 else 8)  # its head is not shown on a phone


def test_runs_side_by_side(finished: tuple[Path, Outcome], limbeck: Callable[..., Said]) -> None:
    folder, outcome = finished
    found = compare([folder, folder])
    assert found.comparable and found.runs[0].nfe == 1 and found.runs[0].frechet == pytest.approx(
        sum(arm.evaluation.score for arm in outcome.distilled) / 2
    )  # fmt: skip
    said = limbeck("compare", str(folder), "--out", str(folder / "side.html"))
    assert said.status == 0 and "Distance" in said.out and "Steps" in said.out and "ECE" not in said.out


def test_what_is_done_is_not_done_again(finished: tuple[Path, Outcome], home: Path, settings: Settings) -> None:
    folder, outcome = finished
    again = distil({**settings, "seeds": 2}, folder)
    assert (again.distilled, again.control, again.teacher) == (outcome.distilled, outcome.control, outcome.teacher)
    other = distil({**settings, "values": {"gan": 0.0}}, home / "cached")
    assert other.control[0].cached and other.control[0].evaluation == outcome.control[0].evaluation
    assert other.distilled[0].evaluation != outcome.distilled[0].evaluation
    (folder / "arms" / "seed-0-control.json").unlink()
    assert distil({**settings, "seeds": 2}, folder).control[0].evaluation == outcome.control[0].evaluation


def test_a_control_is_sampled_in_as_many_steps_as_the_method_and_kept_for_them_alone(
    settings: Settings, tmp_path: Path
) -> None:
    task = resolve(make_spec(settings))
    assert isinstance(task, SampleTask) and task.sampler is None and task.control_values == {}
    found = evaluate(task.student(0), task.reference, "Student", Ode(4))
    control = task.as_control(found, tmp_path)
    assert control.sampler == Ode(4) and control.reference is task.reference
    assert control.judging != task.as_control(found.model_copy(update={"nfe": 2}), tmp_path).judging


def test_a_unet_through_the_command_line_is_a_pipeline_of_plain_diffusers(
    home: Path, limbeck: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import DiffusionPipeline

    monkeypatch.setattr(evaluation, "COUNT", 20)
    digits = load_data("digits").train
    torch.manual_seed(0)
    model = load_denoiser("unet-8-16", shape=digits.shape, classes=digits.classes)
    model.sampler = Ode(4)
    save_denoiser(model, home / "unet")
    out = home / "unet-run"
    said = limbeck(
        "run", "dmd2", "--teacher", str(home / "unet"), "--data", "digits", "--steps", "6", "--seeds", "1", "--batch",
        "8", "--method.times", "1.0", "--method.times", "0.5", "--force", "--quiet", "--out", str(out),
    )  # fmt: skip
    assert said.status == 0, said.err
    found = read_outcome(out).distilled[0].evaluation
    assert isinstance(found, SampleEvaluation) and found.nfe == 2
    pipe = DiffusionPipeline.from_pretrained(out / "student")
    pipe.set_progress_bar_config(disable=True)
    y = torch.tensor([3, 7])
    theirs = pipe(
        batch_size=2, class_labels=y, num_inference_steps=2, generator=torch.Generator().manual_seed(4),
        output_type="pt",
    ).images  # fmt: skip
    student, drawn = load_denoiser(str(out / "student")), torch.Generator().manual_seed(4)
    ours = student.generate(student.noise(2, drawn), y, generator=drawn)
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, atol=1e-4, rtol=1e-4)
    assert "num_inference_steps=2" in (out / "student" / "README.md").read_text()


def test_a_fresh_student_is_trained_on_its_teachers_path(settings: Settings) -> None:
    task = resolve(make_spec({**settings, "student": "mlp-16x2", "lr": None}))
    assert isinstance(task, SampleTask) and task.spec.lr == 1e-3
    a, b, c = task.student(0), task.student(0), task.student(1)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters(), strict=True))
    copy = resolve(make_spec({**settings, "lr": None}))
    assert isinstance(copy, SampleTask) and copy.spec.student == "teacher" and copy.spec.lr == 1e-4
    assert all(p.requires_grad for p in copy.student(0).parameters())
    assert not any(p.requires_grad for p in copy.teachers[0].parameters())


def test_a_distance_is_of_features_and_falls_to_its_floor_on_the_data_itself() -> None:
    pair = load_data("digits")
    reference = Reference(DataPair(*pair), torch.device("cpu"))
    assert reference.distance(reference.samples.x) < 1e-6 < reference.floor
    grey = torch.zeros_like(reference.samples.x)
    assert reference.distance(grey) > 20 * reference.floor
    features, classes = reference.judge.look(reference.samples.x)
    assert features.shape == (len(reference.samples.x), 64)
    assert float((classes == reference.samples.y).float().mean()) == pytest.approx(reference.judge.accuracy or 0)
    assert frechet(features, features) < 1e-6


def test_a_strip_is_a_png_of_the_images() -> None:
    x = torch.rand(3, 1, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen = torch.tensor(list(Image.open(io.BytesIO(base64.b64decode(strip_of(x)))).convert("LA").getdata()))
    seen = seen.view(4, 17, 2)
    assert torch.equal(seen[:, 6:11, 0], ((x[1, 0] + 1) * 127.5).round().long()) and (seen[:, 5, 1] == 0).all()
    colour = Image.open(io.BytesIO(base64.b64decode(strip_of(torch.rand(2, 3, 4, 4)))))
    assert colour.mode == "RGBA" and colour.size == (9, 4)


def test_methods_and_show_speak_of_the_family(limbeck: Callable[..., Said]) -> None:
    found = json.loads(limbeck("methods", "--family", "diffusion", "--json").out)
    assert {"dmd2", "denoising"} <= {row["key"] for row in found}
    assert "--method.guidance" in limbeck("show", "dmd2").out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--augment", "crop"], "augment: 'crop' does not apply"),
        (["--lm-eval", "x"], "lm_eval"),
        (["--label-noise", "0.5"], "label_noise"),
        (["--size", "16"], "makes samples of 1x8x8; the data's are 1x16x16"),
        (["--student", "unet-8-8-8-8-8"], "student: '8x8' is the size"),
        (["--student", "unett-8"], "names no model"),
        (["--student", "nowhere/at/all"], "names no model"),
        (["--method.guidance", "-1"], "guidance"),
        (["--method.times", "x"], "times"),
    ],
)
def test_bad_flags_are_one_line(teacher: str, tmp_path: Path, limbeck: Callable[..., Said], flags: list[str],
                                said: str) -> None:  # fmt: skip
    out = tmp_path / "run"
    found = limbeck("run", "dmd2", "--teacher", teacher, "--data", "digits", *flags, "--out", str(out))
    assert found.status == 2 and said in found.err and not out.exists()


def test_bad_teachers_are_one_line(teacher: str, tmp_path: Path, limbeck: Callable[..., Said]) -> None:
    def run(*words: str) -> str:
        found = limbeck("run", "dmd2", "--data", "digits", "--out", str(tmp_path / "run"), *words)
        assert found.status == 2 and not (tmp_path / "run").exists()
        return found.err

    assert "teacher" in run() and "is missing" in run()
    assert "are too many" in run("--teacher", teacher, "--teacher", teacher)
    plain = mlp(8, 2, shape=(1, 8, 8))
    save_denoiser(plain, tmp_path / "plain")
    said = run("--teacher", str(tmp_path / "plain"), "--method.guidance", "2")
    assert "needs a conditional teacher; this one has no classes" in said
    few = mlp(8, 2, shape=(1, 8, 8), classes=3)
    save_denoiser(few, tmp_path / "few")
    assert "conditioned on 3 classes; the data have 10" in run("--teacher", str(tmp_path / "few"))
    (tmp_path / "pickled" / "unet").mkdir(parents=True)
    (tmp_path / "pickled" / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    (tmp_path / "pickled" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "may be a pickle" in run("--teacher", str(tmp_path / "pickled"))
    broken = load_denoiser(teacher)
    with torch.no_grad():
        broken.net.leave.weight.fill_(torch.nan)
    save_denoiser(broken, tmp_path / "broken")
    assert "NaN or infinite" in run("--teacher", str(tmp_path / "broken"), "--no-control-cache")
    found = limbeck("run", "denoising", "--data", "digits", "--out", str(tmp_path / "run"))
    assert found.status == 2 and "there is no teacher to copy" in found.err


def test_other_modalities_still_need_a_student() -> None:
    with pytest.raises(InputError, match="student: '' is missing"):
        make_spec({"method": "kd", "teacher": "x", "data": "digits"})


@pytest.mark.parametrize(
    ("method", "values", "nfe", "held"),
    [
        ("multi_student_distillation", {"students": 2, "score_matching": 0.0}, 1, {"expert-1", "expert-2"}),
        ("phased_dmd", {"steps": 1}, 2, {"expert-1", "expert-2"}),
        ("sana_sprint", {}, 1, {"model"}),
        ("get_deq", {"pairs": 64, "steps": 2, "width": 16}, 1, set()),
        ("adapter_guidance_distillation", {"trajectories": 10, "length": 2, "hidden": 8}, 50, {"base"}),
        ("diversity_distillation", {}, 5, {"base"}),
        ("adaptive_teacher_student", {"calibration": 20}, 24, {"teacher"}),
    ],
)
def test_a_run_keeps_what_is_made_of_several_models(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, values: Settings, nfe: int,
    held: set[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(evaluation, "COUNT", 60)
    given = {**settings, "method": method, "values": values, "steps": 4, "eval_every": 4, "batch": 16}
    outcome = distil(given, tmp_path / "run")
    found, folder = outcome.distilled[0].evaluation, tmp_path / "run" / "student"
    assert isinstance(found, SampleEvaluation) and found.nfe == nfe
    assert held == {p.name for p in folder.iterdir() if p.is_dir()}
    again = evaluate(
        load_denoiser(str(folder)), Reference(DataPair(*load_data("digits")), torch.device("cpu")), "Student"
    )
    assert again == found
    assert all(f"`{name}`" in (folder / "README.md").read_text() for name in held)


def test_particles_stay_refused(settings: Settings) -> None:
    with pytest.raises(InputError, match=r"makes a set of particles.*from Python") as caught:
        resolve(make_spec({**settings, "method": "prolificdreamer"}))
    assert "\n" not in str(caught.value)
