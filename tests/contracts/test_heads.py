"""Every head keeps scikit-learn's contract, and is the same fitted alone or in company, before and after a disk."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from headwater.errors import HeadError
from headwater.heads import (
    GDA,
    HEADS,
    KNN,
    MIL,
    MLP,
    EfficientProbing,
    LinearProbe,
    Ordinal,
    Prototypes,
    SelfAttention,
    TipAdapter,
    TipAdapterF,
    TransCLIP,
    XGBoost,
    load_head,
    save_head,
)

QUICK = {"epochs": 15, "batch_size": 16, "lr": 2e-2, "dropout": 0.0, "precision": "fp32"}
MEMBERS = {
    "linear": (LinearProbe(), {"C": 10.0}),
    "ordinal": (Ordinal(), {"C": 10.0}),
    "mlp": (MLP(hidden=(16,), epochs=25, batch_size=32, lr=1e-2, precision="fp32"), {"lr": 1e-3}),
    "knn": (KNN(k=5), {"k": 30}),
    "prototypes": (Prototypes(), {"temperature": 1.0}),
    "gda": (GDA(), {"shrinkage": 0.5}),
    "tip-adapter": (TipAdapter(beta=20.0), {"alpha": 3.0}),
    "tip-adapter-f": (TipAdapterF(beta=20.0, epochs=3), {"lr": 1e-2}),
    "transclip": (TransCLIP(), {"shot_weight": 0.2}),
    "xgboost": (XGBoost(n_rounds=40, n_threads=1), {"max_depth": 2}),
    "self-attention": (SelfAttention(width=8, heads=2, blocks=1, hidden=(8,), **QUICK), {"lr": 1e-3}),
    "efficient-probing": (EfficientProbing(width=16, heads=4, **QUICK), {"lr": 1e-3}),
    "mil": (MIL(width=16, **QUICK), {"lr": 1e-3}),
}
ELSEWHERE = {"zero-shot", "zero-shot-transductive"}  # which are not fitted
ELSEWHERE |= {"token-mlp", "merged-attention", "cross-attention", "co-attention"}  # held to it by test_attention.py
ONE_CLASS = {"ordinal", "tip-adapter", "tip-adapter-f", "transclip"}  # a sample; no several labels
every_head = pytest.mark.parametrize("kind", MEMBERS)
each_task = pytest.mark.parametrize(
    ("kind", "task"), [(k, t) for k in MEMBERS for t in (2, 3, "labels") if t != "labels" or k not in ONE_CLASS]
)
EXPECTED = {
    "ordinal": {
        "check_classifiers_classes": "words show no order of grades",
        "check_classifiers_train": "three clusters have no order in space",
    },
    "transclip": {"check_methods_subset_invariance": "rows that are predicted together help each other"},
    "linear": {"check_sample_weight_equivalence_on_dense_data": "standardisation counts rows alike"},
    "xgboost": {"check_sample_weight_equivalence_on_dense_data": "some rows are held out to stop by"},
}
CHECKS = [
    pytest.param(estimator, check, id=f"{type(estimator).__name__}-{getattr(check, 'func', check).__name__}")
    for kind, (head, _) in MEMBERS.items()
    for estimator, check in estimator_checks_generator(head, mark="skip", expected_failed_checks=EXPECTED.get(kind, {}))
]


@pytest.mark.filterwarnings("default")  # scikit-learn's checks warn on purpose
@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_scikit_learn_contract(estimator, check):
    """scikit-learn's own suite of checks."""
    check(estimator)


def test_every_head_is_here():
    """A new head joins this suite."""
    assert set(MEMBERS) == set(HEADS) - ELSEWHERE


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 12)).astype(np.float32) * rng.uniform(0.1, 5, 12).astype(np.float32) + 3
    Z = X - X.mean(0)
    return X, {2: (Z[:, 0] > 0).astype(int), 3: np.digitize(Z[:, 0], [-0.5, 0.5]), "labels": (Z[:, :3] > 0).astype(int)}


@each_task
def test_company_changes_nothing(data, kind, task):
    """A head fitted among others, with other settings and rows, is the head fitted alone."""
    X, y = data[0], data[1][task]
    head, other = MEMBERS[kind]
    rows = [np.arange(0, 200), np.arange(100, 300)]
    fits = [(part, params) for part in rows for params in ({}, other)]
    for (part, params), fitted in zip(fits, head.fit_many(X, y, fits), strict=True):
        alone = type(head)(**{**head.get_params(), **params}).fit(X[part], y[part])
        assert fitted.predict_proba(X) == pytest.approx(alone.predict_proba(X), abs=5e-3)


@each_task
def test_a_saved_head_predicts_the_same(data, kind, task, tmp_path):
    """What a head says is what it says after it was written and read."""
    X, y = data[0], data[1][task]
    head = MEMBERS[kind][0].fit(X, y)
    save_head(head, kind, tmp_path)
    loaded = load_head(tmp_path)
    assert np.array_equal(loaded.predict_proba(X), head.predict_proba(X))
    assert np.array_equal(loaded.predict(X), head.predict(X))
    assert loaded.get_params() == head.get_params()


@every_head
def test_many_predictions_are_each_heads_own(data, kind):
    """Predicting with several heads at once gives what each gives."""
    X, y = data[0], data[1][3]
    head, other = MEMBERS[kind]
    rows = [np.arange(0, 200), np.arange(100, 300)]
    heads = head.fit_many(X, y, [(rows[0], {}), (rows[0], other), (rows[1], {})])
    tests = [rows[1], rows[1], rows[0]]
    for fitted, part, scores in zip(heads, tests, type(head).predict_proba_many(heads, X, tests), strict=True):
        assert scores == pytest.approx(fitted.predict_proba(X[part]), abs=1e-6)


@every_head
def test_rows_that_are_not_numbers_are_named(data, kind):
    """Features that are not finite are refused by the numbers of their rows."""
    X, y = data[0].copy(), data[1][2]
    X[[7, 31], 3] = np.nan, np.inf
    with pytest.raises(HeadError, match=r"not finite in 2 rows.*\[7, 31\]"):
        MEMBERS[kind][0].fit_many(X, y, [(np.arange(300), {})])


@pytest.mark.parametrize("kind", sorted(ONE_CLASS))
def test_several_labels_are_refused(data, kind):
    """A head that is about one class a sample refuses several labels."""
    with pytest.raises(HeadError, match="needs one class per sample"):
        MEMBERS[kind][0].fit_many(data[0], data[1]["labels"], [(np.arange(300), {})])


@every_head
def test_one_class_is_refused(data, kind):
    """Training rows of one class are refused, whatever the other rows hold."""
    X, y = data[0], data[1][3]
    with pytest.raises(HeadError, match="one class only"):
        MEMBERS[kind][0].fit_many(X, y, [(np.flatnonzero(y == 1), {})])


@every_head
def test_a_class_that_the_training_rows_lack(data, kind):
    """A head knows the classes of its own training rows, and no others."""
    X, y = data[0], data[1][3]
    (head,) = MEMBERS[kind][0].fit_many(X, y, [(np.flatnonzero(y != 1), {})])
    assert head.classes_.tolist() == [0, 2]
    assert head.predict_proba(X).shape == (300, 2)
    assert set(head.predict(X)) <= {0, 2}
