"""CUDD: which images a round begins with, the adversarial term, and the same crop for an image and its origin."""

import torch
from torch import nn

from limbeck.core.schedule import Clock
from limbeck.methods.dataset.cudd import CUDD, doubt, hardest
from tests.worlds import vision_world

WORLD = vision_world(plain=True)
TRAIN, CLOCK = WORLD.train, Clock(0, 1)


class Says(nn.Module):
    """Gets given rows right: it finds an image by its content."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        x, y = TRAIN.take(torch.arange(len(TRAIN)))
        answers = torch.where(torch.isin(torch.arange(len(TRAIN)), rows), y, (y + 1) % 6)
        self.scale = nn.Parameter(torch.ones(()))
        self.known = {tuple(image.flatten()[:40].tolist()): int(a) for image, a in zip(x, answers, strict=True)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        said = [self.known[tuple(image.flatten()[:40].tolist())] for image in x]
        return self.scale * torch.eye(6)[said]


def test_a_round_begins_with_what_only_the_teacher_knows() -> None:
    rows = torch.arange(len(TRAIN))
    teacher, rival = Says(rows[rows % 4 != 0]), Says(rows[rows % 4 == 1])
    used = torch.zeros(len(TRAIN), dtype=torch.bool)
    of = [rows[TRAIN.labels == k] for k in range(6)]
    only = (rows % 4 != 0) & (rows % 4 != 1)
    torch.manual_seed(0)
    chosen = hardest(TRAIN, teacher, rival, 5, used)
    for k in range(6):
        own = chosen[5 * k : 5 * k + 5]
        assert (TRAIN.labels[own] == k).all() and len(own.unique()) == 5
        wanted = only & (TRAIN.labels == k)
        assert wanted[own].sum() == min(5, int(wanted.sum()))  # where they are too few, none is left out
    first = hardest(TRAIN, teacher, None, 4, used)
    assert all((row % 4 != 0) for row, k in zip(first, torch.arange(6).repeat_interleave(4), strict=True)
               if (of[k] % 4 != 0).sum() >= 4)  # fmt: skip
    used[chosen] = True
    assert not torch.isin(hardest(TRAIN, teacher, rival, 12, used), chosen).any()


def test_what_both_get_wrong_comes_next() -> None:
    rows = torch.arange(len(TRAIN))
    of = rows[TRAIN.labels == 2]  # 24
    teacher, rival = Says(torch.cat([rows[TRAIN.labels != 2], of[:10]])), Says(of[2:10])
    chosen = hardest(TRAIN, teacher, rival, 9, torch.zeros(len(TRAIN), dtype=torch.bool))[18:27]
    assert torch.isin(of[:2], chosen).all() and torch.isin(chosen, torch.cat([of[:2], of[10:]])).all()


def built(rival: nn.Module | None, **values: object) -> CUDD:
    torch.manual_seed(0)
    return CUDD(TRAIN, WORLD.teachers[0], rival, **{"per_class": 2, **values})


def test_the_rival_is_to_doubt_what_the_teacher_knows() -> None:
    z, y = torch.randn(50, 6), torch.randint(6, (50,))
    p = z.softmax(1)[torch.arange(50), y]
    torch.testing.assert_close(doubt(z, y), -(1 - p).log(), rtol=1e-4, atol=1e-5)
    sure = torch.tensor([[80.0, 0.0, 0.0]], requires_grad=True)
    slope = torch.autograd.grad(doubt(sure, torch.tensor([0])).sum(), sure)[0]
    torch.testing.assert_close(slope[0, 0], torch.tensor(1.0))  # p is 1 in float32: -log(1 - p) itself has none

    method = built(WORLD.student(1), adv=2.0, lower=1.0, flip=False, jitter=0.0)
    with torch.no_grad():
        method.student.images.pixels[::3] = 0.5  # unclear to the teacher
    x, y = method.student(), method.student.y
    clear = method.teacher(x).argmax(1) == y
    assert 0 < clear.sum() < len(y)
    terms = method.loss(WORLD.batch(8), CLOCK)
    torch.testing.assert_close(terms["adv"], 2 * (clear * doubt(method.rival(x), y)).mean())
    slopes = torch.autograd.grad(terms["adv"], method.student.images.pixels)[0].flatten(1).abs().amax(1)
    assert slopes[clear].gt(0).all() and slopes[~clear].eq(0).all()
    step = (
        method.student.images.pixels
        - 10 * torch.autograd.grad(method.loss(WORLD.batch(8), CLOCK)["adv"], method.student.images.pixels)[0]
    )
    before, after = (method.rival(s).softmax(1)[torch.arange(12), y][clear].mean() for s in (x, step))
    assert after < before


def test_an_image_and_its_origin_are_cropped_alike() -> None:
    method = built(None, lower=0.1, l2=3.0)
    assert set(method.loss(WORLD.batch(8), CLOCK)) == {"ce", "bn", "l2"}
    assert method.loss(WORLD.batch(8), CLOCK)["l2"] == 0  # whatever is drawn
    with torch.no_grad():
        method.student.images.pixels += 0.1
    moved = 3 * (0.1 / method.teacher.std).square().mean()
    torch.testing.assert_close(method.loss(WORLD.batch(8), CLOCK)["l2"], moved, rtol=1e-3, atol=1e-5)


def test_rounds_add_up_to_the_set() -> None:
    setting, seen = WORLD.setting(), []

    def fit(method: CUDD, *, name: str) -> None:
        seen.append((name, len(method.student), method.rival is not None))

    made = CUDD.distil(type(setting)(setting.student, setting.teachers, setting.data, 3, fit), {"per_class": 8})
    assert seen == [("round-1", 18, False), ("round-2", 18, True), ("round-3", 12, True)]
    assert made.y.tolist() == torch.arange(6).repeat_interleave(8).tolist()
    assert len({tuple(x.flatten().tolist()) for x in made()}) == 48  # no real image twice
