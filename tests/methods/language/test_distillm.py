"""DistiLLM (Ko et al., 2024): the skewed divergences, where answers come from, when phi rises, and a killed run."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from limbeck import Clock, fit
from limbeck.core.checkpoint import Checkpoint
from limbeck.losses.divergence import kl
from limbeck.methods.language.distillm import DistiLLM
from tests.worlds import SGD, language_world


@pytest.mark.parametrize("name", ["skew_kl", "skew_reverse_kl"])
def test_on_the_datas_answers_it_is_the_mean_skewed_divergence(name: str) -> None:
    world = language_world()
    [teacher], student, batch = world.teachers, world.student(), world.batch(6)
    method = DistiLLM(student, teacher, divergence=name, alpha=0.2)  # type: ignore[arg-type]
    found = next(iter(method.updates(batch, Clock(1, 2)))).terms["skew"]
    p, q = (model(batch).log_probs()[batch.mask] for model in (teacher, student))
    if name == "skew_kl":
        wanted = kl(p, (0.2 * p.exp() + 0.8 * q.exp()).log()).mean()
    else:
        wanted = kl(q, (0.8 * p.exp() + 0.2 * q.exp()).log()).mean()
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)


def test_writing_gives_way_to_replay() -> None:
    world = language_world()
    batch = world.batch(6)
    method = DistiLLM(world.student(), world.teachers[0], phi=0.5, capacity=12, longest=4)
    torch.manual_seed(0)

    def kinds(clock: Clock, draws: int) -> Counter[str]:
        found = Counter[str]()
        for _ in range(draws):
            chosen, fresh = method.chosen(batch, clock)
            found["data" if chosen is batch else "written" if fresh else "replayed"] += 1
        return found

    late = Clock(9, 10)
    assert not kinds(late, 6)["replayed"] or method.replay.full, "what is not full is filled first"
    while not method.replay.full:
        method.chosen(batch, late)
    first, last = kinds(Clock(0, 10), 200), kinds(late, 200)
    assert first["replayed"] == 0 and 80 < first["written"] < 120 and first["written"] + first["data"] == 200
    assert last["written"] < 25 and 80 < last["written"] + last["replayed"] < 120
    replayed = method.replay.sample(6, pad=0)
    rows = {tuple(row[0].tolist()) for row in method.replay.rows}
    for x, y, segment in zip(replayed.x, replayed.y, replayed.segment, strict=True):
        n = int(segment.sum())
        assert tuple(x[:n].tolist()) in rows
        learnt = (y != -100).nonzero()[:, 0]
        assert len(learnt) and y[learnt].equal(x[learnt + 1]), "only the answer, one to the left"


def test_phi_rises_only_when_the_held_out_loss_has_risen() -> None:
    world = language_world()
    method = DistiLLM(world.student(), world.teachers[0], eps=0.1)
    method.previous = torch.tensor(1.0)
    for loss, phi, kept in ((0.5, 0.0, 1.0), (1.05, 0.0, 1.0), (1.2, 0.1, 1.2), (1.25, 0.1, 1.2), (1.4, 0.2, 1.4)):
        method.steer(torch.tensor(loss))
        assert float(method.share) == pytest.approx(phi) and float(method.previous) == pytest.approx(kept)


def test_held_out_rows_are_not_trained_on_and_a_killed_run_remembers_the_buffer(tmp_path: Path) -> None:
    world = language_world()

    def run(folder: str, steps: int) -> DistiLLM:
        torch.manual_seed(1)
        made = list[DistiLLM]()

        def train(method: DistiLLM, *, data: object) -> None:
            made.append(method)
            assert len(data.dataset) == 130 and sum(len(b.x) for b in method.held) == 14 and method.every == 9
            kept = set(data.dataset.keys.tolist())
            assert not kept & {int(k) for b in method.held for k in b.key}
            fit(method, data, SGD, steps=steps, checkpoint=Checkpoint(tmp_path / folder, every=2, seconds=0))

        setting = world.setting()
        values = {"phi": 1.0, "held_out": 0.1, "capacity": 24, "longest": 4}
        fresh = world.batches(16, 0)
        DistiLLM.distil(type(setting)(world.student, setting.teachers, fresh, 6, train), values)
        return made[0]

    straight = run("straight", 6)
    early = Checkpoint(tmp_path / "straight").load()
    assert early is not None and early[0] == 6
    newest = tmp_path / "straight" / "step-00000006"
    newest.rename(tmp_path / "gone")  # as if killed after step 4
    resumed = run("straight", 6)
    for a, b in zip(straight.student.parameters(), resumed.student.parameters(), strict=True):
        assert a.equal(b)
    assert straight.replay.full and straight.replay.state_dict() == resumed.replay.state_dict()
