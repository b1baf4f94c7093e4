"""Which of two classes is positive: the one that was named, or that the names say, whatever sorts last."""

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.evaluate import make_splits, score
from headwater.evaluate.positive import positive_of
from headwater.evaluate.protocol import cross_validate
from headwater.heads import LinearProbe


@pytest.mark.parametrize(
    ("classes", "positive"),
    [
        ([0, 1], 1),
        (["0", "1"], "1"),
        ([False, True], True),
        (["no", "yes"], "yes"),
        (["No", "Yes"], "Yes"),
        (["benign", "malignant"], "malignant"),
        (["B", "M"], "M"),
        (["negative", "positive"], "positive"),
        (["abnormal", "normal"], "abnormal"),
        (["cancer", "normal"], "cancer"),
        (["case", "control"], "case"),
        (["mass", "no mass"], "mass"),
        (["non-tumour", "tumour"], "tumour"),
        (["not_invasive", "invasive"], "invasive"),
    ],
)
def test_names_that_say_it(classes, positive):
    assert positive_of(sorted(classes)) == (positive, "names")


@pytest.mark.parametrize(
    "classes", [["cancer", "healthy"], ["a", "b"], [1, 2], ["F", "M"], ["high", "low"], ["control", "normal"], [3, 10]]
)
def test_names_that_do_not(classes):
    """The last is taken, and it is known that nothing but the order says so; either can be named."""
    assert positive_of(classes) == (classes[1], "order")
    for name in classes:
        assert positive_of(classes, f" {name} ") == (name, "option")


def test_a_class_that_is_not_there():
    with pytest.raises(InputError, match=r"--positive cancr: no such class. Did you mean 'cancer'"):
        positive_of(["cancer", "healthy"], "cancr")


def test_metrics_follow_the_order_of_classes():
    """Precision, recall, F1 and average precision are of the last class, in whichever order the columns come."""
    rng = np.random.default_rng(0)
    y, p = rng.choice(["a", "b"], 60, p=[0.3, 0.7]), rng.random(60)
    of_a = score("binary", y, np.column_stack([p, 1 - p]), classes=["b", "a"])
    as_numbers = score("binary", (y == "a").astype(int), np.column_stack([p, 1 - p]))
    assert of_a == as_numbers
    assert of_a["recall"] != score("binary", y, np.column_stack([1 - p, p]), classes=["a", "b"])["recall"]


def test_an_outcome_in_another_order():
    """Scores of test rows and of training rows out of fold change places together with the classes, and metrics too."""
    rng = np.random.default_rng(0)
    y = rng.choice(["a", "b"], 80)
    X = rng.standard_normal((80, 3)).astype(np.float32) + (y == "a")[:, None]
    splits = make_splits(y, n_folds=3)
    found = cross_validate(LinearProbe(), X, y, splits, out_of_fold=True)
    turned = found.in_order(["b", "a"], y)
    assert turned.classes.tolist() == ["b", "a"]
    assert (turned.truth(y) == (y == "a")).all()
    for old, new in zip([found, *found.folds], [turned, *turned.folds], strict=True):
        np.testing.assert_array_equal(new.inside.scores, old.inside.scores[:, ::-1])
    for old, new in zip(found.folds, turned.folds, strict=True):
        np.testing.assert_array_equal(new.scores, old.scores[:, ::-1])
        truth = y[new.split.test] == "a"
        assert new.metrics["recall"] == pytest.approx((new.scores[truth, 1] > 0.5).mean())
    assert turned.in_order(["a", "b"], y).folds[0].metrics == found.folds[0].metrics
    assert found.in_order(["a", "b"], y) is found
