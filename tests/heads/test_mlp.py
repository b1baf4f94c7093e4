"""The multi-layer perceptron: its losses, its training against PyTorch's own, and its ways to join inputs."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold
from torch import nn

from headwater.errors import HeadError
from headwater.heads import MLP
from headwater.heads._network import Shape
from headwater.heads._objective import Objective, losses
from headwater.heads._race import side_by_side
from headwater.heads._stopping import RowsToStopBy, rows_to_stop_by
from headwater.heads._training import Group, Networks, Schedule, train


def features(n=400, d=8, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def twisted(X, seed=1):
    """Classes that no linear model tells apart."""
    return (X[:, 0] * X[:, 1] > 0).astype(int)


# Losses


def objective_of(k, *, softmax, loss="cross-entropy", gamma=2.0):
    return Objective(k, softmax, loss, gamma)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_pytorchs(smoothing):
    """Over classes, without class weights: PyTorch's cross-entropy with its label smoothing."""
    logits, targets = torch.randn(2, 3, 7, 4), torch.randint(0, 4, (2, 7))
    total, weight = losses(
        objective_of(4, softmax=True),
        logits,
        targets,
        torch.ones(2, 4),
        torch.full((2, 3), smoothing),
        torch.ones(2, 7) > 0,
    )
    for g in range(2):
        for m in range(3):
            expected = nn.functional.cross_entropy(logits[g, m], targets[g], label_smoothing=smoothing)
            assert (total / weight)[g, m].item() == pytest.approx(expected.item(), rel=1e-5)


def test_weighted_cross_entropy_is_pytorchs():
    """Class weights multiply each row's loss, and the mean is over weights."""
    logits, targets, weights = torch.randn(1, 1, 9, 3), torch.randint(0, 3, (1, 9)), torch.tensor([[0.2, 1.0, 3.0]])
    total, weight = losses(
        objective_of(3, softmax=True), logits, targets, weights, torch.zeros(1, 1), torch.ones(1, 9) > 0
    )
    expected = nn.functional.cross_entropy(logits[0, 0], targets[0], weight=weights[0])
    assert (total / weight).item() == pytest.approx(expected.item(), rel=1e-5)


def test_binary_cross_entropy_is_pytorchs():
    """For labels: PyTorch's logistic loss, at large logits too, rows that only fill up left out."""
    logits, targets = 30 * torch.randn(1, 2, 6, 5), (torch.rand(1, 6, 5) > 0.5).float()
    present = torch.tensor([[True, True, False, True, True, False]])
    total, weight = losses(
        objective_of(5, softmax=False), logits, targets, torch.ones(1, 2, 5), torch.zeros(1, 2), present
    )
    for m in range(2):
        expected = nn.functional.binary_cross_entropy_with_logits(logits[0, m][present[0]], targets[0][present[0]])
        assert (total / weight)[0, m].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("softmax", [True, False])
def test_focal_loss_is_its_formula(softmax):
    """-(1 - p) ** gamma log p, p being the probability of what is true."""
    logits = torch.randn(1, 1, 6, 3, dtype=torch.float64)
    if softmax:
        targets = torch.randint(0, 3, (1, 6))
        p = torch.softmax(logits[0, 0], -1)[torch.arange(6), targets[0]]
        weights = torch.ones(1, 3)
    else:
        targets = (torch.rand(1, 6, 3) > 0.5).double()
        chance = torch.sigmoid(logits[0, 0])
        p = torch.where(targets[0] > 0, chance, 1 - chance)
        weights = torch.ones(1, 2, 3)
    shape = objective_of(3, softmax=softmax, loss="focal", gamma=1.5)
    total, weight = losses(shape, logits, targets, weights, torch.zeros(1, 1), torch.ones(1, 6) > 0)
    expected = (-((1 - p) ** 1.5) * p.log()).mean()
    assert (total / weight).item() == pytest.approx(expected.item(), rel=1e-6)


# Training


def test_training_is_pytorchs_adamw():
    """From the same start, over the same batches, the parameters are those of a plain PyTorch loop."""
    X = features()
    y = np.digitize(X[:, 0] + X[:, 1] ** 2, [0.3, 1.2])
    head = MLP(
        hidden=(16,),
        epochs=3,
        batch_size=400,
        warmup=0.0,
        patience=None,
        lr=0.01,
        weight_decay=0.3,
        seed=4,
        precision="fp32",
    )
    head.fit(X, y)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    draw = torch.Generator().manual_seed(2 * 4)
    with torch.no_grad():  # in the order in which the head draws its own
        for name, size, fan_in in (
            ("0.weight", (16, 8), 8),
            ("0.bias", (16, 1), 8),
            ("2.weight", (3, 16), 16),
            ("2.bias", (3, 1), 16),
        ):
            values = torch.empty(size).uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=draw)
            parameter = model.get_parameter(name)
            parameter.copy_(values.view(parameter.shape))
    weights = [p for n, p in model.named_parameters() if n.endswith("weight")]
    biases = [p for n, p in model.named_parameters() if n.endswith("bias")]
    groups = [{"params": weights, "weight_decay": 0.3}, {"params": biases, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=0.01)
    Z = torch.from_numpy((X - X.mean(0)) / X.std(0))
    for step in range(3):
        for group in optimiser.param_groups:
            group["lr"] = 0.01 * 0.5 * (1 + np.cos(np.pi * (step + 1) / 3))
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(Z), torch.from_numpy(y)).backward()
        optimiser.step()
    with torch.no_grad():
        expected = torch.softmax(model(Z), 1).numpy()
    assert head.predict_proba(X) == pytest.approx(expected, abs=2e-4)


def test_row_sets_of_different_size_train_together_as_alone():
    """Networks of several row sets, one of them shorter, come out as each row set's own do."""
    X = torch.from_numpy(features(300))
    targets = torch.from_numpy(twisted(X.numpy()).astype(np.float32))[:, None]
    settings = {
        name: np.array(values, np.float32)
        for name, values in {
            "lr": [1e-2, 1e-3],
            "weight_decay": [0.1, 0.1],
            "dropout": [0.0, 0.3],
            "smoothing": [0, 0.1],
        }.items()
    }
    groups = [
        Group(np.arange(0, 250), np.arange(250, 300), np.ones((2, 1), np.float32), seed, **settings) for seed in (0, 1)
    ] + [Group(np.arange(20, 230), np.arange(230, 260), np.ones((2, 1), np.float32), 2, **settings)]
    shape = Shape((8,), (16,), Objective(1, False, "cross-entropy", 2.0), "concat")
    schedule = Schedule(epochs=4, batch_size=300, warmup=1.0, patience=3)
    together = train(shape, schedule, groups, lambda rows: [X[rows]], targets, torch.float32)
    for group, networks in zip(groups, together, strict=True):
        (alone,) = train(shape, schedule, [group], lambda rows: [X[rows]], targets, torch.float32)
        for a, b in zip(alone, networks, strict=True):
            assert a.n_epochs == b.n_epochs
            assert a.curve == pytest.approx(b.curve, abs=1e-5)
            assert all(a.params[name] == pytest.approx(b.params[name], abs=1e-5) for name in a.params)


@pytest.mark.parametrize("options", [{}, {"patience": None}, {"hidden": (16, 8), "batch_size": 64}])
def test_settings_folds_and_seeds_train_as_one_model(options, monkeypatch):
    """Whatever shares a shape is one call of the batched trainer, and comes out as fitted alone."""
    X = features(300)
    y = twisted(X)
    folds = [np.setdiff1d(np.arange(300), np.arange(i, 300, 5)) for i in range(5)]
    settings = [{"lr": 1e-2, "seed": seed, "dropout": dropout} for seed in (0, 3) for dropout in (0.0, 0.4)]
    head = MLP(**{"hidden": (16,), "epochs": 5, "precision": "fp32", **options})
    alone = [head.fit_many(X, y, [(rows, params)])[0] for rows in folds for params in settings]
    batches = []

    def counted(shape, schedule, groups, *rest):
        batches.append([(group.seed, len(group.lr)) for group in groups])
        return train(shape, schedule, groups, *rest)

    monkeypatch.setattr("headwater.heads._training.train", counted)
    together = head.fit_many(X, y, [(rows, params) for rows in folds for params in settings])
    assert batches == [[(0, 2), (3, 2)] * 5]
    for a, b in zip(alone, together, strict=True):
        assert a.n_epochs_ == b.n_epochs_
        assert a.predict_proba(X) == pytest.approx(b.predict_proba(X), abs=1e-4)
    assert together[0].predict_proba(X) != pytest.approx(together[2].predict_proba(X), abs=1e-3)  # another seed


def test_folds_that_cannot_be_one_model_train_apart():
    """A class that is missing from a fold, or another number of steps, changes nothing for the others."""
    X = features(300)
    y = np.repeat([0, 1, 2], 100)
    folds = [np.arange(0, 300, 2), np.arange(200), np.arange(40, 300), np.arange(1, 300, 2)]
    head = MLP(hidden=(16,), epochs=4, batch_size=128, patience=2)
    fitted = head.fit_many(X, y, [(rows, {}) for rows in folds])
    assert [one.classes_.tolist() for one in fitted] == [[0, 1, 2], [0, 1], [0, 1, 2], [0, 1, 2]]
    for rows, one in zip(folds, fitted, strict=True):
        (alone,) = head.fit_many(X, y, [(rows, {})])
        assert alone.predict_proba(X) == pytest.approx(one.predict_proba(X), abs=2e-2)


@pytest.mark.parametrize(("bytes_", "sizes"), [(1, [1, 1, 1]), (1 << 30, [3])])
def test_no_more_train_at_once_than_memory_allows(bytes_, sizes, monkeypatch):
    """Groups beyond the budget wait for the next batch; a single one always trains."""
    X = features(200)
    y = twisted(X)
    monkeypatch.setattr("headwater.heads.mlp.TOGETHER_ON_CPU", bytes_)
    batches = []

    def counted(shape, schedule, groups, *rest):
        batches.append(len(groups))
        return train(shape, schedule, groups, *rest)

    monkeypatch.setattr("headwater.heads._training.train", counted)
    folds = [np.setdiff1d(np.arange(200), np.arange(i, 200, 3)) for i in range(3)]
    MLP(hidden=(8,), epochs=2, device="cpu").fit_many(X, y, [(rows, {}) for rows in folds])
    assert batches == sizes


@pytest.mark.parametrize("options", [{}, {"hidden": (16, 16), "dropout": 0.2}, {"loss": "focal"}, {"batch_size": 32}])
def test_learns_what_a_linear_model_cannot(options):
    """Products of columns are learnt, with each of the options."""
    X = features(800)
    y = twisted(X)
    head = MLP(**{"hidden": (64,), "lr": 0.01, **options}).fit(X[:600], y[:600])
    assert head.score(X[600:], y[600:]) > 0.85


def test_stops_at_the_lowest_loss_on_rows_held_out():
    """Where labels are noise, training ends early, and the parameters are those of the lowest loss."""
    X = features(300, 50)
    y = np.random.default_rng(5).integers(0, 2, 300)
    head = MLP(hidden=(64,), lr=0.01, patience=5).fit(X, y)
    assert len(head.curve_) < 30
    assert head.n_epochs_ == head.curve_.argmin() + 1 == len(head.curve_) - 5
    assert np.abs(head.predict_proba(X) - 0.5).mean() < 0.4


def test_class_weights_balance():
    """Balanced weights raise what is predicted of a rare class."""
    X = features(1000, 4)
    y = ((X[:, 0] + np.random.default_rng(0).standard_normal(1000)) > 2.2).astype(int)
    plain, balanced = (MLP(hidden=(8,), lr=0.01, class_weight=weight).fit(X, y) for weight in (None, "balanced"))
    assert plain.predict_proba(X)[:, 1].mean() == pytest.approx(y.mean(), abs=0.03)
    assert balanced.predict_proba(X)[:, 1].mean() > 2 * y.mean()


def test_bf16_is_near_fp32():
    """The precision of matrix products moves probabilities little."""
    X = features(600)
    y = twisted(X)
    near, exact = (
        MLP(hidden=(32,), lr=0.01, epochs=20, patience=None, precision=precision).fit(X, y).predict_proba(X)
        for precision in ("bf16", "fp32")
    )
    assert np.abs(near - exact).mean() < 0.02


def test_features_that_do_not_fit_are_read_batch_by_batch():
    """Streaming gives what keeping all of them gives."""
    X = features(300)
    y = twisted(X)
    kept, streamed = (MLP(hidden=(8,), epochs=5, precision="fp32", max_bytes=n).fit(X, y) for n in (1 << 30, 0))
    assert streamed.predict_proba(X) == pytest.approx(kept.predict_proba(X), abs=1e-5)


# Races


class Drops:
    """A judge that drops what it is told to, by the number of the fit, whatever they score."""

    def __init__(self, **at):
        self.at, self.seen = {float(share): set(fits) for share, fits in at.items()}, []

    @property
    def shares(self):
        return sorted(self.at)

    def __call__(self, share, now, before):
        self.seen.append(now)
        gone = self.at[self.shares[len(self.seen) - 1]]
        return [i for i in now if i not in gone]


def fits_of(n, settings):
    """Each setting on each of three inner folds, with the rows that the fold tests."""
    folds = [(np.setdiff1d(np.arange(n), np.arange(i, n, 3)), np.arange(i, n, 3)) for i in range(3)]
    return [(rows, params) for rows, _ in folds for params in settings], [test for _, test in folds for _ in settings]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("hidden", "patience"), [(16, 3), (16, None), (256, 3)])
def test_dropping_does_not_change_those_that_go_on(precision, hidden, patience):
    """Networks of a race from which others are dropped are those of the full run, and so are they when dropped late.

    256 units are updated network by network, 16 all at once.
    """
    X = features(300, 70)
    y = np.digitize(X[:, 0] + X[:, 1], [-0.5, 0.5])
    settings = [
        {"lr": lr, "dropout": dropout, "hidden": (h,)}
        for h in (hidden, hidden // 2)
        for lr in (1e-3, 3e-2)
        for dropout in (0, 0.4)
    ]
    fits, tests = fits_of(300, settings)
    head = MLP(epochs=13, precision=precision, patience=patience, batch_size=64, device="cpu")
    judge = Drops(**{"0.125": {i for i in range(24) if i % 8 in (0, 3, 4)}, "0.5": {1, 9, 17, 6, 14, 22}})
    found = head.race(X, y, fits, tests, judge)
    full = head.fit_many(X, y, fits)
    probabilities = MLP.predict_proba_many(full, X, tests)
    near = 1e-3 if precision == "fp32" else 5e-2
    assert [sorted(now) for now in judge.seen] == [
        list(range(24)),
        [i for i in range(24) if i % 8 not in (0, 3, 4)],
    ]
    for i, (one, expected) in enumerate(zip(found, probabilities, strict=True)):
        early = {0: 3, 3: 3, 4: 3, 1: 7, 6: 7}.get(i % 8)
        assert (one.dropped, one.epoch) == (early is not None, early or 13)
        if early is None:
            assert np.abs(one.scores - expected).mean() < near
    short = MLP(epochs=13, precision=precision, patience=patience, batch_size=64, device="cpu")
    assert [one.scores.shape for one in short.race(X, y, fits[:1], tests[:1], Drops())] == [(100, 3)]


def test_a_paused_network_is_the_best_until_then():
    """At a pause a network scores by the parameters of its lowest stopping loss so far; a stopped one keeps them."""
    X = features(300, 40)
    y = np.random.default_rng(5).integers(0, 2, 300)
    fits, tests = fits_of(300, [{"lr": 1e-2}, {"lr": 1e-4}])
    judge = Drops(**{"0.25": set(), "0.75": set()})
    found = MLP(hidden=(64,), epochs=41, patience=4, precision="fp32").race(X, y, fits, tests, judge)
    quarter, later = judge.seen
    assert quarter[0].epoch == 11
    full = MLP(hidden=(64,), epochs=41, patience=4, precision="fp32").fit_many(X, y, fits)
    assert len(full[0].curve_) <= 11 < len(full[1].curve_)
    assert full[0].predict_proba(X[tests[0]]) == pytest.approx(quarter[0].scores, abs=1e-4)
    assert np.array_equal(quarter[0].scores, later[0].scores)
    assert np.array_equal(later[0].scores, found[0].scores)
    assert not np.array_equal(quarter[1].scores, found[1].scores)


def test_what_diverges_scores_nan():
    """A network without a finite loss has no finite scores, and changes nothing for its neighbours."""
    X = features(200)
    y = twisted(X)
    fits, tests = fits_of(200, [{"lr": 1e-2}, {"lr": 1e30}])
    head = MLP(hidden=(16,), epochs=15, patience=3, precision="fp32")
    found = head.race(X, y, fits, tests, Drops())
    assert all(np.isnan(one.scores).all() for one in found[1::2])
    alone = head.race(X, y, fits[::2], tests[::2], Drops())
    for a, b in zip(found[::2], alone, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-5)


def test_stopped_networks_leave_the_batch():
    """The batch gets smaller as networks stop or are dropped, and goes no further than the last one needs."""
    X = torch.from_numpy(features(200, 30))
    y = np.random.default_rng(5).integers(0, 2, 200).astype(np.float32)
    names = ("lr", "weight_decay", "dropout", "smoothing")
    values = [[3e-2, 3e-2, 1e-2, 1e-5], [0.0] * 4, [0.0] * 4, [0.0] * 4]
    settings = {name: np.array(of, np.float32) for name, of in zip(names, values, strict=True)}
    groups = [Group(np.arange(150), np.arange(150, 200), np.ones((2, 1), np.float32), s, **settings) for s in (0, 1)]
    shape = Shape((30,), (64,), Objective(1, False, "cross-entropy", 2.0), "concat")
    networks = Networks(
        shape, Schedule(60, 200, 1.0, 3), groups, lambda rows: [X[rows]], torch.from_numpy(y)[:, None], torch.float32
    )
    sizes = []
    for epoch in (1, 30):
        networks.advance(epoch)
        sizes.append((networks._alive.shape, networks._state.params["in0.weight"].shape))
    assert sizes == [((2, 4), (2, 256, 30)), ((2, 1), (2, 64, 30))]
    networks.drop([(0, 3)])
    assert networks._alive.shape == (1, 1)
    lengths = [len(curve) for curve in networks._curve[1]]
    assert lengths[3] == 30
    assert max(lengths[:3]) < 30


def test_work_side_by_side_leaves_the_number_of_threads():
    """Each worker computes with one thread; the others keep theirs, also those that start later."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert side_by_side(lambda i: (i, torch.get_num_threads()), [1, 2, 3], "cpu") == [(1, 1), (2, 1), (3, 1)]
        assert torch.get_num_threads() == 2
        assert side_by_side(lambda i: torch.get_num_threads(), [1], "cpu") == [2]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_are_kept_or_standardised_anew(precision, monkeypatch):
    """Networks are the same whether their standardised rows are kept or, as for many rows, made in each step."""
    X = {"a": features(120, 40), "b": 5 + 3 * features(120, 30, seed=1)}
    y = np.digitize(X["a"][:, 0], [-0.5, 0.5])
    fits, _ = fits_of(120, [{"lr": 1e-2}, {"lr": 1e-3, "dropout": 0.3}])
    head = MLP(hidden=(256,), epochs=6, batch_size=32, precision=precision, device="cpu")
    kept = head.fit_many(X, y, fits)
    monkeypatch.setattr("headwater.heads._training.KEPT_BYTES", 0)
    for a, b in zip(kept, head.fit_many(X, y, fits), strict=True):
        assert np.array_equal(a.curve_, b.curve_)
        assert all(np.array_equal(a.params_[name], b.params_[name]) for name in a.params_)


# Rows to stop by


@given(
    st.lists(st.tuples(st.integers(0, 14), st.integers(0, 2)), min_size=40, max_size=80),
    st.sampled_from([0.15, 0.25]),
    st.integers(0, 3),
)
def test_groups_are_held_out_as_scikit_learn_would(rows, share, seed):
    """Held-out groups are those of the first fold of `StratifiedGroupKFold`, also where folds are equally good."""
    groups, codes = np.array(rows).T
    counts, n_folds = np.bincount(codes), round(1 / share)
    assume(counts[counts > 0].min() >= n_folds and len(np.unique(groups)) >= n_folds)
    found = rows_to_stop_by(codes, groups, share, seed)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    kept, held = next(splitter.split(np.zeros((len(codes), 0)), codes, groups))
    if len(np.unique(codes[kept])) == len(np.unique(codes)):
        assert found.tolist() == held.tolist()
    else:
        assert not len(found)


def test_rows_to_stop_by_are_found_once_for_the_same_rows():
    """Each fit gets the rows of its own share and seed, within its own rows."""
    codes, groups = np.arange(120) % 2, np.arange(120) // 3
    stop_by = RowsToStopBy(codes, groups)
    parts = [np.arange(90), np.arange(30, 120)]
    for rows in (*parts, *parts):
        for share, seed in ((0.15, 0), (0.25, 0), (0.15, 1)):
            expected = rows_to_stop_by(codes[rows], groups[rows], share, seed)
            assert np.array_equal(stop_by(rows, share, seed), expected)
    assert stop_by(parts[0], 0.15, 0) is stop_by(parts[0], 0.15, 0)


def test_groups_are_held_out_whole():
    """Rows to stop by are whole groups, and about the share asked for."""
    rng = np.random.default_rng(0)
    groups, codes = rng.integers(0, 40, 500), rng.integers(0, 3, 500)
    held = rows_to_stop_by(codes, groups, 0.2, 0)
    assert 50 < len(held) < 150
    assert not set(groups[held]) & set(np.delete(groups, held))
    assert np.array_equal(held, rows_to_stop_by(codes, groups, 0.2, 0))
    assert len(rows_to_stop_by(codes[:, None] == np.arange(3), groups, 0.2, 0))


def test_nothing_is_held_out_where_too_little_is_there():
    """A class keeps training rows, and few rows or groups are all trained on."""
    assert not len(rows_to_stop_by(np.array([0, 1] * 5), None, 0.2, 0))
    assert not len(rows_to_stop_by(np.arange(60) % 2, np.arange(60) % 3, 0.2, 0))
    one_group_holds_class_1 = np.repeat([0, 1], 30)
    assert not len(rows_to_stop_by(one_group_holds_class_1, np.repeat(np.arange(6), 10) // 3, 0.2, 0))


# Several inputs


@pytest.mark.parametrize("fusion", ["concat", "gated"])
def test_what_only_both_inputs_tell_is_learnt(fusion):
    """Two inputs, each of which alone says nothing, are used together."""
    X = features(1000, 4)
    y = twisted(X)
    both = {"a": X[:, [0, 2]], "b": X[:, [1, 3]]}
    train, test = ({n: part[s] for n, part in both.items()} for s in (slice(700), slice(700, None)))
    head = MLP(hidden=(64, 64), lr=0.01, fusion=fusion).fit(train, y[:700])
    assert head.score(test, y[700:]) > 0.9
    assert head.inputs_ == {"a": 2, "b": 2}
    alone = MLP(hidden=(64, 64), lr=0.01).fit(train["a"], y[:700])
    assert alone.score(test["a"], y[700:]) < 0.65


def test_concat_of_inputs_is_one_wide_input():
    """A dict of inputs side by side is as good as one array of all columns."""
    X = features(600)
    y = twisted(X)
    joined = MLP(hidden=(32,), lr=0.01).fit({"a": X[:, :1], "b": X[:, 1:]}, y)
    whole = MLP(hidden=(32,), lr=0.01).fit(X, y)
    assert joined.score({"a": X[:, :1], "b": X[:, 1:]}, y) == pytest.approx(whole.score(X, y), abs=0.03)


def test_sum_adds_standardised_inputs():
    """The sum of inputs is fitted as the MLP on the sum of the standardised columns."""
    A, B = features(seed=1), 100 * features(seed=2) + 7
    y = ((A + (B - 7) / 100)[:, 0] > 0).astype(int)
    head = MLP(fusion="sum", hidden=(16,), lr=0.01).fit({"a": A, "b": B}, y)
    assert head.score({"a": A, "b": B}, y) > 0.9
    with pytest.raises(HeadError, match="'sum' needs inputs of equal width, but they have 3 and 8 columns"):
        MLP(fusion="sum").fit({"a": A[:, :3], "b": B}, y)


@pytest.mark.parametrize("fusion", ["concat", "sum", "gated"])
@pytest.mark.parametrize("hidden", [(8,), (8, 4)])
def test_numpy_predicts_what_torch_trained(fusion, hidden, monkeypatch):
    """The saved parameters, applied by NumPy to inputs as they come, give the logits of the trained network."""
    from headwater.heads import _training

    seen = {}
    forward = _training.forward

    def watched(shape, params, inputs, dropout, noise):
        logits = forward(shape, params, inputs, dropout, noise)
        if noise is None and not torch.is_grad_enabled():
            seen["logits"] = logits[0, 0].numpy()
        return logits

    monkeypatch.setattr(_training, "forward", watched)
    X = {"a": 3 * features(seed=1) + 5, "b": features(seed=2)}
    y = twisted(X["a"])
    head = MLP(hidden=hidden, fusion=fusion, epochs=2, warmup=0.0, patience=1, precision="fp32", lr=1e-9).fit(X, y)
    stop = rows_to_stop_by(y, None, 0.15, 0)
    mine = head.decision_function({name: part[stop] for name, part in X.items()})
    assert mine == pytest.approx(seen["logits"][:, 0], abs=1e-4)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"hidden": "512"}, "list of numbers of units"),
        ({"hidden": (0,)}, "list of numbers of units"),
        ({"lr": 0}, "lr must be above 0"),
        ({"dropout": 1.0}, "from 0 to below 1"),
        ({"fusion": "add"}, "There are: concat, sum, gated"),
        ({"loss": "focus"}, "Did you mean 'focal'"),
        ({"fusion": "gated", "hidden": ()}, "needs a hidden layer"),
        ({"warmup": 100.0}, "must be below epochs"),
        ({"patience": 0}, "patience must be above 0"),
    ],
)
def test_unusable_settings(params, said):
    """A setting that cannot be used is named, with what can."""
    with pytest.raises(HeadError, match=said):
        MLP(**params).fit(features(50), twisted(features(50)))


def test_other_inputs_are_refused():
    """A head over several inputs wants those it was fitted on."""
    X = features(60)
    head = MLP(hidden=(4,), epochs=2).fit({"a": X[:, :4], "b": X[:, 4:]}, twisted(X))
    with pytest.raises(HeadError, match="needs a dict of a, b"):
        head.predict({"a": X[:, :4], "c": X[:, 4:]})
    with pytest.raises(HeadError, match="fitted on 8"):
        head.predict({"a": X[:, :4], "b": X[:, 5:]})


def test_perceptrons_without_a_hidden_layer_train_and_race():
    """With no hidden layer all weights are first-layer weights: training, early stopping and halving still work."""
    from headwater.evaluate import cross_validate, make_splits

    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    X = (y[:, None] + rng.standard_normal((80, 3))).astype(np.float32)
    grid = [{"lr": lr} for lr in (1e-4, 1e-3, 1e-2, 1e-1)]
    head = MLP(hidden=(), epochs=16, precision="fp32", patience=3)
    outcome = cross_validate(head, X, y, make_splits(y, n_folds=3), grid=grid, n_inner_folds=3)
    assert outcome.mean["auc"] > 0.7
