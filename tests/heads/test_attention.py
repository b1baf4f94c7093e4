"""Heads over tokens: what each layer computes, what attention is for, and what they refuse."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from headwater.errors import HeadError
from headwater.heads import (
    HEADS,
    MIL,
    Bags,
    CoAttention,
    CrossAttention,
    EfficientProbing,
    Masked,
    MergedAttention,
    SelfAttention,
    TokenMLP,
    load_head,
    save_head,
)
from headwater.heads._attention import TokenShape, fewer, forward, initial
from headwater.heads._objective import Objective
from headwater.heads._token_training import Reader, _not_finite, _Scaling
from headwater.heads._training import Schedule

PLAIN = Objective(1, False, "cross-entropy", 2.0)


def shape(aggregator="co", inputs=(5, 3), lengths=(4, 6), **changes):
    settings = {"tokenizer": "project", "n_tokens": 4, "width": 8, "blocks": 2, "heads": 2, "pool": "max"}
    common = {"aggregator": aggregator, "hidden": (6,), "rectified": False, "objective": PLAIN}
    return TokenShape(inputs=inputs, lengths=lengths, **{**settings, **common, **changes})


def tokens(b, t, d, seed=0, missing=()):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(b, t, dtype=torch.bool)
    mask[list(missing)] = False
    return torch.randn(b, t, d, generator=generator), mask


def drawn(of, seed=0):
    return initial(of, torch.Generator().manual_seed(seed))


# Layers


def test_a_self_attention_block_is_pytorchs_encoder_layer():
    """Attention, residual, norm, perceptron, residual, norm: as torch.nn.TransformerEncoderLayer, masks included."""
    of = shape("self", inputs=(8,), lengths=(4,), blocks=1, hidden=(), pool="mean")
    params = drawn(of)
    params["project0.weight"], params["project0.bias"] = torch.eye(8), torch.zeros(8)
    values, mask = tokens(3, 4, 8)
    mask[1, 2:] = False
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
    parts = [f"block0.self0.{part}" for part in ("query", "key", "value")]
    own = {
        "self_attn.in_proj_weight": torch.cat([params[f"{p}.weight"] for p in parts]),
        "self_attn.in_proj_bias": torch.cat([params[f"{p}.bias"] for p in parts]),
    }
    for theirs, ours in {
        "self_attn.out_proj": "self0.out",
        "linear1": "up0",
        "linear2": "down0",
        "norm1": "self0.norm",
        "norm2": "norm0",
    }.items():
        own |= {f"{theirs}.{kind}": params[f"block0.{ours}.{kind}"] for kind in ("weight", "bias")}
    layer.load_state_dict(own)
    layer.eval()
    expected = layer(values, src_key_padding_mask=~mask)
    pooled = torch.stack([row[there].mean(0) for row, there in zip(expected, mask, strict=True)])
    logits = nn.functional.linear(pooled, params["fusion0.weight"], params["fusion0.bias"])
    found, _ = forward(of, params, [(values, mask)])
    assert torch.allclose(found, logits, atol=1e-5)


def test_queries_are_those_of_the_paper():
    """Each query weights tokens by its scaled product with them, and takes its own part of the projected columns."""
    of = shape("queries", inputs=(8,), lengths=(4,), width=6, heads=3, hidden=())
    params = drawn(of)
    assert set(params) == {
        *("project0.weight", "project0.bias", "missing0.bias", "query0.weight", "fusion0.weight", "fusion0.bias")
    }
    values, mask = tokens(5, 4, 8)
    mask[0, 2:] = False
    found, (share,) = forward(of, params, [(values, mask)])
    for i in range(5):
        there = values[i][mask[i]]
        parts, shares = [], []
        for j in range(3):
            weights = torch.softmax(there @ params["query0.weight"][j] / 8**0.5, 0)
            rows = slice(2 * j, 2 * j + 2)
            projected = there @ params["project0.weight"][rows].T + params["project0.bias"][rows]
            parts.append(weights @ projected)
            shares.append(weights)
        logits = params["fusion0.weight"] @ torch.cat(parts) + params["fusion0.bias"]
        assert torch.allclose(found[i], logits, atol=1e-5)
        assert torch.allclose(share[i][mask[i]], torch.stack(shares).mean(0), atol=1e-6)


@pytest.mark.parametrize("aggregator", ["self", "merged", "cross", "co", "none"])
@pytest.mark.parametrize("tokenizer", ["project", "mix", "average", "max", "pooled-linear", "pooled-mlp"])
@pytest.mark.parametrize("pool", ["max", "mean", "attention"])
def test_what_is_masked_has_no_say(aggregator, tokenizer, pool):
    """Values under the mask change nothing, whatever the parts of the network are."""
    of = shape(aggregator, lengths=(4, None), tokenizer=tokenizer, pool=pool)
    params = drawn(of)
    image, words = tokens(3, 4, 5), tokens(3, 6, 3, seed=1)
    words[1][0, 3:] = False
    words[1][1] = False
    before, _ = forward(of, params, [image, words])
    changed = torch.where(words[1][..., None], words[0], 100.0)
    after, _ = forward(of, params, [image, (changed, words[1])])
    assert before.shape == (3, 1)
    assert torch.isfinite(before).all()
    assert torch.allclose(before, after, atol=1e-5)


def test_queries_do_not_see_what_is_masked():
    """Values under the mask change neither logits nor shares; an input that an item lacks has one learned token."""
    of = shape("queries", lengths=(4, None))
    params = drawn(of)
    image, words = tokens(3, 4, 5), tokens(3, 6, 3, seed=1)
    words[1][0, 3:] = False
    words[1][1] = False
    before, shares = forward(of, params, [image, words])
    changed = torch.where(words[1][..., None], words[0], 100.0)
    after, _ = forward(of, params, [image, (changed, words[1])])
    assert torch.equal(before, after)
    assert all(torch.allclose(share.sum(1), torch.ones(3)) for share in shares)
    assert shares[1][0, 3:].tolist() == [0] * 3
    assert shares[1][1].tolist() == [1] + [0] * 5


@pytest.mark.parametrize("aggregator", ["self", "merged", "cross", "co", "none", "queries"])
def test_every_parameter_matters(aggregator):
    """Each parameter has a gradient: none is there for nothing."""
    of = shape(aggregator, pool="attention")
    params = {name: p.requires_grad_() for name, p in drawn(of).items()}
    logits, _ = forward(of, params, [tokens(6, 4, 5, missing=(0,)), tokens(6, 6, 3, seed=1, missing=(1,))])
    logits.square().sum().backward()
    idle = [name for name, p in params.items() if p.grad is None or not p.grad.abs().sum()]
    assert all(".key.bias" in name or "score.bias" in name for name in idle)  # which a softmax cannot see


def test_fewer_tokens_are_pytorchs_adaptive_pooling():
    """Each item's own tokens are pooled as AdaptiveAvgPool1d and AdaptiveMaxPool1d pool them."""
    values = torch.randn(4, 11, 3)
    lengths = [11, 7, 5, 2]
    mask = torch.arange(11) < torch.tensor(lengths)[:, None]
    for by_max, pool in ((False, nn.functional.adaptive_avg_pool1d), (True, nn.functional.adaptive_max_pool1d)):
        found, kept = fewer(values, mask, 4, by_max=by_max)
        for i, length in enumerate(lengths):
            n = min(length, 4)
            assert kept[i].tolist() == [True] * n + [False] * (4 - n)
            assert torch.allclose(found[i, :n], pool(values[i, :length].T[None], n)[0].T, atol=1e-6)


def test_shares_add_up():
    """What an item's tokens contribute to pooling adds up to 1, whatever the pooling."""
    for pool in ("max", "mean", "attention"):
        of = shape("none", inputs=(5,), lengths=(None,), pool=pool)
        values, mask = tokens(3, 4, 5)
        mask[0, 1:] = False
        _, (share,) = forward(of, drawn(of), [(values, mask)])
        assert torch.allclose(share.sum(1), torch.ones(3))
        assert share[0].tolist() == [1, 0, 0, 0]


# Training


@pytest.mark.parametrize("aggregator", ["self", "queries"])
def test_scaling_is_folded_into_the_parameters(aggregator):
    """A network with folded parameters says of tokens what the trained one said of scaled tokens."""
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((50, 4, 5)) * rng.uniform(0.1, 9, 5) + 1000).astype(np.float32)
    X[..., 2] = 7.0  # a constant column
    read = Reader([X], "cpu", may_miss=False)
    of = shape(aggregator, inputs=(5,), lengths=(4,))
    params = drawn(of)
    scaling = _Scaling(read, np.arange(50))
    scaled = scaling(read(np.arange(50)))
    flat = X.reshape(-1, 5).astype(np.float64)
    std = flat.std(0)
    std[2] = 1
    assert scaled[0][0].numpy().reshape(-1, 5) == pytest.approx((flat - flat.mean(0)) / std, abs=2e-3)
    folded = {name: torch.from_numpy(p) for name, p in scaling.fold_in(params).items()}
    assert torch.allclose(forward(of, params, scaled)[0], forward(of, folded, read(np.arange(50)))[0], atol=5e-3)


def binding(n, *, bound, seed=0, n_keys=5):
    """Image tokens that each hold a key and a sign; words that ask for one key, or for the sign of most."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(99).standard_normal((n_keys + 1, n_keys + 1)))[0]
    keys = np.stack([rng.permutation(n_keys) for _ in range(n)])
    signs = rng.choice([-1, 1], (n, n_keys))
    image = np.concatenate([np.eye(n_keys)[keys], signs[..., None]], 2) @ turn
    asked = rng.integers(0, n_keys, n)
    word = np.eye(n_keys)[keys[np.arange(n), asked]]
    words = np.concatenate([word[:, None], 0.3 * rng.standard_normal((n, 2, n_keys))], 1)
    y = signs[np.arange(n), asked] if bound else np.where(signs.sum(1) == 0, signs[:, 0], np.sign(signs.sum(1)))
    noise = 0.1 * rng.standard_normal(image.shape)
    return {"image": (image + noise).astype(np.float32), "text": words.astype(np.float32)}, (y > 0).astype(int)


QUICK = {
    "width": 32,
    "blocks": 1,
    "hidden": (32,),
    "lr": 3e-3,
    "epochs": 20,
    "pool": "mean",
    "precision": "fp32",
    "device": "cpu",
}


def score(head, X, y, train, test):
    (fitted,) = head.fit_many(X, y, [(train, {})])
    (scores,) = type(head).predict_proba_many([fitted], X, [test])
    return float((fitted.classes_[scores.argmax(1)] == y[test]).mean())


@pytest.fixture(scope="module")
def bound():
    return binding(2400, bound=True)


@pytest.mark.parametrize("kind", [MergedAttention, CrossAttention, CoAttention])
def test_attention_finds_which_token_goes_with_which_word(bound, kind):
    """Where the answer lies in the token that a word asks for, attention across inputs finds it, an MLP does not."""
    X, y = bound
    train, test = np.arange(1800), np.arange(1800, 2400)
    assert score(kind(**QUICK), X, y, train, test) > 0.9
    assert score(TokenMLP(**QUICK), X, y, train, test) < 0.8  # what most signs tell
    shuffled = {**X, "text": X["text"][np.random.default_rng(0).permutation(len(y))]}
    assert score(kind(**{**QUICK, "epochs": 5}), shuffled, y, train, test) < 0.8


def test_attention_has_no_edge_where_there_is_nothing_to_bind():
    """Where the answer is a sum over tokens, the MLP is as good."""
    X, y = binding(1600, bound=False)
    train, test = np.arange(1200), np.arange(1200, 1600)
    with_attention, without = (score(kind(**QUICK), X, y, train, test) for kind in (CoAttention, TokenMLP))
    assert without > 0.75
    assert with_attention < without + 0.05


def test_queries_find_the_token_that_matters():
    """Where one token among many decides, queries find it, and the mean of all tokens does not."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1500, 30, 8)).astype(np.float32)
    y = np.arange(1500) % 2
    place = rng.integers(0, 30, 1500)
    X[np.arange(1500), place, 0] = 4  # says which token it is
    X[np.arange(1500), place, 1] = np.where(y, 1.5, -1.5)
    train, test = np.arange(1200), np.arange(1200, 1500)
    settings = {**QUICK, "hidden": (), "lr": 1e-2, "epochs": 30}
    head = EfficientProbing(**{**settings, "heads": 4})
    assert score(head, X, y, train, test) > 0.95
    assert score(TokenMLP(**{**settings, "pool": "mean"}), X, y, train, test) < 0.75


def test_a_query_is_learned_from_labels_alone():
    """Where tokens say nothing, queries find nothing: over many sets of noise, AUC is that of chance."""
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        X, y = rng.standard_normal((120, 5, 6)).astype(np.float32), np.arange(120) % 2
        head = EfficientProbing(**{**QUICK, "heads": 4, "epochs": 8, "hidden": ()})
        (fitted,) = head.fit_many(X, y, [(np.arange(60), {})])
        found.append(roc_auc_score(y[60:], fitted.predict_proba(X[60:])[:, 1]))
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(np.mean(found) - 0.5) < 3 * error
    assert error < 0.04


@pytest.mark.parametrize(
    "kind", [SelfAttention, MergedAttention, CrossAttention, CoAttention, EfficientProbing, TokenMLP]
)
def test_company_changes_nothing(bound, kind, tmp_path):
    """A head fitted among others is the head fitted alone, and is the same after it was written and read."""
    X, y = {name: part[:150] for name, part in bound[0].items()}, bound[1][:150]
    head = kind(**{**QUICK, "epochs": 3})
    rows = [np.arange(100), np.arange(50, 150)]
    fitted = head.fit_many(X, y, [(part, params) for part in rows for params in ({}, {"dropout": 0.4})])
    alone = kind(**{**QUICK, "epochs": 3, "dropout": 0.4}).fit(
        {name: part[rows[1]] for name, part in X.items()}, y[rows[1]]
    )
    assert fitted[3].predict_proba(X) == pytest.approx(alone.predict_proba(X), abs=1e-5)
    name = next(name for name, place in HEADS.items() if place.endswith(f":{kind.__name__}"))
    save_head(alone, name, tmp_path)
    loaded = load_head(tmp_path)
    assert type(loaded) is kind
    assert np.array_equal(loaded.predict_proba(X), alone.predict_proba(X))


def test_tasks(bound):
    """Several classes and several labels are learned as two classes are."""
    X, _ = bound
    signal = X["image"].mean(1) @ np.random.default_rng(0).standard_normal(6)
    train, test = np.arange(1500), np.arange(1500, 2400)
    three = np.digitize(signal, np.quantile(signal, [1 / 3, 2 / 3]))
    assert score(TokenMLP(**QUICK), X, three, train, test) > 0.7
    labels = np.stack([signal > 0, signal < np.quantile(signal, 0.3)], 1).astype(int)
    (fitted,) = TokenMLP(**QUICK).fit_many(X, labels, [(train, {})])
    assert ((fitted.predict_proba(X)[test] > 0.5) == labels[test]).mean() > 0.85


def test_missing_inputs(bound):
    """Items may lack an input; where the text is missing the head falls back to what the image tells."""
    X, y = bound
    there = np.random.default_rng(3).random(len(y)) < 0.7
    masked = {"image": X["image"], "text": Masked(X["text"], there)}
    train, test = np.arange(1800), np.arange(1800, 2400)
    (fitted,) = CoAttention(**QUICK).fit_many(masked, y, [(train, {})])
    right = fitted.predict(masked)[test] == y[test]
    assert right[there[test]].mean() > 0.85
    assert right[~there[test]].mean() < 0.8
    nothing = {"image": Masked(X["image"], np.ones(len(y), bool)), "text": Masked(X["text"], np.zeros(len(y), bool))}
    assert np.isfinite(fitted.predict_proba(nothing)).all()


def test_ragged_tokens_are_padded_ones(bound):
    """Bags of tokens give what the same tokens give padded and masked."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 6, 200)
    flat = rng.standard_normal((lengths.sum(), 4)).astype(np.float32)
    bags = Bags(flat, np.split(np.arange(lengths.sum()), np.cumsum(lengths)[:-1]))
    values, mask = bags.padded(np.arange(200))
    y = np.array([part[:, 0].max() > 1 for part in np.split(flat, np.cumsum(lengths)[:-1])]).astype(int)
    one, two = (MIL(width=16, epochs=4, precision="fp32").fit(X, y) for X in (bags, Masked(values, mask)))
    assert one.predict_proba(bags) == pytest.approx(two.predict_proba(Masked(values, mask)), abs=1e-5)


def test_the_weight_of_an_instance():
    """Attention over a bag goes to the instances that make it positive."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 9, 400)
    flat = rng.standard_normal((lengths.sum(), 6)).astype(np.float32)
    members = np.split(np.arange(lengths.sum()), np.cumsum(lengths)[:-1])
    y = np.arange(400) % 2
    for rows in (members[i] for i in range(400) if y[i]):
        flat[rows[0], :2] += 4  # one instance of each positive bag
    bags = Bags(flat, members)
    head = MIL(width=32, epochs=40, lr=3e-3, precision="fp32").fit_many(bags, y, [(np.arange(300), {})])[0]
    assert (head.predict(bags)[300:] == y[300:]).mean() > 0.9
    weights = head.instance_weights(bags, np.arange(300, 400))
    positive = weights[y[300:] == 1]
    assert (np.nanargmax(positive, 1) == 0).mean() > 0.9
    assert np.nansum(weights, 1) == pytest.approx(1, abs=1e-4)
    assert np.isnan(weights).sum(1).tolist() == (lengths[300:].max() - lengths[300:]).tolist()


def test_bags_of_groups():
    """Each group's rows are a bag, in the order of the groups' names."""
    bags, names = Bags.of_groups(np.arange(10.0).reshape(5, 2), np.array(["b", "a", "b", "c", "a"]))
    assert names.tolist() == ["a", "b", "c"]
    assert [rows.tolist() for rows in bags.members] == [[1, 4], [0, 2], [3]]


# Bad input


def test_rows_that_cannot_be_used_are_named(bound):
    """Tokens that are not finite, rows without tokens and inputs of different rows are refused by number."""
    X, y = bound
    broken = X["image"][:100].copy()
    broken[[7, 31], 2, 1] = np.nan, np.inf
    with pytest.raises(HeadError, match=r"not finite in 2 rows.*\[7, 31\]"):
        SelfAttention(batch_size=200, width=8, heads=2).fit_many(broken, y[:100], [(np.arange(100), {})])
    empty = Masked(X["image"][:100], np.arange(100) != 50)
    with pytest.raises(HeadError, match=r"no tokens.*\[50\]"):
        SelfAttention(width=8, heads=2).fit(empty, y[:100])
    none = {"image": empty, "text": Masked(X["text"][:100], np.arange(100) != 50)}
    with pytest.raises(HeadError, match=r"no tokens.*\[50\]"):
        CoAttention(width=8, heads=2).fit(none, y[:100])
    with pytest.raises(HeadError, match=r"different numbers of rows: \[99, 100\]"):
        CoAttention().fit({"image": X["image"][:100], "text": X["text"][:99]}, y[:100])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 10, "heads": 4}, "multiple of heads"),
        ({"tokenizer": "mx"}, "There are: project, mix"),
        ({"pool": "most"}, "There are: max, mean"),
        ({"blocks": 0}, "blocks must be above 0"),
        ({"lr": -1.0}, "lr must be above 0"),
        ({"hidden": "512"}, "list of numbers of units"),
    ],
)
def test_unusable_settings(bound, settings, words):
    """A setting that cannot be used is named, with what is allowed."""
    with pytest.raises(HeadError, match=words):
        CoAttention(**settings).fit(bound[0], bound[1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 10, "heads": 4}, "multiple of heads"),
        ({"tokenizer": "mix"}, "tokenizer must be project, but is 'mix'"),
        ({"heads": 0}, "heads must be above 0"),
    ],
)
def test_unusable_queries(bound, settings, words):
    """Queries attend to the stored tokens, and share the columns evenly."""
    with pytest.raises(HeadError, match=words):
        EfficientProbing(**settings).fit(bound[0], bound[1])


def test_one_input_is_not_enough(bound):
    """Attention between inputs wants two of them, and says what to use instead."""
    with pytest.raises(HeadError, match="use self-attention"):
        CoAttention().fit(bound[0]["image"], bound[1])


def test_other_inputs_than_at_fitting(bound):
    """A head refuses other widths, other inputs, and another number of tokens to mix."""
    X, y = {name: part[:60] for name, part in bound[0].items()}, bound[1][:60]
    head = CoAttention(tokenizer="mix", n_tokens=3, width=8, heads=2, epochs=2).fit(X, y)
    with pytest.raises(HeadError, match="needs a dict of image, text"):
        head.predict_proba(X["image"])
    with pytest.raises(HeadError, match="fitted on 6 and 5"):
        head.predict_proba({"image": X["text"], "text": X["text"]})
    with pytest.raises(HeadError, match="mixes"):
        head.predict_proba({"image": X["image"][:, :3], "text": X["text"]})


def test_a_loss_that_runs_away_is_said(bound):
    """Training that goes beyond all numbers stops, and says what to lower."""
    X = {name: part[:200] for name, part in bound[0].items()}
    with pytest.raises(HeadError, match="lower lr"):
        TokenMLP(lr=1e30, epochs=4, precision="fp32").fit(X, bound[1][:200])


def test_schedule_is_shared():
    """Token heads follow the schedule of the perceptrons: up in a line, down as half a cosine."""
    from headwater.heads._training import factor

    schedule = Schedule(10, 8, 2.0, None)
    assert [factor(e, schedule) for e in (1.0, 2.0, 6.0, 10.0)] == pytest.approx([0.5, 1.0, 0.5, 0.0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_not_finite(dtype):
    """NaN and both infinities are found in half precision as in single, and large or tiny numbers are not."""
    X = np.array([[1, 65504], [-65504, 6e-8], [0, np.nan], [np.inf, 0], [-np.inf, 1]], dtype)
    assert _not_finite(X).tolist() == [False, False, True, True, True]


# Races


class Drops:
    """A judge that drops some fits at one share of the schedule."""

    def __init__(self, share, dropped):
        self.shares, self._dropped = [share], dropped

    def __call__(self, share, now, before):
        return [i for i in now if i not in self._dropped]


def of_tokens(n=90):
    X = np.random.default_rng(0).standard_normal((n, 3, 6)).astype(np.float32)
    return X, (X[:, :, 0].max(1) > 0.8).astype(int)


@pytest.mark.parametrize("patience", [3, None])
def test_networks_that_go_on_are_those_of_the_full_run(patience):
    """Pausing and dropping others leave a network as it is trained alone, dropout and widths included."""
    X, y = of_tokens()
    settings = [{"lr": lr, "width": width, "dropout": 0.2} for lr in (1e-4, 1e-2) for width in (8, 16)]
    rows, test = np.arange(60), np.arange(60, 90)
    head = SelfAttention(blocks=1, heads=2, hidden=(), epochs=9, batch_size=32, patience=patience, device="cpu")
    fits = [(rows, params) for params in settings]
    found = head.race(X, y, fits, [test] * 4, Drops(0.25, {0, 3}))
    assert [(one.dropped, one.epoch) for one in found] == [(True, 3), (False, 9), (False, 9), (True, 3)]
    full = head.fit_many(X, y, fits)
    for i in (1, 2):
        assert found[i].scores == pytest.approx(full[i].predict_proba(X[test]), abs=1e-5)
    assert found[3].scores != pytest.approx(full[3].predict_proba(X[test]), abs=1e-3)


def test_a_diverged_network_is_dropped_and_not_the_race():
    """Its scores are NaN; if all diverge, the error of `fit` is raised."""
    X, y = of_tokens()
    rows, test = np.arange(60), np.arange(60, 90)
    head = SelfAttention(blocks=1, heads=2, width=8, hidden=(), epochs=4, device="cpu")
    fits = [(rows, {"lr": 1e38}), (rows, {"lr": 1e-3})]
    diverged, fine = head.race(X, y, fits, [test] * 2, Drops(0.5, {0}))
    assert np.isnan(diverged.scores).all()
    assert diverged.dropped
    assert np.isfinite(fine.scores).all()
    with pytest.raises(HeadError, match="lower lr"):
        head.race(X, y, fits[:1], [test], Drops(0.5, set()))
