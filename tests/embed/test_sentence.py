"""A folder of sentence-transformers is pooled as it declares, or refused; expected vectors are computed by hand."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from headwater.embed import Content, content_key, load_again, load_encoder
from headwater.errors import EncoderError
from tests.models.text import bert

TEXTS = ["benign tissue", "a mass of the left breast, with severe tissue", "gland", "Malignant GLAND"]


@pytest.fixture
def folder(tmp_path):
    """A BERT on disk, without modules."""
    bert(tmp_path)
    return tmp_path


def modules(folder, *kinds, pooling=None, **files):
    """Write what sentence-transformers writes: the list of modules, and a file for each that has one."""
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for i, kind in enumerate(("Pooling", *kinds), 1):
        path = f"{i}_{kind}"
        listed.append({"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"})
        (folder / path).mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **(pooling or {})}))
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))


def contents(texts=TEXTS):
    return [Content(content_key(text.encode()), text) for text in texts]


def load(folder, **options):
    return load_encoder(f"hf:{folder}", device="cpu", precision="fp32", **options)


def vectors(encoder, texts=TEXTS):
    return encoder.encode("text", [encoder.prepare("text", one) for one in contents(texts)]).pooled


def states(folder, texts=TEXTS):
    """Return the last hidden state of each text alone."""
    encoder = load(folder, tokens="all", pooling="mean")
    return [encoder.encode("text", [encoder.prepare("text", one)]).tokens[0] for one in contents(texts)]


BY_HAND = {
    "cls_token": lambda own: own[0],
    "max_tokens": lambda own: own.max(0),
    "mean_tokens": lambda own: own.mean(0),
    "mean_sqrt_len_tokens": lambda own: own.sum(0) / np.sqrt(len(own)),
    "weightedmean_tokens": lambda own: np.arange(1, len(own) + 1) @ own / np.arange(1, len(own) + 1).sum(),
    "lasttoken": lambda own: own[-1],
}
NEW_NAMES = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean", "weightedmean_tokens": "weightedmean"}


@pytest.mark.parametrize("form", ["flags", "name"])
@pytest.mark.parametrize("mode", BY_HAND)
def test_each_pooling(folder, mode, form):
    """Each pooling that a folder can declare, as flags or by name, is what the vectors are made by, in any company."""
    flags = {f"pooling_mode_{name}": name == mode for name in BY_HAND}
    modules(folder, pooling=flags if form == "flags" else {"pooling_mode": NEW_NAMES.get(mode, mode)})
    expected = np.stack([BY_HAND[mode](own) for own in states(folder)])
    encoder = load(folder)
    np.testing.assert_allclose(vectors(encoder), expected, atol=1e-5)
    spec = encoder.spec("text", "float16")
    assert load_again(spec, device="cpu").spec("text", "float16") == spec
    assert (spec.pooling == "mean") == (mode == "mean_tokens")


def test_several_poolings_are_joined(folder):
    """Of several, the vectors stand one after the other, in the order of sentence-transformers."""
    modules(folder, pooling={"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True})
    expected = np.stack([np.concatenate([own[0], own.mean(0)]) for own in states(folder)])
    np.testing.assert_allclose(vectors(load(folder)), expected, atol=1e-5)


@pytest.mark.parametrize("activation", ["torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_dense_layers_and_length_one(folder, activation, file):
    """A dense layer, its activation and a normalisation follow, and its weights are among those of the spec."""
    modules(folder, "Dense", "Normalize", pooling={"pooling_mode_cls_token": True})
    config = {"in_features": 32, "out_features": 5, "bias": True, "activation_function": activation}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(config))

    def write(seed):
        random = torch.Generator().manual_seed(seed)
        state = {
            "linear.weight": torch.randn(5, 32, generator=random),
            "linear.bias": torch.randn(5, generator=random),
        }
        path = folder / "2_Dense" / file
        save_file(state, path) if file.endswith("safetensors") else torch.save(state, path)
        return state["linear.weight"].numpy(), state["linear.bias"].numpy()

    weight, bias = write(0)
    expected = np.stack([own[0] for own in states(folder)]) @ weight.T + bias
    expected = np.tanh(expected) if "Tanh" in activation else expected
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    encoder = load(folder)
    np.testing.assert_allclose(vectors(encoder), expected, atol=1e-5)
    spec = encoder.spec("text", "float16")
    assert (spec.dim, spec.pooling) == (5, "as declared: cls, dense 5, normalize")
    write(1)
    assert load(folder).spec("text", "float16").weights != spec.weights


def test_what_is_done_to_a_text(folder):
    """Texts are put into lower case, cut at the declared length, and begin with the default prompt."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    modules(
        folder,
        "Normalize",
        pooling={"pooling_mode_mean_tokens": True},
        sentence_bert_config={"max_seq_length": 8, "do_lower_case": True},
        config_sentence_transformers={"prompts": {"query": "Tissue: ", "other": "no"}, "default_prompt_name": "query"},
    )
    encoder = load(folder)
    assert (encoder.longest, encoder.spec("text", "float16").preprocessing["max_length"]) == (8, 8)
    own = states(folder, ["tissue: malignant gland"])[0]
    expected = own.mean(0) / np.linalg.norm(own.mean(0))
    np.testing.assert_allclose(vectors(encoder, ["Malignant GLAND"])[0], expected, atol=1e-5)
    long = Content(b"", "gland " * 20)
    assert len(encoder.prepare("text", long)) == 8
    assert encoder.cut("text", long, encoder.prepare("text", long))
    spec = encoder.spec("text", "float16")
    assert load_again(spec, device="cpu").spec("text", "float16") == spec


def test_the_transformer_in_a_folder_of_its_own(folder, tmp_path_factory):
    """Older folders keep the transformer beside its pooling."""
    whole = tmp_path_factory.mktemp("whole")
    folder.rename(whole / "0_Transformer")
    modules(whole, pooling={"pooling_mode_cls_token": True})
    listed = json.loads((whole / "modules.json").read_text())
    listed[0]["path"] = "0_Transformer"
    (whole / "modules.json").write_text(json.dumps(listed))
    expected = np.stack([own[0] for own in states(whole / "0_Transformer")])
    np.testing.assert_allclose(vectors(load(whole)), expected, atol=1e-5)


def test_asked_for_otherwise(folder):
    """``--pooling`` sets aside what the folder declares, so that features of before are still what they were."""
    before = load(folder).spec("text", "float16")
    plain = vectors(load(folder))
    modules(folder, "Normalize", pooling={"pooling_mode_cls_token": True}, sentence_bert_config={"max_seq_length": 4})
    assert load(folder, pooling="mean").spec("text", "float16") == before
    np.testing.assert_array_equal(vectors(load_again(before, device="cpu")), plain)
    assert load(folder).spec("text", "float16").pooling == "as declared: cls, normalize"


def test_a_plain_mean_is_what_it_was(folder):
    """A folder that declares what is done anyway has the same spec as without its declaration."""
    before = load(folder).spec("text", "float16")
    modules(folder, "Dropout", pooling={"pooling_mode_mean_tokens": True}, sentence_bert_config={"max_seq_length": 512})
    assert load(folder).spec("text", "float16") == before


def dense(folder, **changes):
    modules(folder, "Dense", pooling={"pooling_mode_cls_token": True})
    config = {"in_features": 32, "out_features": 5, "bias": False, "activation_function": "torch.nn.Tanh", **changes}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(config))
    save_file({"linear.weight": torch.ones(5, 32)}, folder / "2_Dense" / "model.safetensors")


REFUSED = {
    "another pooling": (
        lambda f: modules(f, pooling={"pooling_mode": "attention"}),
        "1_Pooling/config.json declares the poolings attention, which is not supported",
    ),
    "no pooling": (lambda f: modules(f, pooling={}), "config.json declares the poolings none,"),
    "another module": (
        lambda f: modules(f, "WordWeights", pooling={"pooling_mode": "cls"}),
        "lists WordWeights after the pooling,",
    ),
    "code as an activation": (
        lambda f: dense(f, activation_function="os.system"),
        "2_Dense/config.json ends in os.system, not in Identity, ",
    ),
    "a residual": (
        lambda f: dense(f, use_residual=True),
        "config.json is not a plain dense layer on the pooled vector, which is not supported",
    ),
    "another shape": (lambda f: dense(f, out_features=6), "1 with another shape (weight (5, 32))."),
    "no weights": (
        lambda f: (dense(f), (f / "2_Dense" / "model.safetensors").unlink()),
        "2_Dense/model.safetensors is missing,",
    ),
    "a flag of words": (
        lambda f: modules(f, pooling={"pooling_mode_cls_token": "yes"}),
        "cannot be read (pooling_mode_cls_token: expected bool, got str).",
    ),
    "a length of zero": (
        lambda f: modules(f, pooling={"pooling_mode": "cls"}, sentence_bert_config={"max_seq_length": 0}),
        "cannot be read (max_seq_length: expected int >= 1).",
    ),
    "a prompt that is not there": (
        lambda f: modules(
            f, pooling={"pooling_mode": "cls"}, config_sentence_transformers={"default_prompt_name": "query"}
        ),
        "has no prompt 'query',",
    ),
    "a folder elsewhere": (
        lambda f: (
            modules(f, pooling={"pooling_mode": "cls"}),
            (f / "modules.json").write_text((f / "modules.json").read_text().replace("1_Pooling", "../1_Pooling")),
        ),
        "names a module in '../1_Pooling', which is not a subfolder of the model,",
    ),
    "no list": (lambda f: (f / "modules.json").write_text("{}"), "modules.json: cannot be read (expected array"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_done_is_refused(folder, what):
    """What a folder declares and headwater does not do, or what is no declaration, is one line with the file's name."""
    write, said = REFUSED[what]
    write(folder)
    with pytest.raises(EncoderError) as caught:
        load(folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    load(folder, pooling="mean")
