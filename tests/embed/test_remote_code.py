"""Code that comes with a model runs when the user asks for it, and not before."""

import json
import shutil

import pytest
import transformers
from safetensors.torch import save_file

from headwater.api import embed, similar
from headwater.cli import main
from headwater.embed import load_encoder
from headwater.errors import EncoderError

CODE = """
from pathlib import Path

from transformers import ViTConfig, ViTModel

Path({marker!r}).touch()


class OwnConfig(ViTConfig):
    model_type = "own-vit"


class OwnModel(ViTModel):
    config_class = OwnConfig
"""


@pytest.fixture
def model(tiny, tmp_path, monkeypatch):
    """A directory whose model is code of its author's, which leaves a trace when it runs."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = shutil.copytree(tiny("hf-vit").folder, tmp_path / "own-vit")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own-vit", "architectures": ["OwnModel"]}
    config["auto_map"] = {"AutoConfig": "own_vit.OwnConfig", "AutoModel": "own_vit.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    state = transformers.AutoModel.from_pretrained(tiny("hf-vit").folder).state_dict()
    save_file(state, folder / "model.safetensors", {"format": "pt"})  # by the names that the class has for them
    (folder / "own_vit.py").write_text(CODE.format(marker=str(tmp_path / "ran")))
    return folder


def test_it_is_asked_for(model, tmp_path, tiny):
    """Without the flag one line says what it would mean, and nothing has run; with it, the model is an encoder."""
    with pytest.raises(EncoderError) as caught:
        load_encoder(f"hf:{model}", device="cpu")
    assert str(caught.value) == (
        f"hf:{model} needs code of the model's author, which would run with your rights. If you trust it, pass "
        "--trust-remote-code."
    )
    assert not (tmp_path / "ran").exists()
    encoder = load_encoder(f"hf:{model}", device="cpu", trust_remote_code=True)
    assert (tmp_path / "ran").exists()
    assert (
        encoder.spec("image", "float16").weights == load_encoder(tiny("hf-vit").spec).spec("image", "float16").weights
    )


def test_a_store_does_not_ask_for_it(model, image_files, tmp_path, picture):
    """`similar` runs no code that a store names unless it is told to."""
    (tmp_path / "m.csv").write_text("\n".join(["id,image", *(f"{i},{file}" for i, file in enumerate(image_files))]))
    store = embed(tmp_path / "m.csv", tmp_path / "a.hw", encoder=f"hf:{model}", device="cpu", trust_remote_code=True)
    (tmp_path / "ran").unlink()
    query = {"features": "own-vit/image", "image": picture(tmp_path / "q.png", "query"), "device": "cpu", "k": 1}
    with pytest.raises(EncoderError, match="If you trust it, pass --trust-remote-code"):
        similar(store, **query)
    assert len(similar(store, **query, trust_remote_code=True)) == 1


def test_the_command_warns(model, image_files, tmp_path, monkeypatch, capsys):
    """The flag is answered by a line that says what it means; elsewhere than with transformers it is refused."""
    (tmp_path / "m.csv").write_text(f"id,image\n1,{image_files[0]}\n")
    words = ["headwater", "embed", tmp_path / "m.csv", tmp_path / "a.hw", "--device", "cpu", "--trust-remote-code"]
    monkeypatch.setattr("sys.argv", [*map(str, words), "--encoder", f"hf:{model}"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert (
        "code that came with the model will run with your rights: it can read, change and send"
        in capsys.readouterr().err
    )
    with pytest.raises(
        EncoderError, match="does not support --trust-remote-code, which is for open_clip:… and hf:… and joined:…"
    ):
        load_encoder("timm:test_resnet", trust_remote_code=True)


def test_no_text_side(tiny, tmp_path):
    """Texts asked of a vision model are refused with what it can encode."""
    (tmp_path / "m.csv").write_text("id,caption\n1,mass\n")
    with pytest.raises(ValueError, match=r"encodes images, but the manifest has no such column. Name it with --image"):
        embed(tmp_path / "m.csv", tmp_path / "a.hw", encoder=tiny("hf-vit").spec, text="caption", device="cpu")
