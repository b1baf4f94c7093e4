"""Cases are what sorting all samples gives: with filters, exclusions, one per value, shared items and ties."""

import numpy as np
import polars as pl
import pytest

from headwater.errors import InputError
from headwater.retrieve import build_index
from headwater.samples import cases as module
from headwater.samples.cases import Cases
from headwater.store import hex_from_keys

N_ITEMS, N = 40, 90


@pytest.fixture
def shared(make_store):
    """A store whose samples share items, some items without a sample, some samples without an item; and its vectors."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N_ITEMS, 5)).astype(np.float32)
    X[[3, 11]] = 0
    X[[20, 21, 22]] = X[19] * np.array([[2], [3], [1]], np.float32)
    store = make_store(X)
    keys = pl.Series(hex_from_keys(store.features("made/image").keys), dtype=pl.String)
    of = rng.integers(0, 30, N)  # items from 30 on have no sample
    of[:4] = [19, 22, 21, 20]
    table = pl.DataFrame({"id": [f"s{i}" for i in range(N)]}).with_columns(
        image=pl.lit("x.png"),
        image_key=keys.gather(of.tolist()).set(pl.Series(np.arange(N) % 17 == 5), None),
        text_key=pl.lit(None, pl.String),
        patient=pl.Series([None if i % 10 == 7 else f"p{i % 6}" for i in range(N)]),
        age=pl.Series(range(N)),
    )
    store.write_samples(table, store.roles)
    return store, X, np.where(np.arange(N) % 17 == 5, -1, of)


def by_sorting(store, X, of, query, k, allowed, one_per):
    """Samples by falling cosine, equal ones in their order; then the first of each value."""
    length = np.linalg.norm(X, axis=1)
    cosine = np.where(length > 0, X @ query / np.where(length > 0, length, 1) / np.linalg.norm(query), -np.inf)
    rows = np.flatnonzero(allowed & (of >= 0))
    rows = rows[np.isfinite(cosine[of[rows]])]
    rows = rows[np.argsort(-np.round(cosine[of[rows]], 5), kind="stable")].tolist()
    if one_per is not None:
        values, seen, kept = store.samples[one_per].to_list(), set(), []
        for row in rows:
            if values[row] is None or values[row] not in seen:
                kept.append(row)
            seen.add(values[row])
        rows = kept
    return rows[:k]


@pytest.mark.parametrize("kind", [None, "flat", "hnsw"])
@pytest.mark.parametrize("one_per", [None, "patient"])
@pytest.mark.parametrize("k", [1, 4, 25, 500])
def test_what_sorting_gives(shared, kind, one_per, k):
    """Each search of the same cases, the first by keys and later ones by items, with and without filters."""
    store, X, of = shared
    index = None
    if kind is not None:
        pytest.importorskip("faiss")
        index = build_index(X, kind)
    cases = Cases(store, "made/image")
    everything = np.ones(N, bool)
    for where, exclude in (
        (None, ()),
        ("age > 40", ()),
        (None, ("patient=p2", "age=3")),
        ("age < 60", ("patient=p1",)),
    ):
        allowed = cases.allowed(where=where, exclude=exclude)
        mask = everything if allowed is None else allowed
        for query in (X[19] + 0, X[5], X[8] - X[9]):
            found = cases.find(query, k, allowed=allowed, one_per=one_per, index=index)
            assert found.rows.tolist() == by_sorting(store, X, of, query, k, mask, one_per)
            assert (np.diff(found.scores) <= 0).all()


def test_masks(shared):
    """A filter, exclusions and the values of a sample leave out what they say; a missing value is of no patient."""
    store, *_ = shared
    cases = Cases(store, "made/image")
    table = store.samples
    assert cases.allowed() is None
    assert (cases.allowed(where="age >= 80") == (table["age"] >= 80).to_numpy()).all()
    same = cases.allowed(same_as=("patient", 1))
    assert (same == table["patient"].ne_missing("p1").to_numpy()).all()
    assert cases.allowed(same_as=("patient", 7)) is None
    both = cases.allowed(exclude=["patient=p1", "age=4.0"])
    assert (both == (table["patient"].ne_missing("p1") & (table["age"] != 4)).to_numpy()).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"exclude": ["patient"]}, "write COLUMN=VALUE"),
        ({"exclude": ["=p1"]}, "write COLUMN=VALUE"),
        ({"exclude": ["patiant=p1"]}, "--exclude: no column 'patiant'. Did you mean 'patient'?"),
        ({"exclude": ["patient=p99"]}, "--exclude patient=p99: no sample has this value"),
        ({"where": "age > 1000"}, "is true for none of the 90 samples"),
        ({"where": "age + 1"}, "cannot be used"),
        ({"where": "agee > 1"}, "Did you mean 'age'?"),
        ({"where": "age = 5"}, "no sample has made/image"),
    ],
)
def test_what_cannot_be_used(shared, given, words):
    """A column or value that is not there, and a filter that is none, or that leaves nothing, end in one line."""
    cases = Cases(shared[0], "made/image")
    with pytest.raises(InputError) as caught:
        cases.allowed(**given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def kept(make_store, monkeypatch):
    """A store whose lengths are kept, and the file that holds them."""
    monkeypatch.setattr(module, "LEAST_KEPT", 100)
    store = make_store(np.random.default_rng(1).standard_normal((300, 4)))
    return store, store.path / "index" / "made" / "image.lengths.rows"


def computed_again(monkeypatch):
    """Return a list that grows whenever lengths are computed for all rows."""
    times = []
    whole = module.Searcher.lengths
    monkeypatch.setattr(module.Searcher, "lengths", lambda self: times.append(1) or whole(self))
    return times


def nearest(store):
    return Cases(store, "made/image").find(np.ones(4), 5).rows.tolist()


def test_lengths_are_kept_in_the_store(kept, monkeypatch):
    """The first search writes them, and the next reads them; after features were added they are computed again."""
    store, file = kept
    first = nearest(store)
    assert file.stat().st_size == 512 + 4 * 300
    times = computed_again(monkeypatch)
    assert nearest(store) == first
    assert times == []


def forged(data, values):
    """Return the file with other numbers and a checksum that fits them."""
    import json
    from hashlib import blake2b

    head = json.loads(data[:512])
    body = np.asarray(values, "<f4").tobytes()
    head["sum"] = blake2b(body, digest_size=16).hexdigest()
    return json.dumps(head).encode().ljust(511) + b"\n" + body


SPOILED = {
    "a flipped bit": lambda data: data[:700] + bytes([data[700] ^ 1]) + data[701:],
    "cut short": lambda data: data[:-8],
    "longer": lambda data: data + bytes(4),
    "empty": lambda data: b"",
    "no header": lambda data: bytes(len(data)),
    "a list": lambda data: b"[]".ljust(512) + data[512:],
    "of other features": lambda data: data.replace(b'"fingerprint": "', b'"fingerprint": "0'),
    "forged": lambda data: forged(data, np.full(300, 7)),
    "forged, not finite": lambda data: forged(data, np.where(np.arange(300) == 3, np.nan, 1)),
}


@pytest.mark.parametrize("how", SPOILED)
def test_spoiled_lengths_are_noticed(kept, monkeypatch, how):
    """A file that is damaged, stale or forged is computed and written again, and the results stay the same."""
    store, file = kept
    first, whole = nearest(store), None
    whole = file.read_bytes()
    file.write_bytes(SPOILED[how](whole))
    times = computed_again(monkeypatch)
    assert nearest(store) == first
    assert times == [1]
    assert file.read_bytes() == whole


def test_lengths_that_are_a_link_or_cannot_be_written(kept, tmp_path, monkeypatch):
    """A link is not followed, neither for reading nor for writing; a search needs no right to write."""
    store, file = kept
    first = nearest(store)
    outside = tmp_path / "outside"
    outside.write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(outside)
    from headwater.errors import StoreError

    with pytest.raises(StoreError, match="symbolic link"):
        nearest(store)
    file.unlink()

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("headwater.store.derived.write_bytes", refuse)
    assert nearest(store) == first
    assert not file.exists()


def test_verify_and_repair_know_the_lengths(kept, command):
    """Damaged lengths are named by verify and removed by its repair; dropping the features drops them."""
    store, file = kept
    nearest(store)
    assert list(store.verify()) == []
    file.write_bytes(SPOILED["a flipped bit"](file.read_bytes()))
    assert any("image.lengths.rows differs from its checksum" in line for line in store.verify())
    assert command("verify", store.path, "--repair").status == 0
    assert not file.exists()
    assert list(store.verify()) == []
    nearest(store)
    store.remove_features("made/image")
    assert not file.exists()
