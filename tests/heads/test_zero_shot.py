"""Zero-shot: prompts are read as they are written, and probabilities are softmaxes of scaled cosines."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import HeadError, InputError
from headwater.heads import Prompts, ZeroShot, mean_prompt, read_prompts

rng = np.random.default_rng(0)
X = rng.standard_normal((20, 6)).astype(np.float32)
TEXT = rng.standard_normal((3, 6))


def cosines(A, B):
    return (A / np.linalg.norm(A, axis=1, keepdims=True)) @ (B / np.linalg.norm(B, axis=1, keepdims=True)).T


def test_probabilities_are_softmaxes_of_scaled_cosines():
    """Probabilities equal the softmax of logit_scale times the cosines, whatever the vectors' lengths."""
    logits = 12.0 * cosines(X.astype(np.float64), TEXT)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for images, text in ((X, TEXT), (X * 7, TEXT * [[1], [0.1], [3]])):
        assert np.allclose(ZeroShot(text, ["a", "b", "c"], 12.0).predict_proba(images), expected, atol=1e-6)


def test_columns_follow_the_sorted_classes():
    """However the classes are ordered, columns follow classes_, and a class keeps its own vector."""
    one, other = ZeroShot(TEXT, ["a", "b", "c"]), ZeroShot(TEXT[[2, 0, 1]], ["c", "a", "b"])
    assert one.classes_.tolist() == other.classes_.tolist() == ["a", "b", "c"]
    assert np.allclose(one.predict_proba(X), other.predict_proba(X))
    assert one.predict(X).tolist() == other.predict(X).tolist() == [list("abc")[c] for c in cosines(X, TEXT).argmax(1)]


def test_large_scales_do_not_overflow():
    """With a scale as large as training allows, probabilities are finite and add up to 1."""
    p = ZeroShot(TEXT, ["a", "b", "c"], 1e4).predict_proba(X)
    assert np.isfinite(p).all()
    assert np.allclose(p.sum(1), 1)


def test_rows_do_not_depend_on_each_other():
    """An image has the same probabilities alone as among others, and from an array-like read block by block."""

    class Blocks:
        shape, dtype = X.shape, X.dtype

        def __getitem__(self, rows):
            return X[rows]

        def blocks(self):
            for start in range(0, 20, 7):
                yield slice(start, min(start + 7, 20)), X[start : start + 7]

    head = ZeroShot(TEXT, ["a", "b", "c"])
    whole = head.predict_proba(X)
    assert np.allclose(np.concatenate([head.predict_proba(X[i : i + 1]) for i in range(20)]), whole)
    assert np.allclose(head.predict_proba(Blocks()), whole)


def test_images_of_another_length():
    """Images and prompts of different lengths are refused with both."""
    with pytest.raises(HeadError, match="images have 4 features and prompts 6"):
        ZeroShot(TEXT, ["a", "b", "c"]).predict_proba(X[:, :4])


def test_fitting_does_nothing():
    """fit changes nothing, so that the head can stand where a fitted one does."""
    head = ZeroShot(TEXT, ["a", "b", "c"])
    assert np.array_equal(head.fit(X, np.zeros(20)).predict_proba(X), ZeroShot(TEXT, ["a", "b", "c"]).predict_proba(X))


def test_the_mean_prompt():
    """A class is the mean of its prompts at length 1, itself at length 1: a long vector counts no more than a short."""
    features = np.array([[3.0, 0, 0], [0, 0.1, 0]])
    assert np.allclose(mean_prompt(features), np.array([1, 1, 0]) / np.sqrt(2))
    assert np.allclose(mean_prompt(features * [[100], [1]]), mean_prompt(features))


# Prompts


def write(tmp_path, text):
    path = tmp_path / "p.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_read_prompts(tmp_path):
    """Templates and descriptors are read in order; a single descriptor needs no list; templates may be left out."""
    text = 'templates = ["a {}", "the {}, stained"]\n[classes]\nbenign = "cyst"\n"in situ" = ["dcis", "naïve"]'
    prompts = read_prompts(write(tmp_path, text))
    assert prompts == Prompts(("a {}", "the {}, stained"), {"benign": ("cyst",), "in situ": ("dcis", "naïve")})
    assert prompts.texts == [
        "a cyst",
        "the cyst, stained",
        "a dcis",
        "a naïve",
        "the dcis, stained",
        "the naïve, stained",
    ]
    plain = read_prompts(write(tmp_path, '[classes]\na = "one"\nb = "two"'))
    assert plain.texts == ["one", "two"]


word = st.text(min_size=1, max_size=5)


@given(st.lists(word.map(lambda w: w + "{}"), min_size=1, max_size=4), st.lists(word, min_size=1, max_size=4))
def test_every_template_meets_every_descriptor(templates, words):
    """A class has a prompt for each pair of template and descriptor, in that order, braces left as they are."""
    prompts = Prompts(tuple(templates), {"x": tuple(words)})
    assert prompts.texts_of("x") == [t.replace("{}", w) for t in templates for w in words]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("classes = [", "not TOML"),
        ("", "needs a table \\[classes\\]"),
        ("classes = 3", "needs a table \\[classes\\]"),
        ('[classes]\na = "x"', "at least two labels"),
        ('templates = "a {}"\n[classes]\na = "x"\nb = "y"', "templates must be a list"),
        ('templates = []\n[classes]\na = "x"\nb = "y"', "templates must be a list"),
        ('templates = ["a"]\n[classes]\na = "x"\nb = "y"', "templates must be a list"),
        ('[classes]\na = "x"\nb = []', "class 'b' needs a descriptor"),
        ('[classes]\na = "x"\nb = [1]', "class 'b' needs a descriptor"),
    ],
)
def test_prompts_that_cannot_be_used(tmp_path, text, expected):
    """A file that lacks something is refused by its name with what it needs."""
    with pytest.raises(InputError, match=expected) as caught:
        read_prompts(write(tmp_path, text))
    assert "p.toml" in str(caught.value)


def test_bytes_that_are_no_text(tmp_path):
    """A file that is not UTF-8 is refused as not TOML, and one that is missing as missing."""
    (tmp_path / "p.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not TOML"):
        read_prompts(tmp_path / "p.toml")
    with pytest.raises(InputError, match="no such file"):
        read_prompts(tmp_path / "q.toml")
