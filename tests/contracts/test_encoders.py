"""What every encoder keeps: an item's vector is its own, whatever it is encoded with, and nothing changes the encoder.

In fp32 two vectors count as the same when no value differs by more than 2e-5 of the largest.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headwater.embed import Content, content_key, load_encoder
from headwater.store import FeatureSpec, pair_key

TOLERANCE = 2e-5
N_POOLED = "3"  # not a divisor of any member's grid
TEXTS = [
    "benign tissue",
    "a mass of the left breast, with severe tissue",
    "",
    "malignant gland " * 40,
    "mass! ",
    "é ü 癌 unknown",
    "gland",
]
IMAGES = [
    "timm-conv",
    "timm-efficientnet",
    "timm-vit",
    "timm-vit-registers",
    "timm-nhwc",
    "timm-stage",
    "hf-clip_vision",
    "hf-vit",
    "hf-dinov2",
]
IMAGES += ["hf-dinov2_registers", "hf-dinov3_vit", "hf-dinov3_convnext", "hf-convnext", "hf-resnet", "hf-swin"]
DUAL = ["open_clip", "open_clip-resnet", "open_clip-timm", "open_clip-bert", "hf-clip", "hf-siglip"]
DECODERS = ["hf-qwen2_vl", "hf-smolvlm"]
PAIRS = ["hf-qwen2_vl-pair", "hf-smolvlm-pair"]
TEXTS_ALONE = ["hf-bert", "hf-distilbert", "hf-roberta", "hf-modernbert"]
SHAPED = ["hf-siglip2"]  # its images become different numbers of tokens
MOST = dict.fromkeys([*DECODERS, *PAIRS, "torchvision"], "none") | dict.fromkeys(SHAPED, N_POOLED)
TOKENLESS = [
    *((member, m) for member in DECODERS for m in ("image", "text")),
    *((member, "pair") for member in PAIRS),
    ("torchvision", "image"),
    ("texture", "image"),
    ("ngram", "text"),
    ("stub", "image"),
    ("stub", "text"),
]
WITH_WEIGHTS = [*IMAGES, "torchvision", *DUAL, *DECODERS, *PAIRS, *SHAPED, *TEXTS_ALONE]
MODALITIES = [(m, "image") for m in IMAGES + DUAL] + [(m, "text") for m in DUAL + TEXTS_ALONE]
CASES = [(*case, tokens) for case in MODALITIES for tokens in ("none", "all", N_POOLED)]
CASES += [(*case, "none") for case in TOKENLESS]
CASES += [(member, m, tokens) for member in SHAPED for m in ("image", "text") for tokens in ("none", N_POOLED)]
CASES += [("builtin-clip", m, tokens) for m in ("image", "text") for tokens in ("none", "all", N_POOLED)]
every_case = pytest.mark.parametrize(("member", "modality", "tokens"), CASES)


@pytest.fixture(scope="session")
def loaded(tiny):
    """Return a function that loads a member, once."""
    encoders = {}

    def load(member, tokens):
        if (member, tokens) not in encoders:
            encoders[member, tokens] = load_encoder(
                tiny(member).spec, tokens=tokens, device="cpu", precision="fp32", **tiny(member).options
            )
        return encoders[member, tokens]

    return load


@pytest.fixture(scope="session")
def contents(image_files):
    """Return a function from a modality to its items."""
    items = {
        "image": [Content(content_key(file.read_bytes()), file) for file in image_files],
        "text": [Content(content_key(text.encode()), text) for text in TEXTS],
    }
    pairs = zip([*image_files, *image_files], items["text"], strict=False)
    items["pair"] = [
        Content(pair_key(content_key(file.read_bytes()), text.key), file, text.text()) for file, text in pairs
    ]
    return items.__getitem__


def vectors(encoder, modality, batch):
    """Return a list of (pooled, tokens or None), one for each prepared item."""
    encoded = encoder.encode(modality, batch)
    tokens = [None] * len(batch) if encoded.tokens is None else list(encoded.tokens)
    assert len(encoded.pooled) == len(tokens) == len(batch)
    return list(zip(encoded.pooled, tokens, strict=True))


def assert_same(actual, expected):
    for (pooled, tokens), (pooled_expected, tokens_expected) in zip(actual, expected, strict=True):
        assert_close(pooled, pooled_expected)
        assert (tokens is None) == (tokens_expected is None)
        if tokens is not None:
            assert_close(tokens, tokens_expected)


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * max(float(np.abs(expected).max()), 1e-6))


@every_case
def test_a_vector_does_not_depend_on_its_company(loaded, contents, member, modality, tokens):
    """Alone, in any batch, in any order, and once more: the same, padding and all."""
    encoder = loaded(member, tokens)
    prepared = [encoder.prepare(modality, content) for content in contents(modality)]
    alone = [vectors(encoder, modality, [one])[0] for one in prepared]
    assert_same(vectors(encoder, modality, prepared), alone)
    assert_same(vectors(encoder, modality, prepared[::-1]), alone[::-1])
    for one in range(len(prepared)):  # a short text beside the longest, and the longest beside a short one
        pair = [prepared[one], prepared[3]]
        assert_same(vectors(encoder, modality, pair), [alone[one], alone[3]])
    assert_same([vectors(encoder, modality, [one])[0] for one in prepared], alone)
    if member != "stub":
        pooled = np.stack([vector for vector, _ in alone])
        assert len(np.unique(pooled.round(4), axis=0)) == len(pooled), "different items have different vectors"


@every_case
def test_two_threads_at_once(loaded, contents, member, modality, tokens):
    """Preparing and encoding in several threads at once gives what one thread gives."""
    encoder = loaded(member, tokens)

    def alone(content):
        prepared = encoder.prepare(modality, content)
        encoder.cut(modality, content, prepared)
        return vectors(encoder, modality, [prepared])[0]

    expected = [alone(content) for content in contents(modality)]
    with ThreadPoolExecutor(2) as pool:
        assert_same(list(pool.map(alone, list(contents(modality)) * 3)), expected * 3)


@every_case
def test_shapes_are_the_specs(loaded, contents, member, modality, tokens):
    """Dimensions, numbers of tokens and text lengths are those that the store is told in advance."""
    encoder = loaded(member, tokens)
    assert modality in encoder.modalities
    spec = encoder.spec(modality, "float16")
    assert (spec.modality, spec.tokens, spec.dtype) == (modality, tokens, "float16")
    assert spec.ragged == (modality == "text" and tokens != "none")
    for content in contents(modality):
        prepared = encoder.prepare(modality, content)
        pooled, matrix = vectors(encoder, modality, [prepared])[0]
        assert pooled.shape == (spec.dim,)
        if tokens == "none":
            assert (matrix, spec.n_tokens, spec.token_dim) == (None, None, None)
        elif modality == "image":
            assert matrix.shape == (spec.n_tokens, spec.token_dim)
            assert tokens == "all" or spec.n_tokens == int(tokens)
        else:
            assert matrix.shape == (encoder.length(modality, prepared), spec.token_dim)
            assert len(matrix) >= 1
            assert tokens == "all" or len(matrix) <= int(tokens)


@pytest.mark.parametrize("member", [*DUAL, *DECODERS, *SHAPED, *TEXTS_ALONE, "ngram", "stub"])
def test_a_text_that_is_cut_is_known(loaded, contents, member):
    """A text is said to be cut when more words at its end would change nothing of what is encoded."""
    encoder = loaded(member, "none")

    def ids(text):
        prepared = encoder.prepare("text", Content(content_key(text.encode()), text))
        return np.asarray(prepared.arrays["input_ids"][0] if member in DECODERS else prepared).tolist()

    flags = []
    for content in contents("text"):
        flags.append(encoder.cut("text", content, encoder.prepare("text", content)))
        assert flags[-1] == (ids(content.text()) == ids(f"{content.text()} mass of the gland")) or member == "stub"
    assert any(flags) == (member not in ("ngram", "stub"))
    assert not all(flags)


@pytest.mark.parametrize("member", IMAGES + DUAL)
def test_tokens_do_not_change_the_pooled_vector(loaded, contents, member):
    """A pooled vector is the same whether tokens are asked for beside it or not."""
    for modality in loaded(member, "none").modalities:
        prepared = [loaded(member, "none").prepare(modality, content) for content in contents(modality)]
        expected = loaded(member, "none").encode(modality, prepared).pooled
        assert_close(loaded(member, "all").encode(modality, prepared).pooled, expected)


@pytest.mark.parametrize("member", WITH_WEIGHTS)
def test_an_encoder_is_frozen(loaded, contents, member):
    """Encoding leaves every parameter and running statistic as it was, bit by bit, and needs no gradient."""
    encoder = loaded(member, MOST.get(member, "all"))
    module = encoder._frozen.module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for modality in encoder.modalities:
        encoder.encode(modality, [encoder.prepare(modality, content) for content in contents(modality)])
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    for name, tensor in module.state_dict().items():
        assert tensor.numpy().tobytes() == before[name].numpy().tobytes(), name


@every_case
def test_a_spec_is_plain_json_and_the_same_twice(loaded, tiny, member, modality, tokens):
    """A spec survives JSON, and an encoder that is built again has an equal one."""
    spec = loaded(member, tokens).spec(modality, "float16")
    assert FeatureSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    again = load_encoder(tiny(member).spec, tokens=tokens, device="cpu", **tiny(member).options)
    spec.require_same(again.spec(modality, "float16"), "again")


@pytest.mark.parametrize("member", WITH_WEIGHTS)
def test_one_weight_changes_the_spec(loaded, tiny, tmp_path, member):
    """The digest of the weights changes with the last bit of any of them."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny(member).folder, tmp_path / "copy")
    file = next(folder.glob("*.safetensors"))
    state = load_file(file)
    name = next(n for n in sorted(state) if state[n].ndim > 1 and not n.startswith(("pooler.", "head.")))
    state[name].view(-1)[0] += 2e-3
    save_file(state, file, {"format": "pt"})
    spec, options = tiny(member).spec.replace(str(tiny(member).folder), str(folder)), dict(tiny(member).options)
    if "weights" in options:
        options["weights"] = file
    changed = load_encoder(spec, device="cpu", **options)
    modality = tiny(member).modalities[0]
    old, new = (e.spec(modality, "float16") for e in (loaded(member, "none"), changed))
    assert len(old.weights) == 32
    assert old.weights != new.weights
    assert old.preprocessing == new.preprocessing


@pytest.mark.parametrize("member", [*IMAGES, *DUAL, *DECODERS, *SHAPED, "texture", "stub"])
def test_any_size_of_image(loaded, tmp_path, member):
    """One pixel, or a line of them, is an image too."""
    encoder = loaded(member, "none")
    for size in ((1, 1), (1, 60), (300, 2)):
        file = tmp_path / "a.png"
        Image.new("RGB", size, (200, 100, 50)).save(file)
        prepared = encoder.prepare("image", Content(content_key(file.read_bytes()), Path(file)))
        assert np.isfinite(encoder.encode("image", [prepared]).pooled).all()


@pytest.mark.parametrize("member", WITH_WEIGHTS)
def test_loading_is_silent(tiny, capfd, member):
    """Nothing that a library logs or counts while it loads reaches the terminal."""
    own = tiny(member)
    capfd.readouterr()  # what saving it has said
    load_encoder(own.spec, device="cpu", **own.options)
    assert capfd.readouterr() == ("", "")
