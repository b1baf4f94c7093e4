"""Weights from a file, and what is said when a spec or a file cannot be used."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from headwater.embed import load_encoder
from headwater.errors import EncoderError, InputError

SPEC = "timm:test_resnet"


@pytest.fixture(scope="module")
def state():
    import timm

    torch.manual_seed(0)
    return timm.create_model("test_resnet").state_dict()


def digest(file, spec=SPEC):
    return load_encoder(spec, weights=file, device="cpu").spec("image", "float16").weights


def error_of(file, spec=SPEC, **options):
    """Return the one line that is said."""
    with pytest.raises(EncoderError) as caught:
        load_encoder(spec, weights=file, device="cpu", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_same_weights_whatever_the_file(state, tmp_path):
    """Safetensors, a torch file, a training checkpoint, and names that begin with ``module.`` all give one digest."""
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}, "epoch": 3}, tmp_path / "c.pth")
    assert digest(tmp_path / "a.safetensors") == digest(tmp_path / "b.pt") == digest(tmp_path / "c.pth")


def test_a_classifier_may_be_there_or_not(state, tmp_path):
    """The classifier is not part of the encoder: with it, without it, or with another, the digest is the same."""
    save_file({n: t for n, t in state.items() if not n.startswith("fc.")}, tmp_path / "bare.safetensors")
    save_file({**state, "fc.weight": torch.zeros(7, 96), "fc.bias": torch.zeros(7)}, tmp_path / "seven.safetensors")
    assert digest(tmp_path / "bare.safetensors") == digest(tmp_path / "seven.safetensors")


def test_hub_weights_from_a_file(tiny):
    """For a transformers directory as well, ``--weights`` replaces what is in it."""
    member = tiny("hf-vit")
    named = load_encoder(member.spec, device="cpu").spec("image", "float16")
    file = member.folder / "model.safetensors"
    assert load_encoder(member.spec, weights=file, device="cpu").spec("image", "float16") == named


def test_open_clip_weights_from_a_file(tiny):
    """For an open_clip directory as well."""
    member = tiny("open_clip-bert")
    file = member.folder / "open_clip_model.safetensors"
    given = load_encoder(member.spec, weights=file, device="cpu")
    named = load_encoder(member.spec, device="cpu")
    assert given.spec("text", "float16") == named.spec("text", "float16")
    assert given.environment()["weights_file"] == str(file)
    assert "weights_file" not in named.environment()


def test_a_pickled_object_is_refused(tmp_path):
    """A torch file that holds code, not only tensors, is not loaded, and nothing in it runs."""

    class Sly:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    torch.save(Sly(), tmp_path / "whole.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Sly()))
    for name in ("whole.pt", "plain.pt"):
        assert error_of(tmp_path / name) == (
            f"--weights {tmp_path / name}: the file holds other objects than tensors, and headwater unpickles none. "
            "Save the model's state_dict()."
        )


@pytest.mark.parametrize("content", [[1, 2], {"lr": 0.1}, {"a": torch.zeros(2), "step": 3}])
def test_a_file_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    assert error_of(tmp_path / "a.pt") == (
        f"--weights {tmp_path / 'a.pt'}: the file holds no state dict, which maps names to tensors. Save the model's "
        "state_dict()."
    )


def test_a_damaged_file(state, tmp_path):
    save_file(state, tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    for name in ("cut.safetensors", "cut.pt"):
        (tmp_path / name).write_bytes(data[:1000])
        assert f"{name}: " in error_of(tmp_path / name)
    assert error_of(tmp_path / "absent.pt") == f"--weights {tmp_path / 'absent.pt'}: no such file."
    several = "a.safetensors, cut.pt, cut.safetensors"
    assert (
        error_of(tmp_path)
        == f"--weights {tmp_path}: the folder has several files of weights ({several}). Name the file."
    )


def test_tensors_that_do_not_fit_are_named(state, tmp_path):
    """Missing, unknown and mis-shaped tensors are counted, and the first of each named."""
    lost = [n for n in state if n.startswith("layer1.") and not n.endswith("num_batches_tracked")]
    changed = {n: t for n, t in state.items() if not n.startswith("layer1.")}
    changed |= {"extra.weight": torch.zeros(1), "conv1.0.weight": torch.zeros(3, 3)}
    save_file(changed, tmp_path / "a.safetensors")
    said = error_of(tmp_path / "a.safetensors")
    assert f"the weights do not fit this model: {len(lost)} tensors missing ({lost[0]}, " in said
    assert "; 1 unknown (extra.weight); 1 with another shape (conv1.0.weight (3, 3) instead of (" in said


def test_unknown_names():
    """What was meant is guessed; what is allowed is listed."""
    assert "Did you mean 'timm'?" in error_of(None, "tim:resnet34")
    assert error_of(None, "resnet43").startswith("unknown encoder 'resnet43'. Did you mean resnet34")
    assert error_of(None, "zzzz").startswith("unknown encoder 'zzzz'. Write a name that headwater encoders lists, or")
    assert error_of(None, "timm:") == "encoder 'timm:' names no model. Write timm:NAME."
    assert error_of(None, "timm:resnet43").startswith("timm:resnet43: timm has no such model. Did you mean resnet")
    assert "resnet34.a1_in1k" in error_of(None, "timm:resnet34.a1_in2k")
    assert "Did you mean ViT-B-32" in error_of(None, "open_clip:ViT-B32/openai")
    assert "Did you mean 'laion2b_s34b_b79k'?" in error_of(None, "open_clip:ViT-B-32/laion2b_s34b")
    assert "open_clip:ViT-B-32: no weights are named. Write open_clip:ViT-B-32/WEIGHTS" in error_of(
        None, "open_clip:ViT-B-32"
    )
    assert error_of(None, "open_clip:ViT-B-32-quickgelu/laion2b_e16").count("laion2b_e16") == 2
    assert "Did you mean 'texture'?" in error_of(None, "builtin:textur")
    assert error_of(None, "stub:many").startswith("stub:many: write stub:DIM")


def test_unusable_options(tmp_path):
    assert error_of(None, "stub:8", tokens="all") == "stub:8 has no tokens. Leave --tokens out."
    assert error_of(tmp_path / "a", "builtin:ngram") == "builtin:ngram has no weights. Leave --weights out."
    assert error_of(None, SPEC, tokens="0") == "tokens must be none, all or a number, but is '0'."
    assert error_of(None, SPEC, precision="fp8") == "precision must be auto, fp32, bf16, fp16, but is 'fp8'."
    with pytest.raises(InputError, match="device must be auto, cpu or cuda, but is 'tpu'"):
        load_encoder(SPEC, device="tpu")


def test_more_tokens_than_there_are(state, tiny, tmp_path):
    save_file(state, tmp_path / "a.safetensors")
    said = error_of(tmp_path / "a.safetensors", tokens="999")
    assert said == "--tokens 999 is too many: this encoder has 5 x 5 = 25 tokens."
    for member in ("hf-vit", "open_clip"):
        assert (
            error_of(None, tiny(member).spec, tokens="99")
            == "--tokens 99 is too many: this encoder has 4 x 4 = 16 tokens."
        )


@pytest.mark.parametrize("spec", [SPEC, "timm:hf-hub:no/such", "hf:no/such", "open_clip:hf-hub:no/such"])
def test_without_a_network(spec, tmp_path, monkeypatch):
    """What cannot be fetched is said in one line, with the way out."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert ": cannot be " in error_of(None, spec)
    assert "Without a network, " in error_of(None, spec)


@pytest.mark.parametrize("spec", ["timm:local-dir:/no/where", "open_clip:local-dir:/no/where", "hf:/no/where"])
def test_a_directory_that_is_not_there(spec):
    assert error_of(None, spec).startswith(f"{spec}: cannot be ")


def test_weights_with_gaps_are_refused(tiny, tmp_path):
    """A transformers directory whose file lacks a layer is an error: the layer would be made of random numbers."""
    import shutil

    from safetensors.torch import load_file

    folder = shutil.copytree(tiny("hf-bert").folder, tmp_path / "gap")
    state = load_file(folder / "model.safetensors")
    lost = {n: t for n, t in state.items() if not n.startswith("encoder.layer.1.attention.output")}
    save_file(lost, folder / "model.safetensors", {"format": "pt"})
    for file, source in ((None, f"hf:{folder}"), (folder / "model.safetensors", "--weights")):
        said = error_of(file, f"hf:{folder}")
        assert said.startswith(source)
        assert "do not fit this model: 4 tensors missing (encoder.layer.1.attention.output.LayerNorm" in said


def test_hub_weights_of_another_shape(tiny, tmp_path):
    from safetensors.torch import load_file

    state = load_file(tiny("hf-bert").folder / "model.safetensors")
    state["embeddings.word_embeddings.weight"] = torch.zeros(3, 32)
    save_file(state, tmp_path / "a.safetensors")
    said = error_of(tmp_path / "a.safetensors", tiny("hf-bert").spec)
    assert "1 with another shape (embeddings.word_embeddings.weight" in said


def test_weights_without_a_pooler_are_whole(tiny, tmp_path):
    """Many published weights lack the pooler of BERT or ViT; it is not used, and two builds are the same."""
    import shutil

    from safetensors.torch import load_file

    for member, modality in (("hf-bert", "text"), ("hf-vit", "image")):
        folder = shutil.copytree(tiny(member).folder, tmp_path / member)
        state = load_file(folder / "model.safetensors")
        assert any(n.startswith("pooler.") for n in state)
        bare = {n: t for n, t in state.items() if not n.startswith("pooler.")}
        save_file(bare, folder / "model.safetensors", {"format": "pt"})
        specs = [load_encoder(f"hf:{f}", device="cpu").spec(modality, "float16") for f in (folder, tiny(member).folder)]
        assert specs[0].weights == specs[1].weights
