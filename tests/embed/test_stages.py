"""Stages of timm models: what is stored is what the named part of the model puts out."""

import numpy as np
import pytest
import torch
from PIL import Image

from headwater.embed import Content, content_key, load_again, load_encoder
from headwater.errors import EncoderError, SpecMismatch


def load(member, layer, tokens="none"):
    return load_encoder(member.spec, layer=layer, tokens=tokens, device="cpu", precision="fp32")


def encoded(encoder, files):
    contents = [Content(content_key(file.read_bytes()), file) for file in files]
    return encoder.encode("image", [encoder.prepare("image", content) for content in contents])


def outputs(member, files, modules):
    """Return what parts of the library's own model put out, each of shape ``(n, cells, dim)``."""
    import timm

    model = timm.create_model(member.spec.removeprefix("timm:"), pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    seen = []
    for name in modules:
        model.get_submodule(name).register_forward_hook(lambda part, given, out: seen.append(out))
    with torch.inference_mode():
        model(torch.stack([transform(Image.open(file).convert("RGB")) for file in files]))
    grids = []
    for out in seen:
        if out.ndim == 3:
            grids.append(out[:, getattr(model, "num_prefix_tokens", 0) :])
        else:
            last = getattr(model, "output_fmt", "NCHW") == "NHWC"
            grids.append((out if last else out.permute(0, 2, 3, 1)).flatten(1, 2))
    return [grid.numpy() for grid in grids]


@pytest.mark.usefixtures("resized_by_pillow")
@pytest.mark.parametrize(
    ("member", "stages", "modules"),
    [
        ("timm-conv", "stem,stage1,stage4", ["act1", "layer1", "layer4"]),
        ("timm-vit-registers", "stage1+stage2", ["blocks.0", "blocks.1"]),
        ("timm-nhwc", "stage1", ["layers.0"]),
    ],
)
def test_stages_are_the_librarys(tiny, image_files, member, stages, modules):
    """The pooled feature is each named stage's mean over its cells, joined; tokens are the cells of the only one."""
    grids = outputs(tiny(member), image_files, modules)
    expected = np.concatenate([grid.mean(1) for grid in grids], axis=1)
    made = encoded(load(tiny(member), stages), image_files)
    np.testing.assert_allclose(made.pooled, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    alone = encoded(load(tiny(member), stages.replace("+", ",").split(",")[-1], "all"), image_files)
    np.testing.assert_allclose(alone.tokens, grids[-1], rtol=0, atol=2e-5 * np.abs(grids[-1]).max())
    np.testing.assert_allclose(alone.pooled, grids[-1].mean(1), rtol=0, atol=2e-5 * np.abs(grids[-1]).max())


def test_stages_are_in_the_spec(tiny):
    """The order in which stages are named does not count; other stages are other features; a spec builds them again."""
    member = tiny("timm-conv")
    spec = load(member, "stage4, stage2,stage2").spec("image", "float16")
    assert spec.layer == "stage2+stage4"
    assert load_again(spec, device="cpu").spec("image", "float16") == spec
    whole = load_encoder(member.spec, device="cpu").spec("image", "float16")
    assert load_again(whole, device="cpu").spec("image", "float16") == whole
    with pytest.raises(SpecMismatch, match="layer: stored 'forward_features', now 'stage2\\+stage4'; pooling: stored"):
        whole.require_same(spec, "f/image")


def test_a_model_of_two_branches(tmp_path, image_files):
    """CrossViT, whose branches make tokens of different sizes, is an encoder; its tokens are those of a stage."""
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("crossvit_tiny_240").state_dict(), tmp_path / "w.safetensors")
    words = {
        "spec": "timm:crossvit_tiny_240",
        "weights": tmp_path / "w.safetensors",
        "device": "cpu",
        "precision": "fp32",
    }
    assert encoded(load_encoder(**words), image_files[:1]).pooled.shape == (1, 288)
    assert encoded(load_encoder(**words, layer="stage1", tokens="all"), image_files[:1]).tokens.shape == (1, 400, 96)
    with pytest.raises(EncoderError, match=r"has several kinds of tokens\. Pass --layer stage1, or leave --tokens out"):
        load_encoder(**words, tokens="all")


def test_stages_that_are_not_there(tiny):
    """A stage that a model does not have is refused with those that it has; tokens are of one stage."""
    member = tiny("timm-conv")
    for layer, tokens, said in (
        (
            "stage5",
            "none",
            "--layer stage5: there is no stage 'stage5'. Did you mean 'stage4'? There are stem to stage4; give one,",
        ),
        ("", "none", "--layer : there is no stage ''. There are stem to stage4"),
        ("stage1,stage2", "all", "--layer stage1,stage2 names 2 stages, but --tokens needs a single one."),
        ("stage4", "99", "--tokens 99 is too many: this encoder has 2 x 2 = 4 tokens."),
    ):
        with pytest.raises(EncoderError) as caught:
            load(member, layer, tokens)
        assert said in str(caught.value)
