"""DDK (2024): the update of the mixture, in log space; the loss; which rows are drawn; a run that is taken up again."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limbeck import Clock, Method, fit
from limbeck.core.checkpoint import Checkpoint
from limbeck.core.method import Setting
from limbeck.errors import InputError
from limbeck.losses.divergence import kl
from limbeck.methods.language.ddk import DDK, next_log_r, perplexity
from tests.worlds import language_world

SGD = partial(torch.optim.SGD, lr=0.1)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_r_follows_the_ratios_and_keeps_a_floor(alpha: float) -> None:
    r, ratio = np.array([0.2, 0.5, 0.3]), np.array([1.4, 1.1, 3.0])
    psi = r * np.exp(ratio)
    wanted = alpha * psi / psi.sum() + (1 - alpha) / 3
    found = next_log_r(torch.tensor(r).float().log(), torch.tensor(ratio).float(), alpha).exp()
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5)
    huge = next_log_r(torch.tensor(r).float().log(), torch.tensor([1e4, 2e4, 10.0]), alpha).exp()
    assert huge.isfinite().all() and float(huge.sum()) == pytest.approx(1)
    assert float(huge[1]) == pytest.approx((1 + 2 * alpha) / 3)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_the_loss_is_labels_and_the_kl_without_tau_squared(divergence: Any) -> None:
    world = language_world()
    student, batch = world.student(), world.batch(6)
    method = DDK(student, world.teachers[0], gamma=0.3, tau=2.0, divergence=divergence)
    terms = next(method.updates(batch, Clock(0, 1))).terms
    p, q = ((m(batch).logits()[batch.mask] / 2).log_softmax(-1) for m in (world.teachers[0], student))
    wanted = kl(p, q) if divergence == "forward_kl" else kl(q, p)
    assert float(terms["kd"].detach()) == pytest.approx(0.3 * float(wanted.mean().detach()), rel=1e-4)
    ce = -student(batch).log_probs()[batch.mask].gather(1, batch.y[batch.mask][:, None]).mean()
    assert float(terms["ce"].detach()) == pytest.approx(float(ce.detach()), rel=1e-4)


def run(steps: int, folder: Path | None = None, stop: int = 0) -> tuple[DDK, list[dict[str, float]]]:
    """A procedure that updates r at every second step, perhaps killed after some."""
    world, seeds, records, made = language_world(), itertools.count(), list[dict[str, float]](), list[DDK]()

    def see(record: Any) -> None:
        records.append(record.floats())
        if len(records) == stop:
            raise KeyboardInterrupt

    def train(method: Method, *, name: str = "fit", data: Any = None, steps: int = steps) -> None:
        assert isinstance(method, DDK)
        made.append(method)
        kept = None if folder is None else Checkpoint(folder, every=1, seconds=0)
        fit(method, data, SGD, steps=steps, every=1, report=see, checkpoint=kept)

    torch.manual_seed(1)
    setting = Setting(lambda: world.student(next(seeds)), world.teachers, world.data, steps, train)
    with suppress(KeyboardInterrupt):
        DDK.distil(setting, {"every": 2, "held_out": 0.2})
    return made[0], records


def test_r_is_recomputed_on_held_out_rows_and_steers_what_is_drawn() -> None:
    method, records = run(5)
    assert method.mixture is not None and len(method.held) == 2
    names = method.mixture.names
    assert set(names) == {"low", "high"}
    drawn = [[r[f"r/{name}"] for name in names] for r in records]
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3] != drawn[4] and all(sum(r) == pytest.approx(1) for r in drawn)
    assert method.mixture.weights == pytest.approx(drawn[4]) and min(drawn[4]) >= 0.25
    five = language_world().train.tokenizer("5").input_ids[0]
    trained = {*method.mixture.dataset.keys.tolist()}
    for name, batches in zip(names, method.held, strict=True):
        for batch in batches:
            assert not trained & {*batch.key.tolist()}
            assert ((batch.x[:, 0] < five) == (name == "low")).all()
    wanted = perplexity(method.teacher, method.held)
    torch.testing.assert_close(method.teacher_ppl, wanted)


def test_a_killed_run_draws_the_same_rows_with_the_same_r(tmp_path: Path) -> None:
    straight, records = run(6)
    run(6, tmp_path, stop=3)
    resumed, after = run(6, tmp_path)
    assert after == records[-len(after) :] and 0 < len(after) < 6
    assert resumed.mixture is not None and straight.mixture is not None
    assert resumed.mixture.state_dict() == straight.mixture.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), straight.parameters(), strict=True))


def test_one_domain_is_refused_with_what_to_do() -> None:
    world = language_world()
    plain = world.data.with_data(replace(world.train, domains=()))
    with pytest.raises(InputError, match=r'"domain"'):
        DDK.distil(Setting(world.student, world.teachers, plain, 2, lambda *a, **k: None), {})
