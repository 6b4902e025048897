"""Latent diffusion: the autoencoder's units, runs on latents that are judged as images, and pipelines that decode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, DiTTransformer2DModel

from limbeck.data.images import DataPair
from limbeck.data.load import load_data
from limbeck.errors import InputError
from limbeck.models.autoencoder import Autoencoder, read_autoencoder
from limbeck.models.diffusers_net import DiffusersNet, unet
from limbeck.models.load_denoiser import load_denoiser
from limbeck.models.path import Flow
from limbeck.models.sampling import FewStep, Ode
from limbeck.models.save_denoiser import save_denoiser
from limbeck.run.diffusion import evaluation, judge
from limbeck.run.diffusion.evaluation import Reference, evaluate
from limbeck.run.folder import RunFolder
from limbeck.run.outcome import SampleEvaluation
from limbeck.run.pipeline import run
from limbeck.run.progress import Show
from limbeck.run.resolve import resolve
from limbeck.run.spec import make_spec

LATENT = (2, 4, 4)


def vae(seed: int = 0, **more: Any) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        in_channels=1, out_channels=1, latent_channels=2, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, sample_size=8,
        **{"scaling_factor": 2.5, **more},
    ).eval()  # fmt: skip


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = unet((8, 16), shape=LATENT, classes=10)
    model.sampler = Ode(4)
    save_denoiser(model, tmp_path / "teacher", autoencoder=Autoencoder(vae()))
    return tmp_path / "teacher"


@torch.no_grad()
def test_latents_are_the_scaled_means_and_images_come_back_from_them() -> None:
    theirs = vae(shift_factor=0.3)
    ours, x = Autoencoder(theirs), torch.randn(3, 1, 8, 8).clamp(-1, 1)
    z = ours.encode(x)
    assert z.shape == (3, *LATENT) and ours.shape_of((1, 8, 8)) == LATENT
    torch.testing.assert_close(z, 2.5 * (theirs.encode(x).latent_dist.mean - 0.3))
    torch.testing.assert_close(ours.decode(z), theirs.decode(z / 2.5 + 0.3).sample)
    assert not any(p.requires_grad for p in ours.parameters()) and ours.fingerprint != Autoencoder(vae()).fingerprint


def test_a_run_on_latents_is_judged_as_images(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluation, "COUNT", 40)
    monkeypatch.setattr(judge, "STEPS", 10)
    given = {"method": "dmd2", "teacher": str(teacher), "data": "digits", "steps": 6, "batch": 8, "limit": 100}
    task = resolve(make_spec({**given, "seeds": 1}))
    with Show(quiet=True) as show:
        outcome = run(task, RunFolder(tmp_path / "run"), show, force=True)  # an untrained teacher
    found = outcome.distilled[0].evaluation
    assert isinstance(found, SampleEvaluation) and {f.name: f.status for f in outcome.preflight}["sample index"] == "ok"
    folder = tmp_path / "run" / "student"
    student, kept = load_denoiser(str(folder), shape=LATENT), read_autoencoder(folder)
    assert kept is not None and kept.fingerprint == Autoencoder(vae()).fingerprint
    digits = load_data("digits")
    train = digits.train.limited(count=100)
    assert evaluate(student, Reference(DataPair(train, digits.test), torch.device("cpu"), kept), "Student") == found
    latents = student.generate(student.noise(2), torch.tensor([1, 2]))
    assert latents.shape == (2, *LATENT) and kept.decode(latents).shape == (2, 1, 8, 8)
    assert "read_autoencoder(folder).decode(latents)" in (folder / "README.md").read_text()
    again = resolve(make_spec({**given, "student": str(folder), "teacher": str(teacher)}))
    assert again.student(0).shape == LATENT


@pytest.mark.parametrize("path", [None, Flow()])
def test_the_cards_lines_decode_with_diffusers_alone(tmp_path: Path, path: Flow | None) -> None:
    torch.manual_seed(0)
    model = unet((8, 16), shape=LATENT, classes=4, path=path).eval()
    model.sampler, ours = FewStep(), Autoencoder(vae(shift_factor=0.3))
    save_denoiser(model, tmp_path / "net", autoencoder=ours)
    code = (tmp_path / "net" / "README.md").read_text().split("```python\n")[2].split("```")[0]
    given: dict[str, Any] = {"folder": tmp_path / "net"}
    torch.manual_seed(5)
    exec(code, given)
    torch.manual_seed(5)
    want = ours.decode(model.generate(torch.randn(4, *LATENT), torch.arange(4)))
    torch.testing.assert_close(given["images"], want, atol=1e-4, rtol=1e-4)


def test_a_transformer_of_latents_is_a_pipeline(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dit = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=2, out_channels=4, num_layers=1, sample_size=4,
        patch_size=2, num_embeds_ada_norm=3,
    )  # fmt: skip
    dit.save_pretrained(tmp_path / "given" / "transformer")
    DDIMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path / "given" / "scheduler")
    vae().save_pretrained(tmp_path / "given" / "vae")
    model, ours = load_denoiser(str(tmp_path / "given"), classes=3).eval(), read_autoencoder(tmp_path / "given")
    assert isinstance(model.net, DiffusersNet) and ours is not None and model.shape == LATENT
    model.sampler = Ode(4)
    save_denoiser(model, tmp_path / "net", autoencoder=ours)
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "net")
    pipe.set_progress_bar_config(disable=True)
    drawn = torch.Generator().manual_seed(5)
    theirs = pipe([0, 2], guidance_scale=1.0, num_inference_steps=4, generator=drawn, output_type="pt").images
    latents = model.generate(model.noise(2, torch.Generator().manual_seed(5)), torch.tensor([0, 2]))
    images = (ours.decode(latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    seen = torch.as_tensor(theirs)
    seen = seen if seen.shape == images.shape else seen.permute(0, 2, 3, 1)
    torch.testing.assert_close(images, seen, atol=2e-3, rtol=1e-3)
    assert "guidance_scale=1.0, num_inference_steps=4" in (tmp_path / "net" / "README.md").read_text()


def test_what_does_not_fit_is_one_line(teacher: Path, tmp_path: Path) -> None:
    ours = Autoencoder(vae())
    with pytest.raises(InputError, match="channels; the autoencoder reads 1"):
        ours.shape_of((3, 8, 8))
    with pytest.raises(InputError, match="must be a multiple of 2"):
        ours.shape_of((1, 7, 8))
    torch.manual_seed(1)
    save_denoiser(unet((8, 16), shape=LATENT, classes=10), tmp_path / "other", autoencoder=Autoencoder(vae(1)))
    given = {"method": "dmd2", "teacher": str(teacher), "data": "digits"}
    with pytest.raises(InputError, match=r"student: .* has another autoencoder"):
        resolve(make_spec({**given, "student": str(tmp_path / "other")}))
    (teacher / "vae" / "diffusion_pytorch_model.safetensors").rename(teacher / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="may be a pickle"):
        resolve(make_spec(given))
