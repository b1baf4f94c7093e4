"""What training changed in an encoder goes back into it, and into no other."""

import numpy as np
import pytest

from headwater.embed import load_encoder
from headwater.embed._torch import convolve_as_before
from headwater.embed.adapter import FOLDER
from headwater.errors import EncoderError, InputError
from headwater.finetune.adapt import Adapted, LoraSettings, TrainMode, parse_train_mode

torch = pytest.importorskip("torch")
FRESH = LoraSettings(rank=2)
MEMBERS = [
    "timm-conv",
    "timm-vit",
    "timm-nhwc",
    "open_clip",
    "open_clip-resnet",
    "open_clip-bert",
    "hf-clip",
    "hf-siglip",
]
MEMBERS += ["hf-dinov2", "hf-convnext", "hf-resnet", "hf-swin", "hf-bert", "hf-qwen2_vl", "hf-smolvlm"]


def loaded(tiny, member, **options):
    return load_encoder(tiny(member).spec, device="cpu", precision="fp32", **options)


def batch_of(encoder, modality, picture, tmp_path):
    from PIL import Image

    if modality == "text":
        return [encoder.prepare_text(t) for t in ("a benign gland", "severe")]
    return [encoder.prepare_image(Image.open(picture(tmp_path / f"{i}.png", i)).convert("RGB")) for i in range(2)]


def disturb(adapted):
    """Change all that is trained, each number by its own."""
    with torch.no_grad():
        for i, parameter in enumerate(adapted.parameters.values()):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("kind", ["lora", "last-1", "full"])
def test_a_tuned_encoder_comes_back_from_its_folder(tiny, picture, tmp_path, member, kind):
    """Loaded again with its adapter, an encoder makes the features that the trained one made, and not those before."""
    modality = tiny(member).modalities[0]
    encoder = loaded(tiny, member)
    batch = batch_of(encoder, modality, picture, tmp_path)
    convolve_as_before(encoder.module)  # as in training, or convolutions differ in their last bits
    before = encoder.encode(modality, batch).pooled
    adapted = Adapted(encoder, {modality: parse_train_mode(kind)}, FRESH)
    if kind == "lora":  # fresh adapters change nothing; elsewhere attention takes another path where it is trained
        np.testing.assert_array_equal(encoder.encode(modality, batch).pooled, before)
    disturb(adapted)
    tuned = encoder.encode(modality, batch).pooled
    assert not np.allclose(tuned, before, atol=1e-3)
    folder = tmp_path / FOLDER / "0"
    folder.mkdir(parents=True)
    adapted.adapter().write(folder)
    again = loaded(tiny, member, adapter=tmp_path)
    np.testing.assert_allclose(again.encode(modality, batch).pooled, tuned, rtol=1e-4, atol=1e-5)
    plain, spec = loaded(tiny, member).spec(modality, "float16"), again.spec(modality, "float16")
    assert plain.weights == spec.weights
    assert plain.adapter is None
    assert spec.adapter == adapted.adapter().digest
    np.testing.assert_allclose(loaded(tiny, member).encode(modality, batch).pooled, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "last-1", "full"])
@pytest.mark.parametrize("member", ["timm-conv", "hf-clip", "open_clip"])
def test_what_is_not_trained_stays_bit_for_bit(tiny, picture, tmp_path, member, kind):
    """A step of training leaves all else as it was, running statistics included."""
    encoder = loaded(tiny, member)
    adapted = Adapted(encoder, {"image": parse_train_mode(kind)}, FRESH)
    before = {name: t.clone() for name, t in encoder.module.state_dict().items()}
    adapted.training(True)
    optimiser = torch.optim.SGD(adapted.parameters.values(), lr=0.1)
    inputs = encoder.collate("image", batch_of(encoder, "image", picture, tmp_path))
    encoder.features(encoder.module, "image", inputs).pooled.square().sum().backward()
    optimiser.step()
    changes = set(adapted.state())
    after = encoder.module.state_dict()
    kept = [name for name in before if name not in changes]
    assert kept or kind == "full"
    for name in kept:
        assert before[name].numpy().tobytes() == after[name].numpy().tobytes(), name
    moved = [name for name in adapted.trained if not torch.equal(before[name], after[name])]
    assert moved


@pytest.mark.parametrize(
    ("member", "modality", "expected"),
    [
        ("timm-vit", "image", {"blocks.5", "norm", "fc_norm"}),
        ("timm-conv", "image", {"layer4"}),
        ("hf-clip", "image", {"vision_model.encoder.layers.1", "vision_model.post_layernorm", "visual_projection"}),
        ("hf-clip", "text", {"text_model.encoder.layers.1", "text_model.final_layer_norm", "text_projection"}),
        ("open_clip", "image", {"visual.transformer.resblocks.1", "visual.ln_post", "visual.proj"}),
        ("open_clip", "text", {"transformer.resblocks.1", "ln_final", "text_projection"}),
        ("hf-bert", "text", {"encoder.layer.1"}),
    ],
)
def test_the_last_block_and_what_follows_it(tiny, member, modality, expected):
    """``last-1`` trains the last layer or stage, and the norms and projections after it, and nothing else."""
    adapted = Adapted(loaded(tiny, member), {modality: TrainMode("last", 1)}, FRESH)
    of = {name for name in adapted.trained if not any(name == e or name.startswith(f"{e}.") for e in expected)}
    assert not of
    for part in expected - {"norm", "fc_norm"}:  # one of which is an identity
        assert any(name == part or name.startswith(f"{part}.") for name in adapted.trained), part


def test_an_adapter_of_other_weights_is_refused(tiny, tmp_path):
    """An adapter that was trained on other weights is an error that says so."""
    adapted = Adapted(loaded(tiny, "timm-vit"), {"image": TrainMode("lora")}, FRESH)
    adapted.adapter().write(tmp_path)
    with pytest.raises(EncoderError, match="trained on other weights"):
        loaded(tiny, "timm-vit-registers", adapter=tmp_path)
    with pytest.raises(EncoderError, match=r"elsewhere: there is no trained encoder\. Run: headwater fine-tune"):
        loaded(tiny, "timm-vit", adapter=tmp_path / "elsewhere")


def test_a_damaged_adapter_is_refused(tiny, tmp_path):
    """Half an adapter, or a file that is none, is an error of one line."""
    from safetensors.torch import load_file, save_file

    Adapted(loaded(tiny, "timm-vit"), {"image": TrainMode("lora")}, FRESH).adapter().write(tmp_path)
    file = tmp_path / "adapter.safetensors"
    state = load_file(file)
    save_file(dict(list(state.items())[1:]), file)
    with pytest.raises(EncoderError, match="1 tensors missing"):
        loaded(tiny, "timm-vit", adapter=tmp_path)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(EncoderError, match="cannot be read"):
        loaded(tiny, "timm-vit", adapter=tmp_path)


def test_layers_are_named_by_a_pattern(tiny):
    """``--lora-modules`` chooses layers by a regular expression, and names some when it matches none."""
    chosen = Adapted(loaded(tiny, "hf-clip"), {"image": TrainMode("lora")}, LoraSettings(rank=2, modules=r"[qv]_proj$"))
    assert chosen.trained
    assert all(("q_proj" in name or "v_proj" in name) and "vision" in name for name in chosen.trained)
    with pytest.raises(InputError, match=r"matches no linear layer, .* Its layers are named like vision_model"):
        Adapted(loaded(tiny, "hf-clip"), {"image": TrainMode("lora")}, LoraSettings(modules="nothing"))


@pytest.mark.parametrize("text", ["last-0", "last", "lorra", ""])
def test_other_ways_to_train_are_refused(text):
    """What is no way to train is an error that lists them."""
    with pytest.raises(InputError, match="There are: none, lora, last-N"):
        parse_train_mode(text)


def test_adapters_go_into_the_tower_that_was_named(tiny):
    """Layers of one tower whose names end like those of the other get none."""
    encoder = loaded(tiny, "open_clip")
    adapted = Adapted(encoder, {"text": TrainMode("lora"), "image": TrainMode("last", 1)}, FRESH)
    with_adapters = [name for name in adapted.trained if ".lora_" in name]
    assert with_adapters
    assert not any(name.startswith("visual") for name in with_adapters)
    assert not any(".lora_" in name for name, _ in encoder.module.visual.named_parameters())
