"""Vision-language decoders: their features are states that the library's own model has, of the layer that was named."""

import numpy as np
import pytest
import torch
from PIL import Image

from headwater.api import embed
from headwater.embed import Content, content_key, load_again, load_encoder
from headwater.errors import EncoderError, ImageError, SpecMismatch

KINDS = ["hf-qwen2_vl", "hf-qwen2_5_vl", "hf-qwen3_vl", "hf-idefics3", "hf-smolvlm", "hf-llava"]
PROMPT = "the tissue {image} in a word:"
LONG = "malignant gland " * 40


def image(file):
    return Content(content_key(file.read_bytes()), file)


def text(words):
    return Content(content_key(words.encode()), words)


def vectors(encoder, modality, contents):
    return encoder.encode(modality, [encoder.prepare(modality, content) for content in contents]).pooled


def load(member, **options):
    return load_encoder(member.spec, device="cpu", precision="fp32", **options)


def error_of(member, **options):
    with pytest.raises(EncoderError) as caught:
        load(member, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(member.spec)


def by_hand(folder, words, layer):
    """Return the states of one item, alone, of shape ``(length, dim)``, and where in it the image is."""
    import transformers

    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    conversation = [
        {"role": "user", "content": [p if isinstance(p, dict) else {"type": "text", "text": p} for p in words]}
    ]
    inputs = processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    seen = []
    layers = getattr(model, "language_model", getattr(model, "text_model", None)).layers
    hook = layers[int(layer) - 1].register_forward_hook(lambda *call: seen.append(call[2])) if layer != "last" else None
    with torch.inference_mode():
        states = model(**inputs).last_hidden_state
    if hook is not None:
        states = seen[0] if isinstance(seen[0], torch.Tensor) else seen[0][0]
    return states[0].numpy(), (inputs["input_ids"][0] == processor.image_token_id).numpy()


@pytest.mark.parametrize("member", KINDS)
@pytest.mark.parametrize("layer", ["last", "1"])
def test_states_are_the_librarys(tiny, image_files, member, layer):
    """Each pooling of each layer, of images in a batch, is made of the states that the model has of one image alone."""
    words = ["the tissue ", {"type": "image", "image": None}, " in a word:"]
    expected = {"last-token": [], "mean-image-tokens": [], "mean": []}
    for file in image_files:
        words[1]["image"] = Image.open(file).convert("RGB")
        states, of_image = by_hand(tiny(member).folder, words, layer)
        assert of_image.sum() >= 4
        expected["last-token"].append(states[-1])
        expected["mean-image-tokens"].append(states[of_image].mean(0))
        expected["mean"].append(states.mean(0))
    for pooling, rows in expected.items():
        encoder = load(tiny(member), layer=layer, pooling=pooling, prompt=PROMPT)
        made = vectors(encoder, "image", [image(file) for file in image_files])
        np.testing.assert_allclose(made, np.stack(rows), rtol=0, atol=3e-5 * np.abs(rows).max())


@pytest.mark.parametrize("member", ["hf-qwen2_vl", "hf-idefics3"])
def test_the_end_of_a_long_text_is_left_out(tiny, member):
    """A text that outgrows the context is cut so that the prompt stays whole, and is known to be cut."""
    encoder = load(tiny(member))
    long, short = encoder.prepare("text", text(LONG)), encoder.prepare("text", text("gland"))
    assert (long.cut, short.cut, len(long)) == (True, False, 384)
    ends = [one.arrays["input_ids"][0, -40:].tolist() for one in (long, short)]
    assert ends[0] == ends[1]
    assert encoder.cut("text", text(LONG), long)
    assert np.isfinite(vectors(encoder, "text", [text(LONG), text("")])).all()


def test_words_that_read_like_special_tokens_are_words(tiny):
    """A text that holds the name of the image token, or of the end, is read as a text and nothing else."""
    encoder = load(tiny("hf-qwen2_vl"))
    for words in ("a <|image_pad|> of", "<|vision_start|><|image_pad|><|vision_end|>", "</s>", "{image}", "\ue000"):
        ids = encoder.prepare("text", text(words)).arrays["input_ids"]
        plain = encoder.prepare("text", text("")).arrays["input_ids"]
        special = encoder._processor.tokenizer.all_special_ids
        assert np.isin(ids, special).sum() == np.isin(plain, special).sum()
        assert np.isfinite(vectors(encoder, "text", [text(words)])).all()


def test_what_can_be_chosen_is_in_the_spec(tiny):
    """Another layer, pooling or prompt is another spec, and a spec builds the same encoder again."""
    member = tiny("hf-qwen2_vl")
    plain = load(member).spec("image", "float16")
    assert (plain.layer, plain.pooling) == ("last", "last-token")
    assert "user <|vision_start|><|image_pad|><|vision_end|>Summary of the image" in plain.preprocessing["template"]
    changes = {
        "layer: stored 'last', now '1'": {"layer": "1"},
        "pooling: stored 'last-token', now 'mean'": {"pooling": "mean"},
        "preprocessing.prompt: stored '{image}Summary": {"prompt": PROMPT},
    }
    for said, options in changes.items():
        other = load(member, **options).spec("image", "float16")
        with pytest.raises(SpecMismatch, match="made by a different encoder setting") as caught:
            plain.require_same(other, "f/image")
        assert said in str(caught.value)
        assert load_again(other, device="cpu").spec("image", "float16") == other
    again = load_again(plain, device="cpu")
    assert again.modalities == {"image", "text"}
    assert load(member, layer="2").spec("image", "float16") == plain


def test_what_cannot_be_chosen(tiny):
    """A choice that this model does not have is refused in one line that says what there is."""
    member = tiny("hf-qwen2_vl")
    assert error_of(member, layer="3") == ": --layer 3: write last, or a number from 1 to 2."
    assert error_of(member, layer="final") == ": --layer final: write last, or a number from 1 to 2."
    assert error_of(member, pooling="last-tokn").startswith(
        ": --pooling 'last-tokn'. Did you mean 'last-token'? There are: last-"
    )
    assert error_of(member, prompt="a word:").endswith("where the item goes: put {image} or {text} in it.")
    assert error_of(member, prompt="{image}{image}").endswith("where the item goes: put {image} or {text} in it.")
    assert "asks for one feature of an image and its text" in error_of(member, prompt="{image} {text}")
    assert error_of(member, prompt="{text}", pooling="mean-image-tokens").endswith("put {image} in it.")
    assert error_of(member, tokens="all").endswith("leave --tokens out.")
    assert error_of(tiny("hf-bert"), layer="1", prompt=PROMPT) == (
        " is a bert model, no vision-language decoder: leave --layer and --prompt out."
    )
    assert error_of(tiny("open_clip"), pooling="mean").endswith("leave --pooling out, which is for hf:….")


def test_modalities_follow_the_prompt(tiny):
    """A prompt around an image encodes images, one around a text encodes texts."""
    member = tiny("hf-qwen2_vl")
    assert load(member, prompt=PROMPT).modalities == {"image"}
    assert load(member, prompt="{text}, in a word:").modalities == {"text"}
    assert load(member, pooling="mean-image-tokens").modalities == {"image"}


def test_an_image_that_is_too_long(tiny, tmp_path):
    """An image of a shape that the model refuses fails alone, and the reason says its size."""
    Image.new("RGB", (500, 2)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"takes no image of 500 x 2 pixels \(absolute aspect ratio"):
        load(tiny("hf-qwen2_vl")).prepare("image", image(tmp_path / "a.png"))


def test_weights_from_a_file(tiny, tmp_path):
    """``--weights`` replaces what is in the directory, and weights with gaps are refused."""
    from safetensors.torch import load_file, save_file

    member = tiny("hf-idefics3")
    file = member.folder / "model.safetensors"
    assert load(member, weights=file).spec("text", "float16") == load(member).spec("text", "float16")
    state = load_file(file)
    save_file({n: t for n, t in state.items() if not n.startswith("connector.")}, tmp_path / "gap.safetensors")
    assert "1 tensors missing (connector." in error_of(member, weights=tmp_path / "gap.safetensors").split(": ", 1)[1]


def test_a_store_holds_one_prompt_under_one_name(tiny, image_files, tmp_path):
    """Features of another prompt are refused under the same name, and stored under another; cut texts are counted."""
    rows = [f"{i},{file},{'gland ' * 100 if i == 1 else f'mass {i}'}" for i, file in enumerate(image_files)]
    (tmp_path / "m.csv").write_text("\n".join(["id,image,caption", *rows]))
    words = {"manifest": tmp_path / "m.csv", "store": tmp_path / "a.hw", "encoder": tiny("hf-smolvlm").spec}
    done = embed(**words, text="caption", name="vlm", device="cpu")
    assert done.feature_names() == ["vlm/image", "vlm/text"]
    assert "  1 text cut short, being longer than the encoder reads" in done.lines()
    with pytest.raises(SpecMismatch, match=r"vlm/image was made by .*preprocessing.prompt: stored '\{image\}Summary"):
        embed(**words, name="vlm", prompt=PROMPT, device="cpu")
    other = embed(**words, name="asked", prompt=PROMPT, pooling="mean", layer="1", device="cpu")
    assert other.read("asked/image").X.shape == (4, 32)
