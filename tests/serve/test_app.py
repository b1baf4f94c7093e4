"""The HTTP interface: what is found, what is shown and what is not, and errors of one line."""

import csv
import io
import json
import threading

import numpy as np
import polars as pl
import pytest
from PIL import Image

import headwater as hw
from headwater.errors import ImageError
from headwater.samples.cases import Cases
from headwater.serve.gallery import refined
from headwater.serve.uploads import Busy, Gone, Pool, Uploads
from headwater.store import open_store

PNG = {"content-type": "application/octet-stream"}


def uploaded(client, path):
    answer = client.post("/api/uploads", content=path.read_bytes(), headers=PNG)
    assert answer.status_code == 200, answer.text
    return answer.json()["upload"]


def search(client, status=200, **asked):
    query = asked.pop("query", {})
    answer = client.post("/api/search", json={"query": query, **asked})
    assert answer.status_code == status, answer.text
    return answer.json()


def rows_of(client, found):
    return [client.service.gallery.row_of(hit["case"]) for hit in found["hits"]]


# Search


def test_an_image_finds_what_similar_finds(client, served, paint, tmp_path):
    """An uploaded image that is not in the store, each patient once."""
    image = paint(tmp_path / "new.png", 777)
    found = search(client, query={"upload": uploaded(client, image)}, features="clip/image", k=5)
    hits = hw.similar(served / "gallery.hw", features="clip/image", image=image, k=5, one_per="patient")
    ids = client.service.gallery.table["id"].to_list()
    assert [ids[row] for row in rows_of(client, found)] == [hit.id for hit in hits]
    np.testing.assert_allclose([hit["score"] for hit in found["hits"]], [hit.score for hit in hits], atol=1e-3)


def test_a_case_finds_others_of_other_patients(client, served):
    case = client.service.gallery.references[8]
    found = search(client, query={"case": case}, features="clip/image", k=4)
    hits = hw.similar(
        served / "gallery.hw", features="clip/image", id="s08", k=4, one_per="patient", exclude_same="patient"
    )
    ids = client.service.gallery.table["id"].to_list()
    assert [ids[row] for row in rows_of(client, found)] == [hit.id for hit in hits]
    own = search(
        client, query={"case": case}, features="clip/image", k=40, exclude_own_patient=False, one_per_patient=False
    )
    assert {client.service.gallery.table["patient"][row] for row in rows_of(client, own)} >= {"p2"}
    assert case not in [hit["case"] for hit in own["hits"]]


def test_an_upload_that_is_in_the_store_is_left_out_with_its_patient(client, gallery):
    found = search(
        client, query={"upload": uploaded(client, gallery / "images" / "08.png")}, k=40, one_per_patient=False
    )
    patients = [client.service.gallery.table["patient"][row] for row in rows_of(client, found)]
    assert "p2" not in patients
    assert "This very image is in the store" in found["notes"][0]


def test_words_and_both_with_a_weight(client, served, gallery):
    text = "rough tissue, field 3"
    words = search(client, query={"text": text}, features="clip/image", k=5, one_per_patient=False)
    hits = hw.similar(served / "gallery.hw", features="clip/image", text=text, k=5)
    np.testing.assert_allclose([h["score"] for h in words["hits"]], [h.score for h in hits], atol=1e-3)
    image = gallery / "images" / "08.png"
    upload = uploaded(client, image)
    asked = {"features": "clip/image", "k": 3, "one_per_patient": False, "exclude_own_patient": False}
    found = search(client, query={"upload": upload, "text": text, "weight": 0.3}, **asked)
    both = hw.similar(served / "gallery.hw", features="clip/image", image=image, text=text, weight=0.3, k=4)
    kept = [h.score for h in both if h.id != "s08"][:3]
    np.testing.assert_allclose([h["score"] for h in found["hits"]], kept, atol=1e-3)


def test_a_region_is_that_part_of_the_image(client, gallery, tmp_path):
    with Image.open(gallery / "images" / "08.png") as image:
        image.crop((12, 0, 48, 24)).save(tmp_path / "part.png")
    whole = uploaded(client, gallery / "images" / "08.png")
    region = [1.0, 0.5, 0.25, 0.0]  # corners in any order
    asked = {"features": "texture/image", "k": 4, "one_per_patient": False, "exclude_own_patient": False}
    of_region = search(client, query={"upload": whole, "region": region}, **asked)
    of_case = search(client, query={"case": client.service.gallery.references[8], "region": region}, **asked)
    of_part = search(client, query={"upload": uploaded(client, tmp_path / "part.png")}, **asked)
    scores = [[hit["score"] for hit in found["hits"][1:3]] for found in (of_region, of_case, of_part)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-3)
    assert of_part["hits"][0]["score"] == pytest.approx(
        max(of_part["hits"][0]["score"], of_region["hits"][0]["score"]), abs=2e-2
    )
    tiny = search(client, 422, query={"upload": whole, "region": [0.5, 0.5, 0.5, 0.5]}, features="texture/image")
    assert "too small" in tiny["error"]


def test_more_and_less_like_cases(client):
    refs = client.service.gallery.references
    gallery = client.service.gallery
    asked = {"features": "texture/image", "k": 40, "one_per_patient": False}
    plain = search(client, query={"case": refs[0]}, **asked)
    liked = search(client, query={"case": refs[0], "more": [refs[21]], "less": [refs[20]]}, **asked)

    def place(found, row):
        return rows_of(client, found).index(row)

    assert place(liked, 21) < place(plain, 21)
    assert place(liked, 20) > place(plain, 20)
    vector = refined(
        gallery.vector("texture/image", 0), [gallery.vector("texture/image", 21)], [gallery.vector("texture/image", 20)]
    )
    assert np.linalg.norm(vector) == pytest.approx(1)


def test_filters_are_exact_and_never_leave_too_few(client, served):
    case = client.service.gallery.references[8]
    asked = {"features": "clip/image", "one_per_patient": False}
    for filters in ({"site": ["south"]}, {"site": ["south"], "grade": ["high"]}):
        found = search(client, query={"case": case}, filters=filters, k=6, **asked)
        rows = client.service.gallery.table[rows_of(client, found)]
        assert len(rows) == 6
        assert all(rows[column].is_in(values).all() for column, values in filters.items())
        where = " AND ".join(f"{column} = '{values[0]}'" for column, values in filters.items())
        hits = hw.similar(
            served / "gallery.hw", features="clip/image", id="s08", k=6, where=where, exclude_same="patient"
        )
        assert [h.id for h in hits] == rows["id"].to_list()
    assert (
        "there is no filter 'patient'"
        in search(client, 422, query={"case": case}, filters={"patient": ["p1"]})["error"]
    )
    assert "no case passes" in search(client, 422, query={"case": case}, filters={"site": ["nowhere"]})["error"]


def test_more_cases_than_there_are(client):
    found = search(client, query={"case": client.service.gallery.references[0]}, k=200, one_per_patient=False)
    assert len(found["hits"]) == 44
    assert any("Only 44 cases pass" in note for note in found["notes"])


def test_searches_at_once_are_as_alone(client):
    """Twenty threads, whose searches are done together."""
    refs = client.service.gallery.references
    alone = [search(client, query={"case": ref}, features="clip/image", k=5) for ref in refs[:20]]
    found = [None] * 20

    def ask(i):
        found[i] = search(client, query={"case": refs[i]}, features="clip/image", k=5)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, found, strict=True):
        assert [h["case"] for h in one["hits"]] == [h["case"] for h in other["hits"]]


# What neighbours tell


def test_labels_among_neighbours_beside_their_base_rate(client):
    """And how often that very vote is right, against a count of our own."""
    gallery = client.service.gallery
    found = search(client, query={"case": gallery.references[3]}, features="texture/image", k=20)
    labels = found["labels"]
    grades = gallery.table["grade"].to_list()
    nearest = [grades[row] for row in rows_of(client, found)][:10]
    assert {row["label"]: row["n"] for row in labels["labels"]} == {g: nearest.count(g) for g in ("low", "high")}
    assert {row["base"] for row in labels["labels"]} == {0.5}
    cases = Cases(gallery.store, "texture/image")
    right = []
    for row in range(48):
        others = cases.find(
            gallery.vector("texture/image", row),
            10,
            allowed=cases.allowed(same_as=("patient", row)),
            without=row,
            one_per="patient",
        )
        votes = [grades[other] for other in others.rows.tolist()]
        right.append(max(votes, key=lambda g: (votes.count(g), -votes.index(g))) == grades[row])
    assert labels["vote"]["n"] == 48
    assert labels["vote"]["accuracy"] == pytest.approx(np.mean(right), abs=0.05)  # ties may fall either way


def test_a_query_of_another_kind_is_told(serving, tmp_path):
    client = serving()
    Image.new("RGB", (48, 48), (255, 0, 0)).save(tmp_path / "red.png")
    found = search(client, query={"upload": uploaded(client, tmp_path / "red.png")}, features="texture/image")
    assert any("Nothing in this store resembles the query" in note for note in found["notes"])


def test_neighbours_of_one_site_are_told(client):
    """Asked for, by a filter: all are of the south, of which half of the store is."""
    case = client.service.gallery.references[8]
    crowded = search(client, query={"case": case}, filters={"site": ["south"]})
    assert any("have site south, as have 50 % of the store" in note for note in crowded["notes"])


# Findings


def test_findings_are_those_of_predict(client, served, gallery):
    image = gallery / "images" / "45.png"
    (found,) = client.post("/api/findings", json={"query": {"upload": uploaded(client, image)}}).json()
    told = hw.predict(served / "grade", image=image)
    row = told.table.row(0, named=True)
    assert {s["name"]: s["probability"] for s in found["scores"]} == pytest.approx(
        {"low": row["score_low"], "high": row["score_high"]}, abs=1e-3
    )
    assert found["decision"] == row["decision"]
    assert {s["name"] for s in found["scores"] if s["in_set"]} == set(row["set"])
    assert found["unlike_training"] == pytest.approx(row["unlike_training"], abs=6)
    assert found["seen_in_training"] is None
    assert found["scores"][0]["probability"] >= found["scores"][1]["probability"]
    (seen,) = client.post("/api/findings", json={"query": {"case": client.service.gallery.references[3]}}).json()
    assert seen["seen_in_training"] == "same image"


def test_findings_of_image_and_text(serving, served, gallery):
    """A stored case brings its own text; an upload needs a sentence, and is told so by that run alone."""
    client = serving(runs=[served / "grade", served / "both"])
    case = client.service.gallery.references[45]
    one, other = client.post("/api/findings", json={"query": {"case": case}}).json()
    assert one["run"] == "grade"
    assert "scores" in other
    upload = uploaded(client, gallery / "images" / "45.png")
    one, other = client.post("/api/findings", json={"query": {"upload": upload}}).json()
    assert "scores" in one
    assert "reads texts" in other["error"]


def test_heat_maps(serving, served, gallery):
    client = serving(runs=[served / "areas"])
    upload = uploaded(client, gallery / "images" / "45.png")
    found = client.post("/api/heat-map", json={"query": {"upload": upload}, "run": "areas", "target": "high"}).json()
    assert found["picture"].startswith("data:image/png;base64,")
    assert len(found["region"]) == 4
    assert all(0 <= share <= 1 for share in found["region"])
    client = serving()
    answer = client.post(
        "/api/heat-map", json={"query": {"case": client.service.gallery.references[0]}, "run": "grade"}
    )
    assert answer.status_code == 422
    assert "no tokens to explain" in answer.json()["error"]


def test_calls_are_a_table_that_embed_reads(client, gallery, tmp_path):
    query = {"case": client.service.gallery.references[8]}
    call = {"query": query, "own_call": "=low", "reader": "r1"}
    assert client.post("/api/calls", json=call).status_code == 201
    agreed = call | {"own_call": "high", "run": "grade", "finding": "high", "probability": 0.7, "agreement": "agree"}
    assert client.post("/api/calls", json=agreed).status_code == 201
    upload = uploaded(client, gallery / "images" / "45.png")
    assert client.post("/api/calls", json={"query": {"upload": upload}, "own_call": "low"}).status_code == 201
    path = tmp_path / "log" / "calls.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [row["own_call"] for row in rows] == ["'=low", "high", "low"]  # no formula for a spreadsheet
    assert rows[0]["id"] == "s08"
    assert rows[2]["image"] == ""
    stored = pl.read_csv(path).filter(pl.col("agreement") == "agree")
    stored.write_csv(tmp_path / "log" / "agreed.csv")
    store = hw.embed(tmp_path / "log" / "agreed.csv", tmp_path / "calls.hw", encoder="builtin:texture")
    assert store.read("texture/image").table["own_call"].to_list() == ["high"]


def test_a_line_for_each_query_without_image_or_words(client, gallery, tmp_path):
    search(client, query={"text": "secret words"}, features="clip/image", k=3)
    client.post("/api/findings", json={"query": {"upload": uploaded(client, gallery / "images" / "45.png")}})
    text = (tmp_path / "log" / "audit.jsonl").read_text()
    one, other = (json.loads(line) for line in text.splitlines())
    assert len(one["shown"]) == 3
    assert set(other["shown"]["grade"]) == {"low", "high"}
    assert "secret" not in text
    assert "45.png" not in text


# What is shown


def test_only_chosen_columns_leave_and_no_patient_or_id(client, gallery):
    """Of every answer: no id, patient, path or column that was not chosen."""
    info = client.get("/api/info").json()
    assert info["columns"] == ["grade", "site", "age"]
    assert set(info["filters"]) == {"grade", "site"}  # of age there are too many values
    case = client.service.gallery.references[8]
    upload = uploaded(client, gallery / "images" / "45.png")
    answers = [
        client.get("/api/info").text,
        client.get(f"/api/cases/{case}").text,
        json.dumps(search(client, query={"case": case}, k=50)),
        client.post("/api/findings", json={"query": {"upload": upload}}).text,
        client.get("/metrics").text,
        client.get("/api/openapi.json").text,
    ]
    table = client.service.gallery.table
    secret = {*table["id"], *table["patient"], *table["caption"], str(gallery)}
    for answer in answers:
        assert not [word for word in secret if f'"{word}"' in answer or f"{word}." in answer], answer[:200]


def test_images_by_reference_only(client):
    gallery = client.service.gallery
    small = client.get(f"/api/cases/{gallery.references[8]}/image")
    assert small.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(small.content)) as image:
        assert image.size == (48, 48)
    for path in ("../manifest.csv", "%2e%2e%2fmanifest.csv", "s08", "images/08.png", "0"):
        assert client.get(f"/api/cases/{path}/image").status_code in (404, 422)
    for path in ("../app.py", "%2e%2e/app.py", "..%2fapp.py", "app.py", "style.css/../../app.py"):
        answer = client.get(f"/static/{path}")
        assert answer.status_code == 404, path
    for size in ("huge", "../x"):
        assert client.get(f"/api/cases/{gallery.references[8]}/image", params={"size": size}).status_code == 422


def test_an_image_that_changed_since_is_not_shown(served, serving, tmp_path, gallery):
    import shutil

    folder = shutil.copytree(gallery, tmp_path / "copy")
    hw.embed(folder / "manifest.csv", tmp_path / "copy.hw", encoder="builtin:texture")
    from headwater._progress import silent
    from headwater.serve.options import ServeOptions
    from headwater.serve.service import Service

    service = Service(open_store(tmp_path / "copy.hw"), ServeOptions(log=tmp_path / "log"), silent)
    shutil.copy(folder / "images" / "01.png", folder / "images" / "00.png")
    with pytest.raises(ImageError, match="changed"):
        service.picture(service.gallery.references[0], 100)
    service.close()


# Bad input


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({}, "choose an image or a case, or write a sentence"),
        ({"text": "   "}, "choose an image or a case"),
        ({"case": "gone"}, "no such case"),
        ({"upload": "gone"}, "no longer kept"),
        ({"case": "CASE", "more": ["gone"]}, "no such case"),
        ({"case": "CASE", "region": [0, 0, 2, 1]}, "query.region.2: "),
        ({"case": "CASE", "region": [0, 0, 1]}, "query.region: "),
        ({"case": "CASE", "weight": 7}, "query.weight: "),
        ({"text": "x" * 2001}, "query.text: "),
        ({"unknown": 1}, "query.unknown: "),
        ({"case": 5}, "query.case: "),
    ],
)
def test_questions_that_cannot_be_answered(query, said, client):
    given = {name: client.service.gallery.references[0] if value == "CASE" else value for name, value in query.items()}
    answer = client.post("/api/search", json={"query": given})
    assert answer.status_code in (404, 422)
    error = answer.json()["error"]
    assert said in error
    assert "\n" not in error


def test_words_of_an_image_encoder_are_refused(client):
    found = search(client, 422, query={"text": "rough"}, features="texture/image")
    assert "cannot compare images with sentences" in found["error"]
    assert "no features 'gone'" in search(client, 422, query={"text": "rough"}, features="gone")["error"]


def test_uploads_that_are_no_images(client, gallery):
    data = (gallery / "images" / "08.png").read_bytes()
    for content, said in (
        (b"", "empty"),
        (b"words", "not an image"),
        (data[: len(data) // 2], ""),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, ""),
    ):
        answer = client.post("/api/uploads", content=content, headers=PNG)
        assert answer.status_code == 422
        assert said in answer.json()["error"]
    assert search(client, query={"case": client.service.gallery.references[0]})["hits"]  # it goes on


def test_uploads_that_are_too_large(serving, gallery):
    data = (gallery / "images" / "08.png").read_bytes()
    client = serving(max_bytes=len(data) - 1)
    assert client.post("/api/uploads", content=data, headers=PNG).status_code == 413
    assert client.post("/api/uploads", content=iter([data[:10], data[10:]]), headers=PNG).status_code == 413
    client = serving(max_pixels=100)
    answer = client.post("/api/uploads", content=data, headers=PNG)
    assert answer.status_code == 422
    assert "pixels" in answer.json()["error"]
    assert (
        client.post("/api/search", content=b"[" * (1 << 21), headers={"content-type": "application/json"}).status_code
        == 413
    )


def test_uploads_expire(gallery):
    uploads = Uploads(10_000_000, keep=0.0)
    handle, _ = uploads.add((gallery / "images" / "08.png").read_bytes())
    with pytest.raises(Gone, match="no longer kept"):
        uploads.get(handle)
    assert len(uploads) == 0


def test_too_many_at_once_are_refused():
    pool, go = Pool(at_once=1, waiting=1), threading.Event()
    threads = [threading.Thread(target=lambda: pool(go.wait)) for _ in range(2)]
    for thread in threads:
        thread.start()
    while pool._room._value:
        pass
    with pytest.raises(Busy, match="Try again"):
        pool(lambda: None)
    go.set()
    for thread in threads:
        thread.join()
    assert pool(lambda: 5) == 5


def test_metrics_count_by_route(client):
    search(client, query={"case": client.service.gallery.references[0]})
    search(client, 422, query={})
    told = client.get("/metrics").json()["routes"]["/api/search"]
    assert told["counts"] == {"200": 1, "422": 1}
    assert 0 < told["p50"] <= told["p99"]
