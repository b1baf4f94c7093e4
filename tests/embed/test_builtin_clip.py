"""The small dual encoder that comes with the package."""

from pathlib import Path

import pytest

import headwater as hw
from headwater.embed import load_encoder
from headwater.errors import EncoderError
from headwater.sources import make_histology

pytest.importorskip("transformers")
FOLDER = Path(hw.__file__).parent / "embed" / "clip"
PROMPTS = 'templates = ["{} breast tissue"]\n[classes]\nbenign = "benign"\nmalignant = "malignant"\n'


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Return a store of painted tissue of a seed that it was not trained on."""
    folder = tmp_path_factory.mktemp("painted")
    manifest = make_histology(folder, n_patients=12, images_per_patient=8, seed=31)
    (folder / "p.toml").write_text(PROMPTS)
    return hw.embed(manifest, folder / "a.hw", encoder="builtin:clip", text="caption", tokens="all")


def test_it_is_small_and_says_nothing_of_where_it_was_made():
    """At most 10 MB in all, without a path in its configuration."""
    files = list(FOLDER.iterdir())
    assert sum(file.stat().st_size for file in files) < 10e6
    for file in files:
        if file.suffix == ".json":
            assert "/tmp" not in file.read_text()
            assert "/home" not in file.read_text()


def test_prompts_tell_painted_tissue_apart(store):
    """Zero-shot, benign and malignant tissue of new patients and laboratories are told apart better than by chance."""
    run = hw.zero_shot(store, features="clip", prompts=store.path.parent / "p.toml", label="label")
    assert run.mean["auc"] > 0.75


def test_words_find_images(store):
    """A search by words ranks images of that kind first."""
    hits = hw.similar(store, features="clip/image", text="malignant breast tissue, ductal carcinoma", k=20)
    assert sum(hit.row["label"] == "malignant" for hit in hits) >= 14


def test_it_can_be_tuned(store, tmp_path):
    """LoRA trains it, and the result is an encoder like any other."""
    manifest = store.path.parent / "manifest.csv"
    options = {"label": "label", "groups": "patient", "folds": 2, "epochs": 1, "image": "image", "params": {"C": 0.01}}
    hw.fine_tune(manifest, encoder="builtin:clip", out=tmp_path / "run", device="cpu", **options)
    tuned = load_encoder("builtin:clip", adapter=tmp_path / "run", device="cpu")
    assert tuned.spec("image", "float16").encoder == "builtin:clip"
    assert tuned.spec("image", "float16").adapter


def test_its_weights_are_its_own(tmp_path):
    """It comes with its weights; others are refused, and a wrong name suggests the right one."""
    with pytest.raises(EncoderError, match=r"builtin:clip has its own weights\. Leave --weights out"):
        load_encoder("builtin:clip", weights=tmp_path / "w.pt")
    with pytest.raises(EncoderError, match="Did you mean 'clip'"):
        load_encoder("builtin:clib")
