"""similar and index: the nearest samples by cosine, among those that were asked for."""

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from headwater.api import hit_lines, index, similar
from headwater.api.similar import Hit
from headwater.embed import unique_texts
from headwater.errors import StoreError
from headwater.store import open_store

DATA = Path(__file__).parents[3] / "shared" / "data" / "clip_flickr"


@pytest.fixture
def vectors(make_store):
    """A store of random vectors, two of them zero and three of them alike, and the vectors."""
    X = np.random.default_rng(0).standard_normal((60, 6)).astype(np.float32)
    X[[7, 8]] = 0
    X[[20, 21]] = 2 * X[19]
    store = make_store(
        X,
        patient=[None if i % 12 == 5 else f"p{i // 5}" for i in range(60)],
        age=list(range(60)),
        score=[f"own {i}" for i in range(60)],
    )
    return store, X


def nearest(X, query, allowed):
    """Rows by falling cosine, equal ones in their order, from the arrays alone."""
    X, query = X.astype(np.float64), query.astype(np.float64)
    length = np.linalg.norm(X, axis=1)
    cosine = X @ query / np.where(length > 0, length, 1) / np.linalg.norm(query)
    rows = np.flatnonzero(allowed & (length > 0))
    return rows[np.argsort(-np.round(cosine[rows], 6), kind="stable")], cosine


def test_like_a_sample(command, vectors):
    """--id finds the samples of highest cosine, best first, and not the sample itself."""
    store, X = vectors
    done = command("similar", store.path, "--features", "made/image", "--id", "r019", "-k", "7", "--json")
    hits = json.loads(done.out)
    rows, cosine = nearest(X, X[19], np.arange(60) != 19)
    assert [hit["id"] for hit in hits] == [f"r{i:03d}" for i in rows[:7]]
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5, 6, 7]
    assert np.allclose([hit["score"] for hit in hits], cosine[rows[:7]], atol=1e-6)
    assert [hit["id"] for hit in hits[:2]] == ["r020", "r021"]


def test_rows_come_with_all_their_columns(vectors):
    """A hit carries every column of its sample; keys, which nobody asked for, are left out."""
    store, _ = vectors
    hit = similar(store, features="made/image", id="r001", k=1)[0]
    assert set(hit.row) == {"id", "patient", "age", "score", "image"}
    assert hit.row["score"] == f"own {int(hit.id[1:])}"
    assert hit.to_dict()["score"] == hit.score
    assert hit.to_dict()["manifest_score"] == hit.row["score"]


def test_more_than_there_are(command, vectors):
    """Asked for more than there are, all usable samples come, and nothing else."""
    store, _ = vectors
    done = command("similar", store.path, "--features", "made/image", "--id", "r000", "-k", "1000", "--json")
    hits = json.loads(done.out)
    assert {hit["id"] for hit in hits} == {f"r{i:03d}" for i in range(60)} - {"r000", "r007", "r008"}


def test_where(vectors):
    """--where limits what is found, whether or not it holds for the sample that is asked about."""
    store, X = vectors
    hits = similar(store, features="made/image", id="r001", k=5, where="age >= 30")
    rows, _ = nearest(X, X[1], np.arange(60) >= 30)
    assert [hit.id for hit in hits] == [f"r{i:03d}" for i in rows[:5]]


@pytest.mark.parametrize("kind", [None, "flat"])
def test_exclude_same(vectors, kind):
    """--exclude-same leaves out every sample of the same patient; samples without one are of no patient."""
    store, _ = vectors
    if kind is not None:
        pytest.importorskip("faiss")
        index(store, features="made/image", kind=kind)
    for id, patient in store.samples.select("id", "patient").rows():
        if id in ("r007", "r008"):
            continue
        hits = similar(store, features="made/image", id=id, k=60, exclude_same="patient", index=kind)
        found = [hit.row["patient"] for hit in hits]
        assert len(hits) == 57 - sum(
            i not in ("r007", "r008", id) and p == patient and p is not None
            for i, p in store.samples.select("id", "patient").rows()
        )
        assert patient is None or patient not in found


def test_nothing_is_left(command, vectors):
    """Where every sample is left out, that is said."""
    store, _ = vectors
    words = ("--features", "made/image", "--id", "r000", "--where", "age < 5", "--exclude-same", "patient")
    done = command("similar", store.path, *words)
    assert (done.status, done.out) == (0, "nothing found\n")


def test_by_an_image(command, store, gallery, tmp_path, paint):
    """--image finds a stored image by its content without the encoder, and embeds one that is not stored."""
    words = ("similar", store, "--features", "texture/image", "-k", "1", "--json")
    (hit,) = json.loads(command(*words, "--image", gallery / "images" / "11.png").out)
    assert (hit["id"], round(hit["score"], 3)) == ("s11", 1)
    before = open_store(store).features("texture/image").n_items
    done = command(*words, "--image", paint(tmp_path / "new.png", 999, coarse=10))
    assert json.loads(done.out)[0]["grade"] == "high"
    assert open_store(store).features("texture/image").n_items == before


def test_by_words(command, store, files_of):
    """--text finds texts like it; a sentence that was asked about is not stored, so that an index stays of use."""
    before = files_of(store)
    done = command(
        "similar", store, "--features", "ngram/text", "--text", "rough tissue in a field", "-k", "3", "--json"
    )
    assert all("rough" in hit["caption"] for hit in json.loads(done.out))
    assert files_of(store) == before


def test_an_index_answers_by_words(store):
    """An index over texts answers a question whose words the store does not hold, as the exact search does."""
    pytest.importorskip("faiss")
    index(store, features="ngram/text", kind="flat")
    asked = {"features": "ngram/text", "text": "smooth tissue, field 99", "k": 9}
    same(similar(store, **asked, index="flat"), similar(store, **asked))


def test_exclude_same_blank(make_store):
    """A blank cell says nothing: samples that have one are not of the same patient."""
    store = make_store(np.eye(4), patient=["", "", "p", ""])
    assert len(similar(store, features="made/image", id="r000", exclude_same="patient")) == 3


@pytest.mark.parametrize("k", [1, 5, 100])
def test_a_flat_index_equals_the_exact_search(store, k):
    """A flat index finds what the exact search finds, where several samples share an item too."""
    pytest.importorskip("faiss")
    for name in ("texture/image", "ngram/text"):
        index(store, features=name, kind="flat")
        for id in ("s00", "s01", "s13"):
            asked = {"features": name, "id": id, "k": k, "where": "age < 70"}
            same(similar(store, **asked, index="flat"), similar(store, **asked))


def same(found, exact):
    """The same scores in the same order, and the same samples but for those that are as near as the last."""
    last = exact[-1].score + 1e-5
    assert np.allclose([hit.score for hit in found], [hit.score for hit in exact], atol=1e-5)
    for hits in (found, exact):
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        assert len({hit.id for hit in hits}) == len(hits)
    assert {hit.id for hit in found if hit.score > last} == {hit.id for hit in exact if hit.score > last}


def test_an_index_of_other_features(command, vectors, write_features, monkeypatch):
    """After features were added, an index is refused until it is built again."""
    pytest.importorskip("faiss")
    store, X = vectors
    words = ("similar", store.path, "--features", "made/image", "--id", "r001", "--index", "hnsw")
    monkeypatch.setattr("headwater._progress.AT_ONCE", 0)
    built = command("index", store.path, "--features", "made/image", "--kind", "hnsw")
    assert built.status == 0
    assert built.out.startswith("hnsw index of 58 items, recall@10 ")
    assert built.err.startswith("index made/image: 60/60")
    assert "failed" not in built.err
    assert command(*words).status == 0
    keys = np.concatenate([store.features("made/image").keys, np.full((1, 16), 255, np.uint8)])
    write_features(store, "made/image", np.concatenate([X, X[:1] + 1]), keys, dtype="float32")
    assert "headwater index" in command(*words).error
    command("index", store.path, "--features", "made/image", "--kind", "hnsw")
    assert command(*words).status == 0


def test_a_sample_without_features(command, images):
    """A sample whose image could not be read cannot be asked about, and the error says why it could not."""
    (images / "images" / "03.png").write_bytes(b"no image")
    (images / "images" / "04.png").unlink()
    words = ("embed", images / "manifest.csv", images / "a.hw", "--encoder", "builtin:texture")
    assert command(*words).status == 0
    for id, why in (("s03", "not an image"), ("s04", "image file not found")):
        error = command("similar", images / "a.hw", "--features", "texture/image", "--id", id).error
        assert f"sample '{id}' has no features in texture/image: {why}" in error


def test_words_need_features_of_the_same_encoder(make_store, write_features):
    """Words are not compared with images of another encoder, though both go under one name."""
    store = make_store(np.eye(4))
    keys = np.frombuffer(unique_texts(["cat"])[0][0].key, np.uint8)[None]
    write_features(store, "made/text", np.ones((1, 4), np.float32), keys, encoder="test:other")
    with pytest.raises(StoreError, match="one dual encoder"):
        similar(store, features="made/image", text="cat")


# What a person reads


def hits(n=2, **row):
    return [Hit(rank, 1 - rank / 10, f"case {rank}", {"name": f"case {rank}", **row}) for rank in range(1, n + 1)]


def test_hits_are_printed_in_columns():
    """Hits are lines with columns under each other, the id first and once, empty columns left out."""
    lines = hit_lines(hits(empty=None, label="benign"))
    assert lines == ["rank  score   id      label", "1     0.9000  case 1  benign", "2     0.8000  case 2  benign"]


def test_columns_called_like_a_hits_own():
    """A manifest's own score, rank or id stands beside the hit's under a name that no other column has."""
    found = hits(score="own", manifest_score="other", rank=7, id="elsewhere")
    assert hit_lines(found)[0].split() == [
        *("rank", "score", "id", "manifest_manifest_score", "manifest_score", "manifest_rank", "manifest_id")
    ]
    values = found[0].to_dict()
    assert (values["rank"], values["score"], values["id"]) == (1, 0.9, "case 1")
    assert (values["manifest_manifest_score"], values["manifest_score"]) == ("own", "other")
    assert (values["manifest_rank"], values["manifest_id"]) == (7, "elsewhere")


def test_a_column_that_is_the_id_by_chance():
    """A column is left out for repeating the id only where it does so in every line."""
    found = [Hit(rank, 0.5, f"p{rank}", {"patient": "p1"}) for rank in (1, 2)]
    assert [line.split()[-1] for line in hit_lines(found)] == ["patient", "p1", "p1"]


def test_json_has_no_nan(command, make_store):
    """Numbers that JSON cannot hold are null in it."""
    numbers = [1.5, float("nan"), float("inf"), None]
    store = make_store(np.eye(4) + 1, width=numbers, widths=[[number] for number in numbers])
    done = command("similar", store.path, "--features", "made/image", "--id", "r000", "--json")

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    found = json.loads(done.out, parse_constant=refuse)
    assert {hit["width"] for hit in found} == {None}
    assert [len(hit["widths"]) for hit in found] == [1, 1, 1]


def test_hits_stay_on_their_line():
    """A text of several lines, or a long one, is shortened to one line; a terminal's width is kept."""
    lines = hit_lines(hits(report="two\nlines " + "and much more " * 20), width=50)
    assert len(lines) == 3
    assert "two lines and" in lines[1]
    assert all(len(line) <= 50 for line in lines)


def test_published_embeddings(make_store, write_features):
    """Over published CLIP embeddings, a caption finds its photograph as often as the reference says."""
    if not DATA.exists():
        pytest.skip("the CLIP embeddings of Flickr photographs are not here")
    with (DATA / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = list(dict.fromkeys(row["image_id"] for row in rows))
    first = [next(i for i, row in enumerate(rows) if row["image_id"] == name) for name in names]
    store = make_store(np.load(DATA / "image_embeddings.npy")[first].astype(np.float32), photograph=names)
    contents, place = unique_texts([row["caption"] for row in rows])
    T = np.zeros((len(contents), 512), np.float32)
    T[place] = np.load(DATA / "text_embeddings.npy")
    keys = np.frombuffer(b"".join(c.key for c in contents), np.uint8).reshape(-1, 16)
    write_features(store, "made/text", T, keys, dtype="float32")
    found = [similar(store, features="made/image", text=row["caption"], k=5) for row in rows[::5]]
    right = [
        [hit.row["photograph"] == row["image_id"] for hit in hits] for hits, row in zip(found, rows[::5], strict=True)
    ]
    assert np.mean([r[0] for r in right]) == pytest.approx(0.832, abs=0.06)
    assert np.mean([any(r) for r in right]) == pytest.approx(0.99, abs=0.03)


def test_ids_are_words(make_store):
    """A sample is asked for by its id as written, leading zeros and all."""
    store = make_store(np.eye(3))
    table = store.samples.with_columns(id=pl.Series(["007", "7", "07"]))
    store.write_samples(table, store.roles)
    assert [hit.id for hit in similar(store, features="made/image", id="7", k=5)] == ["007", "07"]
