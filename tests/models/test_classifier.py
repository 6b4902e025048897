"""The classifier's face: what goes in and comes out, and which head and stages are found in whose network."""

import copy

import pytest
import torch
from torch import nn

from limbeck.core.modules import Taps
from limbeck.errors import InputError
from limbeck.models.classifier import Classifier, same_classes
from limbeck.models.resnet import resnet
from limbeck.models.tiny import cnn, mixer, mlp, vit

SMALL, COLOUR = (1, 8, 8), (3, 16, 16)


def flat(classes=4, inner=5):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, inner), nn.ReLU(), nn.Linear(inner, classes))


def test_it_normalises_and_unwraps():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)
            nn.init.eye_(self.fc.weight), nn.init.zeros_(self.fc.bias)

        def forward(self, x):
            return Output(self.fc(x.mean((2, 3))))

    model = Classifier(Net(), shape=(2, 4, 4), classes=2, mean=[0.5, 0.25], std=[0.5, 2.0])
    x = torch.rand(3, 2, 4, 4)
    expected = (x.mean((2, 3)) - torch.tensor([0.5, 0.25])) / torch.tensor([0.5, 2.0])
    assert torch.allclose(model(x), expected, atol=1e-6)
    assert model.head == "net.fc" and model.classes == ("0", "1") and model.num_classes == 2


def test_it_is_a_plain_module():
    model = mlp(8, shape=SMALL, classes=("a", "b", "c"))
    keys = ["mean", "std", "net.1.0.weight", "net.1.0.bias", "net.2.weight", "net.2.bias"]
    assert list(model.state_dict()) == keys
    twin = copy.deepcopy(model)
    x = torch.rand(5, *SMALL)
    assert torch.equal(twin(x), model(x)) and twin.stages == model.stages and twin.classes == ("a", "b", "c")
    assert not any(m._forward_hooks for m in model.modules()), "the traced pass leaves no hooks"
    assert model.example.shape == (2, *SMALL)
    assert model.double()(x).dtype == torch.float64
    assert model.bfloat16()(x).dtype == torch.float32, "low precision inside, float logits outside"


def test_tracing_leaves_modes_statistics_and_the_generator_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 14 * 14, 6))
    net[2].eval()
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    model = Classifier(net, shape=COLOUR, classes=6)
    assert all(torch.equal(v, before[k]) for k, v in model.net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training and net[1].training and not net[2].training


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda: mlp(16, 12, shape=SMALL, classes=5), [(16,), (12,), (12,)]),
        (lambda: cnn(4, 6, 8, shape=COLOUR, classes=5), [(4, 8, 8), (6, 4, 4), (8, 4, 4), (8,)]),
        (lambda: vit(32, 2, shape=COLOUR, classes=5), [(64, 32), (64, 32), (32,)]),
        (lambda: mixer(32, 2, shape=SMALL, classes=5), [(16, 32), (16, 32), (32,)]),
        (lambda: resnet(8, shape=(3, 32, 32), classes=5), [(16, 32, 32), (32, 16, 16), (64, 8, 8), (64,)]),
        (lambda: resnet(8, shape=SMALL, classes=5), [(16, 8, 8), (32, 4, 4), (64, 2, 2), (64,)]),
    ],
)
def test_our_networks_serve_the_features_they_name(make, shapes):
    model = make()
    assert Taps(*model.stages, f"{model.head}:in").shapes(model, model.example) == shapes
    logits, (last,) = Taps(f"{model.head}:in")(model.eval(), model.example)
    assert torch.allclose(model.get_submodule(model.head)(last), logits), "the head makes the logits"
    found = Classifier(model.net, shape=model.shape, classes=5)
    assert found.head == model.head
    if (
        len(model.stages) > 1
        and "Flatten" not in type(model.net[0] if hasattr(model.net, "__len__") else None).__name__
    ):
        assert found.stages == model.stages, "the traced pass finds what the maker names"


def test_head_and_stages_of_a_flat_network():
    model = Classifier(flat(), shape=SMALL, classes=4)
    assert model.head == "net.3" and model.stages == ("net.1",)


def test_the_head_is_the_linear_layer_that_ran_last_among_those_of_k_outputs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)  # registered first, runs last; everything is 4 wide
            self.first, self.unused = nn.Linear(64, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(self.first(x.flatten(1)).relu())

    assert Classifier(Net(), shape=SMALL, classes=4).head == "net.fc"


TINY = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 16, "patch_size": 4}


@pytest.mark.parametrize(
    ("kind", "options", "size", "head", "stages"),
    [
        ("ViT", {**TINY, "num_hidden_layers": 3}, 16, "net.classifier", [(17, 32)] * 3),
        (
            "ResNet",
            {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 1, 1], "layer_type": "basic"},
            32,
            "net.classifier.1",
            [(8, 8, 8), (16, 4, 4), (24, 2, 2)],
        ),
        (
            "ConvNext",
            {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4},
            32,
            "net.classifier",
            [(8, 8, 8), (16, 4, 4), (24, 2, 2), (32, 1, 1)],
        ),
        (
            "Swin",
            {
                "image_size": 32,
                "patch_size": 2,
                "embed_dim": 8,
                "depths": [1, 1],
                "num_heads": [1, 2],
                "window_size": 4,
            },
            32,
            "net.classifier",
            [(64, 16), (64, 16)],
        ),
    ],
)
def test_head_and_stages_of_transformers_networks(kind, options, size, head, stages):
    import transformers

    config = getattr(transformers, f"{kind}Config")(num_labels=6, **options)
    net = getattr(transformers, f"{kind}ForImageClassification")(config)
    model = Classifier(net, shape=(3, size, size), classes=6)
    assert model.head == head
    assert Taps(*model.stages).shapes(model, model.example) == stages
    assert model(model.example).shape == (2, 6)


def test_paths_can_be_given():
    class Scaled(nn.Linear):
        pass

    class Cosine(nn.Module):  # no linear layer at all
        def __init__(self):
            super().__init__()
            self.body, self.weight = nn.Conv2d(1, 4, 3), nn.Parameter(torch.randn(4, 4))
            self.top = nn.Bilinear(4, 4, 4)

        def forward(self, x):
            y = self.body(x).mean((2, 3))
            return self.top(y, y)

    with pytest.raises(InputError, match=r"Cosine.*pass head="):
        Classifier(Cosine(), shape=SMALL, classes=4)
    model = Classifier(Cosine(), shape=SMALL, classes=4, head="net.top", stages=["net.body"])
    assert model.head == "net.top" and model.stages == ("net.body",)
    with pytest.raises(InputError, match=r"did you mean 'net\.body'"):
        Classifier(Cosine(), shape=SMALL, classes=4, head="net.top", stages=["net.bodi"])
    with pytest.raises(InputError, match="head"):
        Classifier(flat(), shape=SMALL, classes=4, head="fc")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": 5}, r"its logits are \(B, \*\[4\]\)"),
        ({"classes": ()}, "one or more names"),
        ({"classes": ("a", "a", "b", "c")}, "all different"),
        ({"shape": (1, 9, 9)}, "1x9x9.*do not run through Sequential"),
        ({"mean": [0.5, 0.5]}, "must hold 1 numbers"),
        ({"std": [0.0]}, "above 0"),
    ],
)
def test_faces_that_do_not_fit(options, said):
    with pytest.raises(InputError, match=said) as caught:
        Classifier(flat(), **{"shape": SMALL, "classes": 4, **options})
    assert "\n" not in str(caught.value)


def test_same_classes():
    same_classes("teacher", ("cat", "dog"), ("cat", "dog"))
    same_classes("teacher", ("0", "1"), ("cat", "dog"))
    same_classes("teacher", ("cat", "dog"), ("LABEL_0", "LABEL_1"))
    with pytest.raises(InputError, match="another order"):
        same_classes("teacher", ("dog", "cat"), ("cat", "dog"))
    with pytest.raises(InputError, match="'bee' is its class 1; the data's is 'dog'"):
        same_classes("teacher", ("cat", "bee"), ("cat", "dog"))
    with pytest.raises(InputError, match="3 classes"):
        same_classes("teacher", ("0", "1", "2"), ("cat", "dog"))
    with pytest.raises(InputError):
        same_classes("teacher", ("1", "0"), ("0", "1"))
