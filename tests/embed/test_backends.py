"""Each back end gives what its library gives, used by hand with the library's own preprocessing."""

import numpy as np
import pytest
import torch
from PIL import Image

from headwater.embed import Content, content_key, load_encoder

TEXTS = ["benign tissue", "a mass of the left breast, with severe tissue", "", "malignant gland " * 40, "gland!"]


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.inference_mode():
        yield


def folder_of(member):
    return str(member.folder)


def pooled(member, modality, items, tokens="none"):
    encoder = load_encoder(member.spec, device="cpu", precision="fp32", tokens=tokens)
    contents = [
        Content(content_key(item.read_bytes() if modality == "image" else item.encode()), item) for item in items
    ]
    return encoder.encode(modality, [encoder.prepare(modality, content) for content in contents])


def open_images(files):
    return [Image.open(file).convert("RGB") for file in files]


def assert_close(actual, expected):
    expected = expected.numpy() if isinstance(expected, torch.Tensor) else expected
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.usefixtures("resized_by_pillow")
@pytest.mark.parametrize("member", ["timm-conv", "timm-vit", "timm-vit-registers", "timm-nhwc"])
def test_timm(tiny, image_files, member):
    """Pooled features are ``model(x)`` without a classifier, tokens the feature map's cells, row by row."""
    import timm

    model = timm.create_model(tiny(member).spec.removeprefix("timm:"), pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    x = torch.stack([transform(image) for image in open_images(image_files)])
    encoded = pooled(tiny(member), "image", image_files, tokens="all")
    assert_close(encoded.pooled, model(x))
    cells = model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True, output_fmt="NCHW")[0]
    assert_close(encoded.tokens, cells.flatten(2).transpose(1, 2))


@pytest.mark.usefixtures("resized_by_pillow")
@pytest.mark.parametrize("member", ["open_clip", "open_clip-resnet", "open_clip-timm", "open_clip-bert"])
def test_open_clip(tiny, image_files, member):
    """Pooled features are those of ``encode_image`` and ``encode_text``."""
    import open_clip

    name = tiny(member).spec.removeprefix("open_clip:")
    model, _, transform = open_clip.create_model_and_transforms(name)
    model.eval()
    x = torch.stack([transform(image) for image in open_images(image_files)])
    assert_close(pooled(tiny(member), "image", image_files).pooled, model.encode_image(x))
    ids = open_clip.get_tokenizer(name)(TEXTS)
    assert_close(pooled(tiny(member), "text", TEXTS).pooled, model.encode_text(ids))


@pytest.mark.parametrize(
    ("member", "padding"), [("hf-clip", True), ("hf-siglip", "max_length"), ("hf-siglip2", "max_length")]
)
def test_dual_encoders_of_transformers(tiny, image_files, member, padding):
    """Pooled features are the embeddings that the whole model compares; SigLIP's texts are padded to full length."""
    import transformers

    folder = folder_of(tiny(member))
    model = transformers.AutoModel.from_pretrained(folder).eval()
    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(open_images(image_files), return_tensors="pt")
    words = transformers.AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding=padding, truncation=True, return_tensors="pt"
    )
    out = model(input_ids=words["input_ids"], attention_mask=words.get("attention_mask"), **pixels)
    image, text = pooled(tiny(member), "image", image_files).pooled, pooled(tiny(member), "text", TEXTS).pooled
    assert_close(image / np.linalg.norm(image, axis=1, keepdims=True), out.image_embeds)
    assert_close(text / np.linalg.norm(text, axis=1, keepdims=True), out.text_embeds)


@pytest.mark.parametrize(
    ("member", "own"),
    [
        ("hf-vit", lambda out: out.last_hidden_state[:, 0]),
        ("hf-dinov2", lambda out: out.last_hidden_state[:, 0]),
        ("hf-dinov2_registers", lambda out: out.last_hidden_state[:, 0]),
        ("hf-dinov3_vit", lambda out: out.last_hidden_state[:, 0]),
        ("hf-dinov3_convnext", lambda out: out.pooler_output),
        ("hf-clip_vision", lambda out: out.pooler_output),
        ("hf-convnext", lambda out: out.pooler_output),
        ("hf-resnet", lambda out: out.last_hidden_state.mean((2, 3))),
        ("hf-swin", lambda out: out.last_hidden_state.mean(1)),
    ],
)
def test_vision_models_of_transformers(tiny, image_files, member, own):
    """Pooled is the class token after the last norm, or what the model makes of its feature map."""
    import transformers

    folder = folder_of(tiny(member))
    model = transformers.AutoModel.from_pretrained(folder).eval()
    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(open_images(image_files), return_tensors="pt")
    out = model(**pixels)
    encoded = pooled(tiny(member), "image", image_files, tokens="all")
    assert_close(encoded.pooled, own(out))
    hidden = out.last_hidden_state
    patches = hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden[:, -encoded.tokens.shape[1] :]
    assert_close(encoded.tokens, patches)
    left_out = 0 if hidden.ndim == 4 else hidden.shape[1] - encoded.tokens.shape[1]
    assert left_out == {
        "hf-dinov2_registers": 4,
        "hf-dinov3_vit": 4,
        "hf-convnext": 0,
        "hf-resnet": 0,
        "hf-swin": 0,
    }.get(member, 1)


@pytest.mark.parametrize("member", ["hf-bert", "hf-distilbert", "hf-roberta", "hf-modernbert"])
def test_text_models_of_transformers(tiny, member):
    """Pooled is the mean over a text's own tokens, and its tokens are the last hidden state."""
    import transformers

    folder = folder_of(tiny(member))
    model = transformers.AutoModel.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding=True, truncation=True, return_tensors="pt"
    )
    hidden, mask = model(**words).last_hidden_state, words["attention_mask"].bool()
    encoded = pooled(tiny(member), "text", TEXTS, tokens="all")
    for row in range(len(TEXTS)):
        assert_close(encoded.pooled[row], hidden[row][mask[row]].mean(0))
        assert_close(encoded.tokens[row], hidden[row][mask[row]])


def test_logit_scales(tiny):
    """A dual encoder's spec says what its cosines are multiplied by; no other has such a number."""
    for member, modality in (("open_clip", "text"), ("hf-clip", "image")):
        assert load_encoder(tiny(member).spec, device="cpu").spec(modality, "float16").logit_scale == pytest.approx(
            1 / 0.07, rel=1e-4
        )
    assert load_encoder(tiny("hf-bert").spec, device="cpu").spec("text", "float16").logit_scale is None
