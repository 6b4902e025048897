"""A set that carries a projector, or regression targets, is read back from a folder and used as before."""

from pathlib import Path

import pytest
import torch

from limbeck.errors import InputError
from limbeck.models.load import load_classifier, seeded
from limbeck.models.load_set import load_set, save_set
from limbeck.models.synthetic import SyntheticSet, initial
from limbeck.models.use import Pretraining, ProjectedLabels
from tests.worlds import vision_world

WORLD = vision_world(plain=True)


def test_a_projector_is_kept_with_its_set(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = load_classifier("convnet-6x2", shape=(1, 8, 8), classes=4)
    use = ProjectedLabels(encoder, torch.randn(6, 24), rank=2, tau=3.0)
    with torch.no_grad():
        use.low_rank.normal_()
    made = initial(WORLD.train, 2, use=use)
    save_set(made, tmp_path / "set")
    again = load_set(tmp_path / "set")
    assert isinstance(again.use, ProjectedLabels) and again.use.tau == 3.0 and again.budget == made.budget
    x = made().detach()  # three channels of 16 x 16, for an encoder of one of 8 x 8
    assert torch.equal(again.use.label(x), use.label(x)) and use.label(x).shape == (12, 6)


def test_pretraining_is_kept_with_its_targets(tmp_path: Path) -> None:
    begun = initial(WORLD.train, 2)
    targets, use = torch.randn(12, 5), Pretraining(steps=3)
    made = SyntheticSet(begun.images, begun.stored_y, begun.classes, targets=targets, use=use)
    save_set(made, tmp_path / "set")
    again = load_set(tmp_path / "set")
    found = []
    for each in (made, again):
        net = WORLD.student(1)
        with seeded(2):
            each.use(net, each)
        found.append(net.state_dict())
    assert all(torch.equal(v, found[1][k]) for k, v in found[0].items())


def test_prototypes_of_another_width_are_refused() -> None:
    with pytest.raises(InputError, match="as wide as the features"):
        ProjectedLabels(WORLD.student(), torch.zeros(6, 5))
