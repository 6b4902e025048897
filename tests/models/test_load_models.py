"""References to models: fresh, saved, pretrained, the user's own; and every way in which they are refused."""

import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from limbeck.errors import InputError
from limbeck.models.classifier import Classifier
from limbeck.models.load import load_classifier, save_classifier

DATA = {"shape": (3, 16, 16), "classes": ("cat", "dog", "eel")}
VIT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip


def refused(reference, *said, **options):
    with pytest.raises(InputError) as caught:
        load_classifier(str(reference), **{**DATA, **options})
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    for part in said:
        assert part in message, message


def equal(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(mine[k], theirs[k]) for k in mine)


def trained(model: Classifier) -> Classifier:
    """Moved a little, batch statistics included."""
    torch.manual_seed(5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()(torch.rand(8, *model.shape)).square().sum().backward()
    optimizer.step()
    return model.eval()


# --- fresh


@pytest.mark.parametrize("name", ["mlp-16x2", "cnn-4-8", "vit-tiny", "mixer-tiny", "resnet8"])
def test_fresh_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = load_classifier(name, **DATA, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert equal(first, load_classifier(name, **DATA, seed=3)) and first.reference == name
    assert not equal(first, load_classifier(name, **DATA, seed=4))
    assert first.classes == DATA["classes"] and first.shape == DATA["shape"]


def test_names_hold_widths_and_depths():
    widths = [m.out_features for m in load_classifier("mlp-24x3", **DATA).modules() if isinstance(m, nn.Linear)]
    assert widths == [24, 24, 24, 3]
    widths = [m.out_channels for m in load_classifier("cnn-4-6-8", **DATA).modules() if isinstance(m, nn.Conv2d)]
    assert widths == [4, 6, 8]


def test_unknown_names_and_missing_data():
    refused("resnet21", "6n + 2")
    refused("vit-tinny", "did you mean 'vit-tiny'")
    refused("mlp-16", "give shape and classes", shape=None)


# --- weights of their own


def test_weights_beside_a_name(tmp_path):
    model = trained(load_classifier("cnn-4-8", **DATA))
    state = {k: v for k, v in model.net.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "net.safetensors")
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    x = torch.rand(4, 3, 16, 16)
    for name in ("net", "whole"):
        again = load_classifier(f"cnn-4-8@{tmp_path}/{name}.safetensors", **DATA).eval()
        assert torch.equal(again(x), model(x)) and again.reference == "cnn-4-8"
    refused(f"cnn-4-6@{tmp_path}/net.safetensors", "holds '1.0.weight' of shape [8, 4, 3, 3]", "[6, 4, 3, 3]")
    refused(f"cnn-4@{tmp_path}/net.safetensors", "net.safetensors", "name the network it was made with")
    refused(f"cnn-4-8-8@{tmp_path}/net.safetensors", "lacks '2.0.weight'")
    refused(f"cnn-4-8@{tmp_path}/net.safetensors", "[3]", "[2]", classes=2)
    refused(f"cnn-4-8@{tmp_path}/none.safetensors", "does not exist")
    refused(f"{tmp_path}/net.safetensors", "name the network too")
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "net.safetensors").read_bytes()[:100])
    refused(f"cnn-4-8@{tmp_path}/torn.safetensors", "damaged")


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "ckpt"])
def test_pickles_are_never_opened(tmp_path, suffix):
    file = tmp_path / f"model.{suffix}"
    file.write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    refused(file, f"model.{suffix}", "pickle", "safetensors.torch.save_file")
    refused(f"cnn-4-8@{file}", f"model.{suffix}", "pickle")


# --- saved and read back


@pytest.mark.parametrize("name", ["mlp-8", "cnn-4-8", "vit-tiny", "resnet8"])
def test_what_is_saved_reads_back_bit_for_bit(tmp_path, name):
    model = trained(load_classifier(name, **DATA))
    save_classifier(model, tmp_path / "student", card_text="Distilled from **nothing**.")
    files = {f.name for f in (tmp_path / "student").iterdir()}
    assert files == {"model.safetensors", "limbeck.json", "README.md"}
    assert "Distilled from **nothing**." in (tmp_path / "student" / "README.md").read_text()
    for given in ({}, DATA):
        torch.manual_seed(9)
        again = load_classifier(str(tmp_path / "student"), **given).eval()
        assert equal(model, again)
        for fact in ("classes", "shape", "head", "stages", "reference"):
            assert getattr(again, fact) == getattr(model, fact)
        x = torch.rand(4, 3, 16, 16)
        assert torch.equal(model(x), again(x))
    save_classifier(again, tmp_path / "student")  # over itself, from what the folder knew
    assert equal(model, load_classifier(str(tmp_path / "student")))
    assert {f.name for f in tmp_path.iterdir()} == {"student"}, "nothing is left beside it"


def test_normalisation_and_paths_come_back(tmp_path, monkeypatch):
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n"
        "def tall(classes, width=4):\n"
        "    mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3), mean, nn.Linear(width, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    net = load_classifier("own_nets:tall", **DATA).net
    model = Classifier(net, **DATA, mean=[0.1, 0.2, 0.3], std=[0.7, 0.8, 0.9], stages=["net.1"])
    with pytest.raises(InputError, match="pass its name"):
        save_classifier(model, tmp_path / "student")
    assert not (tmp_path / "student").exists()
    save_classifier(model, tmp_path / "student", reference="own_nets:tall")
    again = load_classifier(str(tmp_path / "student"))
    assert equal(model, again) and again.stages == ("net.1",) and torch.equal(again.std, model.std)


def test_tied_weights_are_saved(tmp_path, monkeypatch):
    (tmp_path / "tied_nets.py").write_text(
        "from torch import nn\n"
        "def tied(num_classes):\n"
        "    a, b = nn.Linear(8, 8), nn.Linear(8, 8)\n"
        "    b.weight = a.weight\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(768, 8), a, b, nn.Linear(8, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = trained(load_classifier("tied_nets:tied", **DATA))
    save_classifier(model, tmp_path / "student")
    again = load_classifier(str(tmp_path / "student"))
    assert equal(model, again) and again.net[2].weight is again.net[3].weight


def test_saved_folders_refuse_other_data(tmp_path):
    save_classifier(load_classifier("cnn-4-8", **DATA), tmp_path / "s")
    refused(tmp_path / "s", "3x16x16", "1x8x8", shape=(1, 8, 8))
    refused(tmp_path / "s", "another order", classes=("dog", "cat", "eel"))
    refused(tmp_path / "s", "'eel' is its class 2; the data's is 'fox'", classes=("cat", "dog", "fox"))
    refused(tmp_path / "s", "3 classes", classes=("cat", "dog"))
    (tmp_path / "s" / "limbeck.json").write_text('{"format": 1}')
    refused(tmp_path / "s", "damaged limbeck.json")
    (tmp_path / "s" / "limbeck.json").write_text("{")
    refused(tmp_path / "s", "damaged limbeck.json")
    with pytest.raises(InputError, match="no Classifier"):
        save_classifier(nn.Linear(2, 2), tmp_path / "t")


def test_an_unwritable_place_leaves_the_old_student(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_classifier(load_classifier("mlp-4", **DATA), tmp_path / "file" / "student")


# --- transformers


def vit_folder(path, labels=("cat", "dog", "eel"), **options):
    from transformers import ViTConfig, ViTForImageClassification

    names = dict(enumerate(labels))
    net = ViTForImageClassification(
        ViTConfig(**VIT, id2label=names, label2id={n: k for k, n in names.items()}, **options)
    )
    net.save_pretrained(path)
    return net.eval()


@pytest.mark.filterwarnings("ignore:.*no preprocessor_config")
def test_a_transformers_folder(tmp_path):
    net = vit_folder(tmp_path / "vit")
    stated = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps({**stated, "do_normalize": True}))
    model = load_classifier(str(tmp_path / "vit"), **DATA).eval()
    x = torch.rand(2, 3, 16, 16)
    mean, std = (torch.tensor(stated[f"image_{k}"]).view(1, 3, 1, 1) for k in ("mean", "std"))
    assert torch.allclose(model(x), net((x - mean) / std).logits, atol=1e-6)
    assert model.classes == DATA["classes"] and model.head == "net.classifier" and len(model.stages) == 2
    assert load_classifier(str(tmp_path / "vit"), shape=DATA["shape"]).classes == DATA["classes"]

    save_classifier(trained(model), tmp_path / "student")
    again = load_classifier(str(tmp_path / "student")).eval()
    assert equal(model, again) and torch.equal(model(x), again(x)) and again.stages == model.stages
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    processor = AutoImageProcessor.from_pretrained(tmp_path / "student")
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "student").eval()
    picture = (255 * x[0]).to(torch.uint8)
    by_hand = plain(**processor(picture, return_tensors="pt")).logits
    assert torch.allclose(by_hand, model(picture[None] / 255), atol=1e-4), "transformers alone reads it too"


@pytest.mark.filterwarnings("ignore:.*no preprocessor_config")
def test_transformers_folders_that_do_not_fit(tmp_path):
    vit_folder(tmp_path / "vit")
    refused(tmp_path / "vit", "another order", classes=("dog", "cat", "eel"))
    refused(tmp_path / "vit", "3 classes apart; the data have 10", classes=10)
    refused(tmp_path / "vit", "3x32x32", "do not run", shape=(3, 32, 32))
    refused(tmp_path / "vit", "give their shape", shape=None)
    assert load_classifier(str(tmp_path / "vit"), shape=(3, 16, 16), classes=3).classes == DATA["classes"]
    vit_folder(tmp_path / "anonymous", ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert load_classifier(str(tmp_path / "anonymous"), **DATA).classes == DATA["classes"]
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no model")
    (tmp_path / "vit" / "model.safetensors").write_bytes(b"torn")
    refused(tmp_path / "vit", "cannot be had")
    (tmp_path / "vit" / "model.safetensors").unlink()
    (tmp_path / "vit" / "pytorch_model.bin").write_bytes(b"pickle")
    refused(tmp_path / "vit", "pytorch_model.bin", "pickle")


def test_a_body_without_a_trained_head_is_no_teacher(tmp_path):
    from transformers import ViTConfig, ViTModel

    ViTModel(ViTConfig(**VIT, num_labels=3)).save_pretrained(tmp_path / "body")
    refused(tmp_path / "body", "has no weights for 'classifier")


def test_a_config_alone_makes_a_fresh_network(tmp_path):
    from transformers import ViTConfig

    ViTConfig(**VIT).save_pretrained(tmp_path / "fresh")
    first = load_classifier(str(tmp_path / "fresh"), **DATA, seed=1)
    assert equal(first, load_classifier(str(tmp_path / "fresh"), **DATA, seed=1))
    assert not equal(first, load_classifier(str(tmp_path / "fresh"), **DATA, seed=2))
    assert first.net.config.id2label == {0: "cat", 1: "dog", 2: "eel"}
    save_classifier(first, tmp_path / "student")
    assert equal(first, load_classifier(str(tmp_path / "student"), **DATA))
    (tmp_path / "fresh" / "config.json").write_text('{"model_type": "bert"}')
    refused(tmp_path / "fresh", "no image classifier")


def test_the_hub_out_of_reach(monkeypatch):
    import transformers

    def offline(*_, **options):
        assert options["use_safetensors"] and options["trust_remote_code"] is False
        raise OSError("We couldn't connect\nto the Hub")

    monkeypatch.setattr(transformers.AutoModelForImageClassification, "from_pretrained", offline)
    refused("somebody/vit", "somebody/vit", "couldn't connect to the Hub")


# --- the user's own


def test_factories(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(
        "import torch\nfrom torch import nn\nfrom limbeck.models.tiny import mlp\n"
        "def plain(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))\n"
        "def keywords(**options):\n"
        "    return plain((3, 16, 16), options.pop('num_classes')) if len(options) == 1 else None\n"
        "def faced(shape, classes): return mlp(4, shape=shape, classes=classes)\n"
        "def none(shape): return None\n"
        "def broken(): raise RuntimeError('no\\nluck')\n"
        "def needy(secret): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    for name in ("plain", "keywords", "faced"):
        model = load_classifier(f"my_nets:{name}", **DATA, seed=1)
        assert model.num_classes == 3 and model.reference == f"my_nets:{name}"
        assert equal(model, load_classifier(f"my_nets:{name}", **DATA, seed=1))
        assert not equal(model, load_classifier(f"my_nets:{name}", **DATA, seed=2))
    refused("my_nets:none", "NoneType", "no torch.nn.Module")
    refused("my_nets:broken", "RuntimeError: no luck")
    refused("my_nets:needy", "secret")
    refused("my_nets:absent", "absent")
    refused("no_such_package:x", "no_such_package")
    save_file(load_classifier("my_nets:plain", **DATA, seed=7).net.state_dict(), tmp_path / "w.safetensors")
    assert equal(
        load_classifier("my_nets:plain@w.safetensors", **DATA), load_classifier("my_nets:plain", **DATA, seed=7)
    )
