"""Images of another size than the encoder was trained for: more tokens of the same model, by its library's own ways."""

import json

import numpy as np
import pytest
from PIL import Image

from headwater.api import doctor, embed, open_run, similar
from headwater.embed import load_again, load_encoder
from headwater.embed.load import parse_image_size
from headwater.errors import EncoderError
from headwater.store import open_store

pytest.importorskip("transformers")
SIZED = (
    *("timm-conv", "timm-vit", "timm-vit-registers", "timm-nhwc", "timm-stage"),
    *("open_clip", "open_clip-timm", "hf-clip", "hf-siglip", "hf-clip_vision", "hf-vit"),
    *("hf-dinov2", "hf-dinov2_registers", "hf-convnext", "hf-resnet", "hf-swin", "hf-dinov3_vit"),
)
SIDE = 64  # of all of them


def load(member, **options):
    return load_encoder(member.spec, device="cpu", precision="fp32", **{**member.options, **options})


def vectors(encoder, image):
    made = encoder.encode("image", [encoder.prepare_image(image)])
    return made.pooled[0], None if made.tokens is None else made.tokens[0]


@pytest.fixture(scope="module")
def image(picture, tmp_path_factory):
    return Image.open(picture(tmp_path_factory.mktemp("size") / "a.png", 3, (150, 140))).convert("RGB")


@pytest.mark.parametrize("name", SIZED)
def test_twice_the_size_is_four_times_the_tokens(name, tiny, image):
    """Of every kind of model; the spec says the size, and builds the same encoder again."""
    own = load(tiny(name), tokens="all").spec("image", "float16")
    encoder = load(tiny(name), tokens="all", image_size=str(2 * SIDE))
    spec = encoder.spec("image", "float16")
    pooled, tokens = vectors(encoder, image)
    assert spec.n_tokens == 4 * own.n_tokens
    assert tokens.shape == (spec.n_tokens, own.token_dim)
    assert pooled.shape == (own.dim,)
    assert np.isfinite(pooled).all()
    assert spec.preprocessing["image_size"] == [2 * SIDE, 2 * SIDE]
    assert "image_size" not in own.preprocessing
    again = load_again(spec, device="cpu")
    assert again.spec("image", "float16") == spec
    assert np.allclose(vectors(again, image)[0], pooled, atol=1e-5)


@pytest.mark.parametrize("name", ["timm-vit", "timm-conv", "open_clip", "hf-clip", "hf-siglip", "hf-vit", "hf-dinov2"])
def test_its_own_size_changes_nothing(name, tiny, image):
    """Asked for the size that it has, an encoder gives what it always does."""
    plain, sized = load(tiny(name)), load(tiny(name), image_size=SIDE_WORDS)
    assert np.allclose(vectors(plain, image)[0], vectors(sized, image)[0], atol=1e-5)


SIDE_WORDS = f"{SIDE}x{SIDE}"


@pytest.mark.parametrize("name", ["timm-vit", "timm-conv", "open_clip", "hf-clip", "hf-siglip", "hf-dinov2"])
def test_height_and_width(name, tiny, image):
    """They may differ, height first: what is encoded has that shape, and all of the image."""
    encoder = load(tiny(name), tokens="all", image_size="96x64")
    pixels = encoder.collate("image", [encoder.prepare_image(image)])[0]
    assert tuple(pixels.shape[2:]) == (96, 64)
    assert vectors(encoder, image)[1].shape[0] == 96 * 64 // (1024 if "con" in name else 256)


def test_position_embeddings_are_interpolated_as_the_library_does(tiny, image):
    """A ViT at another size is timm's own, built at that size from the same weights."""
    import timm
    import torch

    name = tiny("timm-vit").spec.removeprefix("timm:")
    theirs = timm.create_model(name, pretrained=True, num_classes=0, img_size=(96, 128)).eval()
    encoder = load(tiny("timm-vit"), image_size="96x128")
    x = encoder.collate("image", [encoder.prepare_image(image)])[0]
    with torch.inference_mode():
        expected = theirs.forward_head(theirs.forward_features(x), pre_logits=True)[0].numpy()
    assert np.allclose(vectors(encoder, image)[0], expected, atol=1e-5)


def test_a_square_keeps_the_margin_in_proportion(tiny):
    """A processor that crops the middle of a larger image crops the same share of a larger one."""
    own, sized = (load(tiny("hf-clip"), **options)._processor for options in ({}, {"image_size": "128"}))
    assert (
        own.size["shortest_edge"] / own.crop_size["height"] == sized.size["shortest_edge"] / sized.crop_size["height"]
    )
    assert sized.crop_size["height"] == 128


def test_from_the_command_line_to_a_tuned_encoder(tiny, picture, tmp_path, command):
    """embed stores the tokens of the size; fine-tune trains at it; its run is embedded at it, and no other way."""
    rows = ["image,label,patient"]
    for i in range(12):
        picture(tmp_path / f"{i}.png", i, (80, 80))
        rows.append(f"{i}.png,{'ab'[i % 2]},{i // 2}")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    spec = tiny("timm-vit").spec
    store = tmp_path / "a.hw"
    words = (tmp_path / "m.csv", store, "--encoder", spec, "--device", "cpu", "--precision", "fp32", "--name", "v")
    assert command("embed", *words, "--tokens", "all", "--image-size", "128").status == 0
    assert open_store(store).features("v/image").spec.n_tokens == 64
    assert "image_size: stored [128, 128], now None" in command("embed", *words, "--tokens", "all").error
    done = command(
        *("fine-tune", tmp_path / "m.csv", "--encoder", spec, "--label", "label", "--groups", "patient"),
        *("--train", "lora", "--epochs", "1", "--folds", "2", "--image-size", "128", "--out", tmp_path / "run"),
        *("--device", "cpu", "--warmup", "0"),
    )
    assert done.status == 0, done.error
    assert open_run(tmp_path / "run").config["image_size"] == "128"
    options = {"encoder": spec, "adapter": tmp_path / "run", "device": "cpu"}
    with pytest.raises(EncoderError, match="was trained on images of 128 x 128 pixels"):
        embed(tmp_path / "m.csv", store, image_size="64", **options)
    tuned = embed(tmp_path / "m.csv", store, **options)  # the run says the size
    (name,) = [name for name in tuned.feature_names() if name.split("/")[0] != "v"]
    assert tuned.features(name).spec.preprocessing["image_size"] == [128, 128]


def test_a_tuned_encoder_brings_its_steps(tiny, picture, tmp_path, command, refused):
    """What was done to the images that an encoder was trained on is done to those it embeds, and nothing else."""
    rows = ["image,label,patient"]
    for i in range(12):
        picture(tmp_path / f"{i}.png", i, (80, 80))
        rows.append(f"{i}.png,{'ab'[i % 2]},{i // 2}")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    spec, run, stained = tiny("timm-vit").spec, tmp_path / "run", f"reinhard={tmp_path / '3.png'}"
    tune = ("fine-tune", tmp_path / "m.csv", "--encoder", spec, "--label", "label", "--groups", "patient", "--train")
    tune = (*tune, "lora", "--epochs", "1", "--folds", "2", "--device", "cpu", "--warmup", "0")
    done = command(*tune, "--step", "resize=64x64", "--step", stained, "--out", run)
    assert done.status == 0, done.error
    (tmp_path / "3.png").rename(tmp_path / "moved.png")  # its colours are known by their numbers
    rows[4] = rows[4].replace("3.png", "moved.png")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    words = ("embed", tmp_path / "m.csv", tmp_path / "a.hw", "--encoder", spec, "--adapter", run, "--device", "cpu")
    assert "was trained with --step resize=64x64 --step reinhard=" in refused(*words, "--step", "resize=32x32")
    assert command(*words, "--name", "tuned").status == 0
    steps = open_store(tmp_path / "a.hw").features("tuned/image").spec.preprocessing["steps"]
    assert steps[0] == "resize=64x64"
    assert len(steps[1].removeprefix("reinhard=").split(",")) == 6
    said = refused(*tune, "--adapter", run, "--step", "macenko")
    assert f"was trained with --step {' --step '.join(steps)}. Leave --step out." in said
    assert command(*tune, "--adapter", run, "--out", tmp_path / "on").status == 0
    assert json.loads((tmp_path / "on/encoder/0/adapter.json").read_text())["steps"] == steps
    assert "Embed with --adapter" in refused("explain", run, "--id", "0")


@pytest.mark.parametrize("name", ["open_clip", "hf-clip"])
def test_words_are_still_found(name, tiny, picture, tmp_path):
    """A dual encoder whose images are larger still reads texts that are asked for later."""
    for i in range(4):
        picture(tmp_path / f"{i}.png", i, (80, 80))
    (tmp_path / "m.csv").write_text("image,text\n" + "".join(f"{i}.png,a gland {i}\n" for i in range(4)))
    options = {"name": "c", "device": "cpu", "precision": "fp32", "image_size": 2 * SIDE}
    store = embed(tmp_path / "m.csv", tmp_path / "a.hw", encoder=tiny(name).spec, **options)
    hits = similar(store, features="c/image", text="a new phrase", k=2, device="cpu")
    assert len(hits) == 2


def test_written_ways():
    """A number, two, or what a spec holds."""
    assert parse_image_size("512") == parse_image_size(512) == (512, 512)
    assert parse_image_size("1024x512") == parse_image_size([1024, 512]) == (1024, 512)
    assert parse_image_size(None) is None


@pytest.mark.parametrize("wrong", ["", "0", "12x", "1x2x3", "-5", "large", "²"])
def test_no_size(wrong):
    """Is said to be none."""
    with pytest.raises(EncoderError, match="must be pixels, N, or height and width, HxW, such as 1024x512"):
        parse_image_size(wrong)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf-siglip2", "reads images in their own aspect ratio. Leave --image-size out"),
        ("open_clip-resnet", "does not interpolate the position embeddings"),
        ("hf-qwen2_vl", "reads images in their own aspect ratio. Leave --image-size out"),
        ("texture", "does not support --image-size, which is for timm:… and open_clip:… and hf:…. Leave it out"),
        ("builtin-clip", "does not support --image-size, which is for timm:… and open_clip:… and hf:…. Leave it out"),
    ],
)
def test_encoders_that_go_by_no_size(name, said, tiny):
    """Refuse one."""
    options = {"tokens": "4"} if name == "hf-siglip2" else {}
    with pytest.raises(EncoderError, match=said):
        load(tiny(name), image_size="128", **options)


def test_a_size_that_is_no_multiple_of_the_patches(tiny):
    """Is refused with the size and what to try."""
    with pytest.raises(
        EncoderError, match=r"cannot read images of 100 x 100 pixels .*Give a multiple of the patch size"
    ):
        load(tiny("timm-vit"), image_size="100")


def test_square_images_alone(tiny):
    """Where a processor knows no other, both sides must be equal."""
    with pytest.raises(EncoderError, match=r"reads only square images\. Pass --image-size 96"):
        load(tiny("hf-convnext"), image_size="96x64")


def test_texts_have_no_size(tiny, tmp_path):
    """An encoder of texts alone is refused where images are not meant."""
    (tmp_path / "m.csv").write_text("text\na gland\na mass\n")
    with pytest.raises(EncoderError, match=r"reads no images\. Leave --image-size out"):
        embed(tmp_path / "m.csv", tmp_path / "a.hw", encoder=tiny("hf-bert").spec, image_size="128", device="cpu")
    with pytest.raises(EncoderError, match="does not encode images: leave --image-size out"):
        doctor(encoder=tiny("hf-bert").spec, image_size="128", device="cpu")
