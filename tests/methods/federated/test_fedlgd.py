"""FedLGD: distances that vanish, the contrast by hand, gradients told by updates, what a refresh does and when."""

import copy

import torch
from torch.nn import functional as F

from limbeck import fit
from limbeck.core.method import Clock
from limbeck.federated.client import Client
from limbeck.federated.partition import partition
from limbeck.federated.payload import size, take
from limbeck.losses.matching import gradient_distance
from limbeck.methods.federated._shared import build, weighted_mean
from limbeck.methods.federated.fedlgd import FedLGD, supervised_contrast
from limbeck.models.classifier import Classifier
from limbeck.models.tiny import convnet
from tests.worlds import CLASSES, SGD, SHAPE, VisionWorld, vision_world

VALUES = {"population": 6, "participation": 0.5, "split": "shards-2", "warmup": 2, "local_steps": 2, "lr": 0.1}


def plain(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return convnet(6, 2, shape=SHAPE, classes=CLASSES)


def test_distribution_matching_vanishes_at_the_real_set_and_pulls_elsewhere() -> None:
    x, y = vision_world().train.take(torch.arange(12))
    method = FedLGD(plain(), None, augment="shift+rotate")
    assert float(method.matching(x, y, x.flip(0), y.flip(0)).detach()) < 1e-8  # turned alike
    still = FedLGD(plain(), None, augment="none")
    made, made_y = torch.rand(3, *SHAPE, requires_grad=True), torch.tensor([1, 1, 4])
    feature = torch.nn.Sequential(*list(still.student.net)[:-1])
    real, seen = feature(2 * x - 1), feature(2 * made - 1)
    wanted = (real[y == 1].mean(0) - seen[:2].mean(0)).square().sum()
    wanted = wanted + (real[y == 4].mean(0) - seen[2]).square().sum()
    torch.testing.assert_close(still.matching(x, y, made, made_y), wanted, rtol=1e-4, atol=1e-5)


def test_the_contrast_by_hand() -> None:
    torch.manual_seed(0)
    z, y, t = F.normalize(torch.randn(5, 3), dim=1), torch.tensor([0, 1, 0, 0, 2]), 0.5
    total = 0.0
    for i in (0, 2, 3):
        below = sum((z[i] @ z[a] / t).exp() for a in range(5) if a != i)
        total -= sum(((z[i] @ z[p] / t).exp() / below).log() for p in (0, 2, 3) if p != i) / 2
    torch.testing.assert_close(supervised_contrast(3 * z, y, t), total / 5)
    method = FedLGD(plain(), None, per_class_global=1, lam=2.0, temperature=0.5)
    x, labels, shared = torch.rand(4, *SHAPE), torch.tensor([0, 0, 1, 5]), torch.rand(6, *SHAPE)
    feature = torch.nn.Sequential(*list(method.student.net)[:-1])
    both = torch.cat([feature(2 * x - 1), feature(2 * shared - 1)])
    own = F.cross_entropy(method.student(x), labels)
    apart = supervised_contrast(both, torch.cat([labels, torch.arange(6)]), 0.5)
    torch.testing.assert_close(method.objective(x, labels, shared, 0.0), own)
    torch.testing.assert_close(method.objective(x, labels, shared, 2.0), own + 2 * apart)


def test_the_mean_update_tells_the_gradient_that_the_servers_images_follow() -> None:
    method = FedLGD(plain(), None, per_class_global=2, batch=1000, lr=0.3, lam=5.0)
    with torch.no_grad():
        method.images.copy_(torch.rand_like(method.images))
    before, images = copy.deepcopy(method.student), method.images.detach().clone()
    client = Client(0, vision_world().train, state={"images": images[:0], "labels": method.labels[:0]})
    method.learn(client, images)  # round 0 is a refresh: one step of cross-entropy alone, here on S_g itself
    told = [(p - q).detach() / 0.3 for p, q in zip(before.parameters(), method.student.parameters(), strict=True)]
    method.student = before
    at = gradient_distance(told, method.gradient())
    elsewhere = FedLGD(before, None, per_class_global=2)
    with torch.no_grad():
        elsewhere.images.copy_(torch.rand_like(images))
    assert float(at) < 1e-2 < float(gradient_distance(told, elsewhere.gradient()))
    assert [r for r in range(70) if method.refresh(r)] == list(range(0, 51, 5))


def test_a_round_averages_plainly_after_the_refresh_and_images_stay_at_clients() -> None:
    world = vision_world()
    method, rounds = build(FedLGD, plain(), world.train, {**VALUES, "global_steps": 3})
    batch, old = next(iter(rounds)), copy.deepcopy(method.student)
    seen, ask = [], method.clients.ask
    method.clients.ask = lambda *a, **k: (seen.append((a[0], found := ask(*a, **k))), found)[1]
    begun = copy.deepcopy(method)
    record = fit(method, [batch], SGD, steps=1)
    (everybody, stats), (_, answers) = seen
    whole = sum(size(reply.payload) for reply in (*stats.replies, *answers.replies))
    assert record is not None and record.logs["images/bytes_up"] == whole  # with the statistics of the opening
    assert set(everybody) == set(range(6)) and len(stats.replies) == 6
    assert set(answers.replies[0].payload) == {*take(old, "student"), "loss"}
    mean = weighted_mean(answers.replies, "student", [1.0, 1.0, 1.0])
    assert all(torch.equal(v, mean[f"student/{n}"]) for n, v in method.student.state_dict().items())
    assert float((method.images - begun.images).abs().max()) > 0.1
    for k, state in method.clients.state_dict().items():
        own = torch.bincount(_labels(world, int(k)), minlength=len(CLASSES)).clamp(max=5)
        assert torch.equal(torch.bincount(state["labels"], minlength=len(CLASSES)), own)
    first, second = (list(method.updates(batch._replace(number=r), Clock(0, 1))) for r in (1, 5))
    assert [len(first), len(second)] == [1, 4] and not any(update.terms for update in first)


def _labels(world: VisionWorld, client: int) -> torch.Tensor:
    return world.train.labels[partition("shards-2", world.train.labels, 6, 0)[client]]


def test_without_a_set_of_the_servers_it_is_averaging_on_virtual_images() -> None:
    world = vision_world()
    method, rounds = build(FedLGD, plain(), world.train, {**VALUES, "per_class_global": 0})
    record = fit(method, rounds, SGD, steps=2)
    assert len(method.images) == 0 and record is not None and "images/match" not in record.logs
    about = method.pixels(world.train.subset([0, 6, 1]))
    x = world.train.take(torch.tensor([0, 6]))[0]
    torch.testing.assert_close(about["mean"][0], x.mean((0, 2, 3)))
    torch.testing.assert_close(about["std"][0], x.transpose(0, 1).flatten(1).std(1, correction=0))
    assert about["counts"].tolist() == [2, 1, 0, 0, 0, 0]
