"""Sets in folders: bit for bit the same afterwards, of use to others, refused when damaged."""

import json
from pathlib import Path

import pytest
import torch

from limbeck.data.load import load_data
from limbeck.errors import InputError
from limbeck.models.load_set import load_set, picture, save_set
from limbeck.models.synthetic import Plain, Shared, SyntheticSet, Tiled, initial
from limbeck.models.use import Descent, InOrder
from tests.worlds import CLASSES, vision_world

WORLD = vision_world(plain=True)


def several() -> list[SyntheticSet]:
    y, x = torch.arange(6), torch.rand(6, 3, 16, 16)
    begin = WORLD.student(3)
    begin.reference = "convnet-6x2"
    return [
        initial(WORLD.train, 2, use=Descent(steps=7, augment="shift")),
        SyntheticSet(Tiled(x, 2), y, CLASSES, targets=torch.randn(24, 6)),
        SyntheticSet(Shared(x, 3), y, CLASSES),
        SyntheticSet(Plain(x), y, CLASSES, rates=(0.1, 0.02), use=InOrder(2)),
        SyntheticSet(Plain(x), y, CLASSES, rates=(0.1, 0.02), use=InOrder(2, begin)),
    ]


@pytest.mark.parametrize("number", range(5))
def test_a_set_is_read_back_as_it_was_and_is_used_alike(number: int, tmp_path: Path) -> None:
    made = several()[number]
    save_set(made, tmp_path / "set")
    again = load_set(tmp_path / "set")
    assert torch.equal(again(), made()) and torch.equal(again.y, made.y) and again.budget == made.budget
    assert again.classes == made.classes and type(again.use) is type(made.use)
    nets = [WORLD.student(5), WORLD.student(5)]
    for net, held in zip(nets, (made, again), strict=True):
        torch.manual_seed(0)
        held.use(net, held)
    x = WORLD.batch(8).x
    torch.testing.assert_close(nets[0](x), nets[1](x), rtol=0, atol=1e-6)
    assert not [p for p in (tmp_path / "set").rglob("*") if p.suffix in (".pt", ".bin", ".pkl")]


def test_others_read_it_as_a_set_of_images(tmp_path: Path) -> None:
    made = several()[0]
    save_set(made, tmp_path / "set")
    read = load_data(f"{tmp_path}/set/images.parquet,{tmp_path}/set/images.parquet").train
    assert read.classes == CLASSES and read.labels.tolist() == made.y.tolist()
    assert float((read.take(torch.arange(12))[0] - made.exported().images).abs().max()) <= 0.5 / 255 + 1e-6


def test_a_picture_has_every_image_once() -> None:
    assert picture(several()[0]).size == (6 * 17 - 1, 2 * 17 - 1)
    assert picture(initial(WORLD.train, 9), across=8).size == (8 * 17 - 1, 6 * 17 - 1)


def test_what_is_no_set_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no synthetic set"):
        load_set(tmp_path)
    save_set(several()[0], tmp_path / "set")
    (tmp_path / "set" / "set.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="damaged"):
        load_set(tmp_path / "set")
    facts = json.loads((tmp_path / "set" / "set.json").read_text())
    assert facts["budget"]["images"] == 12

    class Own:
        def __call__(self, net: object, made: object) -> None: ...

    with pytest.raises(InputError, match="cannot be written"):
        save_set(initial(WORLD.train, 1, use=Own()), tmp_path / "other")
    assert not (tmp_path / "other").exists()
