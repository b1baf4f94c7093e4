"""Heads as functions with gradients are the heads that they were and become."""

import numpy as np
import pytest

from headwater.errors import HeadError
from headwater.heads import KNN, MIL, MLP, CoAttention, EfficientProbing, LinearProbe, SelfAttention, TokenMLP
from headwater.heads.differentiable import Described, network_of

torch = pytest.importorskip("torch")
N = 60
rng = np.random.default_rng(0)
IMAGE = rng.normal(3, 2, (N, 4, 6)).astype(np.float32)
TEXT = rng.normal(-1, 0.5, (N, 5, 6)).astype(np.float32)
Y3 = np.array(["a", "b", "c"])[np.argmax(IMAGE[:, 0, :3] + TEXT[:, 0, :3], 1)]
Y2 = Y3 == "a"
LABELS = np.stack([Y3 == "a", IMAGE[:, 0, 0] > 3], 1).astype(int)
FAST = {"epochs": 2, "warmup": 0.5, "patience": None, "precision": "fp32"}
DENSE = [
    LinearProbe(),
    MLP(hidden=(8, 4), dropout=0.2, **FAST),
    MLP(hidden=(), **FAST),
    MLP(hidden=(8,), fusion="sum", **FAST),
    MLP(hidden=(8,), fusion="gated", **FAST),
]
TOKENS = [
    SelfAttention(width=8, heads=2, blocks=1, **FAST),
    CoAttention(width=8, heads=2, blocks=1, **FAST),
    TokenMLP(width=8, **FAST),
    EfficientProbing(width=8, heads=2, **FAST),
    MIL(width=8, **FAST),
]


def described(name, X):
    flat = X.reshape(-1, X.shape[-1]).astype(np.float64)
    return Described(name, X.shape[1], flat.mean(0), flat.std(0))


def as_tokens(X):
    return torch.from_numpy(X), torch.ones(X.shape[:2], dtype=torch.bool)


def several(head):
    return not isinstance(head, MIL)


@pytest.mark.parametrize("y", [Y2, Y3, LABELS], ids=["two", "three", "labels"])
@pytest.mark.parametrize("head", [*DENSE, *TOKENS], ids=str)
def test_a_fitted_head_becomes_a_network_and_comes_back(head, y):
    """The network of a fitted head gives its logits, and is turned back into the same head."""
    names = ["i", "t"] if several(head) else ["i"]
    arrays = {"i": IMAGE, "t": TEXT}
    if head in DENSE:
        arrays = {name: X[:, :1] for name, X in arrays.items()}
        X = {name: arrays[name][:, 0] for name in names}
        X = np.concatenate(list(X.values()), 1) if isinstance(head, LinearProbe) else X
    else:
        X = {name: arrays[name] for name in names} if len(names) > 1 else IMAGE
    (fitted,) = head.fit_many(X, y, [(np.arange(N), {})])
    generator = torch.Generator().manual_seed(0)
    inputs = [described(name, arrays[name]) for name in names]
    network = network_of(head, inputs, fitted.classes_, fitted.multilabel_, generator)
    network.start_from(fitted)
    tokens = [as_tokens(arrays[name]) for name in names]
    logits = network.logits(network.params, tokens, training=False).detach().numpy()
    np.testing.assert_allclose(logits, fitted.logits(X), rtol=1e-3, atol=1e-3)
    again = network.fitted(network.params)
    np.testing.assert_allclose(again.logits(X), fitted.logits(X), rtol=1e-3, atol=1e-3)
    state = again.to_state()
    assert type(again).from_state(*state).predict(X).tolist() == fitted.predict(X).tolist()


@pytest.mark.parametrize("head", [DENSE[1], TOKENS[1], TOKENS[3]], ids=str)
def test_every_parameter_has_a_gradient_and_dropout_acts_in_training_alone(head):
    """Each parameter moves the logits, and only training draws."""
    arrays = {"i": IMAGE[:, :1], "t": TEXT[:, :1]} if head in DENSE else {"i": IMAGE, "t": TEXT}
    inputs = [described(name, X) for name, X in arrays.items()]
    network = network_of(head.set_params(dropout=0.3), inputs, np.unique(Y3), False, torch.Generator().manual_seed(1))
    params = {name: p.requires_grad_() for name, p in network.params.items()}
    tokens = [as_tokens(X) for X in arrays.values()]
    quiet = network.logits(params, tokens, training=False)
    assert torch.equal(quiet, network.logits(params, tokens, training=False))
    assert not torch.equal(quiet, network.logits(params, tokens, training=True))
    quiet.square().sum().backward()
    missing = [name for name, p in params.items() if p.grad is None or not p.grad.any()]
    # nobody lacks an input, and a softmax over tokens does not feel what all keys have in common
    assert all(name.startswith("missing") or name.endswith("key.bias") for name in missing), missing


def test_other_heads_are_refused():
    """A head without gradients is an error that names those with."""
    with pytest.raises(HeadError, match="tune the encoder with linear, mlp"):
        network_of(KNN(), [described("i", IMAGE)], np.unique(Y3), False, torch.Generator())
