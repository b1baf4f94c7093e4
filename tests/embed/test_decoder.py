"""Vision-language decoders: their features are states that the library's own model has, of the layer that was named."""

import numpy as np
import pytest
import torch
from PIL import Image

from headwater.api import embed
from headwater.embed import Content, content_key, load_again, load_encoder
from headwater.errors import EncoderError, ImageError, ManifestError, SpecMismatch
from headwater.store import pair_key

KINDS = ["hf-qwen2_vl", "hf-qwen2_5_vl", "hf-qwen3_vl", "hf-idefics3", "hf-smolvlm", "hf-llava"]
PROMPT = "the tissue {image} in a word:"
LONG = "malignant gland " * 40
PAIRED = "look {image} and read {text} then say:"


def image(file):
    return Content(content_key(file.read_bytes()), file)


def text(words):
    return Content(content_key(words.encode()), words)


def pair(file, words):
    return Content(pair_key(content_key(file.read_bytes()), content_key(words.encode())), file, words)


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


WORDS = ["a benign gland", "mass", "severe tissue of the left breast", "of"]


@pytest.mark.parametrize("member", KINDS)
@pytest.mark.parametrize("image_first", [True, False])
def test_states_of_a_pair_are_the_librarys(tiny, image_files, member, image_first):
    """Each pooling of pairs, alone and in a batch, is made of the states that the model has of one pair alone."""
    order = ["{image}", "{text}"] if image_first else ["{text}", "{image}"]
    prompt = f"look {order[0]} and {order[1]} in a word:"
    expected = {"last-token": [], "mean": []} | ({} if image_first else {"mean-image-tokens": []})
    for file, words in zip(image_files, WORDS, strict=True):
        of = {"{image}": {"type": "image", "image": Image.open(file).convert("RGB")}, "{text}": words}
        states, of_image = by_hand(
            tiny(member).folder, ["look ", of[order[0]], " and ", of[order[1]], " in a word:"], "last"
        )
        assert of_image.sum() >= 4
        expected["last-token"].append(states[-1])
        expected["mean"].append(states.mean(0))
        if not image_first:
            expected["mean-image-tokens"].append(states[of_image].mean(0))
    pairs = [pair(file, words) for file, words in zip(image_files, WORDS, strict=True)]
    for pooling, rows in expected.items():
        encoder = load(tiny(member), pooling=pooling, prompt=prompt)
        for made in (vectors(encoder, "pair", pairs), np.concatenate([vectors(encoder, "pair", [p]) for p in pairs])):
            np.testing.assert_allclose(made, np.stack(rows), rtol=0, atol=3e-5 * np.abs(rows).max())


@pytest.mark.parametrize("member", ["hf-qwen2_vl", "hf-smolvlm"])
def test_of_a_pair_that_is_too_long_the_end_of_the_text_is_left_out(tiny, image_files, member):
    """A pair that outgrows the context keeps image, prompt and the start of its text, and is known to be cut."""
    encoder = load(tiny(member), prompt=PAIRED)
    of_image = encoder._image_token
    long, short = (encoder.prepare("pair", pair(image_files[3], words)) for words in (LONG, "gland"))
    assert (long.cut, short.cut, len(long)) == (True, False, 384)
    ids = [one.arrays["input_ids"][0] for one in (long, short)]
    assert (ids[0] == of_image).sum() == (ids[1] == of_image).sum() >= 4
    assert ids[0][-20:].tolist() == ids[1][-20:].tolist()
    assert encoder.cut("pair", pair(image_files[3], LONG), long)
    assert np.isfinite(vectors(encoder, "pair", [pair(image_files[3], LONG)])).all()


def test_an_image_that_leaves_no_room_for_its_text(tiny, image_files):
    """A pair whose image and prompt fill the context fails: a vector of it would be of the image alone."""
    member = tiny("hf-qwen2_vl")
    left = 384 - len(load(member, prompt=PAIRED)._example("pair"))
    encoder = load(member, prompt="x" * left + PAIRED)
    assert len(encoder._example("pair")) == 384
    with pytest.raises(ImageError, match=r"leaves no room for its text in the 384 tokens .*3\.png"):
        encoder.prepare("pair", pair(image_files[3], "gland"))
    assert ": --prompt is too long: an image of 64 x 64 pixels leaves no" in error_of(member, prompt="x" * 400 + PAIRED)


def test_an_image_that_does_not_see_its_text(tiny):
    """The mean over the image's tokens is refused where the text follows them: it would be of the image alone."""
    said = error_of(tiny("hf-qwen2_vl"), prompt="{image}{text}", pooling="mean-image-tokens")
    assert said.startswith(": --pooling mean-image-tokens")
    assert "would ignore the text, since image tokens do not attend to text after them" in said
    assert said.endswith(". Put {text} before {image}, or pass --pooling last-token or mean.")


def test_words_of_a_pair_that_read_like_special_tokens_are_words(tiny, image_files):
    """A text that holds the name of the image token adds no image."""
    encoder = load(tiny("hf-qwen2_vl"), prompt=PAIRED)
    special = encoder._processor.tokenizer.all_special_ids
    counts = set()
    for words in ("", "a <|image_pad|> of", "{image}", "{text}", "\ue000"):
        ids = encoder.prepare("pair", pair(image_files[0], words)).arrays["input_ids"]
        counts.add(int(np.isin(ids, special).sum()))
    assert len(counts) == 1


def test_a_pair_whose_image_changed_is_not_read(tiny, tmp_path, picture):
    """A pair is known by both its parts: pixels that are no longer those of its key are refused."""
    found = pair(picture(tmp_path / "a.png", 0), "gland")
    assert found.image().size == (72, 64)
    picture(tmp_path / "a.png", 1)
    with pytest.raises(ImageError, match=r"changed while it was being embedded: .*a\.png"):
        load(tiny("hf-smolvlm"), prompt=PAIRED).prepare("pair", found)


def test_what_is_in_the_spec_of_pairs(tiny):
    """A spec of pairs says what is done to images and to texts, and builds the same encoder again."""
    encoder = load(tiny("hf-qwen2_vl"), prompt=PAIRED, steps=["orient=left"])
    spec = encoder.spec("pair", "float16")
    assert spec.modality == "pair"
    assert spec.preprocessing["prompt"] == PAIRED
    assert "<|image_pad|><|vision_end|> and read {text} then say:" in spec.preprocessing["template"]
    assert spec.preprocessing["max_length"] == 384
    assert spec.preprocessing["steps"] == ["orient=left"]
    assert "patch_size" in spec.preprocessing["image_processor"]
    assert load_again(spec, device="cpu").spec("pair", "float16") == spec


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
        with pytest.raises(
            SpecMismatch, match=r"^f/image was made with another encoder or other settings \(.*Pass --name"
        ) as caught:
            plain.require_same(other, "f/image")
        assert said in str(caught.value)
        assert load_again(other, device="cpu").spec("image", "float16") == other
    again = load_again(plain, device="cpu")
    assert again.modalities == {"image", "text"}
    assert load(member, layer="2").spec("image", "float16") == plain


def test_what_cannot_be_chosen(tiny):
    """A choice that this model does not have is refused in one line that says what there is."""
    member = tiny("hf-qwen2_vl")
    assert error_of(member, layer="3") == ": --layer 3 must be last, or a number from 1 to 2."
    assert error_of(member, layer="final") == ": --layer final must be last, or a number from 1 to 2."
    assert error_of(member, pooling="last-tokn").startswith(
        ": --pooling 'last-tokn'. Did you mean 'last-token'? There are: last-"
    )
    for prompt in ("a word:", "{image}{image}", "{image} {text} {text}"):
        assert error_of(member, prompt=prompt) == (
            f": --prompt '{prompt}' must contain {{image}} or {{text}} once, or each of both once to read "
            "them together."
        )
    assert error_of(member, prompt="{text}", pooling="mean-image-tokens") == (
        ": --pooling mean-image-tokens needs an image in the prompt. Put {image} in it."
    )
    assert error_of(member, tokens="all") == " is a decoder, whose tokens cannot be stored. Leave --tokens out."
    assert error_of(tiny("hf-bert"), layer="1", prompt=PROMPT) == (
        " is a bert model, not a vision-language decoder. Leave --layer and --prompt out."
    )
    assert error_of(tiny("open_clip"), prompt=PROMPT) == (
        " does not support --prompt, which is for hf:…. Leave it out."
    )


def test_modalities_follow_the_prompt(tiny):
    """A prompt around an image encodes images, one around a text encodes texts."""
    member = tiny("hf-qwen2_vl")
    assert load(member, prompt=PROMPT).modalities == {"image"}
    assert load(member, prompt="{text}, in a word:").modalities == {"text"}
    assert load(member, pooling="mean-image-tokens").modalities == {"image"}
    assert load(member, prompt="{text} {image}", pooling="mean-image-tokens").modalities == {"pair"}
    assert load(member, prompt=PAIRED).modalities == {"pair"}


def test_an_image_that_is_too_long(tiny, tmp_path, monkeypatch):
    """An image of a shape that nothing resizes, or that the model refuses, fails alone, and the reason has its size."""
    Image.new("RGB", (500, 2)).save(tmp_path / "a.png")
    encoder = load(tiny("hf-qwen2_vl"))
    with pytest.raises(ImageError, match=r"500 x 2 pixels, so it is more than 200 times as long as wide"):
        encoder.prepare("image", image(tmp_path / "a.png"))
    monkeypatch.setattr("headwater.embed.encoder.is_strip", lambda width, height: False)
    with pytest.raises(ImageError, match=r"cannot read an image of 500 x 2 pixels \(absolute aspect ratio"):
        encoder.prepare("image", image(tmp_path / "a.png"))


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
    assert "  1 text truncated to the length that the encoder reads" in done.lines()
    with pytest.raises(
        SpecMismatch, match=r"vlm/image was made with another encoder .*preprocessing.prompt: stored '\{image\}Summary"
    ):
        embed(**words, name="vlm", prompt=PROMPT, device="cpu")
    other = embed(**words, name="asked", prompt=PROMPT, pooling="mean", layer="1", device="cpu")
    assert other.read("asked/image").X.shape == (4, 32)


def test_a_manifest_without_pairs_is_refused(tiny, image_files, tmp_path):
    """A prompt of both wants both columns, and a row that has both."""
    (tmp_path / "m.csv").write_text(f"id,image\n0,{image_files[0]}\n")
    words = {"store": tmp_path / "a.hw", "encoder": tiny("hf-smolvlm").spec, "prompt": PAIRED, "device": "cpu"}
    with pytest.raises(ManifestError, match=r"reads an image and its text together.*--image COLUMN and --text COLUMN"):
        embed(tmp_path / "m.csv", **words)
    (tmp_path / "m.csv").write_text(f"id,image,text\n0,{image_files[0]},\n1,,gland\n")
    with pytest.raises(ManifestError, match="no row has both an image and a text"):
        embed(tmp_path / "m.csv", **words)
    assert not (tmp_path / "a.hw").exists()
