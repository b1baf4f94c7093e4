"""The run that fills a feature set: whatever happens on the way, the same bytes in the end."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headwater.embed import Content, Encoded, content_key, fill, load_encoder, unique_images, unique_texts
from headwater.embed.builtin import StubEncoder
from headwater.errors import EncoderError, ImageError, SpecMismatch
from headwater.store import create_store

N_IMAGES = 150


class Counting(StubEncoder):
    """A stub that keeps a list of what it was given, and can be told to change or to overflow."""

    def __init__(self, dim="8", factor=1.0):
        super().__init__(dim)
        self.seen = []
        self.factor = factor
        self.offset = 0.0

    def prepare(self, modality, content):
        if modality == "image":
            content.image()
        return super().prepare(modality, content)

    def encode(self, modality, batch):
        self.seen += batch
        return Encoded(super().encode(modality, batch).pooled * np.float32(self.factor) + np.float32(self.offset))


class WithLargeTokens(StubEncoder):
    """A stub whose tokens reach to a hundred million, as hidden states of language models can."""

    tokens = "all"

    def spec(self, modality, dtype):
        return replace(super().spec(modality, dtype), tokens="all", n_tokens=3, token_dim=2)

    def encode(self, modality, batch):
        tokens = np.array([[1.0, -1e8], [3.0, 5e7], [0.0, 1e-3]], np.float32)
        return Encoded(np.ones((len(batch), 8), np.float32), np.stack([tokens] * len(batch)))


@pytest.fixture(scope="module")
def many_images(tmp_path_factory, picture):
    folder = tmp_path_factory.mktemp("many")
    return [picture(folder / f"{i:03}.png", i, (24, 20)) for i in range(N_IMAGES)]


def contents_of(files):
    return [Content(content_key(file.read_bytes()), file) for file in files]


def features_of(path, encoder, modality, n_items=N_IMAGES, dtype="float16"):
    return create_store(path).require_features(f"f/{modality}", encoder.spec(modality, dtype), n_items)


def bytes_of(path):
    return {p.relative_to(path): p.read_bytes() for p in sorted((path / "features.zarr").rglob("*")) if p.is_file()}


class Interrupt:
    """A progress callback that stops the run at its n-th call."""

    def __init__(self, at):
        self.left = at

    def __call__(self, n_done, n_failed):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("member", "modality", "tokens"),
    [("timm-conv", "image", "none"), ("timm-vit", "image", "3"), ("hf-bert", "text", "all"), ("stub", "image", "none")],
)
def test_interrupted_and_taken_up_again(tiny, many_images, tmp_path, member, modality, tokens):
    """Stopped at any point, once or often, a run ends with the same bytes as one that was never stopped."""
    contents = contents_of(many_images)
    if modality == "text":
        contents, _ = unique_texts([f"benign gland {'mass ' * (i % 17)}{i}" for i in range(N_IMAGES)])

    def run(path, progress=None):
        encoder = load_encoder(tiny(member).spec, tokens=tokens, device="cpu", precision="fp32")
        features = features_of(path, encoder, modality)
        return fill(features, encoder, contents, batch_size=8, workers=2, progress=progress)

    assert run(tmp_path / "whole").embedded == N_IMAGES
    expected = bytes_of(tmp_path / "whole")
    calls = 19 if modality == "image" else 3
    for at in sorted({1, calls // 2, calls - 1, calls}):
        path = tmp_path / f"stopped{at}"
        with pytest.raises(KeyboardInterrupt):
            run(path, Interrupt(at))
        result = run(path)
        assert result.embedded + result.kept == N_IMAGES
        assert bytes_of(path) == expected
    path = tmp_path / "often"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(path, Interrupt(calls // 2))  # a block further each time
    run(path)
    assert bytes_of(path) == expected
    assert run(path).embedded == 0


def test_progress_counts_to_the_end(many_images, tmp_path):
    encoder, calls = Counting(), []
    contents = contents_of(many_images)
    fill(features_of(tmp_path / "s", encoder, "image"), encoder, contents, progress=lambda *n: calls.append(n))
    assert calls[-1] == (N_IMAGES, 0)
    assert [n for n, _ in calls] == sorted(n for n, _ in calls)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_every_row_holds_its_own_item(many_images, tmp_path, workers, batch_size):
    """Whatever the batches and workers, a row holds the vector of its key."""
    encoder = StubEncoder("8")
    contents = contents_of(many_images)
    features = features_of(tmp_path / "s", encoder, "image")
    fill(features, encoder, contents, batch_size=batch_size, workers=workers)
    features = features.refresh()
    expected = encoder.encode("image", [c.key for c in contents]).pooled.astype(np.float16)
    rows = features.rows_of(np.stack([np.frombuffer(c.key, np.uint8) for c in contents]))
    np.testing.assert_array_equal(features.pooled[rows], expected)


def test_nothing_to_do(tmp_path):
    encoder = StubEncoder("8")
    result = fill(features_of(tmp_path / "s", encoder, "image"), encoder, [])
    assert (result.embedded, result.kept, result.failed) == (0, 0, [])


def test_duplicates_are_embedded_once(many_images, tmp_path):
    """A copy under another name, and a text that stands in many rows, is one item."""
    copy = shutil.copy(many_images[3], tmp_path / "copy.png")
    files = [*many_images[:5], copy, None, many_images[0]]
    keys = [None if file is None else content_key(file.read_bytes()) for file in files]
    contents, place = unique_images(files, keys)
    assert place.tolist() == [0, 1, 2, 3, 4, 3, -1, 0]
    encoder = Counting()
    assert fill(features_of(tmp_path / "s", encoder, "image"), encoder, contents).embedded == 5
    assert len(encoder.seen) == len(set(encoder.seen)) == 5
    texts, place = unique_texts(["a", None, "b", "a"])
    assert ([c.text() for c in texts], place.tolist()) == (["a", "b"], [0, -1, 1, 0])


def test_images_that_cannot_be_read(many_images, tmp_path):
    """They are recorded as failed, with the reason and the file, and the run goes on; `retry_failed` tries again."""
    files = [Path(shutil.copy(file, tmp_path)) for file in many_images]
    contents = contents_of(files)
    damaged = files[10]
    damaged.write_bytes(damaged.read_bytes()[:60])
    contents[10] = contents_of([damaged])[0]
    (tmp_path / "away").mkdir()
    shutil.move(files[70], tmp_path / "away" / files[70].name)
    files[80].write_bytes(files[81].read_bytes())
    encoder = Counting()
    features = features_of(tmp_path / "s", encoder, "image")
    result = fill(features, encoder, contents)
    assert (result.embedded, result.kept) == (N_IMAGES - 3, 0)
    assert {content.source: why for content, why in result.failed} == {
        files[10]: f"truncated image (60 bytes): {files[10]}",
        files[70]: f"image file not found: {files[70]}",
        files[80]: f"the file changed while it was being embedded: {files[80]}",
    }
    features = features.refresh()
    assert sorted(features.failed.values()) == sorted(why for _, why in result.failed)
    assert np.isnan(np.asarray(features.pooled[np.flatnonzero(features.status == 2)])).all()
    assert np.isfinite(np.asarray(features.pooled[np.flatnonzero(features.status == 1)])).all()

    again = fill(features, encoder, contents)
    assert (again.embedded, again.failed) == (0, []), "failed items are not tried again unasked"
    shutil.move(tmp_path / "away" / files[70].name, files[70])
    retried = fill(features, encoder, contents, retry_failed=True)
    assert (retried.embedded, len(retried.failed)) == (1, 2)
    assert (features.refresh().status == 1).sum() == N_IMAGES - 2


def test_all_images_of_a_block_cannot_be_read(many_images, tmp_path):
    encoder = Counting()
    contents = [Content(c.key, tmp_path / "nowhere.png") for c in contents_of(many_images)]
    features = features_of(tmp_path / "s", encoder, "image")
    result = fill(features, encoder, contents)
    assert (result.embedded, len(result.failed)) == (0, N_IMAGES)
    assert (features.refresh().status == 2).all()


def test_stop_on_error(many_images, tmp_path):
    """The first image that cannot be read ends the run with its reason; finished blocks are kept."""
    contents = contents_of(many_images)
    contents[100] = Content(contents[100].key, tmp_path / "nowhere.png")
    encoder = Counting()
    features = features_of(tmp_path / "s", encoder, "image")
    with pytest.raises(ImageError, match=f"^image file not found: {tmp_path / 'nowhere.png'}$"):
        fill(features, encoder, contents, stop_on_error=True)
    assert (features.refresh().status == 1).sum() == 64


def test_an_encoder_that_changed_is_caught(many_images, tmp_path):
    """Stored items are embedded again before new ones are added; where they differ, the run stops and says so."""
    encoder = Counting()
    features = features_of(tmp_path / "s", encoder, "image")
    contents = contents_of(many_images)
    fill(features, encoder, contents[:100])
    encoder.offset = 0.2
    with pytest.raises(EncoderError) as caught:
        fill(features, encoder, contents)
    said = str(caught.value)
    assert said.startswith(f"f/image: {many_images[0]}, embedded again, differs from its stored vector (cosine 0.")
    assert said.endswith("the encoder or its preprocessing has changed. Pass --name to start a new feature set.")
    encoder.offset = 0.0
    assert fill(features, encoder, contents).embedded == 50


def test_stored_vectors_that_are_not_numbers_are_no_match(many_images, tmp_path, monkeypatch):
    """What is stored and cannot be compared is not taken for the same."""
    monkeypatch.setenv("HEADWATER_CHECK", "off")  # or the block would be refused as damaged
    encoder, contents = Counting(), contents_of(many_images)
    features = features_of(tmp_path / "a.hw", encoder, "image")
    fill(features, encoder, contents[:40])
    path = features.refresh().pooled.chunk_path(0)
    path.write_bytes(np.full(path.stat().st_size // 2, np.nan, np.float16).tobytes())
    with pytest.raises(
        EncoderError, match=r"embedded again, differs from its stored vector \(cosine nan\): the encoder or its"
    ):
        fill(features.refresh(), encoder, contents)


def test_an_error_of_the_encoder_ends_the_run(many_images, tmp_path):
    """What is not an image's fault is not recorded as one."""

    class Broken(Counting):
        threads_own_cores = True

        def encode(self, modality, batch):
            raise RuntimeError("out of memory")

    encoder = Broken()
    features = features_of(tmp_path / "s", encoder, "image")
    with pytest.raises(RuntimeError, match="out of memory"):
        fill(features, encoder, contents_of(many_images))
    assert features.refresh().state.blocks == {}


@pytest.mark.parametrize("factor", [1e6, np.nan])
def test_values_that_do_not_fit_the_stored_type(many_images, tmp_path, factor):
    """An item whose vector is not finite in float16 failed, and the reason says what to try."""
    encoder = Counting(factor=factor)
    features = features_of(tmp_path / "s", encoder, "image", 5)
    result = fill(features, encoder, contents_of(many_images[:5]))
    assert {why for _, why in result.failed} == {
        "its features are not finite in float16; try --dtype float32 or --precision fp32"
    }
    if factor == 1e6:
        features = features_of(tmp_path / "wide", encoder, "image", 5, "float32")
        assert fill(features, encoder, contents_of(many_images[:5])).embedded == 5


@pytest.mark.parametrize("dtype", ["float16", "int8", "bfloat16"])
def test_tokens_that_do_not_fit_the_stored_type(many_images, tmp_path, dtype):
    """Where float16 and int8 end, bfloat16 does not; the reason says so."""
    encoder = WithLargeTokens("8")
    spec = encoder.spec("image", "float16").with_tokens_as(dtype)
    features = create_store(tmp_path / "s").require_features("f/image", spec, 5)
    result = fill(features, encoder, contents_of(many_images[:5]))
    if dtype != "bfloat16":
        why = f"its tokens are not finite in {dtype}; try --tokens-dtype bfloat16 or --precision fp32"
        assert {reason for _, reason in result.failed} == {why}
        return
    assert result.embedded == 5
    expected = encoder.encode("image", [0]).tokens[0]
    assert np.allclose(features.refresh().tokens[0], expected, rtol=1 / 256)


@pytest.mark.parametrize("tokens", ["all", "3"])
@pytest.mark.parametrize("member", ["hf-bert", "open_clip", "hf-siglip"])
def test_ragged_tokens(tiny, tmp_path, member, tokens):
    """The tokens of each text are stored whole, and are those of the text encoded alone."""
    encoder = load_encoder(tiny(member).spec, tokens=tokens, device="cpu", precision="fp32")
    texts = [f"{'benign gland ' * (i % 5)}mass {i}" for i in range(90)] + [""]
    contents, _ = unique_texts(texts)
    features = features_of(tmp_path / "s", encoder, "text", len(contents), "float32")
    fill(features, encoder, contents[:70], batch_size=4)
    fill(features, encoder, contents, batch_size=4)
    features = features.refresh()
    rows = features.rows_of(np.stack([np.frombuffer(c.key, np.uint8) for c in contents]))
    assert len({len(features.tokens[row]) for row in rows}) > 1 or tokens == "3"
    for content, row in zip(contents, rows, strict=True):
        alone = encoder.encode("text", [encoder.prepare("text", content)])
        np.testing.assert_allclose(features.pooled[row], alone.pooled[0], rtol=0, atol=1e-4)
        np.testing.assert_allclose(features.tokens[row], alone.tokens[0], rtol=0, atol=1e-4)
    assert list(features.verify()) == []


def test_torchs_threads_are_given_back(tiny, many_images, tmp_path):
    """A run uses one thread a worker, and leaves torch's setting as it was."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        encoder = load_encoder(tiny("timm-conv").spec, device="cpu")
        fill(features_of(tmp_path / "s", encoder, "image"), encoder, contents_of(many_images[:20]))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_steps_define_features(many_images, tmp_path):
    """Steps before the encoder change what is stored, and belong to what the features are."""
    plain, stepped = load_encoder("builtin:texture"), load_encoder("builtin:texture", steps=["background=200"])
    content = Content(content_key(many_images[0].read_bytes()), many_images[0])
    one, other = (e.encode("image", [e.prepare("image", content)]).pooled for e in (plain, stepped))
    assert not np.allclose(one, other)
    assert stepped.spec("image", "float16").preprocessing["steps"] == ["background=200"]
    with pytest.raises(SpecMismatch, match="preprocessing"):
        plain.spec("image", "float16").require_same(stepped.spec("image", "float16"), "features")
    for spec, lacks in (("stub:8", "pixels"), ("builtin:ngram", "images")):
        with pytest.raises(EncoderError, match=rf"{spec} reads no {lacks}\. Leave --step out"):
            load_encoder(spec, steps=["mammogram"])


@pytest.mark.parametrize("member", ["hf-bert", "hf-siglip2", "open_clip-bert"])
def test_texts_that_are_cut_are_counted(tiny, tmp_path, member):
    """Several threads that cut texts and count them do not disturb each other."""
    encoder = load_encoder(tiny(member).spec, device="cpu", precision="fp32")
    contents, _ = unique_texts([f"{i} {'gland ' * (40 if i % 3 else 1)}" for i in range(600)])
    features = features_of(tmp_path / "s", encoder, "text", len(contents), "float32")
    result = fill(features, encoder, contents, batch_size=2, workers=4)
    assert (result.embedded, result.cut) == (600, 400)
