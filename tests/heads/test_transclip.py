"""TransCLIP: against its objective written out, the guarantee that it falls, and clusters that texts miss."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import HeadError
from headwater.heads import ClassTexts, TransCLIP, TransductiveZeroShot, ZeroShot, load_head, save_head, transduce
from headwater.heads.transclip import affinity, log_density

NAMES = ("a", "b", "c")
DATA = Path(__file__).parents[3] / "shared" / "data" / "clip_pathmnist"
FLICKR = Path(__file__).parents[3] / "shared" / "data" / "clip_flickr"


def unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def clusters(n=240, d=128, spread=1.5, shift=3.0, seed=0):
    """Images of three classes in clusters, and texts that point to them but aside."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((3, d))
    y = rng.integers(0, 3, n)
    X = centres[y] + spread * rng.standard_normal((n, d))
    return X, y, ClassTexts(centres + shift * rng.standard_normal((3, d)), NAMES, 10.0)


def slow(X, logits, labelled=(), codes=(), *, text, shot, likelihood, k, rounds):
    """The same by loops over rows, classes, neighbours and columns; returns the objective after each step, and z."""
    Q, S = unit(X), unit(np.asarray(labelled)) if len(labelled) else np.zeros((0, X.shape[1]))
    n, m, K, d = len(Q), len(S), logits.shape[1], X.shape[1]
    F = np.concatenate([Q, S])
    y_hat = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    W = np.zeros((n + m, n + m))
    for i in range(n + m):
        cosines = [-np.inf if j == i else F[i] @ F[j] for j in range(n + m)]
        for j in np.argsort(cosines)[::-1][:k]:
            W[i, j] = max(cosines[j], 0)
    A = (W + W.T) / (2 * k)
    z = np.concatenate([y_hat, np.eye(K)[list(codes)].reshape(m, K)])
    mu, var = np.zeros((K, d)), np.full(d, 1 / d)
    for c in range(K):
        mine = [s for s, code in enumerate(codes) if code == c]
        top = np.argsort(-y_hat[:, c], kind="stable")[:8]
        mu[c] = S[mine].mean(0) if mine else sum(y_hat[i, c] * Q[i] for i in top) / y_hat[top, c].sum()

    def density(f, c):
        return sum(-0.5 * np.log(2 * np.pi * var[j]) - 0.5 * (f[j] - mu[c, j]) ** 2 / var[j] for j in range(d))

    def objective():
        value = 0.0
        for i in range(n):
            for c in range(K):
                value += z[i, c] * np.log(z[i, c]) - text * z[i, c] * np.log(y_hat[i, c])
                value -= likelihood * z[i, c] * density(Q[i], c)
            for j in range(n + m):
                value -= (0.5 if j < n else 1.0) * A[i, j] * (z[i] @ z[j])
        for s in range(m):
            value -= shot * n / m * density(S[s], codes[s])
        return value

    values = [objective()]
    for _ in range(rounds):
        for _ in range(5):
            new = z.copy()
            for i in range(n):
                slack = A[i, :n].sum()
                g = text * np.log(y_hat[i]) + likelihood * np.array([density(Q[i], c) for c in range(K)]) + A[i] @ z
                e = np.exp((g + slack * np.log(z[i])) / (1 + slack) - g.max())
                new[i] = e / e.sum()
            z = new
        values.append(objective())
        weight = [likelihood] * n + [shot * n / m if m else 0] * m
        total = sum(weight[i] * z[i].sum() for i in range(n + m))
        for c in range(K):
            mu[c] = sum(weight[i] * z[i, c] * F[i] for i in range(n + m)) / sum(
                weight[i] * z[i, c] for i in range(n + m)
            )
        for j in range(d):
            squares = sum(weight[i] * z[i, c] * (F[i, j] - mu[c, j]) ** 2 for i in range(n + m) for c in range(K))
            var[j] = squares / total
        values.append(objective())
    return values, z[:n]


@pytest.mark.parametrize("few", [False, True])
def test_the_objective_written_out(few):
    """Probabilities and objective are those of a reference that goes row by row, without and with labelled rows."""
    X, y, texts = clusters(n=30, d=4, spread=0.8, shift=1.0)
    logits = 10 * unit(X) @ unit(texts.features).T
    rows = np.concatenate([np.flatnonzero(y == c)[: c + 1] for c in range(3)]) if few else np.arange(0)
    near = X[rows] + 0.1 * np.random.default_rng(1).standard_normal((len(rows), 4))  # no copies: ties have no order
    options = {"shot_weight": 0.1, "text_weight": 0.5, "labelled": near, "codes": y[rows]} if few else {}
    found = transduce(X, logits, max_iter=4, tol=-1, likelihood_weight=0.1, **options)
    weights = {"text": 0.5, "shot": 0.1} if few else {"text": 1.0, "shot": 0.0}
    values, z = slow(X, logits, near, y[rows].tolist(), **weights, likelihood=0.1, k=3, rounds=4)
    assert found.objective == pytest.approx(values, rel=1e-9)
    assert found.probabilities == pytest.approx(z, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.3, 1.0, 5.0]),
    st.sampled_from([0.02, 1.0]),
    st.sampled_from([1, 3, 10]),
    st.booleans(),
)
def test_no_step_raises_the_objective(seed, text_weight, likelihood_weight, k, few):
    """Whatever the data and weights, no step raises the objective, hubs with many neighbours included."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((40, 6)) + (0 if seed % 2 else 2)
    options = {"labelled": X[:5], "codes": rng.integers(0, 3, 5), "shot_weight": 0.2} if few else {}
    weights = {"text_weight": text_weight, "likelihood_weight": likelihood_weight, "n_neighbors": k}
    found = transduce(X, 5 * rng.standard_normal((40, 3)), **weights, **options)
    steps = np.diff(found.objective)
    assert steps.max() <= 1e-9 * np.abs(found.objective).max()


def test_it_comes_to_rest():
    """On clusters it converges, and the last probabilities are those that one more step would give."""
    X, _, texts = clusters()
    logits = 10 * unit(X) @ unit(texts.features).T
    found = transduce(X, logits, tol=1e-12, max_iter=5000)
    assert found.converged
    pull = logits - np.logaddexp.reduce(logits, 1, keepdims=True)
    pull = pull + 0.02 * log_density(unit(X), found.means, found.variances) + affinity(unit(X), 3) @ found.probabilities
    undamped = np.exp(pull - np.logaddexp.reduce(pull, 1, keepdims=True))  # the authors' step rests at the same point
    assert found.probabilities == pytest.approx(undamped, abs=1e-4)


def test_a_hub_does_not_swing():
    """A row that is nearest to many, and is told otherwise by them, comes to agree: undamped, they swap for ever."""
    leaves = np.column_stack([np.ones(40), 0.9 * np.eye(40)])
    X = unit(np.concatenate([np.eye(41)[:1], leaves]))
    logits = np.concatenate([[[4.0, 0.0]], np.tile([0.0, 4.0], (40, 1))])
    found = transduce(X, logits, text_weight=0, likelihood_weight=0, n_neighbors=1, tol=1e-12, max_iter=2000)
    assert found.converged
    assert len(set(found.probabilities.argmax(1).tolist())) == 1
    assert np.diff(found.objective).max() <= 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_clusters_mend_shifted_texts(seed):
    """Where images are in clusters and texts point aside, classifying them together is better than one by one."""
    X, y, texts = clusters(seed=seed)
    zero = ZeroShot(texts.features, NAMES, texts.logit_scale).predict(X)
    together = TransductiveZeroShot(texts).predict(X)
    truth = np.array(NAMES)[y]
    assert (together == truth).mean() > (zero == truth).mean() + 0.03


def test_texts_that_weigh_everything():
    """As the weight of texts grows, no class differs from that of zero-shot."""
    X, _, texts = clusters()
    zero = ZeroShot(texts.features, NAMES, texts.logit_scale).predict(X)
    assert (TransductiveZeroShot(texts).predict(X) != zero).any()
    assert (TransductiveZeroShot(texts, text_weight=1e6).predict(X) == zero).all()


def test_one_row_alone():
    """One image by itself has no company to learn from: its probabilities are those of zero-shot."""
    X, _, texts = clusters()
    zero = ZeroShot(texts.features, NAMES, texts.logit_scale)
    assert TransductiveZeroShot(texts).predict_proba(X[:1]) == pytest.approx(zero.predict_proba(X[:1]), abs=1e-9)


def test_order_makes_no_difference():
    """Images in another order have the same probabilities."""
    X, _, texts = clusters()
    order = np.random.default_rng(0).permutation(len(X))
    head = TransductiveZeroShot(texts)
    assert head.predict_proba(X[order]) == pytest.approx(head.predict_proba(X)[order], abs=1e-6)


def test_labelled_rows_help():
    """A few labelled images bring their clusters' classes right, where texts have two of them the wrong way round."""
    X, y, texts = clusters(shift=0.5)
    wrong = ClassTexts(texts.features[[1, 0, 2]], NAMES, texts.logit_scale)
    few = np.concatenate([np.flatnonzero(y == c)[:4] for c in range(3)])
    rest = np.setdiff1d(np.arange(len(X)), few)
    truth = np.array(NAMES)[y]
    head = TransCLIP(wrong, text_weight=0.1, shot_weight=0.2).fit(X[few], truth[few])
    assert head.score(X[rest], truth[rest]) > 0.95
    assert (TransductiveZeroShot(wrong).predict(X[rest]) == truth[rest]).mean() < 0.7


def test_affinities_are_those_of_the_nearest(monkeypatch):
    """The affinity is symmetric, holds no row's own, and is the same made all at once or some rows at a time."""
    X = unit(np.random.default_rng(0).standard_normal((50, 5)))
    whole = affinity(X, 4).toarray()
    monkeypatch.setattr("headwater.heads.transclip.COSINES", 350)
    assert np.array_equal(affinity(X, 4).toarray(), whole)
    assert np.array_equal(whole, whole.T)
    assert not whole.diagonal().any()
    cosine = X @ X.T - 2 * np.eye(50)
    among = cosine >= np.sort(cosine, axis=1)[:, [-4]]
    assert whole == pytest.approx(np.maximum(cosine, 0) * (among.astype(int) + among.T) / 8)


@pytest.mark.parametrize("kind", ["transclip", "zero-shot-transductive"])
def test_a_saved_head_keeps_its_texts(kind, tmp_path):
    """A head that is read again predicts the same, and has equal parameters."""
    X, y, texts = clusters()
    head = {"transclip": TransCLIP, "zero-shot-transductive": TransductiveZeroShot}[kind](texts)
    head.fit(X[:30], np.array(NAMES)[y[:30]])
    save_head(head, kind, tmp_path)
    loaded = load_head(tmp_path)
    assert np.array_equal(loaded.predict_proba(X), head.predict_proba(X))
    assert loaded.get_params() == head.get_params()


def test_a_constant_column():
    """A column that is the same in all images has no say, and probabilities are finite."""
    X, _, texts = clusters()
    X, T = np.column_stack([unit(X), np.zeros(len(X))]), np.column_stack([texts.features, np.zeros(3)])
    p = TransductiveZeroShot(ClassTexts(T, NAMES, 10.0)).predict_proba(X)
    # the start, a variance of 1 / d, is another one
    assert p == pytest.approx(TransductiveZeroShot(texts).predict_proba(X[:, :-1]), abs=1e-2)


def test_rows_that_are_not_numbers():
    """Images whose features are not finite are refused by number."""
    X, _, texts = clusters()
    X[[3, 8]] = np.nan
    with pytest.raises(HeadError, match=r"not finite in 2 rows, the first being \[3, 8\]"):
        TransductiveZeroShot(texts).predict_proba(X)


def test_published_embeddings():
    """On published CLIP embeddings of tissue no step raises the objective, and one class takes in far fewer images."""
    if not DATA.exists():
        pytest.skip("the CLIP embeddings of PathMNIST are not here")
    X = np.load(DATA / "image_embeddings.npy").astype(np.float64)
    T = np.load(DATA / "prompt_embeddings.npy").astype(np.float64)
    of = np.array([entry["label_idx"] for entry in json.loads((DATA / "prompt_map.json").read_text())])
    means = np.stack([unit(T[of == c]).mean(0) for c in range(9)])
    texts = ClassTexts(means, tuple("abcdefghi"), 100.0)
    found = TransductiveZeroShot(texts).transduce(X)
    zero = ZeroShot(means, texts.classes).predict_proba(X)
    assert found.converged
    assert np.diff(found.objective).max() <= 0
    largest = [np.bincount(p.argmax(1)).max() for p in (zero, found.probabilities)]  # there are no labels to score by
    assert largest[0] > 700
    assert largest[1] < 450


def test_published_captions():
    """More of 300 published captions find their photograph together than one by one, and more yet with examples."""
    if not FLICKR.exists():
        pytest.skip("the CLIP embeddings of Flickr are not here")
    images, captions = (np.load(FLICKR / f"{side}_embeddings.npy").astype(float) for side in ("image", "text"))
    names, first = np.unique(pl.read_csv(FLICKR / "metadata.csv")["image_id"].to_numpy(), return_index=True)
    photographs = ClassTexts(images[first], tuple(names.tolist()), 100.0)  # five captions each, one after the other
    rows, examples = ((first[:, None] + np.arange(*some)).ravel() for some in ((2, 5), (0, 2)))
    X, y = captions[rows], np.repeat(names, 3)
    alone = (ZeroShot(photographs.features, names).predict(X) == y).mean()
    together = (TransductiveZeroShot(photographs).predict(X) == y).mean()
    few = TransCLIP(photographs, shot_weight=0.002).fit(captions[examples], np.repeat(names, 2)).score(X, y)
    assert alone == pytest.approx(0.827, abs=0.01)
    assert together > alone + 0.05
    assert few > together
