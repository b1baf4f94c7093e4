"""An open_clip folder whose text model is one of transformers, as BiomedCLIP is published, without a network."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from headwater.embed import Content, content_key, load_encoder
from headwater.errors import EncoderError

NAMED = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"


@pytest.fixture
def published(tiny, tmp_path):
    """Return a function that copies a folder, its text model named otherwise, and takes files away."""

    def copy(named=NAMED, *without):
        folder = shutil.copytree(tiny("open_clip-bert").folder, tmp_path / "biomed")
        config = json.loads((folder / "open_clip_config.json").read_text())
        config["model_cfg"]["text_cfg"] |= {"hf_model_name": named, "hf_tokenizer_name": named}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        for file in without:
            (folder / file).unlink()
        return folder

    return copy


def vector(spec):
    encoder = load_encoder(spec, device="cpu", precision="fp32")
    item = Content(content_key(b"benign tissue"), "benign tissue")
    return encoder.encode("text", [encoder.prepare("text", item)]).pooled


def error_of(folder):
    with pytest.raises(EncoderError) as caught:
        load_encoder(f"open_clip:local-dir:{folder}", device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("named", [NAMED, "bert", ".", "./", "a/b"])
def test_a_complete_folder_is_enough(published, tiny, named):
    """With the text model's ``config.json`` in the folder, its name is never looked up anywhere."""
    expected = vector(tiny("open_clip-bert").spec)
    np.testing.assert_array_equal(vector(f"open_clip:local-dir:{published(named)}"), expected)


@pytest.mark.parametrize("named", ["bert", "microsoft/BiomedNLP"])
def test_a_text_model_in_a_folder_within(published, tiny, named):
    """A relative name is looked for in the folder first."""
    expected = vector(tiny("open_clip-bert").spec)
    folder = published(named)
    (folder / named).mkdir(parents=True)
    (folder / "config.json").rename(folder / named / "config.json")
    np.testing.assert_array_equal(vector(f"open_clip:local-dir:{folder}"), expected)


@pytest.mark.parametrize("named", [NAMED, "bert", "a/b"])
def test_what_is_missing_is_named(published, named):
    """Without it, the message says which file of which model must lie where."""
    folder = published(named, "config.json")
    assert error_of(folder).endswith(
        f": open_clip_config.json names the text model {named}, but its configuration is neither in the folder nor in "
        f"the hub's cache. Save the config.json of {named} as {folder / 'config.json'}."
    )


def test_the_configuration_of_another_model(published):
    """The ``config.json`` of the dual encoder itself, in the format of transformers, is not one of its text model."""
    folder = published()
    (folder / "config.json").write_text('{"model_type": "clip"}')
    assert f"names the text model {NAMED}, but its configuration is neither in the folder" in error_of(folder)


@pytest.mark.parametrize("named", ["bert", "microsoft/BiomedNLP", NAMED])
def test_the_current_directory_has_no_say(published, tmp_path, monkeypatch, named):
    """A folder of the text model's name where the command runs is not taken for it."""
    folder = published(named, "config.json")
    elsewhere = tmp_path / "here" / named
    shutil.copytree(folder, elsewhere)
    (elsewhere / "config.json").write_text('{"model_type": "bert"}')
    monkeypatch.chdir(tmp_path / "here")
    assert Path(named).is_dir()
    assert f"names the text model {named}, but its configuration is neither in the folder" in error_of(folder)


def test_a_folder_without_tokenizer(published):
    """The tokenizer's files are named as well."""
    folder = published(NAMED)
    for file in folder.glob("*token*"):
        file.unlink()
    for file in folder.glob("vocab*"):
        file.unlink()
    assert error_of(folder).endswith(
        f": the text model {NAMED} needs a tokenizer, but the folder has none. Save tokenizer.json and "
        f"tokenizer_config.json of {NAMED} in {folder}."
    )


def test_weights_that_are_missing(published):
    """A folder without weights is not answered with the advice to name a folder."""
    said = error_of(published(NAMED, "open_clip_model.safetensors"))
    assert "cannot be loaded (" in said
    assert "Check that the folder holds open_clip_config.json, weights and, " in said
    assert "open_clip:local-dir:DIRECTORY" not in said
