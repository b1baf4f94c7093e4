"""Every JSON file that headwater writes follows its published schema, and a wrong one does not."""

import importlib.util
import json
import re
import runpy
import shutil
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import headwater as hw
from headwater.errors import HeadwaterError
from headwater.heads import load_head, save_head
from headwater.sources.synthetic import make_histology
from headwater.store import FeatureSpec

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "schemas"
SCHEMAS = {
    path.name.removesuffix(".schema.json"): json.loads(path.read_text()) for path in FOLDER.glob("*.schema.json")
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a store, an index, a bundle, and a run of each task and command that needs no torch."""
    out = tmp_path_factory.mktemp("formats")
    table = pl.read_csv(make_histology(out, n_patients=10, images_per_patient=4, size=64))
    random = np.random.default_rng(0)
    n = len(table)
    table = table.with_columns(
        pl.Series("grade", [["low", "middle", "high"][i % 3] for i in range(n)]),
        pl.Series("signs", [["calcium", "mass", "calcium;mass", "mass"][i % 4] for i in range(n)]),
        pl.Series("time", random.exponential(10, n).round(3) + 0.1),
        pl.Series("event", (np.arange(n) % 3 > 0).astype(int)),
    )
    table.write_csv(out / "manifest.csv")
    store = out / "store.hw"
    hw.embed(out / "manifest.csv", store, encoder="builtin:texture")
    hw.embed(out / "manifest.csv", store, encoder="builtin:ngram", text="caption")
    hw.text(out / "manifest.csv", template=_template(out), out=out / "with-texts.csv")
    fit = {"store": store, "features": "texture/image", "groups": "patient", "folds": 2, "inner_folds": 2}
    given = {**fit, "params": {"C": 0.1}}
    runs = out / "runs"
    hw.fit_head(
        **fit, label="label", out=runs / "binary", calibrate="temperature", sensitivity=0.9, conformal=0.1,
        per="patient", by="laboratory", controls=True, keep_folds=True, prevalence=0.01,
    )  # fmt: skip
    hw.fit_head(**fit, label="label", out=runs / "isotonic", head="knn", calibrate="isotonic", seeds=2)
    hw.fit_head(**{**given, "features": ["texture/image", "ngram/text"]}, label="grade", out=runs / "fusion")
    hw.fit_head(**given, label="signs", label_separator=";", out=runs / "multilabel")
    hw.fit_head(**fit, label="age", task="regression", out=runs / "regression")
    hw.fit_head(**fit, label=["age", "malignant"], task="regression", out=runs / "outputs")
    hw.fit_head(**fit, label="grade", task="ordinal", order=["low", "middle", "high"], out=runs / "ordinal")
    hw.fit_head(**fit, task="survival", time="time", event="event", risk_groups=2, out=runs / "survival")
    hw.fit_head(**fit, label="label", head="prototypes", out=runs / "prototypes")
    hw.fit_head(**fit, label="label", head="gda", out=runs / "gda")
    hw.fit_head(**given, label="label", bags="patient", views="magnification", out=runs / "bags")
    hw.evaluate(runs / "binary", store, label="label", groups="patient", allow_leakage="a test", out=out / "external")
    options = {name: value for name, value in given.items() if name != "store"}
    hw.fit_separately(store, "magnification", out=out / "family", label="label", **options)
    hw.sweep(**{**fit, "features": ["texture/image"]}, label="label", heads=["linear", "knn"], out=out / "sweep")
    hw.bundle(runs / "binary", out / "bundle.zip", with_cases=True)
    if importlib.util.find_spec("faiss"):
        hw.index(store, features="texture/image", kind="flat")
    return out


def _template(out):
    (out / "template.toml").write_text('sentences = ["Seen at {magnification}x."]\n')
    return out / "template.toml"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny):
    """A folder with what needs torch: tokens, heads on them, zero-shot runs, and trained encoders."""
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    out = tmp_path_factory.mktemp("tuned")
    manifest, store = make_histology(out, n_patients=10, images_per_patient=4, size=64), out / "store.hw"
    hw.embed(manifest, store, encoder="builtin:clip", name="clip", text="caption", tokens="all", tokens_dtype="int8")
    hw.embed(manifest, store, encoder="builtin:clip", name="half", text="caption", tokens="4", tokens_dtype="bfloat16")
    (out / "prompts.toml").write_text('templates = ["{} tissue"]\n[classes]\nbenign = "benign"\nmalignant = "bad"\n')
    prompts = {"store": store, "features": "clip", "prompts": out / "prompts.toml", "label": "label"}
    hw.zero_shot(**prompts, out=out / "zero-shot")
    hw.zero_shot(**prompts, transductive=True, groups="patient", out=out / "transductive")
    small = {"folds": 2, "groups": "patient", "label": "label"}
    hw.fit_head(store, features="clip/image", head="mlp", params={"hidden": [4], "epochs": 2}, out=out / "mlp", **small)
    mil = {"head": "mil", "params": {"width": 4, "epochs": 2}, "bags": "patient"}
    hw.fit_head(store, features="clip/image", out=out / "mil", **mil, **small)
    train = {"epochs": 1, "batch_size": 12, "device": "cpu", "precision": "fp32"}
    for kind in ("lora", "last-1"):
        fixed = {"params": {"C": 0.1}, "train": kind, **train}
        hw.fine_tune(manifest, encoder="builtin:clip", out=out / kind, **fixed, **small)
    encoders = [tiny("timm-vit").spec, tiny("hf-bert").spec]
    pairs = {"columns": hw.ManifestColumns(text="caption"), "dim": 8, "groups": "patient", "holdout": 0.34}
    hw.contrast(manifest, encoder=encoders, out=out / "joined", **pairs, **train)
    return out


def schema_of(path):
    """Return the name of the schema of a file, by the file's name."""
    for end, name in ((".about.json", "about"), (".sum.json", "sums"), (".jsonl", "journal")):
        if path.name.endswith(end):
            return name
    return "index" if path.parents[1].name == "index" else path.stem


def plain(text):
    """Read JSON as its standard defines it: without NaN and infinities."""

    def refuse(word):
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def values_below(folder):
    """Yield the place, the schema and the value of each JSON file, and of each line of a journal."""
    for path in sorted(folder.rglob("*.json*")):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        for line in lines:
            yield path.relative_to(folder), schema_of(path), plain(line)
    for path in folder.glob("*.zip"):
        with zipfile.ZipFile(path) as held:
            for name in held.namelist():
                if name.endswith(".json") and "/" not in name:
                    yield path.name, Path(name).stem, plain(held.read(name))


def check(folder):
    """Validate every JSON file below a folder, and return the names of the schemas that were used."""
    used = set()
    for place, name, value in values_below(folder):
        errors = list(validator(name).iter_errors(value))
        assert not errors, f"{place}: {errors[0].json_path}: {errors[0].message}"
        used.add(name)
    return used


def validator(name):
    return jsonschema.Draft202012Validator(SCHEMAS[name])


def test_the_published_schemas_are_those_of_the_code():
    """docs/schemas holds what docs/schemas.py makes of the types that read these files."""
    made = runpy.run_path(str(ROOT / "docs" / "schemas.py"))["schemas"]()
    assert made == SCHEMAS, "run: python docs/schemas.py"
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_file_follows_its_schema(written):
    """Store, index, bundle, tables, sweep, and runs of each task: every JSON file is as its schema says."""
    used = check(written)
    needs = {"index"} if importlib.util.find_spec("faiss") else set()
    of_torch = {"adapter", "joined", "spec"}  # a spec stands in other files, and is in none alone
    assert used | of_torch == set(SCHEMAS) - ({"index"} - needs)


@pytest.mark.slow
def test_every_file_of_trained_encoders_follows_its_schema(tuned):
    """Tokens, zero-shot runs, tuned and joined encoders: every JSON file is as its schema says."""
    used = check(tuned)
    assert {"adapter", "joined", "config", "metrics", "head", "zarr", "journal"} <= used


def examples(written):
    """Return one value for each schema, the longest of its kind; of zarr, that of a feature set."""
    found = {}
    for _, name, value in values_below(written):
        if name == "zarr" and not value["attributes"]:
            continue
        if len(str(value)) > len(str(found.get(name, ""))):
            found[name] = value
    return found


def test_a_wrong_value_does_not_follow_its_schema(written):
    """Each property whose type a schema states is refused with a value of another type."""
    n_refused = 0
    for name, value in examples(written).items():
        if not isinstance(value, dict):
            continue
        for key in set(SCHEMAS[name].get("properties", {})) & set(value):
            if not SCHEMAS[name]["properties"][key]:
                continue
            other = 7 if isinstance(value[key], dict) else {"of": ["another", "type"]}
            wrong = {**value, key: other}
            assert not validator(name).is_valid(wrong), f"{name}: {key}"
            n_refused += 1
    assert n_refused > 60


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("about", ["outcomes", "texts"]),
        ("bundle", ["task", "features"]),
        ("config", ["command", "features", "groups", "seed", "environment", "store", "calibrate"]),
        ("cost", ["seconds"]),
        ("decision", ["classes"]),
        ("digests", ["members"]),
        ("family", ["separately", "runs"]),
        ("head", ["format", "head", "params", "classes"]),
        ("journal", ["sum", "sums"]),
        ("metrics", ["task", "n_samples", "folds", "mean", "intervals", "positive", "per_class", "classes"]),
        ("store", ["format"]),
        ("sweep", ["leaderboard"]),
        ("zarr", ["node_type"]),
    ],
)
def test_a_missing_field_does_not_follow_its_schema(written, name, keys):
    """Each field that every reader relies on is required."""
    value = examples(written)[name]
    for key in keys:
        assert key in value, key
        lacking = {one: of for one, of in value.items() if one != key}
        assert not validator(name).is_valid(lacking), f"{name} without {key}"


@pytest.mark.parametrize(("key", "value"), [("newer", 1), ("dtype", "int3"), ("dim", 0), ("modality", "sound")])
def test_what_headwater_refuses_in_a_spec_the_schema_refuses(written, key, value):
    """An unknown field, and a value out of range, are refused by headwater and by the schema alike."""
    spec = examples(written)["zarr"]["attributes"]
    assert FeatureSpec.from_dict(spec).to_dict() == spec
    assert validator("spec").is_valid(spec)
    assert not validator("spec").is_valid({**spec, key: value})
    with pytest.raises(HeadwaterError):
        FeatureSpec.from_dict({**spec, key: value})


def test_what_headwater_refuses_in_a_store_the_schema_refuses(written, tmp_path):
    """A store of a later format is refused by both."""
    shutil.copytree(written / "store.hw", tmp_path / "store.hw")
    (tmp_path / "store.hw" / "store.json").write_text('{"format": 2}')
    assert not validator("store").is_valid({"format": 2})
    with pytest.raises(HeadwaterError):
        hw.open_store(tmp_path / "store.hw")


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("head",), "forest"),
        (("params", "newer"), 1),
        (("params", "C"), "much"),
        (("format",), 2),
        (("classes",), [1, 1]),
    ],
)
def test_what_headwater_refuses_in_a_head_the_schema_refuses(written, tmp_path, keys, value):
    """An unknown head, parameter or format, and a parameter of another type, are refused by both."""
    folder = written / "runs" / "fusion"
    changed = plain((folder / "head.json").read_text())
    inner = changed
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    assert not validator("head").is_valid(changed)
    (tmp_path / "head.json").write_text(json.dumps(changed))
    (tmp_path / "head.safetensors").write_bytes((folder / "head.safetensors").read_bytes())
    load_head(folder)
    with pytest.raises(HeadwaterError):
        load_head(tmp_path)


def test_a_number_that_json_lacks_is_null(written, tmp_path):
    """A head whose objective is unknown is written with null in its place, and read back as it was."""
    head = load_head(written / "runs" / "fusion")
    head.objective_ = float("nan")
    save_head(head, "linear", tmp_path)
    assert plain((tmp_path / "head.json").read_text())["objective"] is None
    assert validator("head").is_valid(plain((tmp_path / "head.json").read_text()))
    assert np.isnan(load_head(tmp_path).objective_)


COLUMN = re.compile(r"`([a-z_]+(?:<[a-z]+>)?)`")


@pytest.mark.parametrize("table", ["predictions", "trials", "files"])
def test_the_columns_of_tables_are_listed(written, table):
    """docs/formats.md names every column that these tables have."""
    page = (ROOT / "docs" / "formats.md").read_text()
    part = re.search(rf"^### `{table}\.parquet`.*?(?=^##)", page, re.S | re.M)[0]
    listed = [re.compile(re.sub(r"<[a-z]+>", ".+", name) + "$") for name in COLUMN.findall(part)]
    found = {name for path in written.rglob(f"{table}.parquet") for name in pl.read_parquet_schema(path)}
    assert found
    assert not [name for name in found if not any(one.match(name) for one in listed)]


def test_the_page_names_every_schema():
    """Each schema is linked from the page, and each link leads to a schema."""
    page = (ROOT / "docs" / "formats.md").read_text()
    assert set(re.findall(r"\(schemas/([a-z]+)\.schema\.json\)", page)) == set(SCHEMAS)
