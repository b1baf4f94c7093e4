"""Classifiers of torchvision as encoders: what their classifier would see, as torchvision itself computes it."""

import re
import warnings

import numpy as np
import pytest
from PIL import Image

import headwater as hw
from headwater.embed import Content, content_key, load_encoder, source_of
from headwater.embed.from_torchvision import without_classifier
from headwater.errors import EncoderError

torch = pytest.importorskip("torch")
models = pytest.importorskip("torchvision.models")


def saved(folder, name):
    """Save a model with random weights, and return it and the file."""
    torch.manual_seed(0)
    own = {"transform_input": True, "aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    model = models.get_model(name, **own).eval()  # what torchvision makes of it for weights
    state = model.state_dict()
    if name == "densenet121":  # whose files have names from before
        state = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): t for key, t in state.items()}
        assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, folder / "w.pth")
    return model, folder / "w.pth"


@pytest.mark.usefixtures("resized_by_pillow")
@pytest.mark.parametrize(
    ("name", "dim", "classifier"),
    [
        ("alexnet", 4096, "classifier.6"),
        ("resnet18", 512, "fc"),
        ("mobilenet_v3_small", 1024, "classifier.3"),
        ("googlenet", 1024, "fc"),
        ("densenet121", 1024, "classifier"),
    ],
)
def test_features_are_what_the_classifier_sees(tmp_path, picture, name, dim, classifier):
    """The stored vector is the input of the model's own last layer, of the image as the weights' transform makes it."""
    model, file = saved(tmp_path, name)
    picture(tmp_path / "a.png", 3, (300, 260))
    encoder = load_encoder(f"torchvision:{name}", weights=file, device="cpu", precision="fp32")
    content = Content(content_key((tmp_path / "a.png").read_bytes()), tmp_path / "a.png")
    ours = encoder.encode("image", [encoder.prepare("image", content)]).pooled
    seen = []
    model.get_submodule(classifier).register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    transform = models.get_model_weights(name).DEFAULT.transforms()
    with torch.inference_mode(), Image.open(tmp_path / "a.png") as image:
        model(transform(image.convert("RGB"))[None])
    assert ours.shape == (1, dim)
    assert np.allclose(ours, seen[0].numpy(), rtol=1e-4, atol=1e-4 * float(seen[0].abs().max()))


FAMILIES = """alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 maxvit_t mnasnet0_5 mobilenet_v2
mobilenet_v3_small regnet_y_400mf resnet18 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t vgg11
vit_b_16 wide_resnet50_2"""


@pytest.mark.parametrize("name", FAMILIES.split())
def test_every_family_is_known_or_refused(name):
    """A model of each family that torchvision has loses the layer that names a thousand classes, or is refused."""
    with torch.device("cpu" if name.startswith("regnet") else "meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of how Inceptions are initialised
        model = models.get_model(name, weights=None)
    if name.startswith("squeezenet"):
        with pytest.raises(EncoderError, match="does not end in a linear layer"):
            without_classifier(model, name)
        return
    head = without_classifier(model, name)
    assert isinstance(model.get_submodule(head), torch.nn.Identity)
    assert not any(getattr(module, "out_features", 0) == 1000 for module in model.modules())


@pytest.mark.parametrize("train", ["last-1", "full", "lora"])
def test_it_is_tuned(tiny, picture, tmp_path, train):
    """It is trained like any other encoder, and put back into the store."""
    rows = ["image,label,patient"]
    for i in range(12):
        picture(tmp_path / f"{i}.png", i)
        rows.append(f"{i}.png,{'ab'[i % 2]},{i // 2}")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    own = tiny("torchvision")
    options = {"encoder": own.spec, "weights": own.options["weights"], "device": "cpu"}
    asked = {"label": "label", "groups": "patient", "folds": 2, "epochs": 1, "train": train}
    hw.fine_tune(tmp_path / "m.csv", out=tmp_path / "run", **options, **asked)
    store = hw.embed(tmp_path / "m.csv", tmp_path / "a.hw", adapter=tmp_path / "run", **options)
    (name,) = store.feature_names()
    assert store.features(name).spec.adapter


def test_refusals(tmp_path, monkeypatch):
    """What is not there, and what cannot be, is a line that says so; without a network the file to fetch is named."""

    def error(spec, **options):
        with pytest.raises(EncoderError) as caught:
            load_encoder(spec, device="cpu", **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "no such classifier. Did you mean 'resnet18'" in error("torchvision:resnet_18")
    assert "There are: IMAGENET1K_V1, IMAGENET1K_V2" in error("torchvision:resnet50/V3")
    assert "alexnet has no tokens. Leave --tokens out, or use the model from timm." in error(
        "torchvision:alexnet", tokens="all"
    )
    assert "does not support --image-size, which is for timm:…" in error("torchvision:alexnet", image_size=448)
    assert "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth saved to a file" in error(
        "torchvision:alexnet"
    )
    assert "does not end in a linear layer" in error("torchvision:squeezenet1_0", weights=tmp_path / "none.pth")
    assert source_of("torchvision:alexnet").kind == "network"
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    (tmp_path / "hub/checkpoints/alexnet-owt-7be5be79.pth").touch()
    assert source_of("torchvision:alexnet").kind == "cache"
