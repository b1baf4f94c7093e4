"""Heads on disk: what is read back predicts the same, and nothing but numbers and words is ever read."""

import json

import numpy as np
import pytest

from headwater.errors import HeadError
from headwater.heads import HEADS, LinearProbe, ZeroShot, load_head, make_head, save_head

X = np.random.default_rng(0).standard_normal((60, 7))
WORDS = np.array(["ash", "beech", "cedar"])


def probe(y):
    return LinearProbe(C=0.3, standardize=False).fit(X, y)


FITTED = {
    "two classes": lambda: ("linear", probe(X[:, 0] > 0)),
    "words": lambda: ("linear", probe(WORDS[(X[:, 0] > 0).astype(int) + (X[:, 1] > 0)])),
    "numbers": lambda: ("linear", probe((X[:, 0] > 0).astype(int) + 5 * (X[:, 1] > 0))),
    "several labels": lambda: ("linear", probe((X[:, :3] > 0).astype(int))),
    "zero-shot": lambda: ("zero-shot", ZeroShot(X[:3].astype(np.float32), ["c", "a", "b"], 37.0)),
}


@pytest.mark.parametrize("case", FITTED)
def test_read_back(case, tmp_path):
    """A head that is read back gives the same probabilities to the bit, the same classes and the same labels."""
    kind, head = FITTED[case]()
    save_head(head, kind, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head.json", "head.safetensors"]
    again = load_head(tmp_path)
    assert type(again) is type(head)
    assert np.array_equal(again.predict_proba(X), head.predict_proba(X))
    assert np.array_equal(again.predict(X), head.predict(X))
    assert again.classes_.tolist() == head.classes_.tolist()
    assert again.classes_.dtype.kind == head.classes_.dtype.kind
    assert {k: v for k, v in again.get_params().items() if np.ndim(v) == 0} == {
        k: v for k, v in head.get_params().items() if np.ndim(v) == 0
    }


@pytest.mark.parametrize("kind", HEADS)
def test_every_registered_head_can_be_found(kind):
    """Each name in the registry leads to a class that can be saved and read back."""
    from headwater.heads.persist import head_class

    assert callable(head_class(kind).to_state)
    assert callable(head_class(kind).from_state)


def test_make_head():
    """A head is built by its name with its parameters; others are refused with the nearest that there are."""
    assert make_head("linear", {"C": 2}).C == 2
    with pytest.raises(HeadError, match=r"unknown head 'liner'\. Did you mean 'linear'"):
        make_head("liner", {})
    with pytest.raises(HeadError, match=r"no parameter 'c_'\. It has: C, "):
        make_head("linear", {"c_": 1})
    with pytest.raises(HeadError, match="Did you mean 'max_iter'"):
        make_head("linear", {"max_iters": 1})


def test_an_unfitted_head_is_not_saved(tmp_path):
    """A head that was not fitted is refused before a file is written."""
    with pytest.raises(ValueError, match="not fitted"):
        save_head(LinearProbe(), "linear", tmp_path)
    assert list(tmp_path.iterdir()) == []


def change(folder, **entries):
    path = folder / "head.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda f: (f / "head.json").unlink(), "no head here. Give a directory that headwater fit-head"),
        (lambda f: (f / "head.safetensors").unlink(), "no head here"),
        (lambda f: (f / "head.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "head.safetensors").write_bytes(b"\x80\x04pickled"), "cannot be read"),
        (lambda f: change(f, format=2), "format 2, but this headwater reads format 1"),
        (lambda f: change(f, head="unheard-of"), "unknown head 'unheard-of'"),
    ],
)
def test_a_head_that_cannot_be_read(tmp_path, spoil, expected):
    """A head that is missing, damaged, of a newer format or of an unknown kind is a HeadError that says so."""
    save_head(probe(X[:, 0] > 0), "linear", tmp_path)
    spoil(tmp_path)
    with pytest.raises(HeadError, match=expected):
        load_head(tmp_path)
