"""cohort: counts and shares by hand, overall and by site."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from headwater.api import cohort
from headwater.errors import InputError

N = 60


@pytest.fixture
def store(make_store):
    rng = np.random.default_rng(0)
    return make_store(
        rng.standard_normal((N, 3)),
        label=["benign"] * 40 + ["malignant"] * 15 + ["NA"] * 5,
        age=(np.arange(N) / 2).tolist(),
        site=[("b", "a", "=c")[i % 3] for i in range(N)],
        patient=[f"p{i // 2}" for i in range(N)],
        each=[f"v{i}" for i in range(N)],
    )


def test_counts_are_those_of_the_table(store):
    found = cohort(store, ["label", "age"], by="site", groups="patient")
    assert found.columns == ["all", "site =c", "site a", "site b"]
    rows = {(row["name"], row["value"]): row["cells"] for row in found.rows}
    assert rows["samples", ""] == {"all": "60", "site =c": "20", "site a": "20", "site b": "20"}
    assert rows["patient, distinct", ""]["all"] == "30"
    assert rows["label", "benign"]["all"] == "40 (66.7)"
    assert rows["label", "missing"]["all"] == "5 (8.3)"
    assert rows["label", "malignant"]["site a"] == f"{len([i for i in range(40, 55) if i % 3 == 1])} (25.0)"
    age = np.arange(N) / 2
    median, low, high = np.median(age), *np.quantile(age, [0.25, 0.75])
    assert rows["age, median (quartiles; range)", ""]["all"] == f"{median:.4g} ({low:.4g}, {high:.4g}; 0 to 29.5)"


def test_many_values_are_pooled(store):
    rows = cohort(store, "each", groups="none").rows
    assert rows[-1]["value"] == "30 other values"
    assert rows[-1]["cells"]["all"] == "30 (50.0)"


def test_formats(store, command):
    words = ("cohort", store.path, "--column", "label", "--groups", "patient", "--by", "site")
    table = list(csv.reader(io.StringIO(command(*words, "--format", "csv").out)))
    assert table[0] == ["", "all", "site =c", "site a", "site b"]
    assert json.loads(command(*words, "--json").out)["rows"][0]["cells"]["all"] == "60"
    assert "benign & 40 (66.7)" in command(*words, "--format", "latex").out
    assert "| samples | 60 |" in command(*words, "--format", "md").out
    assert "malignant" in command(*words, "--where", "label = 'malignant'").out


def test_what_has_no_table(store):
    with pytest.raises(InputError, match=r"--column: no column 'lable'\. Did you mean 'label'"):
        cohort(store, "lable", groups="patient")
    with pytest.raises(InputError, match="--by each has 60 values"):
        cohort(store, "label", by="each", groups="patient")
