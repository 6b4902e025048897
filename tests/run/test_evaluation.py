import json
import math

import pytest
import torch
from torch import Tensor, nn

from limbeck.core.fit import NonFinite
from limbeck.data.images import ImageSet
from limbeck.errors import InputError
from limbeck.models.classifier import Classifier
from limbeck.run.outcome import Evaluation
from limbeck.run.vision.evaluation import evaluate, log_probabilities
from tests.worlds import vision_world


class Noisy(nn.Module):
    """Dropout and batch norm: whoever forgets eval mode gets other logits, and moves the running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(12), nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def images(n: int = 40, seed: int = 0) -> ImageSet:
    draw = torch.Generator().manual_seed(seed)
    return ImageSet(torch.rand(n, 3, 2, 2, generator=draw), torch.randint(3, (n,), generator=draw), ("a", "b", "c"))


def noisy(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(Noisy(), shape=(3, 2, 2), classes=("a", "b", "c"))


def test_every_number_equals_a_loop_over_samples() -> None:
    world = vision_world()
    model, teacher = world.student(), world.teachers[0]
    t = log_probabilities(teacher, world.test)
    found = evaluate(model, world.test, t, batch=17)
    model.eval()
    right: list[float] = []
    nll: list[float] = []
    same: list[float] = []
    divergence: list[float] = []
    for i in range(len(world.test)):
        x, y = world.test.take(torch.tensor([i]))
        with torch.no_grad():
            p, q = teacher(x)[0].double().softmax(0), model(x)[0].double().softmax(0)
        right.append(float(q.argmax() == y))
        nll.append(-math.log(q[y]))
        same.append(float(p.argmax() == q.argmax()))
        divergence.append(sum(float(a) * math.log(a / b) for a, b in zip(p, q, strict=True)))
    n = len(world.test)
    assert found.count == n
    assert found.accuracy == pytest.approx(sum(right) / n)
    assert found.nll == pytest.approx(sum(nll) / n, rel=1e-5)
    assert found.agreement == pytest.approx(sum(same) / n)
    assert found.kl_to_teacher == pytest.approx(sum(divergence) / n, rel=1e-4)
    labels = world.test.labels.tolist()
    for k in range(6):
        rows = [r for r, label in zip(right, labels, strict=True) if label == k]
        assert found.per_class[k] == pytest.approx(sum(rows) / len(rows))
        assert found.per_class_count[k] == len(rows)
    assert found.kl_to_teacher > 0.1, "teacher and untrained student should differ, or the test shows nothing"


def test_a_model_agrees_with_itself() -> None:
    model, data = noisy(), images()
    found = evaluate(model, data, log_probabilities(model, data))
    assert found.agreement == 1.0 and found.kl_to_teacher == 0.0
    assert evaluate(model, data).agreement is None


def test_modes_statistics_gradients_and_random_state_are_left_alone() -> None:
    model, data = noisy(), images()
    model.train()
    model.net.layers[2].eval()  # a mixed mode, as a frozen part inside a training model has
    modes = [m.training for m in model.modules()]
    state, rng = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    first, second = log_probabilities(model, data), log_probabilities(model, data, batch=7)
    assert torch.allclose(first, second, atol=1e-6), "dropout or batch statistics are on"
    assert not first.requires_grad
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)


def test_modes_come_back_when_a_model_raises() -> None:
    model = noisy().train()
    with pytest.raises(RuntimeError):
        log_probabilities(model, ImageSet(torch.rand(2, 3, 5, 5), torch.tensor([0, 1]), ("a", "b", "c")))
    assert all(m.training for m in model.modules())


def test_bytes_and_floats_give_the_same_numbers() -> None:
    raw = torch.randint(256, (20, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, model = torch.zeros(20, dtype=torch.int64), noisy()
    as_bytes, as_floats = (ImageSet(x, labels, ("a", "b", "c")) for x in (raw, raw.float() / 255))
    assert torch.allclose(log_probabilities(model, as_bytes), log_probabilities(model, as_floats), atol=1e-6)


def test_unknown_labels_are_left_out_of_accuracy_but_not_of_agreement() -> None:
    data, model = images(), noisy()
    half = data.labels.clone()
    half[::2] = -1
    partly = ImageSet(data.images, half, data.classes)
    found = evaluate(model, partly, log_probabilities(noisy(1), data))
    known = evaluate(model, data.subset(range(1, 40, 2)))
    assert (found.count, found.accuracy, found.per_class) == (20, known.accuracy, known.per_class)
    assert found.agreement == evaluate(model, data, log_probabilities(noisy(1), data)).agreement


def test_no_known_label_is_refused() -> None:
    data = images()
    with pytest.raises(InputError, match="no known label"):
        evaluate(noisy(), ImageSet(data.images, torch.full((40,), -1), data.classes))


def test_a_broken_model_is_named_and_not_averaged() -> None:
    model = noisy()
    with torch.no_grad():
        model.net.layers[3].bias[0] = torch.nan
    with pytest.raises(NonFinite, match="row 0"):
        evaluate(model, images())


def test_an_evaluation_survives_json() -> None:
    found = evaluate(noisy(), images(5))  # perhaps with an empty class
    assert Evaluation.model_validate(json.loads(found.model_dump_json())) == found
