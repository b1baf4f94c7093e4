"""similar: image and text together, one case per patient, exclusions, and results with pictures."""

import base64
import io
import json
import re
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headwater.api import index, similar
from headwater.embed import key_of_file, unique_texts
from headwater.errors import InputError, StoreError


@pytest.fixture
def dual(make_store, write_features, paint, tmp_path):
    """A store of one encoder's features of images and of texts, an image file and words that are among them."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 8)).astype(np.float32)
    store = make_store(X, patient=[f"p{i % 9}" for i in range(50)], site=["a", "b"] * 25)
    paint(tmp_path / "asked.png", 1, coarse=6)
    key = np.frombuffer(key_of_file(tmp_path / "asked.png"), np.uint8)[None]
    V = rng.standard_normal((2, 8)).astype(np.float32) * np.array([[3], [0.2]], np.float32)
    keys = np.concatenate([store.features("made/image").keys, key])
    write_features(store, "made/image", np.concatenate([X, V[:1]]), keys, dtype="float32")
    text = np.frombuffer(unique_texts(["dense"])[0][0].key, np.uint8)[None]
    write_features(store, "made/text", V[1:], text)
    return store, X, V, tmp_path / "asked.png"


@pytest.mark.parametrize("weight", [None, 0, 0.3, 0.9, 1])
def test_image_and_text_together(dual, weight):
    """Samples come by the weighted mean of their cosines with both, half and half by default."""
    store, X, V, file = dual
    hits = similar(store, features="made/image", image=file, text="dense", weight=weight, k=50)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (X, V)]
    cosine = unit[0] @ unit[1].T
    w = 0.5 if weight is None else weight
    mean = w * cosine[:, 0] + (1 - w) * cosine[:, 1]
    assert [hit.id for hit in hits] == [f"r{i:03d}" for i in np.argsort(-mean)]
    query = w * unit[1][0] + (1 - w) * unit[1][1]
    assert np.allclose([h.score for h in hits], np.sort(mean)[::-1] / np.linalg.norm(query), atol=2e-3)


def test_filters_beside_image_and_text(command, dual):
    """--exclude and --one-per hold for every kind of query, and --json carries the columns."""
    store, _, _, file = dual
    words = ("similar", store.path, "--features", "made/image", "-k", "50", "--json")
    for query in (("--image", file), ("--text", "dense"), ("--image", file, "--text", "dense"), ("--id", "r001")):
        done = command(*words, *query, "--exclude", "patient=p3", "--exclude", "site=b", "--one-per", "patient")
        found = json.loads(done.out)
        assert {hit["patient"] for hit in found} == {f"p{i}" for i in range(9)} - {"p3"}
        assert len(found) == 8
        assert {hit["site"] for hit in found} == {"a"}


def test_one_per_takes_the_best_of_each(dual):
    """With --one-per, k values come, each by its most similar sample."""
    store, *_ = dual
    everything = similar(store, features="made/image", id="r001", k=50)
    best = list({hit.row["patient"]: hit for hit in reversed(everything)}.values())
    expected = sorted(best, key=lambda hit: hit.rank)[:4]
    found = similar(store, features="made/image", id="r001", k=4, one_per="patient")
    assert [hit.id for hit in found] == [hit.id for hit in expected]
    assert [hit.rank for hit in found] == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_an_approximate_index_never_gives_fewer_for_a_filter(make_store, kind):
    """However rare the samples that a filter allows, k of them are found, and none that it does not allow."""
    pytest.importorskip("faiss")
    X = np.random.default_rng(0).standard_normal((1500, 16))
    store = make_store(X, age=list(range(1500)), patient=[f"p{i // 2}" for i in range(1500)])
    index(store, features="made/image", kind=kind)
    for where, n in (("age < 12", 12), ("age < 400", 30), ("age >= 1495 OR age = 3", 6)):
        asked = {"features": "made/image", "id": "r700", "k": 30, "where": where}
        hits = similar(store, **asked, index=kind)
        assert len(hits) == n
        exact = [hit.id for hit in similar(store, **asked)]
        if n < 30:
            assert [hit.id for hit in hits] == exact
        per = similar(store, **asked, index=kind, one_per="patient")
        assert len(per) == min(30, len({hit.row["patient"] for hit in per})) >= min(n // 2, 30)


def test_fewer_than_wanted_is_said(command, dual):
    """Asked for more than there are, the command says how many there are; in JSON the list says it."""
    store, *_ = dual
    words = ("similar", store.path, "--features", "made/image", "--id", "r000", "-k", "60")
    done = command(*words)
    assert done.status == 0
    assert done.out.splitlines()[-1].startswith("49 found instead of 60: ")
    assert len(json.loads(command(*words, "--json").out)) == 49


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--id", "r001", "--weight", "0.5"), "--weight goes with --image and --text together"),
        (("--text", "dense", "--weight", "0.5"), "--weight goes with --image and --text together"),
        (("--id", "r001", "--text", "dense"), "pass one query"),
        ((), "pass one query"),
        (("--text", "dense", "--exclude-same", "patient"), "Use --exclude COL=VALUE"),
        (("--id", "r001", "--one-per", "patiant"), "--one-per: no column 'patiant'. Did you mean 'patient'?"),
        (("--id", "r001", "--exclude", "sight=a"), "--exclude: no column 'sight'."),
        (("--id", "r001", "--exclude", "site=c"), "no sample has this value"),
        (("--id", "r001", "--exclude", "site"), "write COLUMN=VALUE"),
        (("--id", "r001", "--where", "site = 'c'"), "is true for none of the 50 samples"),
        (("--id", "r001", "--where", "LENGTH(site)"), "cannot be used"),
        (("--id", "r001", "--out", "cases.txt"), "ends in .html or .png"),
        (("--id", "r001", "--index", "hnsw"), "no hnsw index. Run: headwater index"),
        (("--id", "r001", "--index", "nsw"), "Did you mean 'hnsw'?"),
    ],
)
def test_what_is_refused(refused, dual, words, message):
    """Each mistake ends in one line with status 1, and nothing is written."""
    assert message in refused("similar", dual[0].path, "--features", "made/image", *words)


def test_a_weight_outside_its_range(refused, dual):
    """A weight is a share."""
    words = ("--image", dual[3], "--text", "dense", "--weight", "1.5")
    assert "from 0 (only the text) to 1" in refused("similar", dual[0].path, "--features", "made/image", *words)


def test_an_index_of_another_store(dual, make_store):
    """An index file that was copied from another store is refused."""
    pytest.importorskip("faiss")
    import shutil

    store = dual[0]
    other = make_store(np.random.default_rng(5).standard_normal((51, 8)), path="other.hw")
    index(other, features="made/image", kind="flat")
    shutil.copytree(other.path / "index", store.path / "index")
    with pytest.raises(StoreError, match="built from other features"):
        similar(store, features="made/image", id="r001", index="flat")


def test_words_for_features_of_images_alone(refused, images, command):
    """Words cannot be compared with features of an encoder that reads no texts."""
    words = ("embed", images / "manifest.csv", images.parent / "a.hw", "--encoder", "builtin:texture")
    assert command(*words).status == 0
    line = refused("similar", images.parent / "a.hw", "--features", "texture/image", "--text", "rough")
    assert "does not encode texts" in line


@pytest.fixture
def pictured(command, images, tmp_path):
    """A store of a few images, one of which changed after it was embedded and one of which is gone."""
    table = pl.read_csv(images / "manifest.csv", infer_schema=False)
    table = table.with_columns(empty=pl.lit('<script>alert("1")</script> & more'))
    table.write_csv(images / "manifest.csv")
    done = command("embed", images / "manifest.csv", tmp_path / "a.hw", "--encoder", "builtin:texture")
    assert done.status == 0
    (images / "images" / "02.png").write_bytes((images / "images" / "03.png").read_bytes())
    (images / "images" / "04.png").unlink()
    return tmp_path / "a.hw", table


def test_a_page_of_pictures(command, pictured, tmp_path):
    """--out writes one HTML file: a picture of each sample as a JPEG in the file, all words escaped, no script."""
    store, table = pictured
    out = tmp_path / "new" / "cases.html"
    done = command("similar", store, "--features", "texture/image", "--id", "s00", "-k", "50", "--out", out)
    assert done.out.splitlines()[-1] == f"pictures in {out}"
    page = out.read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; more" in page
    assert not re.search(r"""(src|href)=["'](?!data:image/jpeg;base64,)""", page)
    figures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    assert len(figures) == len(table)
    assert 'class="query"' in figures[0]
    by_id = {re.search(r"<strong>(.*?)</strong>", figure)[1]: figure for figure in figures}
    assert set(by_id) == set(table["id"])
    for id, figure in by_id.items():
        if id in ("s02", "s04"):  # changed or gone: another picture would mislead
            assert "no picture" in figure
            continue
        data = base64.b64decode(re.search(r"base64,([^\"]+)", figure)[1])
        picture = Image.open(io.BytesIO(data))
        assert picture.format == "JPEG"
        assert max(picture.size) <= 224


def test_a_sheet_of_pictures(command, pictured, tmp_path):
    """--out FILE.png writes a picture that shows those of the samples."""
    store, _ = pictured
    out = tmp_path / "cases.png"
    assert command("similar", store, "--features", "texture/image", "--id", "s00", "-k", "3", "--out", out).status == 0
    sheet = Image.open(out).convert("RGB")
    assert sheet.size == (4 * 236 + 12, 236 + 5 * 14 + 12)
    first = np.asarray(sheet.crop((12, 12, 76, 76)))
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 20  # a picture of 36 squares, not a frame


def test_a_query_by_image_is_on_its_page(dual, tmp_path):
    """The page shows the image that was asked about, and the words."""
    store, _, _, file = dual
    similar(store, features="made/image", image=file, text="dense", k=2, out=tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    first = re.search(r"<figure.*?</figure>", page, re.DOTALL)[0]
    assert "data:image/jpeg" in first
    assert "asked.png + dense" in first


def test_a_folder_is_no_page(dual, tmp_path):
    """A folder whose name ends in .html is refused before anything is read."""
    (tmp_path / "a.html").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        similar(dual[0], features="gone/image", id="r001", out=tmp_path / "a.html")


def test_a_stored_sample_needs_few_libraries(dual):
    """A query by a sample loads neither torch, nor scikit-learn, nor SciPy, nor Pillow, nor FAISS."""
    code = (
        f"import sys, headwater; headwater.similar({str(dual[0].path)!r}, features='made/image', id='r001');"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "sklearn", "scipy", "PIL", "faiss", "pandas"} & set(done.stdout.split())
