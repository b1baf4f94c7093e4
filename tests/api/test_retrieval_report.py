"""retrieval-report: noise gives chance, a planted label, patient or site is found, and brute force gives the same."""

import json

import numpy as np
import polars as pl
import pytest

from headwater.api import retrieval_report
from headwater.errors import HeadwaterError

N, DIM = 600, 16


def unit(v):
    return v / np.linalg.norm(v, axis=1, keepdims=True)


@pytest.fixture
def planted(make_store):
    """Return a function that makes a store of 150 patients at 5 sites, with features that show some of the columns."""
    rng = np.random.default_rng(0)
    columns = {
        "patient": np.arange(N) // 4,
        "site": np.arange(N) // 4 % 5,
        "label": rng.integers(0, 3, N // 4).repeat(4),
    }

    def make(**strength):
        X = rng.standard_normal((N, DIM))
        for column, much in strength.items():
            values = columns[column]
            X += much * rng.standard_normal((values.max() + 1, DIM))[values]
        words = {name: [f"{name[0]}{v}" for v in values.tolist()] for name, values in columns.items()}
        return make_store(X, **words), X

    return make


ASKED = {"features": "made/image", "label": "label", "groups": "patient", "by": "site", "draws": 200}


def test_noise_gives_chance(planted):
    """Features that show nothing give every number its chance level, within its interval or close to it."""
    found = retrieval_report(planted()[0], **ASKED)
    for name, one in found.measures.items():
        assert one.low - 0.02 < one.by_chance < one.high + 0.02, name
    (site, patient) = found.crowding
    assert site.low - 0.01 < site.by_chance < site.high + 0.01
    assert patient.share < 0.02
    assert site.by_chance == pytest.approx(0.2, abs=0.01)
    assert (found.n_samples, found.n_queries, found.n_ranked, found.n_groups, found.n_alone) == (600, 600, 600, 150, 0)


def test_a_label_is_found(planted):
    """Features that show the label give the numbers of a perfect search."""
    found = retrieval_report(planted(label=30)[0], **ASKED)
    for name, one in found.measures.items():
        assert one.value > 0.99, name
        assert one.by_chance < 0.99, name
    assert found.measures["top_1"].by_chance == pytest.approx(1 / 3, abs=0.05)
    assert set(found.by_class) == {"l0", "l1", "l2"}
    assert set(found.by_site) == {f"s{i}" for i in range(5)}
    assert sum(n for n, _ in found.by_class.values()) == sum(n for n, _ in found.by_site.values()) == N


def test_a_site_is_found(planted):
    """Features that show the site rather than the label crowd on it, and say little about the label."""
    found = retrieval_report(planted(site=30)[0], **ASKED)
    assert found.crowding[0].low > 0.95
    assert found.crowding[0].by_chance == pytest.approx(0.2, abs=0.01)
    assert found.measures["top_1"].value < 0.6


def test_one_patient_is_left_out(planted):
    """Features that show only the patient, and so the label of its other images, give chance; crowding tells why."""
    store, _ = planted(patient=30)
    found = retrieval_report(store, **ASKED)
    top = found.measures["top_1"]
    assert top.value == pytest.approx(top.by_chance, abs=0.15)
    assert found.crowding[-1].column == "patient"
    assert found.crowding[-1].share > 0.28  # three of ten, as the patient has no more
    free = retrieval_report(store, **{**ASKED, "groups": "none"})
    assert free.measures["top_1"].value > 0.95
    assert free.groups is None
    assert [one.column for one in free.crowding] == ["site"]


def test_brute_force_gives_the_same(planted):
    """Votes and average precision of each query are those of all similarities in order."""
    store, X = planted(label=0.6)
    found = retrieval_report(store, **ASKED, seed=3)
    table = store.samples
    label, patient = table["label"].to_numpy(), table["patient"].to_numpy()
    similar = unit(X) @ unit(X).T
    right, precision = [], []
    for i in range(N):
        others = np.flatnonzero(patient != patient[i])
        order = others[np.argsort(-similar[i, others])]
        right.append(label[order[0]])
        hits = np.flatnonzero(label[order] == label[i])
        precision.append((np.arange(1, len(hits) + 1) / (hits + 1)).mean())
    assert found.queries["id"].to_list() == table["id"].to_list()
    assert (found.queries["top_1"].to_numpy() == np.array(right)).mean() > 0.995
    np.testing.assert_allclose(found.queries["average_precision"], precision, atol=1e-4)
    assert found.measures["map"].value == pytest.approx(np.mean(precision), abs=1e-5)
    assert found.measures["top_1"].value == pytest.approx((np.array(right) == label).mean(), abs=0.004)


def test_a_label_of_one_patient_alone(planted):
    """A label that no other patient has is counted, and its queries are wrong."""
    store, _ = planted(label=30)
    table = store.samples
    store.write_samples(
        table.with_columns(label=pl.when(pl.col("patient") == "p7").then(pl.lit("rare")).otherwise("label")),
        store.roles,
    )
    found = retrieval_report(store, **ASKED)
    assert found.n_alone == 4
    n, rare = found.by_class["rare"]
    assert (n, rare["top_1"].value) == (4, 0)
    assert np.isnan(rare["map"].value)
    assert any("4 of the queries have a label that no other group has" in line for line in found.lines())


def test_many_samples_are_drawn_from(planted, monkeypatch):
    """Of many samples some are queries, and of these some are ranked in full; every sample may be found."""
    monkeypatch.setattr("headwater.experiment.retrieval.MOST_QUERIES", 200)
    monkeypatch.setattr("headwater.experiment.retrieval.MOST_COMPARED", 120 * N)
    found = retrieval_report(planted(label=30)[0], **ASKED)
    assert (found.n_samples, found.n_queries, found.n_ranked) == (N, 200, 120)
    assert found.measures["map"].value > 0.99
    assert found.queries["average_precision"].null_count() == 80


def test_what_is_printed_and_written(planted, command, tmp_path):
    """The command prints a line for each number, class and site; --json holds them; --out a row for each query."""
    store, _ = planted(label=1)
    words = ("retrieval-report", store.path, "--features", "made/image", "--label", "label", "--groups", "patient")
    done = command(*words, "--by", "site", "--draws", "100", "--out", tmp_path / "queries.csv")
    assert done.status == 0
    for start in (
        "  top 1 ",
        "  majority of 3 ",
        "  macro F1, majority of 5 ",
        "  recall@10 ",
        "  l2 ",
        "  s4 ",
    ):
        assert sum(line.startswith(start) for line in done.out.splitlines()) == 1, start
    assert "always guessing 'l" in done.out
    written = pl.read_csv(tmp_path / "queries.csv")
    assert written.columns == ["id", "label", "top_1", "majority_3", "majority_5", "average_precision"]
    assert len(written) == N
    found = json.loads(command(*words, "--draws", "100", "--json").out)
    assert found["measures"]["top_1"]["value"] == pytest.approx((written["top_1"] == written["label"]).mean())
    assert found["by_site"] == {}
    assert command(*words, "--draws", "100", "--json").out == command(*words, "--draws", "100", "--json").out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": None}, "pass --groups patient"),
        ({"label": "lable"}, "--label: no column 'lable'. Did you mean 'label'?"),
        ({"by": "sight"}, "--by: no column 'sight'"),
        ({"by": "id"}, ""),
        ({"groups": "same"}, "all samples belong to one group"),
        ({"by": "same"}, "--by same has 1 value"),
        ({"label": "same"}, "there is nothing to learn"),
        ({"where": "site = 's99'"}, "is true for none"),
        ({"draws": 10}, "--draws must be at least 100"),
        ({"level": 2}, "level"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"out": "report.txt"}, "ends in .csv or .parquet"),
        ({"features": "gone/image"}, "no features 'gone/image'"),
    ],
)
def test_what_is_refused(planted, change, words):
    """Each mistake ends in one line."""
    store, _ = planted()
    store.write_samples(store.samples.with_columns(same=pl.lit("x")), store.roles)
    if change == {"by": "id"}:  # a column of 600 values is many sites, but it may be a slide
        assert retrieval_report(store, **{**ASKED, **change}).crowding[0].by_chance == 0
        return
    with pytest.raises(HeadwaterError) as caught:
        retrieval_report(store, **{**ASKED, **change})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
