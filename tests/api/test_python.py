"""What Python users do with a store, a run and a head: scikit-learn's tools, notebooks, arrays of features."""

import warnings

import numpy as np
import polars as pl
import pytest
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    cross_val_predict,
    cross_val_score,
    learning_curve,
    permutation_test_score,
    train_test_split,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import resample, shuffle

import headwater as hw
from headwater.errors import HeadError, ImageError, InputError
from headwater.heads import KNN, MLP, Concatenated, LinearProbe, Ridge, XGBoost
from headwater.heads.controls import noise_like
from headwater.store import open_store


@pytest.fixture(scope="module")
def data(filled):
    return open_store(filled).read("texture/image")


@pytest.fixture(scope="module")
def y(data):
    return data.table["grade"].to_numpy()


# Arrays that read their rows as they are taken


KEYS = {
    "rows": np.array([3, 1, 1]),
    "a list": [3, 1],
    "a mask": np.arange(48) % 3 == 0,
    "a row": 5,
    "a slice": slice(4, 20, 3),
    "backwards": slice(None, None, -1),
    "rows, then all": (np.array([3, 1]), Ellipsis),
    "a mask, then all": (np.arange(48) % 3 == 0, Ellipsis),
    "some columns": (slice(None), slice(2, 9)),
    "one column": (slice(None), 3),
    "picked columns": (slice(None), [1, 5]),
    "rows and columns": (slice(2, 8), slice(None, None, 2)),
    "pairs": (np.array([1, 2]), np.array([3, 4])),
    "one value": (4, 7),
    "all": Ellipsis,
    "all of nothing": (),
    "a new axis": (None, slice(0, 2)),
    "the last": -1,
}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", ["selected", "mapped", "joined"])
def test_selections_are_those_of_numpy(filled, data, kind, key):
    X = {
        "selected": lambda: data.X,
        "mapped": lambda: open_store(filled).features("texture/image").pooled,
        "joined": lambda: Concatenated([data.X, np.asarray(data.X)[:, :4]]),
    }[kind]()
    whole = np.asarray(X)
    expected = whole[KEYS[key]]
    found = X[KEYS[key]]
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
    assert (X.ndim, X.size, len(X)) == (whole.ndim, whole.size, len(whole))
    assert X.astype(np.float64).dtype == np.float64


def test_operators_are_those_of_numpy(data):
    X, whole = data.X, np.asarray(data.X)
    for found, expected in ((X * 2, whole * 2), (1 - X, 1 - whole), (X == 0, whole == 0), (X > 0, whole > 0)):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(X - X[:].mean(0), whole - whole.mean(0))
    np.testing.assert_array_equal(X + X, whole + whole)
    np.testing.assert_array_equal(np.abs(X), np.abs(whole))
    assert len({X, X}) == 1


TOOLS = {
    "cross_val_score": lambda head, X, y: cross_val_score(head, X, y, cv=3),
    "cross_val_predict": lambda head, X, y: cross_val_predict(head, X, y, cv=3, method="predict_proba"),
    "GridSearchCV": lambda head, X, y: (
        GridSearchCV(head, {"C": [0.01, 1.0]}, cv=3).fit(X, y).cv_results_["mean_test_score"]
    ),
    "train_test_split": lambda head, X, y: train_test_split(X, random_state=0)[0],
    "resample": lambda head, X, y: resample(X, random_state=0),
    "shuffle": lambda head, X, y: shuffle(X, random_state=0),
    "a pipeline": lambda head, X, y: make_pipeline(StandardScaler(), head).fit(X, y).predict_proba(X),
    "calibration": lambda head, X, y: CalibratedClassifierCV(head, cv=3).fit(X, y).predict_proba(X),
    "learning_curve": lambda head, X, y: learning_curve(head, X, y, cv=2, train_sizes=[0.5, 1.0])[2],
    "permutation_test_score": lambda head, X, y: permutation_test_score(
        head, X, y, cv=2, n_permutations=3, random_state=0
    )[1],
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("head", [LinearProbe(n_threads=1), LogisticRegression(max_iter=500)], ids=["own", "theirs"])
def test_tools_of_scikit_learn(data, y, tool, head):
    """Each gives what it gives on the array that the features are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a solver that stops early
        found, expected = (np.asarray(TOOLS[tool](head, X, y), float) for X in (data.X, np.asarray(data.X)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_noise_is_selected_as_numpy_does(data):
    noise = noise_like(data.X, 0)
    np.testing.assert_array_equal(noise[(np.array([3, 1]), Ellipsis)], np.asarray(noise)[[3, 1]])


# Weights of rows


TREES = XGBoost(n_rounds=20, patience=None, subsample=1, colsample=1, n_threads=1)


@pytest.mark.parametrize(
    "head",
    [LinearProbe(standardize=False, n_threads=1), Ridge(standardize=False), TREES],
    ids=["linear", "ridge", "trees"],
)
def test_a_row_that_counts_twice_is_as_two(head):
    """Weights of 0, 1 and 2 are rows left out, once and twice; in a search of scikit-learn's too."""
    if isinstance(head, XGBoost):
        pytest.importorskip("xgboost")
    rng = np.random.default_rng(0)
    X = rng.integers(0, 6, (200, 5)).astype(np.float32)
    target = X[:, 0] + rng.standard_normal(200)
    y = target if isinstance(head, Ridge) else (target > 2.5).astype(int)
    weight = rng.integers(0, 3, 200).astype(float)
    one = head.fit(X, y, sample_weight=weight).predict(X)
    rows = np.repeat(np.arange(200), weight.astype(int))
    other = type(head)(**head.get_params()).fit(X[rows], y[rows]).predict(X)
    np.testing.assert_allclose(one, other, atol=1e-3)
    far = np.concatenate([X, np.full((20, 5), 1e4, np.float32)])
    zero = np.concatenate([weight, np.zeros(20)])
    masked = type(head)(**head.get_params()).fit(far, np.concatenate([y, 1 - y[:20]]), sample_weight=zero).predict(X)
    np.testing.assert_allclose(masked, one, atol=1e-3)  # rows of weight 0 have no say in anything
    plain = type(head)(**head.get_params()).fit(X, y).predict(X)
    assert np.abs(plain - other).max() > 1e-3  # else weights would not matter
    GridSearchCV(head, {}, cv=2).fit(X, y, sample_weight=weight)


def test_weights_that_are_none(data, y):
    for weight in (np.ones(3), -np.ones(len(y)), np.full(len(y), np.nan)):
        with pytest.raises(HeadError, match="sample_weight must be 48 numbers"):
            LinearProbe().fit(data.X, y, sample_weight=weight)
    for head in (KNN(), MLP()):  # as scikit-learn's own neighbours
        with pytest.raises(TypeError, match="sample_weight"):
            head.fit(data.X, y, sample_weight=np.ones(len(y)))


# In a session


def test_runs_stores_and_data_are_short(filled, data, tmp_path):
    run = hw.fit_head(filled, features="texture/image", label="grade", groups="patient", out=tmp_path / "run")
    other = hw.fit_head(filled, features="texture/image", label="grade", groups="patient", head="knn")
    for shown in (run, hw.open_store(filled), data, hw.info(filled), hw.compare([run, other])):
        assert len(repr(shown)) < 250, repr(shown)
        assert "\n" not in repr(shown)
        assert shown._repr_html_().startswith("<pre>")
    assert f"{run.mean['auc']:.3f}" in repr(run)
    assert "48 samples" in repr(data)
    assert "<th>grade</th>" in data._repr_html_()


def test_nothing_of_a_store_is_a_tag(make_store):
    """A class, a column or an encoder that somebody named with markup is shown as text in a notebook."""
    bad = "<script>alert(1)</script>"
    rng = np.random.default_rng(0)
    store = make_store(rng.standard_normal((20, 3)), label=[bad, "b"] * 10, **{bad: ["x"] * 20})
    run = hw.fit_head(store, features="made/image", label="label", groups="none", folds=2)
    for shown in (run, store, store.read("made/image"), hw.info(store)):
        assert "<script>" not in shown._repr_html_()


def test_a_run_that_is_damaged_has_a_repr(filled, tmp_path):
    run = hw.fit_head(filled, features="texture/image", label="grade", groups="patient", out=tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_text('{"task": "binary", "n_samples": 3}')
    assert "3 samples" in repr(hw.open_run(tmp_path / "run"))
    assert run.path is not None


# Arrays of features


def test_images_are_encoded_as_a_store_has_them(gallery, filled, data):
    """Paths, PIL images and arrays of the same pixels give what `embed` stored, in order, one or many."""
    files = [gallery / "images" / f"{i:02d}.png" for i in (3, 1, 2)]
    stored = np.asarray(data.X)[[3, 1, 2]]
    pictures = [Image.open(file) for file in files]
    for items in (files, list(map(str, files)), pictures, [np.asarray(one) for one in pictures], tuple(files)):
        found = hw.encode(items, encoder="builtin:texture", batch_size=2)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, stored, atol=1e-3)
    np.testing.assert_allclose(hw.encode(files[0], encoder="builtin:texture"), stored[0], atol=1e-3)
    np.testing.assert_allclose(hw.encode(np.asarray(pictures[0]), encoder="builtin:texture"), stored[0], atol=1e-3)


def test_texts_are_encoded_as_a_store_has_them(filled):
    words = open_store(filled).read("ngram/text")
    texts = words.table["caption"].to_list()[:5]
    np.testing.assert_allclose(hw.encode(texts, encoder="builtin:ngram"), np.asarray(words.X)[:5], atol=1e-3)
    assert hw.encode(texts[0], encoder="builtin:ngram").shape == (words.X.shape[1],)


def test_columns_and_arrays_are_several_items(gallery):
    """A column of polars', an array of words, a generator and pictures in one array are lists of items."""
    texts = ["benign tissue", "severe mass", "tissue"]
    expected = hw.encode(texts, encoder="builtin:ngram")
    for items in (pl.Series(texts), np.array(texts), np.array(texts, object), (text for text in texts)):
        np.testing.assert_array_equal(hw.encode(items, encoder="builtin:ngram"), expected)
    pixels = np.stack([np.asarray(Image.open(gallery / "images" / f"0{i}.png")) for i in (1, 2)])
    found = hw.encode(pixels, encoder="builtin:texture")
    np.testing.assert_array_equal(found, hw.encode(list(pixels), encoder="builtin:texture"))
    grey = (hw.encode(one, encoder="builtin:texture") for one in (pixels[0][:, :, :1], pixels[0][:, :, 0]))
    np.testing.assert_array_equal(*grey)
    with_alpha = np.dstack([pixels[0], np.full(pixels[0].shape[:2], 255, np.uint8)])
    np.testing.assert_allclose(hw.encode(with_alpha, encoder="builtin:texture"), found[0], atol=1e-5)


def test_a_dual_encoder_reads_strings_as_texts(gallery):
    pytest.importorskip("open_clip")
    encoder = hw.embed.load_encoder("builtin:clip")
    file = gallery / "images" / "00.png"
    words = hw.encode([str(file), "tissue"], encoder=encoder)
    image = hw.encode([str(file)], encoder=encoder, modality="image")
    assert words.shape == (2, image.shape[1])
    assert not np.allclose(words[0], image[0])
    np.testing.assert_allclose(hw.encode(file, encoder=encoder), image[0], atol=1e-4)


def test_what_cannot_be_encoded(gallery, tmp_path):
    file = gallery / "images" / "00.png"
    (tmp_path / "bad.png").write_bytes(b"no image")
    cases = [
        (lambda: hw.encode([], encoder="builtin:texture"), InputError, "nothing to encode"),
        (lambda: hw.encode([3], encoder="builtin:texture"), InputError, "item 0 is a int"),
        (lambda: hw.encode(3, encoder="builtin:texture"), InputError, "items are a int"),
        (lambda: hw.encode(None, encoder="builtin:ngram"), InputError, "items are a NoneType"),
        (lambda: hw.encode(b"text", encoder="builtin:ngram"), InputError, "items are a bytes"),
        (
            lambda: hw.encode(["a", None], encoder="builtin:ngram"),
            InputError,
            "1 of 2 items are empty, such as number 1",
        ),
        (
            lambda: hw.encode(["a", "\ud800"], encoder="builtin:ngram"),
            InputError,
            "item 1 is not valid text: it holds a lone surrogate",
        ),
        (lambda: hw.encode(Image.new("HSV", (9, 9)), encoder="builtin:texture"), ImageError, "convert it to RGB"),
        (lambda: hw.encode("x", encoder="builtin:ngram", modality="image"), InputError, "encodes texts"),
        (lambda: hw.encode([file], encoder="builtin:ngram"), InputError, "encodes texts"),
        (lambda: hw.encode(["a", file], encoder="builtin:ngram"), InputError, "encode texts and images separately"),
        (lambda: hw.encode([tmp_path / "bad.png"], encoder="builtin:texture"), ImageError, "bad.png"),
        (lambda: hw.encode([tmp_path / "none.png"], encoder="builtin:texture"), ImageError, "none.png"),
        (lambda: hw.encode(np.zeros((4, 4)), encoder="builtin:texture"), ImageError, "uint8"),
        (lambda: hw.encode(np.zeros((4, 4, 7), np.uint8), encoder="builtin:texture"), ImageError, "uint8"),
        (lambda: hw.encode([file], encoder="builtin:texture", modality="sound"), InputError, "image or text"),
        (lambda: hw.encode([file], encoder="builtin:texture", batch_size=0), InputError, "batch_size"),
    ]
    for call, kind, words in cases:
        with pytest.raises(kind, match=words):
            call()


@pytest.mark.parametrize(
    ("option", "value", "kind", "words"),
    [
        ("pooling", "cls", InputError, "pooling goes with the spec of an encoder, but this one is already loaded"),
        ("device", "cpu", InputError, "device goes with the spec of an encoder"),
        ("poling", "cls", TypeError, "Did you mean 'pooling'"),
    ],
)
def test_a_loaded_encoder_takes_no_options(option, value, kind, words):
    """An option beside an encoder that is already loaded is refused, since nothing would use it."""
    loaded = hw.embed.load_encoder("builtin:ngram")
    assert hw.encode("a word", encoder=loaded).shape == (512,)
    with pytest.raises(kind, match=words):
        hw.encode("a word", encoder=loaded, **{option: value})


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_pictures_of_every_mode_are_read_as_files_are(mode, tmp_path):
    """A PIL image is what the same image read from a file is, transparency, palette and depth included."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 40, 4), np.uint8)
    image = Image.fromarray(rng.integers(0, 65536, (40, 40)).astype(np.uint16)) if mode == "I;16" else None
    image = image or Image.fromarray(pixels, "RGBA").convert({"LA": "LA"}.get(mode, mode) if mode != "CMYK" else "RGB")
    image = image.convert("CMYK") if mode == "CMYK" else image
    image.save(tmp_path / "x.tif" if mode == "CMYK" else tmp_path / "x.png")
    file = next(tmp_path.iterdir())
    found, expected = (hw.encode(one, encoder="builtin:texture") for one in (image, file))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_labels_as_a_column(data):
    """Labels may be a column of polars', as they come from the samples."""
    assert cross_val_score(LinearProbe(), data.X, data.table["grade"], cv=3).shape == (3,)
    assert isinstance(data.table["grade"], pl.Series)
