"""What a head looks at: exact where the head is linear in tokens, and true by deletion where it is not."""

import numpy as np
import pytest

from headwater.errors import HeadError
from headwater.heads import (
    Bags,
    CoAttention,
    EfficientProbing,
    LinearProbe,
    SelfAttention,
    TokenMLP,
    deletion,
    relevance,
)


@pytest.fixture(scope="module")
def marked():
    """Items of 9 tokens, one of which, at a place of its own, makes the item positive or negative."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((600, 9, 6)).astype(np.float32)
    y = np.arange(600) % 2
    place = rng.integers(0, 9, 600)
    X[np.arange(600), place, 0] += np.where(y, 5, -5)
    return X, y, place


@pytest.fixture(scope="module")
def fitted(marked):
    X, y, _ = marked
    head = SelfAttention(width=16, heads=2, blocks=1, hidden=(16,), lr=3e-3, epochs=15, precision="fp32")
    return head.fit_many(X, y, [(np.arange(500), {})])[0]


@pytest.mark.parametrize("method", ["gradient", "occlusion"])
def test_the_token_that_decides_is_found(marked, fitted, method):
    """Where one token decides, it has the highest relevance for the class it speaks for."""
    X, y, place = marked
    rows = np.arange(500, 600)
    right = fitted.predict(X)[rows] == y[rows]
    assert right.mean() > 0.95
    (found,) = relevance(fitted, X, rows, method=method)
    assert (found.argmax(1) == place[rows])[right].mean() > 0.9


def test_queries_attend_to_the_token_that_decides(marked):
    """Every method finds it in a head whose queries pool the stored tokens, if all such tokens share a mark."""
    X, y, place = marked
    X = X.copy()
    X[np.arange(600), place, 1] = 5
    head = EfficientProbing(width=16, heads=4, lr=1e-2, epochs=40, precision="fp32")
    (fitted,) = head.fit_many(X, y, [(np.arange(500), {})])
    rows = np.arange(500, 600)
    right = fitted.predict(X)[rows] == y[rows]
    assert right.mean() > 0.95
    for method in ("gradient", "occlusion", "attention"):
        (found,) = relevance(fitted, X, rows, method=method)
        assert (found.argmax(1) == place[rows])[right].mean() > 0.8
    assert found.sum(1) == pytest.approx(1, abs=1e-5)


def test_integrated_gradients_add_up(marked, fitted):
    """Relevance over an item's tokens is the logit less that of an item with the mean token in every place."""
    X, _, _ = marked
    rows = np.arange(40)
    (found,) = relevance(fitted, X, rows, target=1)
    flat = np.broadcast_to(fitted.params_["mean0"], (40, 9, 6))
    change = (fitted.logits(X[rows]) - fitted.logits(flat))[:, 0]
    assert found.sum(1) == pytest.approx(change, abs=0.1 * float(np.abs(change).max()))


def test_deletion_falls_and_insertion_rises_sooner_than_by_chance(marked, fitted):
    """Taking away what is relevant costs the class more than taking away at random; so does its return."""
    X, _, _ = marked
    rows = np.arange(500, 600)
    (found,) = relevance(fitted, X, rows)
    by_chance = np.random.default_rng(0).random(found.shape).astype(np.float32)
    (without, alone), (without_any, alone_any) = (deletion(fitted, X, rows, r, steps=9) for r in (found, by_chance))
    assert without.mean() < without_any.mean() - 0.1
    assert alone.mean() > alone_any.mean() + 0.1
    whole = fitted.predict_proba(X)[rows].max(1)
    assert alone[:, -1] == pytest.approx(whole, abs=1e-5)  # all are back


def test_a_linear_probes_map_is_its_logit(marked):
    """Relevance of tokens under a probe on their mean adds up: each is what its token adds to the logit."""
    X, y, _ = marked
    probe = LinearProbe(C=0.1).fit(X.mean(1), y)
    rows = np.arange(20)
    (found,) = relevance(probe, X, rows, target=1)
    swapped = X[rows].copy()
    swapped[:, 3] = X[rows].mean(1)  # a token made the mean one
    change = probe.decision_function(X[rows].mean(1)) - probe.decision_function(swapped.mean(1))
    assert found[:, 3] == pytest.approx(change, abs=1e-4)
    (other,) = relevance(probe, X, rows, target=0)
    assert other == pytest.approx(-found, abs=1e-6)


def test_a_head_linear_in_tokens_agrees_with_the_probes_map(marked):
    """The gradient of a network that is linear in tokens is exact as well, of several classes too."""
    X, _, _ = marked
    y = np.digitize(X.mean(1)[:, 0], [-0.3, 0.3])
    head = TokenMLP(hidden=(), width=8, epochs=3, precision="fp32").fit(X, y)
    rows = np.arange(15)
    (found,) = relevance(head, X, rows, target=2)
    swapped = X[rows].copy()
    swapped[:, 4] = head.params_["mean0"]
    against = [logits[:, 2] - logits[:, :2].mean(1) for logits in (head.logits(X[rows]), head.logits(swapped))]
    assert found[:, 4] == pytest.approx(against[0] - against[1], abs=1e-4)


def test_tokens_that_are_not_there_have_no_relevance():
    """NaN stands where an item has no token, for each input."""
    rng = np.random.default_rng(0)
    bags = Bags(rng.standard_normal((150, 4)).astype(np.float32), np.split(np.arange(150), np.arange(2, 150, 3)))
    X = {"image": rng.standard_normal((len(bags), 2, 3)).astype(np.float32), "text": bags}
    head = CoAttention(width=8, heads=2, blocks=1, epochs=2, pool="attention").fit(X, np.arange(len(bags)) % 2)
    for method in ("gradient", "occlusion", "attention"):
        image, text = relevance(head, X, np.arange(len(bags)), method=method)
        assert image.shape == (len(bags), 2)
        assert (~np.isnan(text)).sum(1).tolist() == bags.lengths.tolist()


def test_what_cannot_be_explained(marked, fitted):
    """Unknown methods, classes and tokens are refused."""
    X, y, _ = marked
    with pytest.raises(HeadError, match="There are: gradient"):
        relevance(fitted, X, np.arange(3), method="gradients")
    with pytest.raises(HeadError, match="from 0 to 1"):
        relevance(fitted, X, np.arange(3), target=2)
    with pytest.raises(HeadError, match="not fitted on means of these tokens"):
        relevance(LinearProbe().fit(X.mean(1)[:, :4], y), X, np.arange(3))
