"""doctor: what it says of an encoder is what a run would find."""

import json
import re
import shutil
from importlib.metadata import version

import pytest

from headwater import EncoderChoice
from headwater.api import doctor
from headwater.embed import load_encoder, source_of
from headwater.errors import InputError


@pytest.fixture(autouse=True)
def _briefly(monkeypatch):
    monkeypatch.setattr("headwater.embed.speed.SECONDS", 0.05)


@pytest.fixture
def cache(tmp_path, tiny, monkeypatch):
    """A hub's cache that holds ``lab/vit``, and no network."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--lab--vit"
    shutil.copytree(tiny("hf-vit").folder, folder / "snapshots" / ("0" * 40))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    return folder


def test_the_environment(command):
    """Without an encoder, versions of what each extra installs are said, each package once."""
    found = json.loads(command("doctor", "--json").out)
    extras = found["environment"]["extras"]
    assert extras["encoders"]["torch"] == version("torch")
    assert extras["boost"]["xgboost"] == version("xgboost")
    assert found["encoder"] is None
    packages = [package for extra in extras.values() for package in extra]
    assert len(packages) == len(set(packages)) > 8
    lines = command("doctor").out.splitlines()
    assert any(re.match(r"FAISS: faiss-(cpu|gpu) \d[\d.]*, which ", line) for line in lines)
    assert lines[0].startswith(f"headwater {version('headwater')}, Python ")


@pytest.mark.parametrize("member", ["hf-vit", "timm-stage", "open_clip", "hf-bert", "hf-smolvlm", "hf-siglip2"])
def test_an_encoder(tiny, member):
    """Dimensions are the spec's, parameters the model's, tokens are shown where there are any, and it ran."""
    layer = tiny(member).options.get("layer")
    found = doctor(encoder=tiny(member).spec, layer=layer, batch_size=2, precision="fp32").encoder
    assert (found.source.kind, found.source.place) == ("directory", str(tiny(member).folder))
    tokens = "none" if member in ("hf-smolvlm", "hf-siglip2") else "all"
    encoder = load_encoder(tiny(member).spec, layer=layer, tokens=tokens, precision="fp32")
    assert found.n_parameters == sum(p.numel() for p in encoder._frozen.module.parameters()) > 1000
    assert set(found.features) == encoder.modalities == set(tiny(member).modalities)
    for modality, spec in found.features.items():
        assert spec == encoder.spec(modality, "float16")
        measured = found.measured[modality]
        assert measured.items_per_second > 0
        assert measured.batch_size == 2 <= measured.n_items
        assert measured.peak_memory > 4 * found.n_parameters
        assert measured.item_bytes > 17 + 2 * spec.dim + (spec.n_tokens or 1) * spec.token_bytes - 1


def test_what_is_printed(command, tiny):
    """The command says in lines what the encoder is, and in JSON the same."""
    member = tiny("hf-vit")
    out = command("doctor", "--encoder", member.spec, "--batch-size", 2, "--precision", "fp32").out
    assert f"{member.spec}: found in the directory named ({member.folder}), " in out
    assert " parameters, cpu " in out
    assert "image: 32 values, tokens 16 x 32; preprocessed by ViTImageProcessor" in out
    assert " items per second, batch size 2, " in out
    each = 17 + 2 * 32 + 16 * 2 * 32
    assert f"  {each / 1000:.1f} kB per item in float16: " in out
    assert f" per second, {each / 10:,.1f} MB for 100,000" in out
    found = json.loads(command("doctor", "--encoder", "builtin:ngram", "--json").out)
    assert found["encoder"]["features"]["text"]["dim"] == 512
    assert found["encoder"]["source"]["kind"] == "built in"


def test_the_hubs_cache(cache):
    """What is in the cache loads without a network, and is said to be there."""
    found = doctor(encoder="hf:lab/vit", offline=True, batch_size=1).encoder
    assert (found.source.kind, found.source.place) == ("cache", str(cache))
    assert found.features["image"].dim == 32


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("hf:lab/other", "hf:lab/other: cannot be loaded ("),
        ("hf:/no/where", "hf:/no/where: cannot be loaded ("),
        ("timm:resnet34.a1_in1k", "timm:resnet34.a1_in1k: cannot be fetched from the hub ("),
        ("tim:resnet34", "unknown encoder 'tim:resnet34'. Did you mean 'timm'?"),
        ("python:gone.py:Mean", "python:gone.py:Mean: gone.py: no such file."),
    ],
)
def test_what_is_not_there(refused, cache, spec, said):
    """What cannot be loaded is one line, and nothing is fetched."""
    assert said in refused("doctor", "--encoder", spec, "--offline")


def test_where_files_come_from(cache, tmp_path):
    """A file that is named goes first; what the cache lacks comes from the network."""
    assert source_of("hf:lab/vit").kind == "cache"
    assert source_of("hf:lab/other").kind == "network"
    assert source_of("timm:hf-hub:lab/vit").kind == "cache"
    assert source_of("timm:resnet34.a1_in1k").place.endswith("models--timm--resnet34.a1_in1k")
    assert source_of("open_clip:ViT-B-32/openai").place.endswith("models--timm--vit_base_patch32_clip_224.openai")
    assert source_of("hf:lab/vit", tmp_path / "w.pt").kind == "file"
    assert source_of(f"timm:local-dir:{tmp_path}").kind == source_of(f"hf:{tmp_path}").kind == "directory"


def test_tokens_of_a_choice(tiny):
    """The tokens of an encoder choice are those tried, and a spec alone has all of its tokens tried."""
    spec = tiny("hf-vit").spec
    tried = {given: doctor(encoder=given, batch_size=1).encoder for given in (spec, EncoderChoice(spec, tokens="4"))}
    assert [found.features["image"].n_tokens for found in tried.values()] == [16, 4]
    asked = doctor(encoder=EncoderChoice(spec, tokens="4"), tokens="none", batch_size=1).encoder
    assert asked.features["image"].n_tokens in (0, None)


@pytest.mark.parametrize(
    "words",
    [("--weights", "w.pt"), ("--layer", "2"), ("--tokens", "all"), ("--trust-remote-code",), ("--device", "cpu"),
     ("--precision", "fp32"), ("--batch-size", "2"), ("--image-size", "64"), ("--pooling", "cls"), ("--prompt", "x")],
)  # fmt: skip
def test_options_of_an_encoder_need_one(refused, words):
    """An option of the encoder is refused where none is named."""
    assert refused("doctor", *words).endswith(f": {words[0]} goes with --encoder, the encoder to try.")


def test_refusals(refused):
    """What cannot be used is refused, an unknown option also without an encoder."""
    with pytest.raises(TypeError, match=r"doctor\(\).*'wieghts'\. Did you mean 'weights'\?"):
        doctor(wieghts="w.pt")
    with pytest.raises(InputError, match="--batch-size must be at least 1"):
        doctor(batch_size=0)
    assert "builtin:ngram has no tokens. Leave --tokens out." in refused(
        "doctor", "--encoder", "builtin:ngram", "--tokens", "all"
    )
