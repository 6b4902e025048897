"""Diffusion models from and to disk: the same samples as diffusers' own schedulers, and the same bits back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from torch import Tensor

from limbeck.errors import InputError
from limbeck.models.denoiser import Denoiser, Guided
from limbeck.models.diffusers_net import DiffusersNet, unet
from limbeck.models.diffusers_write import is_reproduced, usage
from limbeck.models.load_denoiser import load_denoiser
from limbeck.models.path import EDM, Discrete, Flow
from limbeck.models.sampling import FewStep, Ode, solve
from limbeck.models.save_denoiser import save_denoiser
from limbeck.models.tiny_denoiser import mlp

SHAPE = (1, 8, 8)
SMALL: dict[str, Any] = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4, "attention_head_dim": None,
}  # fmt: skip


def network(classes: int | None = 4) -> Any:
    torch.manual_seed(0)
    return UNet2DModel(**SMALL, num_class_embeds=classes).eval()


def pipeline(folder: Path, scheduler: Any, model: Any = None, place: str = "unet") -> Path:
    """A folder as other people's training scripts write it."""
    (network() if model is None else model).save_pretrained(folder / place)
    scheduler.save_pretrained(folder / "scheduler")
    return folder


def noise(count: int = 3) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


Y = torch.tensor([0, 2, 1])


@torch.no_grad()
def by_diffusers(folder: Path, scheduler: Any, steps: int, **how: Any) -> Tensor:
    """The plain loop of diffusers' documentation."""
    model = UNet2DModel.from_pretrained(folder, subfolder="unet")
    scheduler.set_timesteps(**how) if how else scheduler.set_timesteps(steps)
    x = noise() * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        fed = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(model(fed, t, Y).sample, t, x).prev_sample
    return x


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_our_ddim_is_diffusers_ddim(tmp_path: Path, prediction: str, schedule: str) -> None:
    theirs = DDIMScheduler(
        beta_schedule=schedule, prediction_type=prediction, clip_sample=False, timestep_spacing="trailing"
    )
    model = load_denoiser(str(pipeline(tmp_path, theirs)), shape=SHAPE, classes=3)
    assert isinstance(model.path, Discrete) and model.prediction == {"epsilon": "eps", "v_prediction": "v"}.get(
        prediction, "x0"
    )
    ours = solve(model, noise(), [1 - k / 10 for k in range(10)] + [0.0], Y)[-1] if prediction != "epsilon" else None
    if ours is None:  # from pure noise, an untrained prediction of eps is divided by a vanishing alpha: begin later
        theirs.set_timesteps(10)
        x = noise()
        for t in theirs.timesteps[5:]:
            x = theirs.step(model.net.model(x, t, Y).sample, t, x).prev_sample
        ours, want = solve(model, noise(), [0.5 - k / 10 for k in range(5)] + [0.0], Y)[-1], x
    else:
        want = by_diffusers(tmp_path, theirs, 10)
    torch.testing.assert_close(ours, want, atol=1e-4, rtol=1e-4)


def test_a_flow_is_diffusers_flow_and_its_time_and_sign_are_ours(tmp_path: Path) -> None:
    theirs = FlowMatchEulerDiscreteScheduler()
    model = load_denoiser(str(pipeline(tmp_path, theirs)), shape=SHAPE, classes=3)
    assert isinstance(model.path, Flow) and model.prediction == "velocity"
    want = by_diffusers(tmp_path, theirs, 5)
    torch.testing.assert_close(solve(model, noise(), theirs.sigmas.tolist(), Y)[-1], want, atol=1e-4, rtol=1e-4)
    assert (solve(model, noise(), [0.9, 0.6, 0.3, 0.0], Y)[-1] - want).abs().max() > 0.01  # it can fail


def test_euler_in_sigma_is_ddim_on_the_same_path(tmp_path: Path) -> None:
    """Schedulers that scale the network's input work in ``x / alpha``: the network is the same."""
    theirs = EulerDiscreteScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    model = load_denoiser(str(pipeline(tmp_path, theirs)), shape=SHAPE, classes=3)
    times = [1 - k / 10 for k in range(10)] + [0.0]
    want = by_diffusers(tmp_path, theirs, 10)
    got = solve(model, model.prior(noise()), times, Y)[-1]
    torch.testing.assert_close(got, want, atol=5e-3, rtol=5e-3)  # their noise has variance sigma^2 + 1 at the start


@pytest.mark.parametrize("spacing", ["trailing"])
def test_dpm_solvers_of_both(tmp_path: Path, spacing: str) -> None:
    theirs = DPMSolverMultistepScheduler(
        prediction_type="v_prediction", timestep_spacing=spacing, final_sigmas_type="zero", lower_order_final=True
    )
    model = load_denoiser(str(pipeline(tmp_path, theirs)), shape=SHAPE, classes=3)
    times = [(int(t) + 1) / 1000 for t in (theirs.set_timesteps(8) or theirs.timesteps)] + [0.0]
    want = by_diffusers(tmp_path, theirs, 8)
    torch.testing.assert_close(solve(model, noise(), times, Y, solver="dpm2m")[-1], want, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
def test_edm_is_diffusers_edm(tmp_path: Path, kind: Any) -> None:
    """Their steps go down to the smallest noise, and from there to none; ours leave that last call out otherwise."""
    theirs = kind(sigma_min=0.01, sigma_max=20.0, sigma_data=0.3, rho=5.0)
    model = load_denoiser(str(pipeline(tmp_path, theirs)), shape=SHAPE, classes=3)
    assert model.path == EDM(0.01, 20.0, 5.0) and model.prediction == "edm" and model.data == 0.3
    want, begin = by_diffusers(tmp_path, theirs, 6), noise() * theirs.init_noise_sigma
    times = [*(1 - k / 5 for k in range(5)), 1e-9, 0.0]
    solver = "ddim" if kind is EDMEulerScheduler else "dpm2m"
    got = solve(model, begin, times, Y, solver=solver)[-1]
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    model.data = 0.5
    assert (solve(model, begin, times, Y, solver=solver)[-1] - want).abs().max() > 0.01  # it can fail


def test_an_edm_student_is_written_with_edms_scheduler(tmp_path: Path) -> None:
    teacher = load_denoiser(str(pipeline(tmp_path / "given", EDMEulerScheduler(sigma_data=0.4))), classes=3)
    model = load_denoiser("unet-8-16", shape=SHAPE, classes=3, like=teacher).eval()
    assert model.path == EDM() and model.prediction == "edm" and model.data == 0.4
    model.sampler = FewStep()
    save_denoiser(model, tmp_path / "net")
    back = load_denoiser(str(tmp_path / "net"))
    assert torch.equal(back.generate(noise(), Y), model.generate(noise(), Y))
    code = usage(model).removeprefix("```python\n").removesuffix("\n```").replace("torch.arange(4)", "y")
    given: dict[str, Any] = {"folder": tmp_path / "net", "y": torch.tensor([0, 1, 2, 0])}
    torch.manual_seed(5)
    exec(code, given)
    torch.manual_seed(5)
    torch.testing.assert_close(given["x"], model.generate(torch.randn(4, *SHAPE), given["y"]), atol=1e-4, rtol=1e-4)
    for sampler in (Ode(5), FewStep((1.0, 0.5))):
        model.sampler = sampler
        assert not is_reproduced(sampler, model.path) and "use limbeck" in usage(model)


@pytest.mark.parametrize(
    "sampler", [Ode(5), Ode(1), FewStep((1.0,)), FewStep((1.0, 0.5), gamma=0.0), FewStep((1.0, 0.75, 0.5, 0.25)),
                FewStep((1.0, 0.6))],
)  # fmt: skip
def test_a_saved_student_samples_the_same_in_plain_diffusers(tmp_path: Path, sampler: Any) -> None:
    torch.manual_seed(0)
    model = unet((8, 16), shape=SHAPE, classes=3).eval()
    model.sampler = sampler
    save_denoiser(model, tmp_path / "student")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "student")
    pipe.set_progress_bar_config(disable=True)
    assert is_reproduced(sampler, model.path)
    code = usage(model)
    told = eval(f"dict({code[code.index('[0, 1, 2, 3], ') + 14 : code.rindex(')')]})")
    drawn = torch.Generator().manual_seed(5)
    theirs = pipe(batch_size=3, class_labels=Y, generator=drawn, output_type="pt", **told).images
    drawn = torch.Generator().manual_seed(5)
    ours = model.generate(model.noise(3, drawn), Y, generator=drawn)
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, atol=1e-4, rtol=1e-4)


def test_what_plain_diffusers_cannot_do_is_said() -> None:
    model = unet((8, 16), shape=SHAPE, classes=3)
    for sampler in (Ode(5, "heun"), FewStep((1.0, 0.5), gamma=0.3), FewStep((1.0, 0.6), gamma=0.0), Ode(7)):
        model.sampler = sampler
        assert not is_reproduced(sampler, model.path) and "use limbeck" in usage(model)


@pytest.mark.parametrize("kind", ["unet", "flow", "mlp", "dit"])
def test_a_round_trip_is_bit_identical(tmp_path: Path, kind: str) -> None:
    if kind == "dit":
        dit = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=2, num_layers=2, sample_size=8,
            patch_size=2, num_embeds_ada_norm=3,
        )  # fmt: skip
        pipeline(tmp_path / "given", DDPMScheduler(), dit, "transformer")
        model = load_denoiser(str(tmp_path / "given"), shape=SHAPE, classes=["a", "b", "c"])
        assert model.net.null and model.middle == "net.model.transformer_blocks.0"
    else:
        name = {"unet": "unet-8-16", "flow": "unet-flow-8-16", "mlp": "mlp-16x2"}[kind]
        model = load_denoiser(name, shape=SHAPE, classes=["a", "b", "c"], seed=3)
    model.sampler = FewStep((1.0, 0.4), gamma=0.25)
    save_denoiser(model.eval(), tmp_path / "net")
    back = load_denoiser(str(tmp_path / "net"), shape=SHAPE, classes=["a", "b", "c"]).eval()
    assert back.path == model.path and back.sampler == model.sampler and back.classes == ("a", "b", "c")
    assert not list((tmp_path / "net").rglob("*.bin"))
    with torch.no_grad():
        t = torch.tensor([0.1, 0.5, 1.0])
        a, b = model(noise(), t, torch.tensor([0, -1, 2])), back(noise(), t, torch.tensor([0, -1, 2]))
    assert torch.equal(a.x0, b.x0) and torch.equal(a.eps, b.eps)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), back.parameters(), strict=True))


def test_the_null_label_is_the_extra_embedding(tmp_path: Path) -> None:
    model = load_denoiser(str(pipeline(tmp_path / "a", DDPMScheduler())), shape=SHAPE, classes=3)  # 4 embeddings
    with torch.no_grad():
        without = model(noise(), 0.5).x0
        model.net.model.class_embedding.weight[3] += 1
        assert not torch.equal(model(noise(), 0.5).x0, without)
    bare = load_denoiser(str(pipeline(tmp_path / "b", DDPMScheduler(), network(3))), shape=SHAPE, classes=3)
    bare(noise(), 0.5, Y)
    with pytest.raises(InputError, match="no embedding for the null label"):
        bare(noise(), 0.5)
    plain = load_denoiser(str(pipeline(tmp_path / "c", DDPMScheduler(), network(None))), shape=SHAPE, classes=3)
    assert plain.classes == () and torch.equal(plain(noise(), 0.5, Y).x0, plain(noise(), 0.5).x0)
    with pytest.raises(InputError, match="needs a conditional model"):
        Guided(plain, 2.0)


def test_a_transformer_drops_no_labels_of_its_own_accord(tmp_path: Path) -> None:
    dit = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=1, num_layers=1, sample_size=8,
        patch_size=2, num_embeds_ada_norm=3,
    )  # fmt: skip
    model = load_denoiser(str(pipeline(tmp_path, DDPMScheduler(), dit, "transformer")), classes=3).train()
    same = [model(noise(), 0.5, Y).x0 for _ in range(40)]
    assert all(torch.equal(x, same[0]) for x in same)


def test_a_fresh_student_is_on_its_teachers_path_and_a_seed_is_a_seed() -> None:
    teacher = mlp(8, 2, shape=SHAPE, classes=3)
    before = torch.get_rng_state()
    a, b = (load_denoiser("unet-8-16", shape=SHAPE, classes=3, seed=1, like=teacher) for _ in range(2))
    assert a.path == teacher.path and a.prediction == "velocity" and torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    other = load_denoiser("unet-8-16", shape=SHAPE, classes=3, seed=2)
    assert isinstance(other.path, Discrete) and other.prediction == "v"


def planted(folder: Path, where: str, **changes: Any) -> str:
    pipeline(folder, DDPMScheduler())
    path = folder / where
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return str(folder)


@pytest.mark.parametrize(
    ("where", "changes", "said"),
    [
        ("scheduler/scheduler_config.json", {"_class_name": "ScoreSdeVeScheduler"}, "scheduler.*ScoreSdeVeScheduler"),
        ("scheduler/scheduler_config.json", {"_class_name": "DDIMSchedular"}, "did you mean 'DDIMScheduler'"),
        ("scheduler/scheduler_config.json", {"prediction_type": "v"}, "prediction_type: 'v' is not read"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "wild"}, "scheduler: .*cannot be made"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"},
            "prediction_type: 'v_prediction' is not read with EDM's",
        ),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel' is not read"),
        ("unet/config.json", {"block_out_channels": [8]}, "cannot be read by diffusers"),
    ],
)
def test_what_the_adapter_does_not_know_is_refused(tmp_path: Path, where: str, changes: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load_denoiser(planted(tmp_path, where, **changes), shape=SHAPE, classes=3)
    assert "\n" not in str(caught.value)


def test_other_refusals_in_one_line(tmp_path: Path) -> None:
    given = pipeline(tmp_path / "p", DDPMScheduler())
    for want, message in (
        ({"shape": (1, 16, 16), "classes": 3}, "makes samples of 1x8x8; the data's are 1x16x16"),
        ({"shape": SHAPE, "classes": 9}, "embeddings of 4 labels; the classes are 9"),
    ):
        with pytest.raises(InputError, match=message):
            load_denoiser(str(given), **want)
    (given / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match="does not exist"):
        load_denoiser(str(given), shape=SHAPE, classes=3)
    (given / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="may be a pickle"):
        load_denoiser(str(given), shape=SHAPE, classes=3)
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "model.ckpt").write_bytes(b"\x80\x04.")
    for name, message in (
        (str(tmp_path / "loose"), "may be a pickle"), (str(tmp_path / "loose" / "model.ckpt"), "may be a pickle"),
        ("unet-32x64", "names no model"), ("nowhere.at_all:make", "could not be made"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            load_denoiser(name, shape=SHAPE, classes=3)
    with pytest.raises(InputError, match="halves a square 2 times"):
        load_denoiser("unet-8-8-8", shape=(1, 6, 6), classes=3)
    model = mlp(8, 2, shape=SHAPE)
    model.sampler = object()  # type: ignore[assignment]
    with pytest.raises(InputError, match="has no fields"):
        save_denoiser(model, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(InputError, match="no Denoiser"):
        save_denoiser(torch.nn.Linear(1, 1), tmp_path / "x")


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    save_denoiser(mlp(8, 2, shape=SHAPE, classes=3), tmp_path / "net")
    facts = json.loads((tmp_path / "net" / "limbeck.json").read_text())
    for change in (
        {"sampler": {"name": "os:system", "command": "true"}}, {"sampler": {"name": "limbeck.errors:brief"}},
        {"path": {"name": "Spiral"}}, {"shape": None},
    ):  # fmt: skip
        (tmp_path / "net" / "limbeck.json").write_text(json.dumps(facts | change))
        with pytest.raises(InputError, match=r"damaged limbeck\.json"):
            load_denoiser(str(tmp_path / "net"))


def test_the_adapter_keeps_the_gradient_through_time() -> None:
    model = unet((8, 16), shape=SHAPE, classes=3)
    t = torch.full((3,), 0.5, requires_grad=True)
    model(noise(), t, Y).x0.sum().backward()
    assert t.grad is not None and t.grad.abs().min() > 0 and isinstance(model, Denoiser)
    assert isinstance(model.net, DiffusersNet)
