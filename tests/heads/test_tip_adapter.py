"""Tip-Adapter against its formula, and its training against PyTorch's own, row by row."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from headwater.errors import HeadError
from headwater.heads import ClassTexts, TipAdapter, TipAdapterF, ZeroShot, load_head, save_head

NAMES = ("a", "b", "c")


def unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def data(n=120, d=16, seed=0, shift=0.0):
    """Images of three classes around directions, and texts that are those directions, or shifted ones."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((3, d))
    y = rng.integers(0, 3, n)
    X = (directions[y] + 1.2 * rng.standard_normal((n, d))).astype(np.float32)
    text = directions + shift * rng.standard_normal((3, d))
    return X, np.array(NAMES)[y], ClassTexts(text.astype(np.float32), NAMES, 20.0)


def softmax(logits):
    exps = np.exp(logits - logits.max(1, keepdims=True))
    return exps / exps.sum(1, keepdims=True)


def test_the_published_formula():
    """Logits are those of texts plus alpha exp(-beta (1 - F'F)) L, written out image by image."""
    X, y, texts = data()
    head = TipAdapter(texts, alpha=0.7, beta=4.0).fit(X[:80], y[:80])
    text, F, Q = unit(texts.features.astype(float)), unit(X[:80].astype(float)), unit(X[80:].astype(float))
    logits = np.zeros((40, 3))
    for i in range(40):
        for c, name in enumerate(NAMES):
            near = sum(np.exp(-4.0 * (1 - Q[i] @ F[j])) for j in range(80) if y[j] == name)
            logits[i, c] = 20.0 * Q[i] @ text[c] + 0.7 * near
    assert head.predict_proba(X[80:]) == pytest.approx(softmax(logits), abs=1e-5)


def test_without_a_cache_it_is_zero_shot():
    """With alpha 0 probabilities are those of zero-shot, two classes included."""
    X, y, texts = data()
    zero = ZeroShot(texts.features, NAMES, texts.logit_scale)
    assert TipAdapter(texts, alpha=0).fit(X, y).predict_proba(X) == pytest.approx(zero.predict_proba(X), abs=1e-6)
    two, pair = y != "b", ZeroShot(texts.features[[0, 2]], ["a", "c"], texts.logit_scale)
    head = TipAdapter(texts, alpha=0).fit(X[two], y[two])
    assert head.predict_proba(X) == pytest.approx(pair.predict_proba(X), abs=1e-6)


def test_texts_are_found_by_their_classes():
    """The order in which classes are described makes no difference, and labels that are numbers are read as words."""
    X, y, texts = data()
    order = [2, 0, 1]
    other = ClassTexts(texts.features[order], tuple(NAMES[i] for i in order), texts.logit_scale)
    one = TipAdapter(texts).fit(X, y).predict_proba(X)
    assert np.array_equal(TipAdapter(other).fit(X, y).predict_proba(X), one)
    numbered = ClassTexts(texts.features, ("0", "1", "2"), texts.logit_scale)
    assert np.array_equal(TipAdapter(numbered).fit(X, np.searchsorted(NAMES, y)).predict_proba(X), one)


@pytest.mark.parametrize("seed", range(3))
def test_a_few_images_mend_shifted_texts(seed):
    """Where texts point aside, a cache of some images does better than the texts by themselves."""
    X, y, texts = data(n=600, seed=seed, shift=1.5)
    few, rest = slice(0, 30), slice(100, None)
    zero = ZeroShot(texts.features, NAMES, 5.0).predict(X[rest]) == y[rest]
    head = TipAdapter(ClassTexts(texts.features, NAMES, 5.0), alpha=1.0, beta=3.0).fit(X[few], y[few])
    assert head.score(X[rest], y[rest]) > zero.mean() + 0.04


def test_training_is_that_of_pytorch():
    """Trained keys are those of a linear layer without bias that AdamW trains on the same batches."""
    X, y, texts = data()
    head = TipAdapterF(texts, alpha=0.5, beta=3.0, lr=1e-2, epochs=4, batch_size=50, seed=3).fit(X, y)
    F, W = torch.tensor(unit(X)), torch.tensor(unit(texts.features)).float()
    target = torch.tensor(np.searchsorted(NAMES, y))
    layer = torch.nn.Linear(16, len(X), bias=False)
    layer.weight = torch.nn.Parameter(F.clone())
    optimiser = torch.optim.AdamW(layer.parameters(), lr=1e-2, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 12)
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        for batch in torch.randperm(len(X), generator=generator).split(50):
            affinity = layer(F[batch])
            cache = ((-1) * (3.0 - 3.0 * affinity)).exp() @ torch.eye(3)[target]
            loss = torch.nn.functional.cross_entropy(20.0 * F[batch] @ W.T + 0.5 * cache, target[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    assert head.keys_ == pytest.approx(layer.weight.detach().numpy(), abs=1e-4)
    assert np.abs(head.keys_ - unit(X)).max() > 0.02


def test_trained_keys_fit_better():
    """Training lowers the loss on the training rows below that of the keys it starts from."""
    X, y, texts = data(shift=1.0)
    codes = np.searchsorted(NAMES, y)

    def loss(head):
        return -np.log(head.fit(X, y).predict_proba(X)[np.arange(len(X)), codes]).mean()

    assert loss(TipAdapterF(texts, alpha=0.3, beta=3.0, lr=1e-2)) < loss(TipAdapter(texts, alpha=0.3, beta=3.0)) - 0.05


@pytest.mark.parametrize("kind", ["tip-adapter", "tip-adapter-f"])
def test_a_saved_head_keeps_its_texts(kind, tmp_path):
    """Texts are part of what is saved: the head read again predicts the same and has equal parameters."""
    X, y, texts = data()
    head = {"tip-adapter": TipAdapter(texts), "tip-adapter-f": TipAdapterF(texts, epochs=2)}[kind].fit(X, y)
    save_head(head, kind, tmp_path)
    loaded = load_head(tmp_path)
    assert np.array_equal(loaded.predict_proba(X), head.predict_proba(X))
    assert loaded.get_params() == head.get_params()


def test_texts_are_one_parameter():
    """A clone has equal texts, other vectors or another scale are other texts, and a head is printed by its classes."""
    _, _, texts = data()
    assert clone(TipAdapter(texts)).get_params() == TipAdapter(texts).get_params()
    assert texts != ClassTexts(texts.features + 1, NAMES, 20.0)
    assert texts != ClassTexts(texts.features, NAMES, 21.0)
    assert hash(texts) == hash(ClassTexts(texts.features.copy(), NAMES, 20.0))
    assert "ClassTexts of a, b, c" in repr(TipAdapter(texts))


def test_heads_of_one_grid_share_their_cosines():
    """A grid of settings on the same rows keeps one copy of them, and predicts what each head does by itself."""
    X, y, texts = data()
    train, test = np.arange(80), np.arange(80, 120)
    grid = TipAdapter().default_grid()
    heads = TipAdapter(texts).fit_many(X, y, [(train, params) for params in grid])
    assert len({id(head.keys_) for head in heads}) == 1
    found = TipAdapter.predict_proba_many(heads, X, [test] * len(heads))
    for head, scores in zip(heads, found, strict=True):
        assert np.array_equal(scores, head.predict_proba(X[test]))


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (TipAdapter(ClassTexts(np.eye(16)[:2], ("a", "b"))), "no text describes class 'c'. There are: a, b"),
        (TipAdapter(ClassTexts(np.eye(3), NAMES)), "images have 16 features and texts 3"),
        (TipAdapter(alpha=-1), "alpha must be at least 0"),
        (TipAdapter(beta=0), "beta must be above 0"),
        (TipAdapterF(epochs=0), "epochs must be above 0"),
        (TipAdapterF(device="gpu"), "There are: auto, cpu, cuda"),
    ],
)
def test_unusable_settings(head, said):
    """What cannot be used is refused with what it was."""
    with pytest.raises(HeadError, match=said):
        head.fit(*data()[:2])
