"""A model folder, a run and a store are somebody else's: they run no code, and read no file that is not theirs."""

import io
import json
import os
import pickle
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from headwater.api import embed, similar, zero_shot
from headwater.api.repair import repair
from headwater.embed import load_again, load_encoder
from headwater.embed.adapter import ADAPTER, FOLDER, Adapter
from headwater.embed.hub import tokens_of_text
from headwater.embed.joined import JOINED, Joint
from headwater.errors import EncoderError, HeadwaterError, InputError

CODE = """
from pathlib import Path
Path({marker!r}).touch()
import transformers
from transformers import BertConfig, BertModel, BertTokenizer, ViTImageProcessor

class Config(BertConfig):
    model_type = "own"

class Model(BertModel):
    config_class = Config

class Tokens(BertTokenizer):
    pass

class Pixels(ViTImageProcessor):
    pass

class Encoder:
    modalities = ("image", "text")
    def load(self, weights, device): pass
    def prepare(self, modality, item):
        return [len(item) if modality == "text" else item.resize((1, 1)).getpixel((0, 0))[0]]
    def encode(self, modality, batch): return [[float(x[0]), 1.0, 2.0] for x in batch]
"""


class Runs:
    """Leaves a trace when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A path that exists once code has run, with a terminal on which somebody answers every question with yes."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    monkeypatch.syspath_prepend(str(tmp_path / "importable"))
    (tmp_path / "importable").mkdir()
    (tmp_path / "importable" / "own_megatron.py").write_text(CODE.format(marker=str(tmp_path / "ran")))
    return tmp_path / "ran"


@pytest.fixture
def folder_of(tiny, tmp_path, marker):
    """Return a function that copies a tiny model's folder, with a file of code in it."""

    def copy(member, name="model"):
        folder = shutil.copytree(tiny(member).folder, tmp_path / name)
        (folder / "own.py").write_text(CODE.format(marker=str(marker)))
        if member == "open_clip-bert":
            words = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
            open_clip(folder, **{f"text_cfg__{key}": value for key, value in words.items()})
        return folder

    return copy


def change(path, **values):
    """Change a JSON file: ``a__b=1`` for nested keys."""
    read = json.loads(path.read_text()) if path.exists() else {}
    for keys, value in values.items():
        *outer, last = keys.split("__")
        place = read
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = value
    path.write_text(json.dumps(read))


def own_tokenizer(folder):
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Tokens", "own.Tokens"]})
    change(folder / "tokenizer_config.json", tokenizer_class="Tokens")


def open_clip(folder, **values):
    change(folder / "open_clip_config.json", **{f"model_cfg__{key}": value for key, value in values.items()})
    return f"open_clip:local-dir:{folder}"


def hub(folder, file="config.json", **values):
    change(folder / file, **values)
    return f"hf:{folder}"


def timm(folder, **values):
    change(folder / "config.json", **values)
    return f"timm:local-dir:{folder}"


def bert_tower_elsewhere(folder):
    other = shutil.copytree(folder, folder.with_name("other"))
    change(other / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})
    return open_clip(folder, text_cfg__hf_model_name=str(other))


def tower_that_asks(folder):
    other = shutil.copytree(folder, folder.with_name("other"))
    change(other / "config.json", attn_implementation="somebody/kernel")
    return open_clip(folder, text_cfg__hf_model_name=str(other))


def bert_tower_asked(folder):
    change(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})
    return open_clip(folder, text_cfg__hf_model_name=str(folder))


def tokenizer_in_own_kwargs(folder):
    own_tokenizer(folder)
    return open_clip(folder, text_cfg__tokenizer_kwargs={"trust_remote_code": True})


def tokenizer_asked(folder):
    own_tokenizer(folder)
    change(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"})
    return open_clip(folder, text_cfg__hf_model_name=str(folder))


def pickled(folder, marker, name):
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / name).write_bytes(pickle.dumps({"weight": Runs(marker)}, protocol=2))


def shards(folder):
    (folder / "model.safetensors").rename(folder.with_name("elsewhere.safetensors"))
    index = {"metadata": {}, "weight_map": {"embeddings.cls_token": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return f"hf:{folder}"


def pipe(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)


FOLDERS = {
    "tokenizer_kwargs": ("open_clip-bert", tokenizer_in_own_kwargs),
    "tokenizer_kwargs, deeper, in other letters": (
        "open_clip",
        lambda f: open_clip(f, text_cfg__tokenizer_kwargs={"clean": {"Trust-Remote-Code": "yes"}}),
    ),
    "tokenizer_kwargs of a file": (
        "open_clip",
        lambda f: open_clip(f, text_cfg__tokenizer_kwargs={"bpe_path": "/etc/hostname"}),
    ),
    "tokenizer_kwargs unknown": ("open_clip", lambda f: open_clip(f, text_cfg__tokenizer_kwargs={"cache_dir": "/"})),
    "tower elsewhere": ("open_clip-bert", bert_tower_elsewhere),
    "tower elsewhere that asks for a kernel": ("open_clip-bert", tower_that_asks),
    "tower elsewhere, by ..": ("open_clip-bert", lambda f: open_clip(f, text_cfg__hf_model_name="../other")),
    "tower by a question": ("open_clip-bert", bert_tower_asked),
    "tokenizer by a question": ("open_clip-bert", tokenizer_asked),
    "image tower elsewhere": (
        "open_clip-timm",
        lambda f: open_clip(f, vision_cfg__timm_model_name=f"local-dir:{f.with_name('other')}"),
    ),
    "config of hf": (
        "hf-bert",
        lambda f: hub(f, model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"}),
    ),
    "trust in a config of hf": ("hf-bert", lambda f: hub(f, text_config={"a": [{"trust_remote_code": True}]})),
    "trust in a tokenizer": ("hf-bert", lambda f: hub(f, "tokenizer_config.json", trust_remote_code=1)),
    "trust in a processor": (
        "hf-vit",
        lambda f: hub(f, "preprocessor_config.json", init_kwargs={"trust_remote_code": 1}),
    ),
    "kernel": ("hf-bert", lambda f: hub(f, attn_implementation="somebody/kernel")),
    "kernel by an inner name": ("hf-bert", lambda f: hub(f, _attn_implementation_internal="somebody/kernel")),
    "kernel of a part": ("hf-bert", lambda f: hub(f, text_config={"_attn_implementation": {"": "somebody/kernel:x"}})),
    "adapter": (
        "hf-bert",
        lambda f: hub(
            f, "adapter_config.json", peft_type="LORA", megatron_config={}, megatron_core="own_megatron", r=1
        ),
    ),
    "adapter of another": (
        "hf-bert",
        lambda f: hub(f, "adapter_config.json", base_model_name_or_path=str(f.with_name("other")), peft_type="LORA"),
    ),
    "shards elsewhere": ("hf-vit", shards),
    "weights elsewhere": ("hf-vit", lambda f: hub(f, transformers_weights="../model/model.safetensors")),
    "words elsewhere": ("hf-bert", lambda f: hub(f, "tokenizer_config.json", vocab_file="/etc/hostname")),
    "timm in hf": ("hf-vit", lambda f: hub(f, model_type="timm_wrapper", architecture="local-dir:/tmp", model_args={})),
    "checkpoint of timm in hf": (
        "hf-vit",
        lambda f: hub(
            f, model_type="timm_wrapper", architecture="test_vit", model_args={"checkpoint_path": "/etc/hostname"}
        ),
    ),
    "checkpoint of timm": ("timm-conv", lambda f: timm(f, model_args__checkpoint_path="/etc/hostname")),
    "pretrained_cfg of timm": ("timm-conv", lambda f: timm(f, model_args__pretrained_cfg={"file": "/etc/hostname"})),
    "weights that run": ("hf-bert", lambda f: hub(f, model_kwargs={"weights_only": False})),
    "a source in other letters": (
        "timm-conv",
        lambda f: timm(f, model_args__checkpoint_path="/etc/hostname").replace("local-dir", "Local_Dir"),
    ),
    "another architecture": ("timm-conv", lambda f: timm(f, architecture="hf-hub:somebody/else")),
    "config that is a list": ("hf-bert", lambda f: (f / "config.json").write_text("[]") and f"hf:{f}"),
    "deep JSON": ("hf-bert", lambda f: (f / "config.json").write_text("[" * 200_000) and f"hf:{f}"),
    "deep vocabulary": (
        "hf-bert",
        lambda f: (f / "vocab.json").write_text('{"a":' * 900 + "1" + "}" * 900) and f"hf:{f}",
    ),
    "pipe for a config": ("hf-bert", lambda f: pipe(f, "config.json") or f"hf:{f}"),
    "pipe for words": ("hf-bert", lambda f: pipe(f, "vocab.txt") or f"hf:{f}"),
    "pipe for weights": ("timm-conv", lambda f: pipe(f, "model.safetensors") or f"timm:local-dir:{f}"),
    "values of another type": ("hf-bert", lambda f: hub(f, hidden_size="wide", vocab_size=None)),
    "arguments that there are not": ("timm-conv", lambda f: timm(f, model_args={"no_such": 1})),
    "sections of another type": ("open_clip", lambda f: open_clip(f, text_cfg=[1])),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_model_folder_runs_nothing(kind, folder_of, marker):
    """Whatever another library would take from a model's folder: no code runs, nothing waits, one line says why."""
    member, spoil = FOLDERS[kind]
    spec = spoil(folder_of(member))
    with pytest.raises(EncoderError) as caught:
        load_encoder(spec, device="cpu")
    assert not marker.exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("member", "name"),
    [
        ("hf-vit", "pytorch_model.bin"),
        ("timm-conv", "model.pth"),
        ("timm-conv", "pytorch_model.bin"),
        ("open_clip", "open_clip_pytorch_model.bin"),
        ("open_clip", "weights.pth"),
    ],
)
def test_pickled_weights_run_nothing(member, name, folder_of, marker, tiny):
    """Weights in a model's folder are read as tensors alone."""
    folder = folder_of(member)
    pickled(folder, marker, name)
    with pytest.raises(EncoderError):
        load_encoder(tiny(member).spec.replace(str(tiny(member).folder), str(folder)), device="cpu")
    assert not marker.exists()


PARTS = {
    "tokenizer": ("hf-bert", lambda f: own_tokenizer(f)),
    "tokenizer of a dual encoder": ("hf-clip", lambda f: own_tokenizer(f)),
    "tokenizer of a decoder": ("hf-qwen2_vl", lambda f: own_tokenizer(f)),
    "image processor": (
        "hf-vit",
        lambda f: hub(
            f, "preprocessor_config.json", auto_map={"AutoImageProcessor": "own.Pixels"}, image_processor_type="Pixels"
        ),
    ),
    "feature extractor": (
        "hf-vit",
        lambda f: hub(f, "preprocessor_config.json", auto_map={"AutoFeatureExtractor": "own.Pixels"}),
    ),
    "processor": (
        "hf-qwen2_vl",
        lambda f: hub(f, "processor_config.json", auto_map={"AutoProcessor": "own.Pixels"}, processor_class="Pixels"),
    ),
    "video processor": (
        "hf-qwen2_vl",
        lambda f: hub(
            f,
            "video_preprocessor_config.json",
            auto_map={"AutoVideoProcessor": "own.Pixels"},
            video_processor_type="Pixels",
        ),
    ),
    "image processor of a decoder": (
        "hf-qwen2_vl",
        lambda f: hub(
            f, "preprocessor_config.json", auto_map={"AutoImageProcessor": "own.Pixels"}, image_processor_type="Pixels"
        ),
    ),
    "a class that loads others": (
        "hf-bert",
        lambda f: (own_tokenizer(f), hub(f, "tokenizer_config.json", tokenizer_class="AutoTokenizer")),
    ),
    "text part": ("hf-clip", lambda f: hub(f, text_config={"auto_map": {"AutoConfig": "own.Config"}})),
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_part_of_a_model_runs_nothing(kind, folder_of, marker):
    """A model whose tokenizer or processor is code loads with the library's own, or is refused in one line."""
    member, spoil = PARTS[kind]
    folder = folder_of(member)
    spoil(folder)
    said = ""
    try:
        load_encoder(f"hf:{folder}", device="cpu")
    except EncoderError as error:
        said = str(error)
    assert not marker.exists()
    assert "\n" not in said


def test_what_is_harmless_stays(folder_of, tmp_path, marker):
    """Code that the library has a class of its own for is left aside, and links that lead to files are followed."""
    folder = folder_of("hf-bert")
    hub(folder, auto_map={"AutoModel": "own.Model"}, _name_or_path="/home/somebody/bert", attn_implementation="eager")
    (folder / "model.safetensors").rename(folder.with_name("w.safetensors"))
    (folder / "model.safetensors").symlink_to(folder.with_name("w.safetensors"))
    load_encoder(f"hf:{folder}", device="cpu")
    tower = shutil.copytree(folder_of("open_clip-bert", "third"), tmp_path / "fourth")
    spec = open_clip(tmp_path / "third", text_cfg__hf_model_name=str(tower))
    load_encoder(spec, device="cpu")  # which the user names
    with pytest.raises(
        EncoderError, match=r"hf_model_name = .* names another model, in another folder\. Remove the entry, or"
    ):
        load_encoder(spec, device="cpu", named_by="the store s.hw")
    spec = open_clip(folder_of("open_clip", "other"), text_cfg__tokenizer_kwargs={"clean": "lower"})
    load_encoder(spec, device="cpu")
    assert not marker.exists()


def test_trust_opens_the_gate(folder_of, marker):
    """A model of open_clip whose tokenizer is code is an encoder once the user trusts it."""
    spec = tokenizer_in_own_kwargs(folder_of("open_clip-bert"))
    with pytest.raises(
        EncoderError, match=r"text_cfg.tokenizer_kwargs.trust_remote_code = True would run code that comes with"
    ):
        load_encoder(spec, device="cpu")
    assert not marker.exists()
    load_encoder(spec, device="cpu", trust_remote_code=True)
    assert marker.exists()


# Runs


@pytest.fixture
def run(tmp_path, tiny, marker):
    """Return a function that writes a run of joined encoders: each part's entries may be changed."""
    (tmp_path / "own.py").write_text(CODE.format(marker=str(marker)))

    def write(name="run", dims=(3, 3), **changes):
        plain = {"encoder": f"python:{tmp_path / 'own.py'}:Encoder", "weights": None, "adapter": None, "steps": []}
        parts = {"image": {**plain, **changes.get("image", {})}, "text": {**plain, **changes.get("text", {})}}
        joint = Joint(parts, {m: np.eye(2, d, dtype=np.float32) for m, d in zip(parts, dims, strict=True)}, 10.0)
        joint.write(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def manifest(tmp_path, image_files):
    rows = ["id,image,text,label", *(f"{i},{file},mass {i % 2},{i % 2}" for i, file in enumerate(image_files))]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    return tmp_path / "m.csv"


def link(path, target):
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def moved(run, *parts, to=None):
    """Put a file of a run elsewhere, and a link in its place."""
    path, there = run.joinpath(*parts), to or run.with_name("elsewhere")
    path.rename(there)
    path.symlink_to(there)
    return run


ALONE = {"encoder": "stub:3"}
RUNS = {
    "python": lambda run, other: run(),
    "python for one": lambda run, other: run(text=ALONE),
    "joined in joined": lambda run, other: run(image={"encoder": f"joined:{run('inner')}"}, text=ALONE),
    "itself": lambda run, other: run(image={"encoder": f"joined:{other.with_name('run')}"}, text=ALONE),
    "adapter outside": lambda run, other: run(image={**ALONE, "adapter": "../../../elsewhere"}, text=ALONE),
    "adapter by a path": lambda run, other: run(image={**ALONE, "adapter": "/etc"}, text=ALONE),
    "a step that reads": lambda run, other: run(image={"encoder": "builtin:texture", "steps": ["reinhard=/etc/hosts"]}),
    "a step of no word": lambda run, other: run(image={"encoder": "builtin:texture", "steps": [1]}),
    "code of a model": lambda run, other: run(text=ALONE, image={"encoder": f"hf:{other}"}),
    "links in a model": lambda run, other: run(text=ALONE, image={"encoder": f"timm:local-dir:{other}2"}),
    "linked description": lambda run, other: moved(run(image=ALONE, text=ALONE), FOLDER, JOINED),
    "linked tensors": lambda run, other: moved(run(image=ALONE, text=ALONE), FOLDER, "joined.safetensors"),
    "linked folder": lambda run, other: moved(run(image=ALONE, text=ALONE), FOLDER),
    "a projection of another length": lambda run, other: run(dims=(3, 7), image=ALONE, text=ALONE),
    "an encoder of the other side": lambda run, other: run(image={"encoder": "builtin:ngram"}, text=ALONE),
    "a size of another type": lambda run, other: run(
        image={"encoder": f"timm:local-dir:{other}3", "image_size": 6.5}, text=ALONE
    ),
    "no words": lambda run, other: run(image={"encoder": 5}),
    "weights that are no path": lambda run, other: run(image={**ALONE, "weights": ["a"]}),
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_joined_run_runs_nothing(kind, run, folder_of, tmp_path, marker):
    """What a run of joined encoders names runs no code and lies in the run, though the user named the run himself."""
    other = folder_of("hf-bert", "other")
    change(other / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})
    moved(folder_of("timm-conv", "other2"), "model.safetensors")
    folder_of("timm-conv", "other3")
    if (tmp_path / "elsewhere").exists() and "link" in kind:
        (tmp_path / "elsewhere").rename(tmp_path / "elsewhere2")
    made = RUNS[kind](run, other)
    with pytest.raises(HeadwaterError) as caught:
        load_encoder(f"joined:{made}", device="cpu")
    assert not marker.exists()
    assert "\n" not in str(caught.value)


def test_a_joined_run_is_trusted_when_the_user_says_so(run, marker):
    """The flag goes through to the encoders that a run names."""
    with pytest.raises(
        EncoderError,
        match=r"joined:.* names python:.*, which is code that would run with your rights.*pass --trust-remote-code",
    ):
        load_encoder(f"joined:{run()}", device="cpu")
    assert load_encoder(f"joined:{run()}", device="cpu", trust_remote_code=True).modalities == {"image", "text"}
    assert marker.exists()


@pytest.fixture
def adapted(tiny, tmp_path):
    """Return a function that writes the adapter of a tiny timm model, its description changed."""

    def write(**changes):
        base = load_encoder(tiny("timm-conv").spec, device="cpu")
        folder = tmp_path / "tuned" / FOLDER / "0"
        folder.mkdir(parents=True)
        name, tensor = next(iter(base.module.state_dict().items()))
        Adapter(base.name, base.weights, None, {name: tensor + 1}).write(folder)
        change(folder / ADAPTER, **changes)
        return folder.parents[1]

    return write


ADAPTERS = {
    "trust in its choices": {"choices": {"trust_remote_code": "False"}},
    "weights in its choices": {"choices": {"weights": "/etc/hostname"}},
    "a step that reads": {"steps": ["macenko=/etc/hostname"]},
    "a step that waits": {"steps": ["reinhard=pipe"]},
    "layers of no words": {"lora": {"rank": 1, "alpha": 1, "dropout": 0, "targets": [1]}},
    "layers that there are not": {"lora": {"rank": 1, "alpha": 1, "dropout": 0, "targets": ["no.such"]}},
    "ranks beyond memory": {"lora": {"rank": 10**12, "alpha": 1, "dropout": 0, "targets": ["stem.conv1"]}},
    "no rank": {"lora": {"rank": -1, "alpha": 1, "dropout": 0, "targets": ["a"]}},
    "choices that are a list": {"choices": [1]},
    "an encoder of no word": {"encoder": {"a": 1}},
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_says_nothing_but_what_was_trained(kind, adapted, tiny):
    """The adapter of somebody's run chooses no more than layer, pooling and prompt, and names no file."""
    with pytest.raises(HeadwaterError) as caught:
        load_encoder(tiny("timm-conv").spec, adapter=adapted(**ADAPTERS[kind]), device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("parts", [(ADAPTER,), ("adapter.safetensors",), ("before",)])
def test_an_adapter_lies_in_its_run(parts, adapted, tiny):
    """A link in a run is refused: it would be read from elsewhere."""
    run = adapted()
    folder = run / FOLDER / "0"
    if parts == ("before",):
        shutil.copytree(folder, folder / "before")
    moved(folder, *parts, to=run.with_name("elsewhere"))
    with pytest.raises(EncoderError, match="is a symbolic link"):
        load_encoder(tiny("timm-conv").spec, adapter=run, device="cpu")


# Stores


@pytest.mark.parametrize("ask", ["image", "text", "prompts", "repair"])
def test_a_store_runs_nothing(ask, run, manifest, tmp_path, marker, picture):
    """Neither `similar`, `zero_shot` nor `repair` runs a file that a run names that a store names."""
    spec = f"joined:{run()}"
    store = embed(
        manifest, tmp_path / "a.hw", encoder=spec, name="a", text="text", device="cpu", trust_remote_code=True
    )
    marker.unlink()
    if ask == "repair":
        block = tmp_path / "a.hw" / "features.zarr" / "a" / "text" / "pooled" / "c.0.0"
        block.write_bytes(b"\0" * block.stat().st_size)
    (tmp_path / "p.toml").write_text('[classes]\n"0" = ["a mass of another kind"]\n"1" = ["no mass at all"]\n')
    asked = {
        "image": lambda: similar(store, features="a/image", image=picture(tmp_path / "q.png", "query"), device="cpu"),
        "text": lambda: similar(store, features="a/image", text="another", device="cpu"),
        "prompts": lambda: zero_shot(store, features="a", prompts=tmp_path / "p.toml", label="label", device="cpu"),
        "repair": lambda: repair(tmp_path / "a.hw"),
    }
    with pytest.raises(EncoderError, match="pass --trust-remote-code"):
        asked[ask]()
    assert not marker.exists()


def test_what_a_store_names_is_asked_for(tiny, tmp_path, folder_of, marker):
    """Code, files of steps, and links out of a model's folder are the user's to name, not a store's."""
    folder = folder_of("timm-conv")
    spec = load_encoder(f"timm:local-dir:{folder}", device="cpu").spec("image", "float16")
    assert load_again(spec, device="cpu").spec("image", "float16") == spec
    reads = replace(spec, preprocessing={**spec.preprocessing, "steps": ["macenko=/etc/hostname"]})
    with pytest.raises(InputError, match=r"the store s\.hw: the step 'macenko=/etc/hostname' would read a file"):
        load_again(reads, device="cpu", named_by="the store s.hw")
    moved(folder, "model.safetensors")
    with pytest.raises(EncoderError, match=r"model.safetensors is a symbolic link out of the model's folder"):
        load_again(spec, device="cpu")
    load_again(spec, device="cpu", trust_remote_code=True)
    load_encoder(f"timm:local-dir:{folder}", device="cpu")  # which the user names
    cache = tmp_path / "models--a--b" / "snapshots" / "1"
    cache.parent.mkdir(parents=True)
    shutil.copytree(folder, cache, symlinks=False)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    (cache / "config.json").rename(cache.parents[1] / "blobs" / "0")
    (cache / "config.json").symlink_to("../../blobs/0")
    load_again(replace(spec, encoder=f"timm:local-dir:{cache}"), device="cpu")


@pytest.mark.parametrize("kind", ["pickle", "pipe", "folder", "nothing", "number", "text"])
def test_weights_that_a_store_names_are_tensors(kind, tiny, tmp_path, marker):
    """A file of weights that a journal names is a regular file of tensors, or one line says what it is."""
    file = tmp_path / "w.pt"
    if kind == "pickle":
        torch.save({"weight": Runs(marker)}, file)
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "text":
        file.write_text("secret words")
    spec = load_encoder(tiny("timm-conv").spec, device="cpu").spec("image", "float16")
    with pytest.raises(EncoderError) as caught:
        load_again(spec, weights=5 if kind == "number" else str(file), device="cpu", named_by="the store s.hw")
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_state_dicts_are_found(tiny, tmp_path):
    """Weights of safetensors that a store names load as before."""
    spec = load_encoder(tiny("timm-conv").spec, device="cpu").spec("image", "float16")
    state = load_encoder(tiny("timm-conv").spec, device="cpu").module.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "w.safetensors")
    assert load_again(spec, weights=str(tmp_path / "w.safetensors"), device="cpu").spec("image", "float16") == spec


# The hub


@pytest.fixture
def cached(tmp_path, monkeypatch, marker):
    """Return a function that puts a model's folder into a cache of the hub, as it is once it was fetched."""
    cache = tmp_path / "hub"
    for place in ("huggingface_hub.constants", "huggingface_hub.file_download", "transformers.utils.hub"):
        if hasattr(sys.modules.get(place), "HF_HUB_CACHE"):
            monkeypatch.setattr(f"{place}.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))

    def put(folder, name):
        repository = cache / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
        return name

    return put


def tower_on_the_hub(folder, cached):
    other = shutil.copytree(folder, folder.with_name("other"))
    change(other / "config.json", attn_implementation="somebody/kernel")
    open_clip(folder, text_cfg__hf_model_name=cached(other, "a/other"), text_cfg__hf_tokenizer_name="a/b")
    return f"open_clip:hf-hub:{cached(folder, 'a/b')}"


def tower_of_code_on_the_hub(folder, cached):
    other = shutil.copytree(folder, folder.with_name("other"))
    (other / "open_clip_config.json").unlink()
    change(other / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})
    open_clip(folder, text_cfg__hf_model_name=cached(other, "a/other"), text_cfg__hf_tokenizer_name="a/b")
    return f"open_clip:hf-hub:{cached(folder, 'a/b')}"


def tokenizer_on_the_hub(folder, cached):
    own_tokenizer(folder)
    open_clip(folder, text_cfg__hf_model_name="a/b", text_cfg__hf_tokenizer_name="a/b")
    open_clip(folder, text_cfg__tokenizer_kwargs={"trust_remote_code": True})
    change(folder / "config.json", text_cfg={"hf_model_name": "a/b"})
    return f"open_clip:hf-hub:{cached(folder, 'a/b')}"


HUB = {
    "tokenizer_kwargs": ("open_clip-bert", tokenizer_on_the_hub),
    "tower": ("open_clip-bert", tower_on_the_hub),
    "tower of code": ("open_clip-bert", tower_of_code_on_the_hub),
    "kernel": ("hf-bert", lambda f, put: (hub(f, attn_implementation="x/kernel"), f"hf:{put(f, 'a/b')}")[1]),
    "adapter": ("hf-bert", lambda f, put: (hub(f, "adapter_config.json", r=1), f"hf:{put(f, 'a/b')}")[1]),
    "trust": (
        "hf-bert",
        lambda f, put: (hub(f, "tokenizer_config.json", trust_remote_code=True), f"hf:{put(f, 'a/b')}")[1],
    ),
    "timm": (
        "timm-conv",
        lambda f, put: (timm(f, model_args__checkpoint_path="/etc/hosts"), f"timm:hf-hub:{put(f, 'a/b')}")[1],
    ),
    "timm by another name": (
        "timm-conv",
        lambda f, put: (timm(f, model_args__checkpoint_path="/etc/hosts"), f"timm:HF_Hub:{put(f, 'a/b')}@main")[1],
    ),
    "deep JSON": ("hf-bert", lambda f, put: (f / "config.json").write_text("[" * 9999) and f"hf:{put(f, 'a/b')}"),
}


@pytest.mark.parametrize("kind", HUB)
def test_a_model_on_the_hub_runs_nothing(kind, folder_of, cached, marker):
    """What was fetched from the hub is looked at as a folder is."""
    member, spoil = HUB[kind]
    spec = spoil(folder_of(member), cached)
    with pytest.raises(EncoderError) as caught:
        load_encoder(spec, device="cpu")
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    assert "Without a network" not in str(caught.value)


@pytest.mark.parametrize(
    ("member", "spec"), [("hf-bert", "hf:a/b"), ("timm-conv", "timm:hf-hub:a/b"), ("open_clip", "open_clip:hf-hub:a/b")]
)
def test_a_plain_model_on_the_hub_loads(member, spec, folder_of, cached):
    """A model in the hub's cache that names nothing of the kind is an encoder."""
    cached(folder_of(member), "a/b")
    assert load_encoder(spec, device="cpu").modalities


@pytest.mark.parametrize("kind", ["own tokenizer", "another kind of model", "list", "pipe", "gone", "words", "deep"])
def test_words_of_a_text_are_cut_without_anybody_s_code(kind, folder_of, marker):
    """The tokenizer that a store names cuts its own text; where that would run code, or fails, there are no words."""
    folder = folder_of("hf-bert")
    assert tokens_of_text(f"hf:{folder}", "benign tissue", named_by="the store s.hw")[0] == "[CLS]"
    config, tokenizer = folder / "tokenizer_config.json", folder / "tokenizer.json"
    if kind == "own tokenizer":
        own_tokenizer(folder)
    elif kind == "another kind of model":
        own_tokenizer(folder)
        change(folder / "config.json", model_type="zork", auto_map={"AutoConfig": "own.Config"})
    elif kind == "gone":
        shutil.rmtree(folder)
    elif kind == "pipe":
        tokenizer.unlink()
        os.mkfifo(tokenizer)
    else:
        config.write_text({"list": "[]", "words": "not JSON", "deep": "[" * 5000 + "]" * 5000}[kind])
    found = tokens_of_text(f"hf:{folder}", "benign tissue", named_by="the store s.hw")
    assert found is None or kind == "own tokenizer"  # for which transformers has a class of its own
    assert not marker.exists()
