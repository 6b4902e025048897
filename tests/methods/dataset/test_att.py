"""ATT: the step that came nearest is matched, as MTT would with that many, and nothing later has a gradient."""

import torch

from limbeck.core.schedule import Clock
from limbeck.data.batches import Images
from limbeck.methods.dataset._trajectories import Segment, gap, minibatches, segment
from limbeck.methods.dataset.att import AutomaticTrajectories, nearest
from limbeck.models.unroll import start, unroll
from tests.worlds import vision_world

WORLD = vision_world(plain=True)
NONE = Images(torch.empty(0), torch.empty(0), torch.empty(0))
SMALL = {"per_class": 4, "steps": 6, "batch": 4, "latest": 2, "span": 1, "experts": 2, "augment": "none"}


def test_the_nearest_step_counts_from_one_and_the_last_of_equals_wins() -> None:
    end = {"a": torch.zeros(2), "b": torch.zeros(1)}
    piece = Segment(0, 0, {"a": torch.ones(2), "b": torch.ones(1)}, end)

    def at(*values: float) -> list[dict[str, torch.Tensor]]:
        return [{"a": torch.tensor([v, 0.0]), "b": torch.tensor([v])} for v in values]

    assert nearest(at(0.0, 3.0, -1.0, 2.0), piece) == 2  # the start itself is no choice
    assert nearest(at(9.0, 1.0, 5.0, -1.0, 2.0), piece) == 3
    flat = [{"a": torch.tensor(a), "b": torch.zeros(1)} for a in ([9.0, 9.0], [0.6, 0.6], [1.0, 0.0])]
    assert nearest(flat, piece) == 2  # by absolute differences; by squares it were the first


def test_it_is_mtt_with_as_many_steps_and_later_images_have_no_gradient() -> None:
    torch.manual_seed(0)
    values = {**SMALL, "rate": 0.018, "expert_rate": 0.02, "expert_batch": 48}
    method = AutomaticTrajectories(WORLD.train, WORLD.student(), **values)
    chosen = set()
    for seed in range(6):
        method.zero_grad()
        torch.manual_seed(seed)
        update = next(method.updates(NONE, Clock(0, 1)))
        update.loss.backward()
        n = int(update.logs["steps"])
        torch.manual_seed(seed)
        piece = segment(method.trajectories, 2, 1)
        pixels = method.student().detach().requires_grad_()
        data = minibatches(pixels, method.student.y, method.student.rates[0].detach(), size=4, steps=6,
                           change=method.change)  # fmt: skip
        states = unroll(method.net, start(piece.begin), data)
        gaps = [sum((p - s.theta[k]).abs().sum() for k, p in piece.end.items()).item() for s in states[1:]]
        assert n == 1 + gaps.index(min(gaps))
        loss = gap(states[n].theta, piece)
        torch.testing.assert_close(update.loss, loss)
        slow = torch.autograd.grad(loss, pixels)[0]
        found = method.student.images.pixels.grad
        torch.testing.assert_close(found, slow, rtol=1e-3, atol=1e-6)
        assert int((found.flatten(1).abs().sum(1) > 0).sum()) == 4 * n  # four images a step, all different
        chosen.add(n)
    assert len(chosen) > 1 and min(chosen) < 6
