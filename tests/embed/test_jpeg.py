"""JPEG files that torch decodes where the encoder is: the same images, in a feature set of their own."""

import numpy as np
import pytest
from PIL import Image

from headwater.embed import Content, fill, key_of_file, load_encoder
from headwater.errors import EncoderError, ImageError, InputError, SpecMismatch
from headwater.sources.images import is_plain_jpeg, read_image
from headwater.sources.steps import parse_steps
from headwater.store import create_store

pytest.importorskip("torchcodec.decoders")

SIDES = [(90, 70), (64, 200), (224, 224)]


def picture_of(width, height, mode="RGB"):
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return Image.fromarray(fine).resize((width, height)).convert(mode)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images of several kinds: plain JPEG files, one that is turned, one in CMYK, a grey one, and a PNG file."""
    folder = tmp_path_factory.mktemp("jpeg")
    for i, (width, height) in enumerate(SIDES):
        picture_of(width, height).save(folder / f"{i}.jpg", quality=90)
    turned = Image.Exif()
    turned[274] = 6
    picture_of(90, 70).save(folder / "turned.jpg", exif=turned)
    picture_of(80, 60, "CMYK").save(folder / "cmyk.jpg")
    picture_of(80, 60, "L").save(folder / "grey.jpg")
    picture_of(60, 90).save(folder / "other.png")
    return sorted(folder.iterdir())


def contents_of(files):
    return [Content(key_of_file(file), file) for file in files]


def encoder_of(tiny, **options):
    return load_encoder(
        tiny("timm-vit").spec, device="cpu", precision="fp32", probing="never", **tiny("timm-vit").options, **options
    )


def test_plain_files_are_told_by_their_header(files):
    """Files that every decoder reads alike are plain; turned, CMYK, cut and huge ones are not, nor are others."""
    plain = {file.name: is_plain_jpeg(file.read_bytes()) for file in files}
    assert plain == {"0.jpg": True, "1.jpg": True, "2.jpg": True, "grey.jpg": True} | dict.fromkeys(
        ["cmyk.jpg", "other.png", "turned.jpg"], False
    )
    assert not is_plain_jpeg(files[0].read_bytes()[:10])
    assert not is_plain_jpeg(files[0].read_bytes(), max_pixels=100)


def test_it_is_given_alone():
    """No step can follow where torch decodes, and the step is part of the spec like any other."""
    assert parse_steps(["jpeg=torch"]).names == ("jpeg=torch",)
    for words in (["jpeg=torch", "mammogram"], ["bits=12", "jpeg=torch"]):
        with pytest.raises(InputError):
            parse_steps(words)
    with pytest.raises(InputError, match="write it as jpeg=torch"):
        parse_steps(["jpeg=gpu"])


def test_features_are_those_of_pillow_up_to_rounding(tiny, files):
    """Vectors of all kinds of files are almost those that Pillow's images give, and the spec differs in its steps."""
    usual, by_torch = encoder_of(tiny), encoder_of(tiny, steps=("jpeg=torch",))
    contents = contents_of(files)
    expected = usual.encode("image", [usual.prepare("image", content) for content in contents]).pooled
    found = by_torch.encode("image", [by_torch.prepare("image", content) for content in contents]).pooled
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.999
    assert by_torch.spec("image", "float32").preprocessing["steps"] == ["jpeg=torch"]
    with pytest.raises(SpecMismatch, match="preprocessing"):
        by_torch.spec("image", "float32").require_same(usual.spec("image", "float32"), "v/image")


def test_a_damaged_file_fails_alone(tiny, files, tmp_path):
    """Files that turn out to be damaged when they are decoded are recorded as failed, and the others are stored."""
    whole = files[0].read_bytes()
    bad = []
    for name, data in (("cut.jpg", whole[: len(whole) // 2]), ("noise.jpg", whole[:700] + bytes(range(256)) * 4)):
        (tmp_path / name).write_bytes(data)
        bad.append(tmp_path / name)
        with pytest.raises(ImageError):
            read_image(tmp_path / name)
    encoder = encoder_of(tiny, steps=("jpeg=torch",))
    contents = contents_of([*files, *bad])
    features = create_store(tmp_path / "s.hw").require_features(
        "v/image", encoder.spec("image", "float32"), len(contents)
    )
    result = fill(features, encoder, contents, batch_size=4, workers=2)
    assert {content.source for content, _ in result.failed} == set(bad)
    assert all(str(content.source) in why for content, why in result.failed)
    assert result.embedded == len(files)


def test_encoders_that_cannot_do_it_say_so(tmp_path):
    """An encoder without such a pipeline refuses the step, in one line."""
    with pytest.raises(EncoderError, match="jpeg=torch goes with encoders of timm"):
        load_encoder("builtin:texture", steps=("jpeg=torch",))
