"""The equilibrium transformer: patches come back, weights are tied, noise and label matter, time does not."""

import pytest
import torch

from limbeck.errors import InputError
from limbeck.models.equilibrium import Equilibrium, equilibrium


@pytest.mark.parametrize("shape", [(3, 4, 6), (2,)])
def test_patches_come_back(shape: tuple[int, ...]) -> None:
    net, x = Equilibrium(shape, 8, 2), torch.randn(5, *shape)
    assert net.split(x).shape[1] == (6 if len(shape) == 3 else 1)
    torch.testing.assert_close(net.join(net.split(x)), x)


def test_more_iterations_are_the_same_weights_and_go_on_from_where_fewer_were() -> None:
    torch.manual_seed(0)
    few, many = equilibrium((1, 4, 4), 3, iterations=2).eval(), equilibrium((1, 4, 4), 3, iterations=5).eval()
    many.load_state_dict(few.state_dict())
    x, y = torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 3])
    torch.testing.assert_close(many.net.iterates(x, y)[:2], few.net.iterates(x, y))
    assert len(few.net.iterates(x, y, 4)) == 4
    again = equilibrium((1, 4, 4), 3, iterations=5, recompute=True).eval()
    again.load_state_dict(few.state_dict())
    slopes = []
    for model in (many, again):
        model.generate(x, y)
        model.net(x, torch.ones(4), y).square().sum().backward()
        slopes.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*slopes)


def test_samples_are_a_function_of_noise_and_label_but_not_of_time() -> None:
    torch.manual_seed(0)
    model = equilibrium((1, 4, 4), 3)
    torch.nn.init.normal_(model.net.blocks[0].move.weight)
    x, y = torch.randn(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)
    made = model.generate(x, y)
    assert torch.equal(model.generate(x, y), made) and model.training
    assert not torch.allclose(model.generate(x, y + 1), made, atol=1e-3)
    assert not torch.allclose(model.generate(x.flip(0), y), made, atol=1e-3)
    model.eval()
    torch.testing.assert_close(model(x, 0.3, y).x0, made, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="patch"):
        Equilibrium((1, 5, 4), 8, 2)
