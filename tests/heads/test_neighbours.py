"""Neighbours and prototypes against scikit-learn and their formulas."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from headwater.errors import HeadError
from headwater.heads import KNN, Prototypes


def data(n=300, d=16, k=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    return (rng.standard_normal((n, d)) + 1.5 * rng.standard_normal((k, d))[y] + 5).astype(np.float32), y


def unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 7, 1000])
def test_votes_are_those_of_scikit_learns_neighbours(k):
    """The softmax-weighted vote of the k nearest by cosine, as scikit-learn makes it of weights we give."""
    X, y = data()
    train, test = slice(0, 200), slice(200, None)
    head = KNN(k=k, temperature=0.07).fit(X[train], y[train])
    mean = X[train].mean(0)
    reference = KNeighborsClassifier(min(k, 200), weights=lambda d: np.exp((1 - d**2 / 2) / 0.07), algorithm="brute")
    reference.fit(unit(X[train] - mean), y[train])
    assert head.predict_proba(X[test]) == pytest.approx(reference.predict_proba(unit(X[test] - mean)), abs=1e-4)


def test_prototypes_are_nearest_centroids():
    """The class with the nearest mean direction, as scikit-learn finds it among centroids of length 1."""
    X, y = data()
    head = Prototypes().fit(X[:200], y[:200])
    mean = X[:200].mean(0)
    Z = unit(X[:200] - mean)
    centroids = unit(np.stack([Z[y[:200] == c].mean(0) for c in range(3)]))
    nearest = KNeighborsClassifier(1).fit(centroids, np.arange(3))
    assert (head.predict(X[200:]) == nearest.predict(unit(X[200:] - mean))).all()
    cosine = unit(X[200:] - mean) @ centroids.T
    expected = np.exp(cosine / 0.1) / np.exp(cosine / 0.1).sum(1, keepdims=True)
    assert head.predict_proba(X[200:]) == pytest.approx(expected, abs=1e-4)


def test_labels_are_voted_for_one_by_one():
    """With several labels a probability is the share of neighbours' votes that have the label."""
    X, y = data()
    Y = np.stack([y == 0, y > 0], axis=1).astype(int)
    head = KNN(k=5).fit(X[:200], Y[:200])
    assert head.predict_proba(X[200:]).sum(1) == pytest.approx(1, abs=1e-6)
    assert (head.predict(X[200:]) == Y[200:]).mean() > 0.9
    assert (Prototypes().fit(X[:200], Y[:200]).predict(X[200:]) == Y[200:]).mean() > 0.9


def test_fits_of_the_same_rows_share_them():
    """A grid of neighbours keeps one copy of the training rows."""
    X, y = data()
    rows = np.arange(200)
    heads = KNN().fit_many(X, y, [(rows, {"k": k}) for k in (1, 5)])
    assert heads[0].rows_ is heads[1].rows_


@pytest.mark.parametrize("kind", [KNN, Prototypes])
def test_standardised_columns_have_no_unit(kind):
    """With columns standardised, their units make no difference."""
    X, y = data()
    units = np.logspace(-3, 3, X.shape[1]).astype(np.float32)
    usual, other = (kind(scaling="standardize").fit(Z[:200], y[:200]) for Z in (X, X * units))
    assert other.predict_proba(X[200:] * units) == pytest.approx(usual.predict_proba(X[200:]), abs=1e-4)
    assert kind(scaling="centre").fit((X * units)[:200], y[:200]).score((X * units)[200:], y[200:]) < usual.score(
        X[200:], y[200:]
    )


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (KNN(k=0), "k must be above 0"),
        (KNN(temperature=0), "temperature must be above 0"),
        (Prototypes(temperature=-1), "temperature must be above 0"),
        (Prototypes(scaling="center"), "Did you mean 'centre'"),
    ],
)
def test_unusable_settings(head, said):
    with pytest.raises(HeadError, match=said):
        head.fit(*data(50))
