"""Known encoders: the vector of each is the one that its card describes, and its facts are those of others."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import headwater as hw
from headwater import EncoderChoice
from headwater._options import with_options
from headwater.embed import content_key, load_again, load_encoder, unique_images
from headwater.embed.known import KNOWN, known_of, nearest_names
from headwater.embed.model_spec import ModelSpec
from headwater.errors import EncoderError
from tests.models.known import CARDS, TINY, twin

HERE = [name for name, known in KNOWN.items() if known.runs == "here"]
REGISTRY = Path(__file__).parents[2].parent / "shared" / "data" / "raw2features-registry.yaml"


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Return a function from a name to the spec, folder and card's vector of its tiny twin; equal twins are shared."""
    built = {}

    def build(name):
        card = CARDS[name]
        if id(card) not in built:
            folder = tmp_path_factory.mktemp(name)
            built[id(card)] = folder, twin(name, folder)[1]
        folder, vector = built[id(card)]
        known = KNOWN[name].spec
        arguments = {**known.arguments, **TINY} if known.arguments else {}
        spec = ModelSpec(known.backend, known.name, arguments, known.transform)
        return str(spec), folder, vector

    return build


@pytest.fixture(scope="module")
def tile(tmp_path_factory, picture):
    """A tile of 256 pixels, so that it matters how it is resized."""
    return picture(tmp_path_factory.mktemp("tile") / "tile.png", 7, (256, 256))


def weights_for(name, folder):
    """Return what --weights names: the folder, or a file of torchvision."""
    return folder / "weights.safetensors" if KNOWN[name].spec.backend == "torchvision" else folder


def content_of(image):
    return unique_images([image], [content_key(image.read_bytes())])[0][0]


def vector_of(encoder, image):
    prepared = encoder.prepare("image", content_of(image))
    return encoder.encode("image", [prepared]).pooled[0]


@pytest.mark.usefixtures("resized_by_pillow")
@pytest.mark.parametrize("name", HERE)
def test_the_vector_is_the_cards(name, twins, tile):
    """A twin of the same architecture, saved as on the hub, gives the vector of its card's own code."""
    spec, folder, vector = twins(name)
    choice = EncoderChoice(spec, weights=weights_for(name, folder), pooling=KNOWN[name].pooling)
    encoder = load_encoder(choice, device="cpu", precision="fp32", probing="never")
    with torch.inference_mode():
        wanted = vector(Image.open(tile).convert("RGB")).numpy()
    np.testing.assert_allclose(vector_of(encoder, tile), wanted, atol=2e-5)
    assert len(wanted) == encoder.spec("image", "float16").dim
    assert encoder.modalities == ({"image", "text"} if KNOWN[name].text else {"image"})


def test_every_runnable_encoder_has_a_twin():
    """What is said to run here is tested, and is at least 22 encoders."""
    assert set(CARDS) == set(HERE)
    assert len(HERE) >= 22


def test_registers_stay_out_of_the_mean(twins, tile):
    """Virchow2's mean is that of its 256 patches; with its 4 registers it would be another vector."""
    spec, folder, _ = twins("virchow2")
    encoder = load_encoder(EncoderChoice(spec, weights=folder, pooling="cls+mean"), device="cpu", probing="never")
    found = vector_of(encoder, tile)
    model = encoder.module
    with torch.inference_mode():
        out = model.forward_features(encoder.collate("image", [encoder.prepare("image", content_of(tile))])[0])
    assert out.shape[1] == 1 + 4 + 256
    with_registers = torch.cat([out[:, 0], out[:, 1:].mean(1)], -1)[0].numpy()
    assert np.abs(found - with_registers).max() > 1e-3


def test_names_are_plain_and_single():
    """Names are lower-case, without spaces, one each; no two entries are the same spec."""
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name) for name in KNOWN)
    specs = [str(known.spec) for known in KNOWN.values() if known.spec is not None]
    assert len(set(specs)) == len(specs)
    assert all(known.name == name for name, known in KNOWN.items())


def test_entries_are_whole():
    """Each entry runs here, has a file for its authors' code, or says why it cannot run; a gate has a page."""
    for known in KNOWN.values():
        assert (known.spec is not None) + (known.snippet is not None) + (known.blocked is not None) == 1, known.name
        assert known.source.startswith("https://")
        assert known.dim > 0
        assert known.sha256 is None or re.fullmatch("[0-9a-f]{64}", known.sha256)
        transform = known.transform if known.spec is None else known.spec.transform or known.transform
        assert transform is None or transform.size == known.pixels, known.name


@pytest.mark.parametrize("name", HERE)
def test_the_long_form_says_the_same(name):
    """A spec is what it was when it is written and read again, and its name is found from it."""
    spec = str(KNOWN[name].spec)
    assert str(ModelSpec.parse(spec)) == spec
    assert known_of(spec) is KNOWN[name]
    long = EncoderChoice(spec, pooling=KNOWN[name].pooling)
    assert EncoderChoice(name) == long == EncoderChoice(spec)
    assert with_options("f", {"pooling": None}, EncoderChoice(name)) == long  # as commands pass it on
    if KNOWN[name].pooling is not None:
        assert EncoderChoice(name, pooling="mean").pooling == "mean"
    if "?" in spec:
        plain, _, words = spec.partition("?")
        shuffled = "&".join(reversed(words.split("&"))).replace("1e-05", "1.0e-5")
        assert EncoderChoice(f"{plain}?{shuffled}", pooling=KNOWN[name].pooling) == long


def test_unknown_names():
    """A name that is not known gets the nearest ones."""
    assert nearest_names("UNI2_h") == " Did you mean uni2-h or uni?"
    assert nearest_names("") == nearest_names("zzzz") == ""
    with pytest.raises(EncoderError, match=r"unknown encoder 'virchow2\?x=1'\."):
        load_encoder("virchow2?x=1")
    with pytest.raises(EncoderError, match=r"unknown encoder 'virchow-2'\. Did you mean .*virchow2"):
        load_encoder("virchow-2")
    with pytest.raises(EncoderError, match=r"Did you mean dinov2-s14"):
        hw.encoders("dinov2")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("conch", r"conch needs code of its authors\. Save the file that headwater encoders conch prints"),
        ("hibou-l", r"hibou-l does not run here: .*transformers\.onnx"),
        ("titan", r"titan does not run here: .*coordinates"),
    ],
)
def test_what_does_not_run_here(name, said):
    """An encoder that needs code, or cannot run, is one line that says what to do."""
    with pytest.raises(EncoderError, match=said) as caught:
        load_encoder(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["uni2-h", "gigapath"])
def test_gated_and_not_here(name):
    """Without the files, one line names the page of the gate, and how a machine without a network gets them."""
    with pytest.raises(EncoderError) as caught:
        load_encoder(name, device="cpu")
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(f"{name}: cannot be fetched from the hub (")
    assert f"It is gated: accept its terms at {KNOWN[name].source}, then run hf auth login." in said
    place, revision = KNOWN[name].spec.repository
    assert f"(hf download {place} --revision {revision} --local-dir " in said
    assert said.endswith("pass --weights " + place.rpartition("/")[2] + ".")


def on_the_hub(folder, name, cache, monkeypatch):
    """Put a folder into the hub's cache at the revision that an entry pins, and another at main."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    place, revision = KNOWN[name].spec.repository
    repository = cache / f"models--{place.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / revision)
    (repository / "snapshots" / ("1" * 40)).mkdir()
    (repository / "snapshots" / ("1" * 40) / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1" * 40)


@pytest.mark.parametrize("name", ["virchow2", "uni", "gpfm", "phikon", "midnight", "plip", "quiltnet-b-32"])
def test_the_pinned_revision_is_loaded(name, twins, tile, tmp_path, monkeypatch):
    """From the hub's cache comes the revision that the entry pins, and the features are those of the folder."""
    spec, folder, _ = twins(name)
    pooling = KNOWN[name].pooling
    given = load_encoder(EncoderChoice(spec, weights=folder, pooling=pooling), device="cpu", probing="never")
    on_the_hub(folder, name, tmp_path / "hub", monkeypatch)
    fetched = load_encoder(EncoderChoice(spec, pooling=pooling), device="cpu", probing="never")
    assert fetched.spec("image", "float16") == given.spec("image", "float16")
    np.testing.assert_array_equal(vector_of(fetched, tile), vector_of(given, tile))
    assert given.environment()["weights_file"] == str(folder)
    assert "weights_file" not in fetched.environment()


@pytest.mark.parametrize("name", ["virchow2", "phikon", "quiltnet-b-32"])
def test_a_store_loads_the_same_encoder_again(name, twins, tile):
    """The spec that a store keeps builds the encoder again: arguments, transform and pooling are in it."""
    spec, folder, _ = twins(name)
    choice = EncoderChoice(spec, weights=folder, pooling=KNOWN[name].pooling)
    first = load_encoder(choice, device="cpu", probing="never")
    again = load_again(first.spec("image", "float16"), weights=folder, device="cpu", named_by="the store s.hw")
    assert again.spec("image", "float16") == first.spec("image", "float16")
    np.testing.assert_array_equal(vector_of(again, tile), vector_of(first, tile))


def test_weights_of_another_model(twins, tmp_path):
    """A file of another model is refused with what differs."""
    _, folder, _ = twins("virchow2")
    spec, _, _ = twins("h0-mini")
    with pytest.raises(EncoderError, match=r"the weights do not fit this model: .*instead of") as caught:
        load_encoder(EncoderChoice(spec, weights=folder / "model.safetensors"), device="cpu", probing="never")
    assert str(caught.value).startswith(f"--weights {folder / 'model.safetensors'}: ")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EncoderError, match=r"the folder has no file of weights\. Name the file"):
        load_encoder(EncoderChoice(spec, weights=tmp_path / "empty"), device="cpu", probing="never")


def test_another_image_size(twins, tile):
    """--image-size keeps the margin in proportion, and interpolates position embeddings."""
    spec, folder, _ = twins("gigapath")
    choice = EncoderChoice(spec, weights=folder, pooling="cls", image_size=112)
    encoder = load_encoder(choice, device="cpu", probing="never")
    assert encoder.prepare("image", content_of(tile)).shape == (112, 112, 3)
    found = encoder.spec("image", "float16")
    assert (found.preprocessing["resize"], found.preprocessing["crop"]) == ([128], 112)
    again = load_again(found, weights=folder, device="cpu")
    assert again.spec("image", "float16") == found


def test_an_image_size_that_is_no_square(twins, tile):
    """Another shape is not cropped; position embeddings are interpolated to it."""
    spec, folder, _ = twins("dinov2-s14")
    encoder = load_encoder(EncoderChoice(spec, weights=folder, image_size="140x70"), device="cpu", probing="never")
    assert encoder.prepare("image", content_of(tile)).shape == (140, 70, 3)
    assert vector_of(encoder, tile).shape == (48,)


def test_a_folder_asks_the_hub_for_nothing(twins, monkeypatch):
    """With a folder, no file of the hub or of its cache is looked up: a machine without a network need not wait."""
    for name in ("virchow2", "phikon", "quiltnet-b-32"):
        spec, folder, _ = twins(name)
        for place in ("gate", "sentence", "from_open_clip"):
            monkeypatch.setattr(f"headwater.embed.{place}.file_on_hub", lambda *of: pytest.fail(f"looked up {of}"))
        load_encoder(EncoderChoice(spec, weights=folder), device="cpu", probing="never")


def test_code_in_a_folder_is_refused(twins, tmp_path):
    """A folder is checked like any other model's: code of its author runs only if the user trusts it."""
    spec, folder, _ = twins("phikon")
    own = shutil.copytree(folder, tmp_path / "own")
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"attn_implementation": "somebody/kernel"}))
    with pytest.raises(EncoderError, match="would fetch code from the hub and run it"):
        load_encoder(EncoderChoice(spec, weights=own), device="cpu", probing="never")


def test_images_that_are_not_square(twins, picture, tmp_path):
    """Phikon squeezes an image into a square, as its processor does; Phikon-v2 takes the centre."""
    image = picture(tmp_path / "wide.png", 3, (300, 200))
    for name, whole in (("phikon", True), ("phikon-v2", False)):
        spec, folder, _ = twins(name)
        encoder = load_encoder(EncoderChoice(spec, weights=folder), device="cpu", probing="never")
        pixels = encoder.prepare("image", content_of(image)).astype(float)
        assert pixels.shape == (224, 224, 3)
        squeezed = np.asarray(Image.open(image).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR), float)
        assert bool(np.abs(pixels - squeezed).mean() < 1) is whole


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("timm:hf-hub:a/b?pretrained_cfg=x", "'pretrained_cfg' is unknown."),
        ("timm:hf-hub:a/b?architecture=local-dir:/tmp", "is not a name of a model"),
        ("timm:hf-hub:a/b?architecture=a&file=../../x.bin", "is not a name of a file"),
        ("timm:hf-hub:a/b?init_values=1e-5", "these arguments need architecture=MODEL"),
        ("timm:hf-hub:a/b?architecture=a&depth=100000", "depth must be a whole number from 1 to 128, not 100000."),
        ("timm:hf-hub:a/b?architecture=a&depth=128&embed_dim=8192", "is larger than any that is known"),
        ("timm:hf-hub:a/b?architecture=a&depth=2.5", "depth must be a whole number"),
        ("timm:hf-hub:a/b?architecture=a&mlp_ratio=nan", "'nan' is not a number"),
        ("timm:hf-hub:a/b?architecture=a&mlp_layer=os.system", "mlp_layer must be SwiGLUPacked"),
        ("timm:hf-hub:a/b?architecture=a&dynamic_img_size=1", "dynamic_img_size must be true or false"),
        ("timm:hf-hub:a/b?architecture=a&architecture=b", "architecture is given twice"),
        ("timm:hf-hub:a/b?architecture=nope_16", "timm has no model nope_16"),
        ("hf:a/b?mean=0.5,0.5,0.5", "a transform needs resize, interpolation, std too"),
        ("hf:a/b?depth=3", "'depth' is unknown."),
        ("hf:a/b?resize=224&interpolation=bicubic&mean=0,0,0&std=1,1,1", "resize=N needs crop=N too"),
        ("hf:a/b?resize=99999&crop=9&interpolation=bicubic&mean=0,0,0&std=1,1,1", "resize must be pixels"),
        ("hf:a/b?resize=64&crop=65&interpolation=bicubic&mean=0,0,0&std=1,1,1", "crop=65 is larger than resize=64"),
        ("hf:a/b?resize=64&crop=64&interpolation=lanczos&mean=0,0,0&std=1,1,1", "interpolation must be"),
        ("hf:a/b?resize=64&crop=64&interpolation=bicubic&mean=0,0,0&std=1,1,0", "std must be three numbers"),
        ("hf:a/b?resize=64&crop=64&interpolation=bicubic&mean=0,0&std=1,1,1", "mean must be three numbers"),
    ],
)
def test_a_long_form_that_cannot_be(spec, said, tmp_path):
    """A long form names only what a model is built with, within limits: a store from somebody else may name it."""
    weights = None
    if "nope" in spec:
        torch.save({}, tmp_path / "w.bin")
        weights = tmp_path / "w.bin"
    with pytest.raises(EncoderError) as caught:
        load_encoder(spec, weights=weights, device="cpu", named_by="the store s.hw")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# Facts that another registry has too

PEERS = {
    "uni": "uni",
    "uni2-h": "uni2_h",
    "virchow": "virchow",
    "virchow2": "virchow2",
    "gigapath": "gigapath",
    "gigapath-flash": "gigapath_flash",
    "h-optimus-0": "h_optimus_0",
    "h-optimus-1": "h_optimus_1",
    "h0-mini": "h0_mini",
    "phikon": "phikon",
    "phikon-v2": "phikon_v2",
    "midnight": "midnight",
    "kaiko-l14": "kaiko_vitl",
    "lunit-s8": "lunit_dino8",
    "lunit-s16": "lunit_dino",
    "gpfm": "gpfm",
    "mstar": "mstar",
    "path-orchestra": "path_orchestra",
    "hibou-b": "hibou_b",
    "hibou-l": "hibou_l",
    "conch": "conch",
    "conch-v1.5": "conch_v1_5",
    "keep": "keep",
    "plip": "plip",
    "quiltnet-b-32": "quiltnet",
    "biomedclip": "biomedclip",
    "dinov2-l14": "dinov2",
    "resnet50": "resnet50",
}


@pytest.fixture(scope="module")
def registry():
    """The registry of another project, by its names."""
    return pytest.importorskip("yaml").safe_load(REGISTRY.read_text())


@pytest.mark.skipif(not REGISTRY.exists(), reason="the registry of another project is not here")
@pytest.mark.parametrize("name", PEERS)
def test_facts_are_those_of_another_registry(name, registry):
    """Each field equals that of an independent registry, or the entry says why it differs, with a source."""
    theirs, known = registry[PEERS[name]], KNOWN[name]
    transform = known.transform if known.spec is None else known.spec.transform or known.transform
    pairs = {
        "dim": (known.dim, theirs["embedding_dim"]),
        "size": (known.pixels, (theirs["input_size"],) * 2),
        "mean": (list(transform.mean), theirs["mean"]),
        "std": (list(transform.std), theirs["std"]),
        "interpolation": (transform.interpolation, theirs["interpolation"]),
        "gated": (known.gated, theirs["gated"]),
        "mpp": (theirs.get("recommended_mpp") in known.mpp, "recommended_mpp" in theirs),
        "precision": (known.precision, theirs.get("inference_amp", "fp32")),
        "licence": (known.commercial is not False, not re.search("(?i)non-commercial|nc-nd", theirs["license"])),
    }
    if known.commercial is None:
        del pairs["licence"]
    if "weights_sha256" in theirs:
        pairs["sha256"] = (known.sha256, theirs["weights_sha256"])
        pairs["weights_file"] = (known.weights_file, theirs["weights_filename"])
    if theirs.get("pooling") == "cls_concat_meanpatch":
        pairs["pooling"] = (known.pooling, "cls+mean")
    elif theirs.get("pooling") == "cls" and known.runs == "here":
        pairs["pooling"] = (known.pooling, "cls")
    if "crop_pct" in theirs:
        pairs["resize"] = (transform.resize, (round(theirs["input_size"] / theirs["crop_pct"]),))
    if known.spec is not None and known.spec.backend != "torchvision":
        place, revision = known.spec.repository
        pairs["revision"] = (revision, theirs["weights_revision"])
        named = theirs.get("checkpoint", {}).get("repo") or theirs["source"].removeprefix("hf-hub:")
        pairs["place"] = (place.lower(), named.lower())
        for key, value in (theirs.get("timm_kwargs") or {}).items():
            if key not in ("num_classes", "global_pool"):
                value = value.rpartition(".")[2] if isinstance(value, str) else value
                pairs[key] = (known.spec.arguments.get(key), value)
        if "reg_tokens" in theirs:
            pairs["registers"] = (known.n_registers, theirs["reg_tokens"])
    explained = {one.setting for one in known.differences}
    differing = {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and key not in explained}
    assert not differing
    assert all(one.source.startswith("https://") and one.why for one in known.differences)
