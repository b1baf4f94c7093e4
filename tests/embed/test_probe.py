"""Every encoder is tried on made items when it is loaded, and what cannot be used is refused with the reason."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as t

from headwater.api import doctor, embed, similar
from headwater.embed import Content, content_key, load_encoder
from headwater.embed.probe import FOLDER
from headwater.errors import EncoderError
from tests.models.decoders import build_decoder
from tests.models.parts import DROPS, PIXELS, WIDTHS, build_hub, processor_of
from tests.models.tokenizers import byte_words, wordpieces

OPEN_ENDED = 10**30
"""What transformers takes for the longest text of a tokenizer that names none."""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of verdicts that is empty."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HEADWATER_CACHE", str(folder))
    return folder / FOLDER


def load(spec, **options):
    return load_encoder(getattr(spec, "spec", spec), device="cpu", **options)


def error_of(spec, **options):
    with pytest.raises(EncoderError) as caught:
        load(spec, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def content(text):
    return Content(content_key(text.encode()), text)


def vectors(encoder, modality, contents):
    return encoder.encode(modality, [encoder.prepare(modality, one) for one in contents])


def images(files):
    return [Content(content_key(file.read_bytes()), file) for file in files]


def reader(folder, kind, **settings):
    """Save a text model with 40 positions and a tokenizer that names no longest text."""
    words = wordpieces()
    words.model_max_length = OPEN_ENDED
    common = {**WIDTHS, **DROPS, "vocab_size": len(words), "max_position_embeddings": 40}
    config = getattr(t, f"{kind}Config")(**{**common, **settings})
    return build_hub(folder, getattr(t, f"{kind}Model")(config), None, words)


OFFSET = {
    "Roberta": {},
    "XLMRoberta": {},
    "XLMRobertaXL": {},
    "Camembert": {},
    "MPNet": {},
    "Longformer": {"attention_window": 8},
    "Data2VecText": {},
    "Esm": {"position_embedding_type": "absolute", "mask_token_id": 4},
}


@pytest.mark.parametrize("kind", [*OFFSET, "Electra"])
def test_a_text_of_any_length_is_read(tmp_path, kind):
    """A text is cut at the last position that the model has, before its table's end where counting starts late."""
    encoder = load(reader(tmp_path, kind, pad_token_id=1, **OFFSET.get(kind, {"embedding_size": 16})))
    assert encoder.longest == (40 if kind == "Electra" else 38)
    texts = [content("mass " * n) for n in (1, 36, 37, 38, 39, 400)]
    made = vectors(encoder, "text", texts).pooled
    assert np.isfinite(made).all()
    whole = 36 if kind != "Electra" else 38  # words, beside the two that begin and end a text
    flags = [encoder.cut("text", one, encoder.prepare("text", one)) for one in texts]
    assert flags == [n > whole for n in (1, 36, 37, 38, 39, 400)]
    assert encoder.spec("text", "float16").preprocessing["max_length"] == 40  # as stores hold it that were made before


def mae(folder):
    config = t.ViTMAEConfig(**WIDTHS, **PIXELS, **DROPS, decoder_hidden_size=32, decoder_num_attention_heads=2)
    return build_hub(folder, t.ViTMAEModel(config), processor_of("ViT"))


@pytest.mark.parametrize("tokens", ["none", "all", "4"])
def test_a_masked_autoencoder_sees_the_whole_image(tmp_path, image_files, tokens):
    """It gives an image the vector that its encoder has of all patches in their order, again and again."""
    encoder = load(mae(tmp_path), tokens=tokens)
    found = [vectors(encoder, "image", images(image_files)) for _ in range(2)]
    np.testing.assert_array_equal(found[0].pooled, found[1].pooled)
    model = t.ViTMAEModel.from_pretrained(tmp_path, mask_ratio=0.0).eval()
    pixels = torch.from_numpy(np.stack([encoder.prepare("image", one) for one in images(image_files)]))
    with torch.inference_mode():
        states = model(pixels, noise=torch.arange(16).expand(len(pixels), -1)).last_hidden_state.numpy()
    np.testing.assert_allclose(found[0].pooled, states[:, 0], atol=1e-5)
    if tokens == "all":
        np.testing.assert_allclose(found[0].tokens, states[:, 1:], atol=1e-5)


def pvt(folder):
    config = t.PvtConfig(image_size=64, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, num_attention_heads=[1] * 4)
    return build_hub(folder, t.PvtModel(config), processor_of("ViT"))


def yolos(folder):
    config = t.YolosConfig(**WIDTHS, image_size=[64, 64], patch_size=16, num_detection_tokens=5)
    return build_hub(folder, t.YolosModel(config), processor_of("ViT"))


def deit(folder):
    return build_hub(folder, t.DeiTModel(t.DeiTConfig(**WIDTHS, **PIXELS)), processor_of("ViT"))


def beit(folder):
    return build_hub(folder, t.BeitModel(t.BeitConfig(**WIDTHS, **PIXELS, use_mask_token=True)), processor_of("ViT"))


def ijepa(folder):
    return build_hub(folder, t.IJepaModel(t.IJepaConfig(**WIDTHS, **PIXELS)), processor_of("ViT"))


@pytest.mark.parametrize(
    ("build", "first", "n_cells"),
    [(pvt, 1, 4), (yolos, 1, 16), (deit, 2, 16), (beit, 1, 16), (ijepa, 0, 16), (mae, 1, 16)],
)
def test_tokens_are_cells(tmp_path, image_files, build, first, n_cells):
    """Class, distillation and detection tokens are not among the tokens of an image, wherever a model puts them."""
    member = build(tmp_path)
    encoder = load(member, tokens="all")
    found = vectors(encoder, "image", images(image_files))
    bare = load(member)
    x = bare.collate("image", [bare.prepare("image", one) for one in images(image_files)])[0]
    states = bare._frozen.run(bare._see, x)[1].numpy()
    np.testing.assert_allclose(found.tokens, states[:, first : first + n_cells], atol=1e-6)


def test_tokens_among_which_there_is_a_class_token_are_refused():
    """One token more than a square of cells is a class token whose place is not known."""
    from headwater.embed.pooling import grid_of_sequence

    for side in (1, 4, 7, 14, 32):
        assert grid_of_sequence(side * side, (), of_square=True) == (side, side)
        with pytest.raises(EncoderError, match=r"One is a class token at an unknown position\. Leave --tokens out"):
            grid_of_sequence(side * side + 1, (), of_square=True)


def gemma(folder):
    """Build Gemma 3, whose processor calls the token that begins an image the image token."""
    special = ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    named = dict(zip(("boi_token", "eoi_token", "image_token"), special, strict=True))
    words = t.PreTrainedTokenizerFast(
        tokenizer_object=byte_words(*special).backend_tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=384,
        extra_special_tokens=named,
    )
    begin, end, soft = words.convert_tokens_to_ids(special)
    text = {**WIDTHS, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": len(words), "sliding_window": 384}
    config = t.Gemma3Config(
        text_config={**text, "max_position_embeddings": 384, "pad_token_id": 0},
        vision_config={**WIDTHS, "image_size": 32, "patch_size": 8},
        mm_tokens_per_image=4,
        boi_token_index=begin,
        eoi_token_index=end,
        image_token_index=soft,
        image_token_id=soft,
    )
    chat = (
        "{% for turn in messages %}<s>{{ turn['role'] }} {% for part in turn['content'] %}"
        "{% if part['type'] == 'image' %}<start_of_image>"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}</s>{% endfor %}"
    )
    sizes = t.Gemma3ImageProcessor(size={"height": 32, "width": 32}, image_seq_length=4)
    processor = t.Gemma3Processor(sizes, words, chat_template=chat, image_seq_length=4)
    model = t.Gemma3Model(config)
    torch.nn.init.normal_(model.multi_modal_projector.mm_input_projection_weight)
    return build_decoder(folder, model, processor)


@pytest.mark.parametrize("pooling", ["mean-image-tokens", "last-token", "mean"])
def test_gemma_sees_images(tmp_path, image_files, pooling):
    """Images have different vectors by every pooling; its image tokens are those that its configuration names."""
    encoder = load(gemma(tmp_path), pooling=pooling)
    made = vectors(encoder, "image", images(image_files)).pooled
    assert len(np.unique(made.round(5), axis=0)) == len(image_files)
    ids = encoder.prepare("image", images(image_files)[0]).arrays["input_ids"]
    assert (ids == encoder._image_token).sum() == 4
    assert encoder._image_token != encoder._processor.image_token_id


CODE = """
import numpy as np


class Mean:
    modalities = ("image", "text")
    n_calls = 0

    def load(self, weights, device):
        self.random = np.random.default_rng(0)

    def prepare(self, modality, item):
        return np.asarray(item, float).mean((0, 1)) / 255 if modality == "image" else np.array([len(item), 1.0])

    def encode(self, modality, batch):
        with open(__file__ + ".calls", "a") as file:
            file.write(f"{len(batch)} ")
        vectors = np.stack(batch)
        return vectors
"""


@pytest.fixture
def own(tmp_path):
    """Return a function that writes an encoder whose vectors a line of code changes, and gives its spec."""

    def write(change=""):
        (tmp_path / "own.py").write_text(CODE.replace("return vectors", f"{change}\n        return vectors"))
        return f"python:{tmp_path / 'own.py'}:Mean"

    return write


def calls_of(spec):
    """Return the sizes of all batches so far."""
    file = Path(f"{spec.split(':')[1]}.calls")
    return [int(n) for n in file.read_text().split()] if file.exists() else []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "vectors = np.ones_like(vectors)",
            "returns the same vector for two different images, so its features hold no information",
        ),
        (
            "if modality == 'text': vectors[:] = 3",
            "returns the same vector for two different texts, so its features hold no information",
        ),
        (
            "vectors = vectors + 0.1 * self.random.random(vectors.shape)",
            "returns a different vector for one image each time (cosine 0.",
        ),
        (
            "vectors = vectors - vectors.mean(0) * (len(batch) > 1)",
            "returns different vectors for one image alone and in a batch of 8 (cosine ",
        ),
        (
            "if len(batch) > 7: vectors[-1] = 0",
            "returns different vectors for one image alone and in a batch of 8 (cosine ",
        ),
        (
            "vectors[vectors > 0.9] = np.nan",
            "returns NaN or infinity for a synthetic text in fp32. Check whether its weights are",
        ),
        (
            "vectors = np.stack([vectors, vectors], 1)",
            "returned shape (1, 2, 3) for 1 items, but must return shape (1, dim).",
        ),
        ("if len(batch) > 2: vectors = vectors[:2]", "returned shape (2, 3) for "),
        ("if len(batch) > 2: raise IndexError('index out of range in self')", "encode() failed (IndexError: index out"),
    ],
)
def test_what_cannot_be_used_is_refused(own, change, said, cache):
    """An encoder whose vectors say nothing, change from time to time or with their company, or are no numbers."""
    assert said in error_of(own(change), batch_size=8)
    assert not cache.exists(), "only what is fine is noted"


def test_a_trial_is_noted_and_not_repeated(own, tmp_path, image_files, cache, picture):
    """The second run, `similar` and a smaller batch try nothing; a larger batch, other code and `doctor` do."""
    spec = own()
    (tmp_path / "m.csv").write_text("\n".join(["id,image", *(f"{i},{file}" for i, file in enumerate(image_files))]))

    def n_trials(call):
        before = len(calls_of(spec))
        call()
        return len(calls_of(spec)) - before

    first = n_trials(lambda: embed(tmp_path / "m.csv", tmp_path / "a.hw", encoder=spec, name="own", batch_size=16))
    again = n_trials(lambda: embed(tmp_path / "m.csv", tmp_path / "b.hw", encoder=spec, name="own", batch_size=16))
    loading = n_trials(lambda: load(spec, batch_size=16))
    assert (loading, first - again) == (2, 2 * (3 + 1 + 1))  # a trial: three alone, one of them again, all together
    assert 16 in calls_of(spec)
    query = {"features": "own/image", "image": picture(tmp_path / "q.png", 9), "trust_remote_code": True, "k": 1}
    assert n_trials(lambda: similar(tmp_path / "a.hw", **query)) <= 3
    assert n_trials(lambda: load(spec, batch_size=17)) > loading
    assert n_trials(lambda: load(spec, batch_size=16)) == loading
    own("vectors = vectors * 2")
    assert n_trials(lambda: load(spec, batch_size=16)) > loading
    assert "tested on synthetic items" in "\n".join(doctor(encoder=spec, batch_size=16).lines())
    assert n_trials(lambda: doctor(encoder=spec, batch_size=16)) > loading
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fine",
        "{}",
        '["fine"]',
        '{"key": "KEY", "batch_size": 64, "verdict": "poor", "format": 1}',
        '{"key": "KEY", "batch_size": 64, "verdict": "fine", "format": 2}',
        '{"key": "other", "batch_size": 64, "verdict": "fine", "format": 1}',
        '{"key": "KEY", "batch_size": "64", "verdict": "fine", "format": 1}',
        '{"key": "KEY", "batch_size": 1e9, "verdict": "fine", "format": 1}',
        '{"key": "KEY", "batch_size": 64, "verdict": "fine", "format": 1, "more": "' + "x" * 5000 + '"}',
    ],
)
def test_a_note_that_says_anything_else_is_not_believed(own, cache, text):
    """Only a file that says, of this encoder, that it was found fine, saves the trial; any other is replaced."""
    spec = own()
    load(spec, batch_size=4)
    (file,) = cache.iterdir()
    good = json.loads(file.read_text())
    file.write_text(text.replace("KEY", good["key"]))
    before = len(calls_of(spec))
    load(spec, batch_size=4)
    assert len(calls_of(spec)) - before > 2
    assert json.loads(file.read_text()) == good


def test_a_cache_that_cannot_be_written_is_no_obstacle(own, tmp_path, monkeypatch):
    """Where there is no room for a note, the encoder is tried each time."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert load(own(), batch_size=4).probed.verdict == "fine"


@pytest.mark.parametrize("member", ["hf-vit", "timm-conv", "open_clip", "hf-qwen2_vl", "torchvision", "builtin-clip"])
def test_every_back_end_is_tried_once(tiny, member, cache, monkeypatch):
    """A model of each library is tried when it is first loaded, and not again."""
    own = tiny(member)
    assert load(own, **own.options).probed is not None
    (file,) = cache.iterdir()
    made = file.stat()
    again = load(own, **own.options)
    assert again.probed is not None
    assert file.stat().st_mtime_ns == made.st_mtime_ns


@pytest.mark.parametrize("member", ["texture", "ngram", "stub"])
def test_what_has_no_weights_is_not_tried(tiny, member, cache):
    """The encoders that need nothing but the core have nothing to go wrong, and write no file."""
    assert load(tiny(member)).probed is None
    assert not cache.exists()


def constant(state):
    """Turn the patch embedding off: every image looks alike."""
    return {name: 0 * tensor if "patch_embed" in name else tensor for name, tensor in state.items()}


def damaged(state):
    return {name: tensor / 0 if "blocks.0.norm1" in name else tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (constant, "returns the same vector for two different images, so its features hold no information"),
        (damaged, "returns NaN or infinity for a synthetic image in fp32. Check whether its weights are"),
    ],
)
def test_weights_that_say_nothing(tiny, tmp_path, damage, said):
    """Weights of zeros or NaN are refused before a run, not item by item."""
    from safetensors.torch import load_file, save_file

    member = tiny("timm-vit")
    save_file(damage(load_file(member.folder / "model.safetensors")), tmp_path / "w.safetensors")
    assert said in error_of(member, weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize("kind", ["FNet", "ConvBert"])
def test_text_models_that_read_their_padding(tmp_path, kind):
    """A model that takes padding for words gives a text other vectors in other batches, and is refused."""
    more = {} if kind == "FNet" else {"conv_kernel_size": 3, "head_ratio": 1, "embedding_size": 32}
    said = error_of(reader(tmp_path, kind, **more))
    assert "returns different vectors for one text alone and in a batch of 3 (cosine 0." in said
    assert said.endswith("Check that the model is in evaluation mode, and that padding is masked.")


def test_a_long_text_changes_no_later_one(tmp_path):
    """BigBird, which chooses its attention by the longest text so far, gives a text one vector whatever came before."""
    member = reader(tmp_path, "BigBird", block_size=4, num_random_blocks=1, max_position_embeddings=256)
    long, short = content("gland " * 200), content("gland of the mass")
    one, other = load(member), load(member)
    first = vectors(one, "text", [long]).pooled
    vectors(other, "text", [short])
    np.testing.assert_allclose(vectors(other, "text", [long]).pooled, first, atol=1e-6)
