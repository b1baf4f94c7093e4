"""Heads computed on another device than the CPU: with its arrays alone, and to the CPU's results."""

import numpy as np
import pytest

from headwater.errors import DeviceMemory
from headwater.heads import GDA, KNN, ClassTexts, KNNRegressor, LinearProbe, Ordinal, Prototypes, Ridge

pytest.importorskip("torch")
xp = pytest.importorskip("array_api_compat.torch")
from tests.pretended import in_place_of_cuda, pretended  # noqa: E402


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """A pretended device in place of a CUDA device."""
    in_place_of_cuda(monkeypatch)


RNG = np.random.default_rng(0)
X = (RNG.standard_normal((300, 24)) * np.arange(1, 25) ** -0.5 + 3).astype(np.float32)
SIGNAL = (X - X.mean(0)) @ RNG.standard_normal((24, 3)) + 0.5 * RNG.standard_normal((300, 3))
BINARY, MANY, LABELS = (SIGNAL[:, 0] > 0).astype(int), SIGNAL.argmax(1), (SIGNAL > 0).astype(int)
FOLDS = [np.flatnonzero(np.arange(300) % 3 != f) for f in range(3)]
FEW = [np.arange(f, 300, 30) for f in range(3)]
WEIGHTS = RNG.uniform(0.5, 2, 300)

LINEAR = {
    "two classes": (LinearProbe, BINARY, FOLDS, {}),
    "many classes": (LinearProbe, MANY, FOLDS, {}),
    "labels": (LinearProbe, LABELS, FOLDS, {}),
    "balanced": (LinearProbe, MANY, FOLDS, {"class_weight": "balanced"}),
    "fewer rows than columns": (LinearProbe, BINARY, FEW, {}),
    "without scaling": (LinearProbe, BINARY, FOLDS, {"standardize": False}),
    "streamed": (LinearProbe, BINARY, FOLDS, {"max_bytes": 1000}),
    "to a tight tolerance": (LinearProbe, BINARY, FOLDS, {"tol": 1e-9}),
}


@pytest.mark.parametrize("case", LINEAR)
@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["", "weighted"])
def test_linear_heads_agree_with_the_cpu(case, weight):
    """Coefficients of a fit on a device are those of the CPU up to the solver's tolerance, and so are probabilities."""
    kind, y, folds, settings = LINEAR[case]
    fits = [(rows, {"C": c}) for rows in folds for c in np.logspace(-4, 1, 6).tolist()]
    on_cpu = kind(device="cpu", **settings).fit_many(X, y, fits, sample_weight=weight)
    with pretended():
        on_device = kind(device="cuda", **settings).fit_many(X, y, fits, sample_weight=weight)
        found = kind.predict_proba_many(on_device, X, [rows for rows, _ in fits])
    expected = kind.predict_proba_many(on_cpu, X, [rows for rows, _ in fits])
    for one, other, mine, theirs in zip(on_device, on_cpu, found, expected, strict=True):
        np.testing.assert_allclose(one.coef_, other.coef_, atol=2e-3 * np.abs(other.coef_).max())
        np.testing.assert_allclose(mine, theirs, atol=2e-3)
        assert type(one.coef_) is np.ndarray


@pytest.mark.parametrize("rows", [FOLDS, FEW], ids=["", "fewer rows than columns"])
def test_ordinal_heads_agree_with_the_cpu(rows):
    """Proportional odds on a device has the CPU's weights, thresholds and probabilities."""
    y = np.digitize(SIGNAL[:, 0], [-0.5, 0.5])
    fits = [(part, {"C": c}) for part in rows for c in np.logspace(-4, 1, 6).tolist()]
    on_cpu = Ordinal(device="cpu").fit_many(X, y, fits)
    with pretended():
        on_device = Ordinal(device="cuda").fit_many(X, y, fits)
    for one, other in zip(on_device, on_cpu, strict=True):
        np.testing.assert_allclose(one.coef_, other.coef_, atol=2e-3 * np.abs(other.coef_).max())
        np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X), atol=2e-3)
        assert type(one.thresholds_) is np.ndarray


def test_many_penalties_agree_with_the_cpu():
    """A grid that is fine enough for starts from a spline gives the same on a device."""
    fits = [(rows, {"C": c}) for rows in FOLDS for c in np.logspace(-4, 1, 30).tolist()]
    on_cpu = LinearProbe(device="cpu").fit_many(X, BINARY, fits)
    with pretended():
        on_device = LinearProbe(device="cuda").fit_many(X, BINARY, fits)
    for one, other in zip(on_device, on_cpu, strict=True):
        np.testing.assert_allclose(one.coef_, other.coef_, atol=2e-3 * np.abs(other.coef_).max())


def test_tensors_on_a_device_are_computed_with_where_they_are():
    """A head takes an array of another library, and gives NumPy's coefficients and probabilities."""
    expected = LinearProbe(device="cpu").fit(X[:200], BINARY[:200])
    with pretended() as device:
        tensor = xp.asarray(X, device=device)
        head = LinearProbe().fit_many(tensor, BINARY, [(np.arange(200), {})])[0]
        found = LinearProbe.predict_proba_many([head], tensor, [np.arange(200, 300)])[0]
    np.testing.assert_allclose(head.coef_, expected.coef_, atol=2e-3 * np.abs(expected.coef_).max())
    np.testing.assert_allclose(found, expected.predict_proba(X[200:]), atol=2e-3)


@pytest.mark.parametrize("n", [200, 12], ids=["more rows than columns", "fewer rows"])
@pytest.mark.parametrize("weight", [None, WEIGHTS], ids=["", "weighted"])
def test_ridge_agrees_with_the_cpu(n, weight):
    """Ridge regression is solved in float64 on a device too, so that only rounding differs."""
    fits = [(np.arange(n), {"alpha": alpha}) for alpha in (0.1, 10.0)]
    on_cpu = Ridge(device="cpu").fit_many(X, SIGNAL, fits, sample_weight=weight)
    with pretended():
        on_device = Ridge(device="cuda").fit_many(X, SIGNAL, fits, sample_weight=weight)
        found = Ridge.predict_many(on_device, X, [np.arange(200, 300)] * 2)
    for one, other, mine in zip(on_device, on_cpu, found, strict=True):
        np.testing.assert_allclose(one.coef_, other.coef_, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(mine, other.predict(X[200:]), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("y", [BINARY, MANY, LABELS], ids=["two classes", "many classes", "labels"])
@pytest.mark.parametrize("scaling", ["unit", "standardize"])
@pytest.mark.parametrize("folds", [FOLDS, FEW], ids=["more rows than columns", "fewer rows"])
def test_gaussian_heads_agree_with_the_cpu(y, scaling, folds):
    """Covariances are decomposed in float64 on a device too, so that only rounding differs."""
    texts = ClassTexts(RNG.standard_normal((3, 24)), ("0", "1", "2"), 10.0)
    settings = {"scaling": scaling, "texts": None if y is LABELS else texts}
    fits = [(rows, {"shrinkage": s}) for rows in folds for s in ("ks", 0.01, 1.0)]
    on_cpu = GDA(device="cpu", **settings).fit_many(X, y, fits)
    with pretended():
        on_device = GDA(device="cuda", **settings).fit_many(X, y, fits)
        found = GDA.predict_proba_many(on_device, X, [rows for rows, _ in fits])
    expected = GDA.predict_proba_many(on_cpu, X, [rows for rows, _ in fits])
    for one, other, mine, theirs in zip(on_device, on_cpu, found, expected, strict=True):
        np.testing.assert_allclose(one.coef_, other.coef_, atol=1e-7 * np.abs(other.coef_).max())
        np.testing.assert_allclose(mine, theirs, atol=1e-7)
        assert type(one.coef_) is np.ndarray


@pytest.mark.parametrize("kind", [KNN, Prototypes])
@pytest.mark.parametrize("y", [BINARY, MANY, LABELS], ids=["two classes", "many classes", "labels"])
@pytest.mark.parametrize("scaling", ["none", "centre", "standardize"])
def test_neighbours_and_prototypes_agree_with_the_cpu(kind, y, scaling):
    """Votes are computed in float64 on a device too, so that only rounding differs."""
    train, test = np.arange(200), np.arange(200, 300)
    head = kind(scaling=scaling, device="cpu").fit_many(X, y, [(train, {})])[0]
    expected = head.predict_proba(X[test])
    with pretended():
        head = kind(scaling=scaling, device="cuda").fit_many(X, y, [(train, {})])[0]
        found = head.predict_proba(X[test])
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_neighbours_for_numbers_agree_with_the_cpu():
    """The mean target of the neighbours is the CPU's up to rounding."""
    expected = KNNRegressor(device="cpu").fit(X[:200], SIGNAL[:200]).predict(X[200:])
    head = KNNRegressor(device="cuda").fit(X[:200], SIGNAL[:200])
    with pretended():
        np.testing.assert_allclose(head.predict(X[200:]), expected, atol=1e-9)


def test_a_full_device_says_what_to_do():
    """Rows that do not fit into the memory of a requested GPU end in one line."""
    with pretended(memory=10_000), pytest.raises(DeviceMemory, match="linear heads: the GPU ran out of memory"):
        LinearProbe(device="cuda").fit(X, BINARY)
