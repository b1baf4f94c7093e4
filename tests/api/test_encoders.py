"""Known encoders by name: the list, and what embed, doctor, similar and predict make of a name."""

import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

import headwater as hw
from headwater import EncoderChoice
from headwater.api import doctor, embed
from headwater.api.encoders import table_of_entries
from headwater.embed import load_encoder
from headwater.embed.compare import checksum_line, disagreements
from headwater.embed.known import KNOWN, warn_of_plain
from headwater.embed.model_spec import ModelSpec
from headwater.embed.scale import warn_of_scale
from headwater.errors import EncoderError
from headwater.sources import read_manifest
from tests.models.known import CARDS, twin

NAME = "lunit-s16"
"""A known encoder that is small enough to be built as it is."""


@pytest.fixture(scope="module")
def lunit(tmp_path_factory):
    """The folder of a model of its architecture and size, with random weights and the hub's configuration."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("lunit")
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", num_classes=0, global_pool="token")
    save_file(model.state_dict(), folder / "model.safetensors")
    cfg = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = {"architecture": "vit_small_patch16_224", "num_classes": 0, "global_pool": "token"}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": cfg | {"crop_pct": 0.9}}))
    return folder


def write_manifest(folder, picture):
    """Write a manifest of six tiles of six patients, half of them at 0.25 microns a pixel."""
    images = [picture(folder / f"{i}.png", i, (224, 224)).name for i in range(6)]
    columns = {"image": images, "mpp": [0.5, 0.25] * 3, "label": ["a", "b"] * 3}
    pl.DataFrame({**columns, "patient": [f"p{i}" for i in range(6)]}).write_csv(folder / "tiles.csv")
    return folder / "tiles.csv"


@pytest.fixture
def manifest(tmp_path, picture):
    """A manifest of its own for a test."""
    return write_manifest(tmp_path, picture)


@pytest.fixture(scope="module")
def stored(lunit, tmp_path_factory, picture):
    """A store whose features were made by name, and its manifest."""
    folder = tmp_path_factory.mktemp("stored")
    tiles = write_manifest(folder, picture)
    return embed(tiles, folder / "s.hw", encoder=NAME, weights=lunit, device="cpu", batch_size=2), tiles


# The list


def test_the_list_fits_a_terminal(command):
    """Every encoder is in one of three groups, in at most 80 columns."""
    lines = command("encoders").out.splitlines()
    assert max(map(len, lines)) <= 80
    listed = [line.split()[0] for line in lines if line.split() and line.split()[0] in KNOWN]
    assert sorted(listed) == sorted(KNOWN)
    for runs, words in (("here", "run here"), ("author's code", "need code of their authors"), ("not here", "do not")):
        n = sum(known.runs == runs for known in KNOWN.values())
        assert any(line.startswith(f"{n} {words}") for line in lines)


def test_only_commercial_ones(command):
    """--licence commercial leaves out licences that forbid it, and those that do not clearly allow it."""
    found = json.loads(command("encoders", "--licence", "commercial", "--json").out)
    names = {one["name"] for one in found}
    assert {"virchow", "h-optimus-0", "midnight"} <= names
    assert not names & {"uni", "virchow2", "h-optimus-1", "gpfm", "gigapath", "medsiglip"}
    assert all(one["commercial"] is True for one in found)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("uni", "--licence", "commercial"), "uni: its licence (CC-BY-NC-ND-4.0) does not allow commercial use."),
        (("gpfm", "--licence", "commercial"), "does not clearly allow commercial use."),
        (("uni2h",), "no known encoder is called 'uni2h'. Did you mean uni or uni2-h?"),
        (("--licence", "comercial"), "--licence 'comercial'. Did you mean 'commercial'?"),
    ],
)
def test_what_the_list_refuses(refused, words, said):
    """A licence that does not fit, and a name that is not known, are one line."""
    assert said in refused("encoders", *words)


@pytest.mark.parametrize("name", KNOWN)
def test_one_in_full(command, name):
    """One encoder is said in full: licence, page, checksum, trap, the equal command, the file for its authors' code."""
    known, out = KNOWN[name], command("encoders", name).out
    flat = " ".join(out.split())
    assert known.licence in flat
    assert known.source in out
    assert " ".join(known.trap.split()) in flat
    assert known.sha256 is None or known.sha256 in out
    if known.spec is not None:
        assert f"'{known.spec}'" in out
    if known.snippet is not None:
        assert known.snippet in out
    if known.blocked is not None:
        assert known.blocked in flat
    (as_json,) = json.loads(command("encoders", name, "--json").out)
    assert (as_json["name"], as_json["dim"], as_json["runs"]) == (name, known.dim, known.runs)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("uni2-h", "uni2-h: its licence (CC-BY-NC-ND-4.0) does not allow commercial use."),
        (str(KNOWN["uni2-h"].spec), "uni2-h: its licence (CC-BY-NC-ND-4.0) does not allow commercial use."),
        ("medsiglip", "does not clearly allow commercial use."),
        (
            "hf:lab/other",
            "--licence commercial: its licence is not known to headwater.",
        ),
    ],
)
def test_commercial_use_is_asked_for(refused, manifest, tmp_path, spec, said):
    """embed and doctor with --licence commercial refuse before anything is loaded, by name or long form alike."""
    asked = ("--encoder", spec, "--licence", "commercial")
    assert said in refused("embed", manifest, tmp_path / "s.hw", *asked)
    assert said in refused("doctor", *asked)
    load_encoder("builtin:texture", licence="commercial")


def test_from_python():
    """``hw.encoders()`` gives the entries as values."""
    assert {one.name for one in hw.encoders().entries} == set(KNOWN)
    assert hw.encoders("virchow2").entries[0].pooling == "cls+mean"


@pytest.mark.parametrize("name", [name for name, known in KNOWN.items() if known.snippet is not None])
def test_files_for_code_of_authors(name, tmp_path):
    """Each file is a ``python:`` encoder; here it goes as far as the package or the files that are not there."""
    snippet = KNOWN[name].snippet
    file = tmp_path / "own_encoder.py"
    file.write_text(snippet)
    kind = snippet.partition("\nclass ")[2].partition(":")[0]
    with pytest.raises(EncoderError, match=rf"{kind}: load\(\) failed \(") as caught:
        load_encoder(f"python:{file}:{kind}", device="cpu")
    lacking = {"conch": "conch", "musk": "musk", "gigapath-flash": "gigapath", "mammo-clip-b2": "--weights"}
    assert lacking.get(name, "") in str(caught.value)


def test_mammograms_are_prepared(tmp_path):
    """Mammo-CLIP's file makes 1520 x 912 of a mammogram, its darkest pixel 0 and its brightest 1, standardised."""
    spaces = {}
    exec(compile(KNOWN["mammo-clip-b5"].snippet, "snippet", "exec"), spaces)
    levels = np.tile(np.linspace(30, 200, 300, dtype=np.uint8), (500, 1))
    pixels = spaces["MammoClip"]().prepare("image", Image.fromarray(levels).convert("RGB"))
    assert pixels.shape == (1, 1520, 912)
    mean, std = 0.3089279, 0.25053555408335154
    assert pixels.min() == pytest.approx((0 - mean) / std)
    assert pixels.max() == pytest.approx((1 - mean) / std)
    with pytest.raises(ValueError, match="single level"):
        spaces["MammoClip"]().prepare("image", Image.new("RGB", (300, 500)))


def test_the_table_of_the_docs():
    """docs/encoders.md has the table that is made from the entries."""
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text()
    assert table_of_entries() in page


# A name in embed, and what comes after it


def test_a_name_and_its_long_form_are_the_same_features(lunit, stored):
    """What is embedded by name is stored for the long form too; the name is recorded, and the spec is the long form."""
    store, manifest = stored
    assert store.feature_names() == [f"{NAME}/image"]
    features = store.features(f"{NAME}/image")
    assert features.spec.encoder == str(KNOWN[NAME].spec)
    assert features.spec.pooling == "cls"
    assert features.spec.preprocessing["mean"] == list(KNOWN[NAME].spec.transform.mean)
    (recorded,) = features.environments().values()
    assert (recorded["encoder_name"], recorded["weights_file"]) == (NAME, str(lunit))
    long = EncoderChoice(str(KNOWN[NAME].spec), pooling="cls", weights=lunit / "model.safetensors")
    again = embed(manifest, store.location, encoder=long, device="cpu", batch_size=2)
    assert again.results[f"{NAME}/image"].embedded == 0
    assert again.results[f"{NAME}/image"].kept == 6


def test_another_scale_is_said(lunit, manifest, tmp_path, command):
    """embed says in one line, with both figures, that images have another scale than the encoder was made for."""
    table = pl.read_csv(manifest)
    table.with_columns(mpp=pl.Series([0.5, 1.01] * 3)).write_csv(manifest)
    done = command("embed", manifest, tmp_path / "s.hw", "--encoder", NAME, "--weights", lunit, "--batch-size", 2)
    line = "warning: 3 of 6 images have 1.01 microns a pixel (column 'mpp'), but lunit-s16 is meant for 0.5 or 0.25."
    assert line in done.out
    assert done.out.count("microns a pixel") == 1


@pytest.mark.parametrize(
    ("name", "column", "scales", "said"),
    [
        ("lunit-s16", "mpp", [0.5, 0.25, 0.5, 0.25, 0.46, 0.27], None),  # Lunit was trained on both
        ("uni", "mpp", [0.5, 0.25, 0.5, 0.25, 0.5, 0.25], "3 of 6 images have 0.25 microns a pixel"),
        ("uni", "MPP", [1, 1, 2, 2, 2, 4], "6 of 6 images have 2, 1 or 4 microns a pixel (column 'MPP')"),
        ("uni", "microns_per_pixel", ["0.52", "-", "nan", "0", "inf", None], None),
        ("uni", "mpp", [None] * 6, None),
        ("uni", "width", [9] * 6, None),
        ("medsiglip", "mpp", [9] * 6, None),  # states no scale
    ],
)
def test_scales(manifest, name, column, scales, said):
    """A scale within a tenth fits, what is no number is passed over, and an encoder without a scale fits all."""
    table = pl.read_csv(manifest).drop("mpp").with_columns(pl.Series(column, scales))
    table.write_csv(manifest)
    found = warn_of_scale(read_manifest(manifest), str(KNOWN[name].spec))
    assert found is None if said is None else said in found


def test_similar_and_predict_by_name(lunit, stored, tmp_path, command):
    """Later commands load the encoder again; predict finds its folder where the store recorded it."""
    store, manifest = stored
    features = (store.location, "--features", f"{NAME}/image")
    hits = command("similar", *features, "--image", manifest.parent / "3.png", "--weights", lunit, "--json")
    assert json.loads(hits.out)[0]["image"].endswith("3.png")
    asked = ("--label", "label", "--groups", "patient", "--folds", 2, "--set", "C=1")
    fitted = command("fit-head", *features, *asked, "--out", tmp_path / "run")
    assert fitted.status == 0, fitted
    told = command("predict", tmp_path / "run", "--image", manifest.parent / "5.png", "--device", "cpu")
    assert told.status == 0, told
    shown = command("info", store.location).out
    assert f" {NAME}" in shown
    assert "architecture=" not in shown


@pytest.mark.parametrize("name", ["phikon", "virchow2"])
def test_a_bundle_holds_the_encoder(name, manifest, tmp_path, command):
    """A bundle with weights predicts where the folder is not: arguments, transform and pooling travel in the spec."""
    folder = tmp_path / "model"
    folder.mkdir()
    spec, _ = twin(name, folder)
    choice = EncoderChoice(spec, weights=folder, pooling=KNOWN[name].pooling)
    store = embed(manifest, tmp_path / "s.hw", encoder=choice, name=name, text=None, device="cpu", batch_size=2)
    asked = {"label": "label", "groups": "patient", "folds": 2, "params": {"C": 1.0}}
    hw.fit_head(store, features=f"{name}/image", **asked, out=tmp_path / "run")
    here = hw.predict(tmp_path / "run", image=manifest.parent / "5.png", device="cpu")
    bundled = command("bundle", tmp_path / "run", tmp_path / "run.zip", "--with-weights")
    assert bundled.status == 0, bundled
    folder.rename(tmp_path / "elsewhere")
    there = hw.predict(tmp_path / "run.zip", image=manifest.parent / "5.png", device="cpu")
    assert there.to_dict()["cases"][0]["scores"] == pytest.approx(here.to_dict()["cases"][0]["scores"])


# doctor


def test_doctor_names_what_disagrees(lunit, monkeypatch):
    """doctor says what the name stands for, its licence and trap, and each setting that the hub has otherwise."""
    monkeypatch.setattr("headwater.embed.speed.SECONDS", 0.05)
    report = doctor(
        encoder=NAME, weights=lunit, pooling=None, batch_size=1, device="cpu", precision="fp32", offline=True
    )
    out = "\n".join(report.lines())
    assert f"{NAME}: found in the directory named ({lunit})" in out
    assert f"  stands for {KNOWN[NAME].spec.plain}, pooling cls\n" in out
    assert "  built with architecture=vit_small_patch16_224\n" in out
    assert "  licence: Lunit non-commercial, no commercial use\n" in out
    ours = "0.70323, 0.536065, 0.660966"
    why = "the authors trained with their own statistics (https://github.com/kaiko-ai/eva)"
    assert f"  mean: 0.5, 0.5, 0.5 in config.json, but {ours} is used: {why}\n" in out
    assert "  resize: 248 in config.json, but 224 is used: a crop would cut tiles of 224 pixels" in out
    assert "interpolation:" not in out
    assert "  weights: model.safetensors is not the published model.safetensors (sha256 " in out
    found = report.to_dict()["encoder"]
    assert found["spec"] == str(KNOWN[NAME].spec)
    assert len(found["findings"]) == 4
    assert found["features"]["image"]["pooling"] == "cls"
    assert doctor(encoder="builtin:ngram").encoder.findings == ()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mstar", {"mean", "std", "resize", "interpolation"}),
        ("lunit-s8", {"mean", "std", "resize"}),
        ("gigapath", {"resize"}),
        ("kaiko-l14", {"mean", "std", "interpolation", "size", "resize"}),
        ("h-optimus-0", set()),
        ("virchow2", set()),
    ],
)
def test_known_disagreements(name, settings, tmp_path):
    """Against the hub's configuration, exactly the settings that are known to differ are named, each with a reason."""
    CARDS[name].save(tmp_path)
    found = [one for one in disagreements(KNOWN[name].spec, tmp_path) if one.setting not in ("depth", "embed_dim")]
    found = [one for one in found if one.setting != "num_heads"]  # the twin is tiny
    assert {one.setting for one in found} == settings
    assert all("https://" in one.why for one in found)
    assert all(one.file == "config.json" for one in found)


@pytest.mark.parametrize(
    ("spec", "file", "config", "settings"),
    [
        ("phikon", "preprocessor_config.json", {"image_mean": [0.5] * 3, "resample": 3}, {"mean", "interpolation"}),
        ("phikon", "preprocessor_config.json", {"size": {"height": 224, "width": 224}, "resample": 2}, set()),
        ("phikon-v2", "preprocessor_config.json", {"size": {"shortest_edge": 256}}, {"resize"}),
        ("phikon-v2", "preprocessor_config.json", {"crop_size": {"height": 192, "width": 192}}, {"size"}),
        (
            "quiltnet-b-32",
            "open_clip_config.json",
            {"preprocess_cfg": {"std": [0.5] * 3, "size": 336}},
            {"std", "size"},
        ),
        ("uni", "config.json", {"architecture": "vit_base_patch16_224", "model_args": {"init_values": 1}}, None),
        ("uni", "config.json", {"pretrained_cfg": {"mean": "x", "std": [1], "crop_pct": "y", "input_size": 3}}, set()),
        ("uni", "config.json", {"pretrained_cfg": [], "model_args": 7}, set()),
        ("uni", "config.json", [1, 2], set()),
    ],
)
def test_configurations_of_every_library(spec, file, config, settings, tmp_path):
    """Each library's own file is compared; what is no setting in a file of somebody else is passed over."""
    (tmp_path / file).write_text(json.dumps(config))
    found = {one.setting for one in disagreements(KNOWN[spec].spec, tmp_path)}
    assert found == ({"architecture", "init_values"} if settings is None else settings)
    (tmp_path / file).write_text("[" * 9999)
    assert disagreements(KNOWN[spec].spec, tmp_path) == []


def test_checksums(tmp_path):
    """The published file is recognised by its checksum; another format cannot be compared."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    assert "is not the published model.safetensors" in checksum_line(KNOWN["virchow2"].spec, file)
    assert "another format" in checksum_line(KNOWN["uni"].spec, file)
    assert checksum_line(ModelSpec.parse("timm:resnet34.a1_in1k"), file) is None


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("timm:hf-hub:paige-ai/Virchow2", "virchow2"),
        ("timm:hf-hub:PAIGE-AI/virchow2@main", "virchow2"),
        ("hf:kaiko-ai/midnight", "midnight"),
        ("hf:MahmoodLab/UNI", "uni"),  # by another library
        ("open_clip:hf-hub:wisdomik/QuiltNet-B-32", "quiltnet-b-32"),
        (str(KNOWN["virchow2"].spec), None),
        ("hf:kaiko-ai/midnight?resize=98x98&interpolation=bicubic&mean=0.5,0.5,0.5&std=0.5,0.5,0.5", None),
        ("hf:google/medsiglip-448", None),  # the name stands for no more than this
        ("timm:resnet34.a1_in1k", None),
        ("builtin:texture", None),
    ],
)
def test_known_weights_by_another_spec(spec, name):
    """A spec that names the weights of a known encoder, but not its settings, is told of the name."""
    found = warn_of_plain(spec)
    assert found is None if name is None else f"Pass --encoder {name}," in found


def test_embed_and_doctor_tell_of_the_name(manifest, tmp_path, command):
    """Both commands that load an encoder say so, and go on."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    size = {"image_size": 28, "patch_size": 14, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    Dinov2Model(Dinov2Config(**size)).save_pretrained(tmp_path / "model")
    side = {"height": 28, "width": 28}
    BitImageProcessor(size={"shortest_edge": 28}, crop_size=side).save_pretrained(tmp_path / "model")
    asked = ("--encoder", "hf:kaiko-ai/midnight", "--weights", tmp_path / "model", "--batch-size", 2)
    line = "these are the weights of midnight without its settings"
    for done in (command("doctor", *asked), command("embed", manifest, tmp_path / "s.hw", *asked)):
        assert done.status == 0, done
        assert line in done.out


def test_a_plain_model_without_a_network(command):
    """The advice is one that works: the file of weights alone lacks the configuration."""
    done = command("doctor", "--encoder", "timm:hf-hub:paige-ai/Virchow2", "--offline")
    assert "hf download paige-ai/Virchow2 --local-dir Virchow2" in done.error
    assert "pass --encoder timm:local-dir:Virchow2" in done.error
