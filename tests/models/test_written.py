"""Models made of models to disk and back: the same samples from the same noise, and no weight written twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.methods.diffusion._rewards import LabelEvidence
from limbeck.methods.diffusion.adaptive_teacher_student import Router
from limbeck.methods.diffusion.bespoke_solver import Bespoke
from limbeck.methods.diffusion.diversity_distillation import Relay
from limbeck.models.conversion import home, on_path
from limbeck.models.denoiser import Denoiser
from limbeck.models.diffusers_net import DiffusersNet, unet
from limbeck.models.equilibrium import equilibrium
from limbeck.models.load_denoiser import load_denoiser
from limbeck.models.output_adapter import OutputAdapters, blocks_of
from limbeck.models.path import VP, Discrete, Flow, Trig
from limbeck.models.path import Path as NoisePath
from limbeck.models.routed import ByLabel, ByTime, routed
from limbeck.models.sampling import FewStep, Ode
from limbeck.models.save_denoiser import save_denoiser
from limbeck.models.tiny_denoiser import mlp

SHAPE = (1, 8, 8)


def net(path: NoisePath | None = None, *, images: bool = False, seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    if images:
        return unet((8, 16), shape=SHAPE, classes=3, path=path).eval()
    return mlp(16, 2, shape=SHAPE, classes=3, path=path).eval()


def by_label() -> Denoiser:
    experts = [net(images=True, seed=k) for k in range(2)]
    made = routed(experts, ByLabel([e.net for e in experts], torch.tensor([0, 1, 1])))
    made.sampler = FewStep()
    return made


def by_time() -> Denoiser:
    experts = [net(seed=k) for k in range(2)]
    made = routed(experts, ByTime([e.net for e in experts], [0.6]))
    made.sampler = FewStep((1.0, 0.6, 0.3), gamma=0.0)
    return made


def turned() -> Denoiser:
    inside = net(images=True)
    inside.sampler = Bespoke(2, 1, 1.0)  # of before: the model on the other path has one of its own
    made = on_path(inside, Trig(), "v")
    made.sampler = FewStep((1.0, 0.5))
    return made


def adapters() -> Denoiser:
    made = net(images=True)
    made.net = OutputAdapters(made, 8, blocks_of(made.net))
    for adapter in made.net.adapters:
        nn.init.normal_(adapter[-1].weight)
    made.sampler = Ode(3, extra=(0.5,))
    return made


def deq() -> Denoiser:
    return equilibrium(SHAPE, 3, width=16, heads=2, patch=4, blocks=2, iterations=3)


def relay() -> Denoiser:
    made, base = net(), net(Trig(), seed=1)
    made.sampler = Relay(base, made.path, FewStep((0.5,)), steps=4, guidance=2.0)
    return made


def router() -> Denoiser:
    made, teacher = net(), net(seed=1)
    made.sampler = Router(
        FewStep(), teacher, LabelEvidence(teacher), percent=50.0, strategy="refine", rollback=0.5, steps=2,
        solver="ddim", guidance=2.0,
    )  # fmt: skip
    with torch.no_grad():
        e, y = drawn()
        made.sampler.tau = made.sampler.reward(FewStep()(made, e, y), y).median()
    return made


def elsewhere() -> Denoiser:
    """A network of diffusers on a path that diffusers has no scheduler of."""
    made = net(VP(), images=True)
    made.sampler = Ode(2)
    return made


def drawn() -> tuple[Tensor, Tensor]:
    return torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 2])


def samples(model: Denoiser) -> Tensor:
    noise, y = drawn()
    return model.generate(noise, y, generator=torch.Generator().manual_seed(2))


MADE = {
    by_label: {"expert-1", "expert-2"}, by_time: {"expert-1", "expert-2"}, turned: {"model"}, adapters: {"base"},
    deq: set(), relay: {"base"}, router: {"teacher"}, elsewhere: set(),
}  # fmt: skip


@pytest.mark.parametrize("make", MADE)
def test_the_same_samples_come_back(tmp_path: Path, make: Callable[[], Denoiser]) -> None:
    model = make()
    save_denoiser(model, tmp_path / "net")
    back = load_denoiser(str(tmp_path / "net"), shape=SHAPE, classes=["0", "1", "2"])
    assert torch.equal(samples(back), samples(model)) and back.sampler.nfe == model.sampler.nfe
    parts = {p.name for p in (tmp_path / "net").iterdir() if p.is_dir()} - {"unet", "scheduler"}
    assert parts == MADE[make] and not list((tmp_path / "net").rglob("*.bin"))
    kept = sum(t.numel() for f in (tmp_path / "net").rglob("*.safetensors") for t in load_file(f).values())
    whole = {id(t): t.numel() for t in (*model.parameters(), *model.buffers())}
    assert kept == pytest.approx(sum(whole.values()), abs=20)  # a teacher that is met twice is written once
    save_denoiser(back, tmp_path / "again")
    assert torch.equal(samples(load_denoiser(str(tmp_path / "again"))), samples(model))
    card = (tmp_path / "net" / "README.md").read_text()
    assert all(f"`{name}`" in card for name in parts)


def test_an_expert_is_a_pipeline_of_diffusers_for_its_classes(tmp_path: Path) -> None:
    model = by_label()
    save_denoiser(model, tmp_path / "net")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "net" / "expert-2")
    pipe.set_progress_bar_config(disable=True)
    y, seed = torch.tensor([1, 2]), torch.Generator().manual_seed(5)
    theirs = pipe(batch_size=2, class_labels=y, generator=seed, output_type="pt", num_inference_steps=1).images
    ours = model.generate(model.noise(2, torch.Generator().manual_seed(5)), y)
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, atol=1e-4, rtol=1e-4)
    assert "- `expert-2`: 1, 2" in (tmp_path / "net" / "README.md").read_text()


@pytest.mark.parametrize("inner", [Flow(), None])
@pytest.mark.parametrize("sampler", [FewStep(), FewStep((1.0, 0.6)), FewStep((0.9, 0.5), gamma=0.0)])
def test_on_its_own_path_a_converted_model_makes_the_same_samples(inner: NoisePath | None, sampler: FewStep) -> None:
    """Up to what is left of the data at the inner path's largest noise: nothing on a flow's."""
    model = on_path(net(inner, images=True), Trig(), "v")
    model.sampler = sampler
    back = home(model)
    assert back.path == net(inner, images=True).path and back.sampler.nfe == sampler.nfe
    noise, y = drawn()
    a = model.generate(noise, y, generator=torch.Generator().manual_seed(2))
    b = back.generate(noise, y, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(a, b, atol=2e-3 if isinstance(back.path, Discrete) else 1e-4, rtol=1e-3)
    back.sampler = FewStep(tuple(0.8 * t for t in back.sampler.times), gamma=sampler.gamma)
    assert (back.generate(noise, y, generator=torch.Generator().manual_seed(2)) - a).abs().max() > 0.02  # it can fail


def test_what_cannot_be_written_is_said_and_nothing_is(tmp_path: Path) -> None:
    model = router()
    del model.sampler.reward
    model.sampler.reward = lambda x, y: x.sum((1, 2, 3))
    with pytest.raises(InputError, match="reward: 'function' cannot be written: it has no fields"):
        save_denoiser(model, tmp_path / "net")
    model = net()
    model.sampler = Own()
    with pytest.raises(InputError, match="sampler: 'Own' cannot be written: it is your own"):
        save_denoiser(model, tmp_path / "net")
    model = by_label()
    model.net.nets[0] = nn.Linear(1, 1)
    with pytest.raises(InputError, match="made in a way that is not known"):
        save_denoiser(model, tmp_path / "net")
    assert not list(tmp_path.iterdir())


class Own(nn.Module):
    nfe = 1

    def __init__(self, nfe: int = 1) -> None:
        super().__init__()


@pytest.mark.parametrize(
    "change",
    [
        {"parts": ["../teacher"]}, {"parts": []}, {"sampler": {"part": "teacher"}}, {"sampler": {"name": "Flow"}},
        {"sampler": {"name": "limbeck.core.checkpoint:atomic_folder", "target": "x"}},
        {"sampler": {"name": "limbeck.models.sampling:solve"}}, {"net": {"by_label": [0], "experts": ["nobody"]}},
    ],
)  # fmt: skip
def test_a_damaged_part_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    save_denoiser(router(), tmp_path / "net")
    where = tmp_path / "net" / "limbeck.json"
    where.write_text(json.dumps({**json.loads(where.read_text()), **change}))
    with pytest.raises(InputError, match=r"damaged limbeck\.json"):
        load_denoiser(str(tmp_path / "net"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_denoiser(adapters(), tmp_path / "net")
    save_denoiser(deq(), tmp_path / "other")
    (tmp_path / "net" / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="do not fit the model"):
        load_denoiser(str(tmp_path / "net"))


def test_adapters_leave_their_base_as_it_was(tmp_path: Path) -> None:
    save_denoiser(adapters(), tmp_path / "net")
    base = load_denoiser(str(tmp_path / "net" / "base"))
    assert isinstance(base.net, DiffusersNet) and base.extras == 0
    assert all(torch.equal(p, q) for p, q in zip(base.parameters(), net(images=True).parameters(), strict=True))
