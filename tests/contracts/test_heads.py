"""Every head keeps scikit-learn's contract."""

import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from headwater.heads import LinearProbe

HEADS = [LinearProbe()]
CHECKS = [
    pytest.param(estimator, check, id=f"{type(estimator).__name__}-{getattr(check, 'func', check).__name__}")
    for head in HEADS
    for estimator, check in estimator_checks_generator(head, mark="skip")
]


@pytest.mark.filterwarnings("default")  # scikit-learn's checks warn on purpose
@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_scikit_learn_contract(estimator, check):
    """scikit-learn's own suite of checks."""
    check(estimator)
