import math

import pytest
import torch

from limbeck.diagnostics.fidelity import agreement, per_class_agreement, predictive_kl
from limbeck.errors import InputError


def made(seed: int) -> torch.Tensor:
    return torch.randn(50, 4, generator=torch.Generator().manual_seed(seed)).log_softmax(1)


def test_equal_models_agree_and_have_no_divergence() -> None:
    p = made(0)
    assert agreement(p, p) == 1.0
    assert predictive_kl(p, p) == 0.0


def test_kl_has_the_teacher_first() -> None:
    teacher = torch.tensor([[0.9, 0.1]]).log()
    student = torch.tensor([[0.5, 0.5]]).log()
    forward = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    reverse = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert predictive_kl(teacher, student) == pytest.approx(forward, rel=1e-6)
    assert predictive_kl(student, teacher) == pytest.approx(reverse, rel=1e-6)
    assert forward != pytest.approx(reverse, rel=0.1)


def test_agreement_does_not_depend_on_who_is_right() -> None:
    s = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]).log()
    t = torch.tensor([[0.8, 0.2], [0.9, 0.1], [0.7, 0.3]]).log()
    assert agreement(s, t) == pytest.approx(2 / 3)


def test_per_class_agreement_equals_a_loop_and_leaves_unknown_labels_out() -> None:
    s, t = made(1), made(2)
    y = torch.randint(-1, 3, (50,), generator=torch.Generator().manual_seed(3))  # class 3 has no sample
    expected = []
    for k in range(4):
        same = [float(a.argmax() == b.argmax()) for a, b, label in zip(s, t, y, strict=True) if label == k]
        expected.append(sum(same) / len(same) if same else 0.0)
    assert per_class_agreement(s, t, y) == pytest.approx(expected)
    assert expected[3] == 0.0


def test_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="shapes"):
        agreement(made(0), made(1)[:, :3])
