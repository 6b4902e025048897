"""HeLlO: what the projector says is the equation, only its low-rank numbers learn, the images are the surest."""

import copy
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from limbeck import fit
from limbeck.core.modules import Taps
from limbeck.core.schedule import Clock
from limbeck.data.batches import Batches
from limbeck.errors import InputError
from limbeck.methods.dataset.hello import Hello
from limbeck.models.load import save_classifier
from limbeck.models.tiny import convnet
from tests.worlds import SGD, accuracy, vision_world

WORLD = vision_world(teachers=2, plain=True)


def built(**values: object) -> Hello:
    torch.manual_seed(0)
    return Hello(WORLD.train, torch.nn.ModuleList(WORLD.teachers), **{"per_class": 3, **values})


def test_the_labels_are_those_of_an_encoder_whose_weights_are_changed_by_products() -> None:
    use, x = built(rank=2).use, WORLD.batch(8).x
    plain = copy.deepcopy(use.encoder)
    before = use.label(x)
    f = Taps(f"{plain.head}:in")(plain, x)[1][0]
    torch.testing.assert_close(before, 20 * F.normalize(f, dim=1) @ use.prototypes.T)  # B = 0 at first
    with torch.no_grad():
        use.low_rank.normal_(std=0.1)
    parts = list(use.low_rank.detach().split(use.sizes))
    with torch.no_grad():
        for name in ("net.0.0.weight", "net.1.0.weight"):
            w = plain.get_parameter(name)
            a, b = parts.pop(0), parts.pop(0)
            w += (b.view(-1, 2) @ a.view(2, -1)).view_as(w)
        head = use.prototypes + parts[1].view(-1, 2) @ parts[0].view(2, -1)
        f = Taps(f"{plain.head}:in")(plain, x)[1][0]
    torch.testing.assert_close(use.label(x), 20 * F.normalize(f, dim=1) @ head.T)
    assert len(parts) == 2 and (use.label(x) - before).abs().max() > 0.1


def test_first_the_projector_learns_and_then_the_images() -> None:
    method = built(mix="none")
    batch = WORLD.batch(48)
    torch.manual_seed(1)
    before = method.loss(batch, Clock(0, 1))["imitation"].item()
    pixels, encoder = method.student().clone(), copy.deepcopy(method.use.encoder.state_dict())
    fit(method, Batches(WORLD.train, 48), lambda p: torch.optim.Adam(p, 0.02), steps=60)
    torch.manual_seed(1)
    assert method.loss(batch, Clock(0, 1))["imitation"].item() < 0.5 * before
    assert torch.equal(method.student(), pixels)
    method.stage = "images"
    low = method.use.low_rank.clone()
    fit(method, Batches(WORLD.train, 48), SGD, steps=2)
    assert torch.equal(method.use.low_rank, low) and not torch.equal(method.student(), pixels)
    assert all(torch.equal(v, encoder[k]) for k, v in method.use.encoder.state_dict().items())
    net = WORLD.student(1)
    torch.manual_seed(2)
    method.use.steps = 60
    method.use(net, method.student)
    assert accuracy(net, WORLD.test) > 0.5


def test_the_images_begin_as_the_surest_crops() -> None:
    def confidence(crops: int, per_class: int) -> float:
        made = built(crops=crops, per_class=per_class).student
        return WORLD.teachers[0](made()).log_softmax(1).gather(1, made.y[:, None]).mean().item()

    assert confidence(5, 3) > confidence(1, 3) > confidence(1, 20)


def test_the_budget_counts_what_is_stored_and_an_encoder_is_needed(tmp_path: Path) -> None:
    made = built(rank=2).student
    numbers = 2 * (3 * 9 + 12) + 2 * (12 * 9 + 20) + 2 * (6 + 20)  # two convolutions and the head
    assert made.budget.labels == 18 + numbers + 6 * 20 + 1
    with pytest.raises(InputError, match="encoder"):
        Hello(WORLD.train, torch.nn.ModuleList(WORLD.teachers[:1]))
    save_classifier(convnet(4, 2, shape=(1, 8, 8), classes=3), tmp_path / "other", reference="convnet-4x2")
    other = Hello(WORLD.train, torch.nn.ModuleList(WORLD.teachers[:1]), encoder=str(tmp_path / "other"))
    assert other.use.label(WORLD.batch(2).x).shape == (2, 6)  # images and classes of its own
