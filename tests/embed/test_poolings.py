"""``--pooling``: how tokens become one vector, in every back end, compared with what is computed by hand."""

import numpy as np
import pytest
import torch

from headwater.api import embed
from headwater.embed import Content, content_key, load_again, load_encoder
from headwater.errors import EncoderError, SpecMismatch

TEXTS = ["benign tissue", "a mass of the left breast, with severe tissue", "gland"]


def load(member, **options):
    return load_encoder(member.spec, device="cpu", precision="fp32", **{**member.options, **options})


def error_of(member, **options):
    with pytest.raises(EncoderError) as caught:
        load(member, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(modality, image_files):
    if modality == "image":
        return [Content(content_key(file.read_bytes()), file) for file in image_files]
    return [Content(content_key(text.encode()), text) for text in TEXTS]


def pooled(encoder, modality, items):
    return encoder.encode(modality, [encoder.prepare(modality, one) for one in items])


# what of an image's sequence is its class token, and how many tokens stand before its cells
SEQUENCES = {
    "timm-vit": (0, 1),
    "timm-vit-registers": (0, 4),
    "hf-vit": (0, 1),
    "hf-dinov2": (0, 1),
    "hf-dinov2_registers": (0, 4),
    "hf-dinov3_vit": (0, 4),
    "hf-clip_vision": (0, 1),
}
MAPS = ["timm-conv", "timm-nhwc", "hf-convnext", "hf-resnet", "hf-swin", "hf-dinov3_convnext"]


def sequence_of(encoder, items):
    """Return all that a model makes of images, of shape (n, length, dim)."""
    x = encoder.collate("image", [encoder.prepare("image", one) for one in items])[0]
    with torch.inference_mode():
        if encoder.library == "timm":
            return encoder.module.forward_features(x).numpy()
        return encoder.module(pixel_values=x).last_hidden_state.numpy()


def by_hand(kind, first, cells):
    if kind == "max":
        return cells.max(1)
    return np.concatenate([first if part == "cls" else cells.mean(1) for part in kind.split("+")], 1)


@pytest.mark.parametrize("kind", ["cls", "mean", "cls+mean", "max"])
@pytest.mark.parametrize("member", SEQUENCES)
def test_of_transformers(tiny, image_files, member, kind):
    """The class token comes first; register tokens are in no mean and no maximum; tokens stay what they are."""
    items = contents("image", image_files)
    encoder = load(tiny(member), pooling=kind)
    states = sequence_of(encoder, items)
    place, start = SEQUENCES[member]
    expected = by_hand(kind, states[:, place], states[:, start:])
    np.testing.assert_allclose(pooled(encoder, "image", items).pooled, expected, atol=2e-5 * np.abs(expected).max())
    with_tokens = pooled(load(tiny(member), pooling=kind, tokens="all"), "image", items)
    np.testing.assert_allclose(with_tokens.pooled, expected, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_allclose(with_tokens.tokens, states[:, start:], atol=2e-5 * np.abs(states).max())


@pytest.mark.parametrize("member", MAPS)
def test_of_feature_maps(tiny, image_files, member):
    """A map's mean and maximum are those of its cells, and it has neither class token nor last one."""
    items = contents("image", image_files)
    cells = pooled(load(tiny(member), tokens="all"), "image", items).tokens
    for kind in ("mean", "max"):
        found = pooled(load(tiny(member), pooling=kind), "image", items).pooled
        np.testing.assert_allclose(found, by_hand(kind, cells[:, 0], cells), atol=2e-5 * np.abs(cells).max())
    for kind in ("cls", "cls+mean"):
        assert error_of(tiny(member), pooling=kind).endswith(
            f": --pooling {kind}: it has no class token. There are: mean, max."
        )
    assert "--pooling last: only texts have a last token. There are: mean, max." in error_of(
        tiny(member), pooling="last"
    )


def test_of_stages(tiny, image_files):
    """Stages are pooled by their maximum as well; the mean is what they are pooled by anyway, and the same features."""
    items = contents("image", image_files)
    member = tiny("timm-conv")
    cells = [pooled(load(member, layer=f"stage{i}", tokens="all"), "image", items).tokens for i in (2, 3)]
    found = load(member, layer="stage2,stage3", pooling="max")
    expected = np.concatenate([one.max(1) for one in cells], 1)
    np.testing.assert_allclose(pooled(found, "image", items).pooled, expected, rtol=1e-5)
    spec = load(member, layer="stage3").spec("image", "float16")
    assert load(member, layer="stage3", pooling="mean").spec("image", "float16") == spec
    assert "no class token" in error_of(tiny("timm-vit"), layer="stage1", pooling="cls")


@pytest.mark.parametrize("member", ["open_clip", "open_clip-bert", "hf-clip"])
@pytest.mark.parametrize("kind", ["cls", "mean", "cls+mean", "max", "last"])
def test_of_dual_encoders(tiny, image_files, member, kind):
    """Each side pools its tokens; a side that lacks the token is not encoded."""
    encoder = load(tiny(member), pooling=kind)
    plain = load(tiny(member), tokens="all")
    texts = {"mean", "max", "last"} | ({"cls", "cls+mean"} if member == "open_clip-bert" else set())
    assert encoder.modalities == frozenset(
        side for side, able in (("image", {"cls", "mean", "cls+mean", "max"}), ("text", texts)) if kind in able
    )
    for side in encoder.modalities:
        items = contents(side, image_files)
        found, tokens = pooled(encoder, side, items).pooled, pooled(plain, side, items).tokens
        if side == "image" and "cls" in kind:
            assert found.shape[1] == tokens.shape[2] * (1 + ("mean" in kind))
            continue
        rows = [by_hand(kind, own[None, 0], own[None])[0] if kind != "last" else own[-1] for own in tokens]
        np.testing.assert_allclose(found, np.stack(rows), atol=3e-5 * np.abs(found).max())
        assert encoder.spec(side, "float16").logit_scale is None


def test_the_class_token_of_clip(tiny, image_files):
    """It is the first state of the last layer, of open_clip after the norm and of transformers as it is given."""
    items = contents("image", image_files)
    encoder = load(tiny("open_clip"), pooling="cls")
    x = encoder.collate("image", [encoder.prepare("image", one) for one in items])[0]
    with torch.inference_mode():
        expected = encoder.encode("image", [encoder.prepare("image", one) for one in items]).pooled @ (
            encoder.module.visual.proj.numpy()
        )
        np.testing.assert_allclose(encoder.module.encode_image(x).numpy(), expected, atol=1e-5)
    hub = load(tiny("hf-clip"), pooling="cls")
    x = hub.collate("image", [hub.prepare("image", one) for one in items])[0]
    with torch.inference_mode():
        states = hub.module.vision_model(pixel_values=x).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(pooled(hub, "image", items).pooled, states, atol=1e-5)


@pytest.mark.parametrize("member", ["hf-bert", "hf-distilbert", "hf-roberta", "hf-modernbert"])
@pytest.mark.parametrize("kind", ["cls", "mean", "cls+mean", "max", "last"])
def test_of_text_models(tiny, member, kind):
    """A text's own tokens are pooled, padding left out, in any company."""
    items = contents("text", [])
    encoder = load(tiny(member), pooling=kind)
    tokens = pooled(load(tiny(member), tokens="all"), "text", items).tokens
    rows = [own[-1] if kind == "last" else by_hand(kind, own[None, 0], own[None])[0] for own in tokens]
    np.testing.assert_allclose(pooled(encoder, "text", items).pooled, np.stack(rows), atol=2e-5)


@pytest.mark.parametrize("member", ["hf-siglip", "hf-siglip2"])
@pytest.mark.parametrize("kind", ["mean", "max", "last"])
def test_padding_that_looks_like_a_word(tiny, image_files, member, kind):
    """SigLIP pads with the token that ends a text, and its patches at their own shape are padded: neither is pooled."""
    encoder = load(tiny(member), pooling=kind, **({} if member == "hf-siglip" else {"tokens": "4"}))
    for side in encoder.modalities:
        items = contents(side, image_files)
        alone = np.concatenate([pooled(encoder, side, [one]).pooled for one in items])
        np.testing.assert_allclose(pooled(encoder, side, items).pooled, alone, atol=1e-5)
    plain = load(tiny(member), tokens="4" if member == "hf-siglip2" else "all")
    own = pooled(plain, "text", contents("text", [])).tokens[2]
    if len(own) < 4:
        expected = own[-1] if kind == "last" else by_hand(kind, None, own[None])[0]
        np.testing.assert_allclose(pooled(encoder, "text", contents("text", [])[2:]).pooled[0], expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small", "vit_b_32"])
def test_of_torchvision(tmp_path, image_files, architecture):
    """A convolutional network's last map, or a vision transformer's tokens, are pooled."""
    from safetensors.torch import save_file
    from torchvision.models import get_model

    torch.manual_seed(0)
    model = get_model(architecture).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    options = {"weights": tmp_path / "w.safetensors", "device": "cpu"}
    items = contents("image", image_files[:2])

    def made(kind):
        encoder = load_encoder(f"torchvision:{architecture}", pooling=kind, **options)
        x = encoder.collate("image", [encoder.prepare("image", one) for one in items])[0]
        return encoder, pooled(encoder, "image", items).pooled, x

    with torch.inference_mode():
        encoder, found, x = made("max")
        if architecture == "vit_b_32":
            cells = model._process_input(x)
            states = model.encoder(torch.cat([model.class_token.expand(len(x), -1, -1), cells], 1)).numpy()
            expected = by_hand("max", None, states[:, 1:])
            np.testing.assert_allclose(made("cls")[1], states[:, 0], atol=1e-4)
            np.testing.assert_allclose(
                made("cls")[1], pooled(load_encoder(encoder.name, **options), "image", items).pooled, atol=1e-4
            )
        else:
            seen = []
            model.avgpool.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
            model(x)
            expected = seen[0].amax((2, 3)).numpy()
            np.testing.assert_allclose(made("mean")[1], seen[0].mean((2, 3)).numpy(), atol=1e-5)
            with pytest.raises(EncoderError, match=r"--pooling cls: it has no class token\. There are: mean, max"):
                made("cls")
    np.testing.assert_allclose(found, expected, atol=1e-4)
    spec = encoder.spec("image", "float16")
    assert (spec.pooling, spec.layer) == ("max", "last tokens")
    assert load_again(spec, weights=options["weights"], device="cpu").spec("image", "float16") == spec


def test_what_torchvision_cannot(tmp_path):
    """A model of torchvision that pools within its code is refused in one line."""
    from safetensors.torch import save_file
    from torchvision.models import get_model

    for architecture in ("alexnet", "squeezenet1_1"):
        save_file(get_model(architecture).state_dict(), tmp_path / "w.safetensors")
        with pytest.raises(EncoderError) as caught:
            load_encoder(f"torchvision:{architecture}", weights=tmp_path / "w.safetensors", pooling="max", device="cpu")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("member", ["timm-vit", "timm-conv", "open_clip", "hf-vit", "hf-bert", "hf-clip"])
def test_what_is_in_the_spec(tiny, member):
    """Another pooling is another spec, which builds the same encoder again; without one the spec is what it was."""
    own = tiny(member)
    side = own.modalities[0]
    plain, most = load(own).spec(side, "float16"), load(own, pooling="max").spec(side, "float16")
    was = {"timm": "forward_head(pre_logits)", "open_clip": "projection"}
    was |= {"hf-vit": "default", "hf-bert": "mean", "hf-clip": "projection"}
    assert plain.pooling == was.get(member, was.get(member.partition("-")[0]))
    with pytest.raises(SpecMismatch, match="pooling: stored"):
        plain.require_same(most, f"f/{side}")
    for spec in (plain, most):
        assert load_again(spec, device="cpu").spec(side, "float16") == spec


def test_what_there_is_not(tiny):
    """A pooling that no encoder has, or that this back end has not, is refused with what there is."""
    assert ": --pooling 'maen'. Did you mean 'mean'? There are: cls, mean, cls+mean, max, last." in error_of(
        tiny("hf-vit"), pooling="maen"
    )
    assert "does not support --pooling, which is for timm:…" in error_of(tiny("texture"), pooling="mean")


def test_features_of_two_poolings_never_mix(tiny, image_files, tmp_path):
    """A store refuses a second pooling under one name, and holds both under two."""
    (tmp_path / "m.csv").write_text("\n".join(["id,image", *(f"{i},{file}" for i, file in enumerate(image_files))]))
    words = {"manifest": tmp_path / "m.csv", "store": tmp_path / "a.hw", "encoder": tiny("timm-vit").spec}
    embed(**words, name="v", device="cpu", pooling="cls+mean")
    with pytest.raises(SpecMismatch, match="pooling"):
        embed(**words, name="v", device="cpu")
    store = embed(**words, name="w", device="cpu")
    assert store.read("v/image").X.shape[1] == 2 * store.read("w/image").X.shape[1]
