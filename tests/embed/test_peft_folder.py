"""An adapter that peft saved gives the vectors of the model that peft has merged it into, or is refused."""

import json

import numpy as np
import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file

from headwater.api import embed, similar
from headwater.embed import Content, content_key, load_encoder
from headwater.errors import EncoderError
from tests.models.parts import DROPS, PIXELS, WIDTHS, processor_of
from tests.models.tokenizers import wordpieces

pytest.importorskip("peft")
from peft import LoHaConfig, LoraConfig, get_peft_model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of peft and transformers

TEXTS = ["benign tissue", "a mass of the left breast", "gland"]


def save(model, config, folder):
    """Save a model and an adapter of it, drawn, since fresh ones do nothing; return what peft merges them to."""
    model.save_pretrained(folder / "base")
    tuned = get_peft_model(model, config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in tuned.named_parameters():
            if tensor.requires_grad and not name.endswith("magnitude_vector.default.weight"):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    tuned.save_pretrained(folder / "adapter")
    return tuned.merge_and_unload()


def vectors(encoder, files):
    side = min(encoder.modalities)
    items = [Content(content_key(x.encode()), x) for x in TEXTS]
    if side == "image":
        items = [Content(content_key(file.read_bytes()), file) for file in files]
    return encoder.encode(side, [encoder.prepare(side, one) for one in items]).pooled


def load(spec, **options):
    return load_encoder(spec, device="cpu", precision="fp32", **options)


def error_of(folder):
    with pytest.raises(EncoderError) as caught:
        load(f"hf:{folder / 'base'}", adapter=folder / "adapter")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def bert(kind="BertModel"):
    torch.manual_seed(0)
    config = t.BertConfig(**WIDTHS, **DROPS, vocab_size=len(wordpieces()), max_position_embeddings=40)
    return getattr(t, kind)(config)


def vit(kind="ViTModel"):
    torch.manual_seed(0)
    return getattr(t, kind)(t.ViTConfig(**WIDTHS, **PIXELS, **DROPS))


def resnet():
    torch.manual_seed(0)
    return t.ResNetModel(t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])).eval()


def gpt2():
    torch.manual_seed(0)
    words = len(wordpieces())
    ids = {"bos_token_id": 2, "eos_token_id": 3}
    return t.GPT2Model(t.GPT2Config(vocab_size=words, n_embd=32, n_layer=2, n_head=2, n_positions=40, **ids))


PAIR = ["query", "value"]
EACH = {
    "two layers": (bert, {"target_modules": PAIR}),
    "every linear layer": (bert, {"target_modules": "all-linear"}),
    "another scale": (bert, {"target_modules": PAIR, "r": 4, "lora_alpha": 32, "use_rslora": True}),
    "ranks of their own": (
        bert,
        {"target_modules": PAIR, "rank_pattern": {"layer.1.attention.self.query": 2}, "alpha_pattern": {"value": 3}},
    ),
    "directions alone": (bert, {"target_modules": PAIR, "use_dora": True}),
    "biases": (bert, {"target_modules": PAIR, "bias": "lora_only"}),
    "a model with a head": (
        lambda: bert("BertForSequenceClassification"),
        {"target_modules": PAIR, "modules_to_save": ["classifier"], "task_type": "SEQ_CLS"},
    ),
    "images": (vit, {"target_modules": "all-linear"}),
    "images with a head": (
        lambda: vit("ViTForImageClassification"),
        {"target_modules": ["q_proj", "v_proj", "query", "value"], "modules_to_save": ["classifier"]},
    ),
    "convolutions": (resnet, {"target_modules": ["convolution"]}),
    "weights the other way round": (gpt2, {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
}


@pytest.mark.parametrize("what", EACH)
def test_it_is_what_peft_merges(tmp_path, image_files, what):
    """The vectors are those of the merged model, not those without the adapter."""
    build, settings = EACH[what]
    merged = save(build(), LoraConfig(**settings), tmp_path)
    (tmp_path / "merged").mkdir()
    merged.save_pretrained(tmp_path / "merged")
    for place in ("base", "merged"):
        kind = "ConvNext" if build is resnet else "ViT"
        part = processor_of(kind) if "images" in what or build is resnet else wordpieces()
        part.save_pretrained(tmp_path / place)
    spec = f"hf:{tmp_path / 'base'}"
    plain, tuned = load(spec), load(spec, adapter=tmp_path / "adapter")
    expected = vectors(load(f"hf:{tmp_path / 'merged'}"), image_files)
    np.testing.assert_allclose(vectors(tuned, image_files), expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(vectors(plain, image_files) - expected).max() > 1e-2 * np.abs(expected).max()
    side = min(tuned.modalities)
    assert tuned.spec(side, "float16").adapter not in (None, plain.spec(side, "float16").adapter)
    assert tuned.spec(side, "float16").weights == plain.spec(side, "float16").weights


def test_a_store_of_it(tmp_path, image_files, picture):
    """Features of it are stored under the adapter's digest, resumed and searched; another scale is another digest."""
    save(vit(), LoraConfig(target_modules="all-linear"), tmp_path)
    processor_of("ViT").save_pretrained(tmp_path / "base")
    (tmp_path / "m.csv").write_text("\n".join(["id,image", *(f"{i},{file}" for i, file in enumerate(image_files))]))
    words = {"encoder": f"hf:{tmp_path / 'base'}", "adapter": tmp_path / "adapter", "name": "v", "device": "cpu"}
    store = embed(tmp_path / "m.csv", tmp_path / "a.hw", **words)
    assert embed(tmp_path / "m.csv", tmp_path / "a.hw", **words).results["v/image"].embedded == 0
    assert similar(tmp_path / "a.hw", features="v/image", image=picture(tmp_path / "q.png", 7), k=1)
    before = store.features("v/image").spec.adapter
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 64}))
    assert load(words["encoder"], adapter=words["adapter"]).spec("image", "float16").adapter != before


def changed(**values):
    def write(folder):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return write


def renamed(old, new):
    def write(folder):
        file = folder / "adapter_model.safetensors"
        save_file({name.replace(old, new): tensor for name, tensor in load_file(file).items()}, file)

    return write


def narrowed(folder):
    file = folder / "adapter_model.safetensors"
    state = {name: x[:, :8].contiguous() if "lora_A" in name else x for name, x in load_file(file).items()}
    save_file(state, file)


def to_pickle(folder):
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


REFUSED = {
    "a pickle": (to_pickle, "its tensors are pickled, and headwater unpickles none. Save it again with peft: "),
    "no tensors": (lambda f: (f / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors."),
    "repeated layers": (
        changed(layer_replication=[[0, 1]]),
        "repeats layers of the model (layer_replication). Merge it",
    ),
    "a rank of words": (changed(r="8"), "cannot be read (r: expected int, got str)."),
    "an endless scale": (changed(lora_alpha=1e300), "cannot be read (lora_alpha: expected float <= "),
    "a pattern to match": (
        changed(alpha_pattern={"(a+)+$": 3}),
        "alpha_pattern: '(a+)+$' is not a plain ending of a layer's name",
    ),
    "another model's layers": (renamed("encoder.layer", "encoder.block"), "adapts 4 layers that this encoder does not"),
    "another size": (narrowed, "4 with another shape ("),
    "half an adapter": (
        renamed("lora_B", "lora_C"),
        "lora_C.weight is not an adapter of a linear or convolutional layer)",
    ),
    "no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read ("),
    "no safetensors": (lambda f: (f / "adapter_model.safetensors").write_text("no"), "cannot be read ("),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_merged_is_refused(tmp_path, what):
    """What is no LoRA of this encoder, or is damaged, is one line that fits."""
    save(bert(), LoraConfig(target_modules=PAIR), tmp_path)
    wordpieces().save_pretrained(tmp_path / "base")
    change, said = REFUSED[what]
    change(tmp_path / "adapter")
    assert said in error_of(tmp_path)


def test_another_kind_of_adapter(tmp_path):
    """Kinds other than LoRA are named, with what to do."""
    bert().save_pretrained(tmp_path / "base")
    get_peft_model(bert(), LoHaConfig(target_modules=PAIR)).save_pretrained(tmp_path / "adapter")
    wordpieces().save_pretrained(tmp_path / "base")
    assert "adapter_config.json: has the type LOHA, not LORA. Merge it into the model with peft: " in error_of(tmp_path)
