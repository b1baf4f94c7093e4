"""Input that cannot be used: one line that says what, where and what to do, status 1, and not a file changed."""

import json

import polars as pl
import pytest

FIT = ("--features", "texture/image", "--label", "grade", "--groups", "none")


def manifest(folder, **columns):
    path = folder / "manifest.csv"
    pl.DataFrame(columns).write_csv(path)
    return path


# Manifests


def test_a_missing_manifest(refused, images):
    """A manifest that is not there is named, with the nearest file that is."""
    error = refused("embed", images / "manfest.csv", images / "a.hw", "--encoder", "stub:8")
    assert "manfest.csv" in error
    assert "Did you mean 'manifest.csv'?" in error


@pytest.mark.parametrize("option", ["image", "text", "id"])
def test_a_missing_column_of_the_manifest(refused, images, option):
    """A column that a manifest lacks is refused with the option, the nearest column and all of them."""
    error = refused("embed", images / "manifest.csv", images / "a.hw", "--encoder", "stub:8", f"--{option}", "capton")
    assert f"--{option}" in error
    assert "Did you mean 'caption'?" in error
    assert "'patient'" in error


def test_an_empty_table(refused, tmp_path):
    """A table without rows is refused."""
    path = manifest(tmp_path, id=pl.Series([], dtype=pl.String), image=pl.Series([], dtype=pl.String))
    assert "has no rows" in refused("embed", path, tmp_path / "a.hw", "--encoder", "stub:8")


def test_ids_that_repeat(refused, tmp_path):
    """Ids that stand in several rows are named."""
    path = manifest(tmp_path, id=["a", "b", "a"], text=["one", "two", "three"])
    assert "'a' (2 rows)" in refused("embed", path, tmp_path / "a.hw", "--encoder", "stub:8")


def test_a_row_with_nothing_in_it(refused, tmp_path):
    """A row with neither image nor text is named by its number."""
    path = manifest(tmp_path, id=["a", "b"], image=["a.png", ""], text=["one", " "])
    assert "row 2 has neither image nor text" in refused("embed", path, tmp_path / "a.hw", "--encoder", "stub:8")


def test_a_manifest_without_what_the_encoder_reads(refused, tmp_path):
    """An encoder of texts refuses a manifest without texts, and says how to name the column."""
    path = manifest(tmp_path, id=["a"], image=["a.png"], remarks=["x"])
    error = refused("embed", path, tmp_path / "a.hw", "--encoder", "builtin:ngram")
    assert "--text COLUMN" in error


# Encoders and settings


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ("builtn:texture", "Did you mean 'builtin'?"),
        ("builtin:textur", "Did you mean 'texture'?"),
        ("builtin", "names no model"),
        ("stub:many", "stub:DIM"),
        ("stub:²", "stub:DIM"),
    ],
)
def test_an_unknown_encoder(refused, images, encoder, expected):
    """An encoder that is not known is refused with the nearest that is."""
    assert expected in refused("embed", images / "manifest.csv", images / "a.hw", "--encoder", encoder)


def test_an_unknown_timm_model(refused, images):
    """A timm model that is not known is refused with a near one, before anything is fetched."""
    pytest.importorskip("timm")
    error = refused("embed", images / "manifest.csv", images / "a.hw", "--encoder", "timm:resnet3", "--device", "cpu")
    assert "resnet34" in error


def test_weights_that_do_not_fit(refused, images, tmp_path):
    """Weights of another model are refused with the names of tensors that are missing and left over."""
    pytest.importorskip("timm")
    import torch
    from safetensors.torch import save_file

    save_file({"stranger.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    words = ("--encoder", "timm:test_resnet", "--weights", tmp_path / "other.safetensors", "--device", "cpu")
    error = refused("embed", images / "manifest.csv", images / "a.hw", *words)
    assert "do not fit" in error
    assert "stranger.weight" in error
    assert "tensors missing" in error


def test_weights_that_are_not_there(refused, images):
    """A weights file that is missing is named."""
    pytest.importorskip("timm")
    words = ("--encoder", "timm:test_resnet", "--weights", images / "no.safetensors", "--device", "cpu")
    assert "no.safetensors: no such file" in refused("embed", images / "manifest.csv", images / "a.hw", *words)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--on-error", "ignore", "skip, stop"),
        ("--dtype", "float61", "Did you mean 'float16'?"),
        ("--device", "cudo", "Did you mean 'cuda'?"),
        ("--precision", "fp31", "Did you mean 'fp32'?"),
        ("--name", "a b", "'a b/image' is not a name of features. Write NAME/image"),
        ("--name", "../up", "'../up/image' is not a name of features. Write NAME/image"),
        ("--tokens", "few", "tokens must be"),
        ("--tokens", "²", "tokens must be"),
        ("--shard", "²/3", "--shard '²/3' must be I/N"),
        ("--shard", "1/" + "9" * 5000, "must be I/N"),
        ("--step", "background=²", "background=²"),
        ("--step", "resize=" + "9" * 5000 + "x2", "resize=999"),
        ("--ray-address", "auto", "--ray-address goes with --engine ray."),
    ],
)
def test_settings_of_embed(refused, images, option, value, expected):
    """A setting that is none of those allowed is refused, whatever the encoder makes of it."""
    words = ("--encoder", "builtin:texture", option, value)
    assert expected in refused("embed", images / "manifest.csv", images / "a.hw", *words)


# Stores


def test_a_store_that_is_a_file(refused, images):
    """A file where the store should be is left alone, by every command."""
    path = images / "manifest.csv"
    assert "is a file, not a store" in refused("embed", path, path, "--encoder", "stub:8")
    assert "is not a headwater store" in refused("info", path)
    for dry in ((), ("--dry-run",)):
        error = refused("embed", path, path / "x", "--encoder", "stub:8", *dry)
        assert f"{path / 'x'} cannot be a store: {path} is a file, not a folder" in error


def test_a_store_that_is_another_folder(refused, images):
    """A folder that holds other things is left alone, by every command."""
    assert f"{images} is a folder with other files, not a store." in refused(
        "embed", images / "manifest.csv", images, "--encoder", "stub:8"
    )
    for words in (("info",), ("verify",), ("fit-head", *FIT), ("similar", "--features", "a/image", "--id", "x")):
        assert "is not a headwater store" in refused(words[0], images, *words[1:])


def test_no_store(refused, tmp_path):
    """Where there is no store, the error says how to make one."""
    assert "headwater embed MANIFEST" in refused("info", tmp_path / "a.hw")


def test_a_store_of_a_newer_format(refused, store, gallery):
    """A store of a newer format is neither read nor written."""
    (store / "store.json").write_text(json.dumps({"format": 2}))
    assert "Upgrade headwater" in refused("info", store)
    assert "Upgrade headwater" in refused("embed", gallery / "manifest.csv", store, "--encoder", "builtin:ngram")


@pytest.mark.parametrize("text", ["", "{}", "[]", "{"])
def test_a_store_whose_first_file_is_damaged(refused, store, text):
    """A store.json that cannot be read is named."""
    (store / "store.json").write_text(text)
    assert "store.json cannot be read" in refused("info", store)


def test_samples_that_something_else_wrote(refused, store):
    """A samples table that lost what headwater keeps beside it is refused."""
    pl.read_parquet(store / "samples.parquet").write_parquet(store / "samples.parquet")
    assert "samples.parquet differs from its checksum" in refused("fit-head", store, *FIT)
    (store / "samples.sum.json").unlink()
    message = refused("fit-head", store, *FIT)
    assert "samples.parquet was written by another tool: it does not say which columns hold ids" in message
    assert "('headwater')" in message  # the missing key of the metadata


def test_damaged_samples(refused, store):
    """A samples table that is not Parquet is named."""
    (store / "samples.parquet").write_bytes(b"PAR1")
    assert "samples.parquet differs from its checksum" in refused("fit-head", store, *FIT)
    (store / "samples.sum.json").unlink()
    assert "samples.parquet: cannot be read" in refused("fit-head", store, *FIT)


def test_features_that_are_not_there(refused, store):
    """Features that a store lacks are refused with the nearest and all there are."""
    error = refused("fit-head", store, "--features", "texture/imag", "--label", "grade", "--groups", "none")
    assert "Did you mean 'texture/image'?" in error
    assert "ngram/text" in error


def test_the_name_of_other_features(refused, store, images):
    """Features of another encoder under the same name are refused field by field, and the samples left as they are."""
    table = pl.read_csv(images / "manifest.csv").head(3)
    table.write_csv(images / "few.csv")
    error = refused("embed", images / "few.csv", store, "--encoder", "stub:8", "--name", "texture")
    assert "encoder: stored 'builtin:texture', now 'stub:8'" in error
    assert "--name" in error


def test_features_that_another_process_writes(refused, store, gallery):
    """While another process writes the same features, the samples are left as they are too."""
    from headwater.store import open_store

    with open_store(store).features("texture/image").writing():
        error = refused("embed", gallery / "manifest.csv", store, "--encoder", "builtin:texture")
    assert "is being written by process" in error


# fit-head


@pytest.mark.parametrize("option", ["--label", "--groups", "--split", "--by"])
def test_a_column_that_the_samples_lack(refused, store, option):
    """A column that the samples lack is refused with the option, the nearest column and all of them."""
    words = dict(zip(FIT[::2], FIT[1::2], strict=True)) | {option: "grades"}
    error = refused("fit-head", store, *(w for pair in words.items() for w in pair))
    assert f"{option}: no column 'grades'. Did you mean 'grade'?" in error
    assert "patient" in error


def test_labels_that_teach_nothing(refused, store):
    """A label column that is constant, or empty, is refused."""
    for label, expected in (("same", "'same' is 'x' in all 48 samples"), ("empty", "'empty' is empty in all 48")):
        assert expected in refused(
            "fit-head", store, "--features", "texture/image", "--label", label, "--groups", "none"
        )


def test_labels_that_are_measurements(refused, images, store):
    """A label column of measurements is refused by its name."""
    pl.read_csv(images / "manifest.csv").with_columns(width=pl.col("age") / 7).write_csv(images / "manifest.csv")
    refuse = ("fit-head", store, "--features", "ngram/text", "--groups", "none", "--label")
    from headwater.api import embed

    embed(images / "manifest.csv", store, encoder="builtin:ngram")
    assert "label column 'width' holds measurements" in refused(*refuse, "width")
    assert "label column 'age' must hold only 0 and 1" in refused(*refuse, "age", "--label", "same")


def test_more_folds_than_groups(refused, store):
    """More folds than there are groups are refused with their number."""
    error = refused("fit-head", store, *FIT[:-1], "site", "--folds", "5")
    assert "5 folds requested, but there are only 2 groups" in error


def test_groups_that_are_missing(refused, images):
    """A sample without a group is named, with the way to leave such samples out."""
    from headwater.api import embed

    table = pl.read_csv(images / "manifest.csv")
    table = table.with_columns(pl.when(pl.col("id") == "s03").then(None).otherwise(pl.col("patient")).alias("patient"))
    table.write_csv(images / "manifest.csv")
    embed(images / "manifest.csv", images / "a.hw", encoder="stub:8")
    words = ("fit-head", images / "a.hw", "--features", "stub-8/image", "--label", "grade", "--groups", "patient")
    error = refused(*words)
    assert "--groups patient is empty in 1 sample, such as 's03'" in error
    assert "IS NOT NULL" in error


@pytest.mark.parametrize("option", ["--groups", "--split"])
@pytest.mark.parametrize("blank", ["", "  "])
def test_groups_that_are_blank(refused, make_store, blank, option):
    """A blank cell is no group: ten patients and a blank in half the rows are not eleven groups."""
    who = [f"p{i}" if i < 10 else blank for i in range(20)]
    store = make_store([[float(i)] for i in range(20)], label=["a", "b"] * 10, who=who)
    words = ("fit-head", store.path, "--features", "made/image", "--label", "label", option, "who")
    error = refused(*words)
    assert f"{option} who is empty in 10 samples, such as 'r010'" in error
    where = error.split("--where '")[1].split("'")[0]
    assert len(store.select(where)) == 10


def test_an_obvious_patient_column(refused, store, command, tmp_path):
    """Without --groups, a manifest with a patient column is refused; --groups none says that it was meant so."""
    error = refused("fit-head", store, *FIT[:-2], "--out", tmp_path / "run")
    assert "--groups patient" in error
    assert "--groups none" in error
    assert command("fit-head", store, *FIT).status == 0


PATIENTS = "Patient ID,subject-id,MRN,Patient.ID,PatientID,patient_no,patient_nr,patients,pid,case,Case ID,slide"
PATIENTS += ",slide_id,study_id,donor,donor_id,exam_id,participant"


@pytest.mark.parametrize("column", PATIENTS.split(","))
def test_patient_columns_are_known_by_many_names(refused, command, make_store, column):
    """A patient column counts as one in any case, with any separators, but only where a value repeats."""
    columns = {"label": ["a", "b"] * 10, column: [f"p{i // 2}" for i in range(20)]}
    store = make_store([[float(i)] for i in range(20)], **columns)
    words = ("fit-head", store.path, "--features", "made/image", "--label", "label", "--set", "C=1")
    assert f"a column {column!r}" in refused(*words)
    for own in ([f"p{i}" for i in range(20)], [f"p{i}" if i < 10 else (None, "")[i % 2] for i in range(20)]):
        store.write_samples(store.samples.with_columns(pl.Series(column, own)), store.roles)
        assert command(*words).status == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--head", "liner"), "Did you mean 'linear'?"),
        (("--head", "zero-shot"), "headwater zero-shot"),
        (("--set", "tool=1"), "no parameter 'tool'. Did you mean 'tol'?"),
        (("--set", "C"), "PARAM=VALUE"),
        (("--set", "C=large"), "--set C=large: C must be a number"),
        (("--set", "C=true"), "C must be a number"),
        (("--set", 'C=[1,"a"]'), "C must be a number, or a list of such"),
        (("--set", "C=[]"), "C must be a number, or a list of such"),
        (("--head", "mlp", "--set", "hidden=64"), "hidden must be a list, each part a whole number"),
        (("--set", "standardize=no"), "standardize must be true or false"),
        (("--set", "max_iter=1.5"), "max_iter must be a whole number"),
        (("--set", "C=-1"), "C must be above 0"),
        (("--folds", "1"), "at least 2"),
        (("--folds", "100"), "100 folds requested"),
        (("--folds", "5", "--holdout", "0.2"), "--folds goes without --holdout"),
        (("--folds", "3", "--split", "site"), "--folds goes without --split"),
        (("--set", "C=1", "--set", "C=2"), "--set C=2: C was set before"),
        (("--holdout", "2"), "between 0 and 1"),
        (("--holdout", "nan"), "--holdout must be a finite number"),
        (("--holdout", "0.2", "--split", "site"), "--split goes without --holdout: pass one of them"),
        (("--allow-leakage", " "), "--allow-leakage needs a reason in words"),
        (("--split", "site"), "train, val and test"),
        (("--label", "age"), "must hold only 0 and 1"),
        (("--label-separator", ";", "--label", "tags"), "--label-separator goes with one --label"),
        (("--label-separator", ""), "--label-separator is empty: give the text between two labels"),
    ],
)
def test_settings_of_fit_head(refused, store, tmp_path, words, expected):
    """A head, a parameter or a split that cannot be is refused, and no run directory is made."""
    assert expected in refused("fit-head", store, *FIT, *words, "--out", tmp_path / "run")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("agee > 3", "Did you mean 'age'?"),
        ('site = "north"', "single quotes"),
        ("age >", "cannot be used"),
        ("age", "Boolean"),
        ("age = 'x'", "cannot be used"),
        ("SELECT 1", "cannot be used"),
        ("", "cannot be used"),
        ("age > 1000", "is true for none of the 48 samples"),
    ],
)
def test_where_that_cannot_be_used(refused, store, where, expected):
    """An expression that cannot be used is quoted, with the reason and the columns; one that holds nowhere, too."""
    for words in (("fit-head", store, *FIT), ("similar", store, "--features", "texture/image", "--id", "s01")):
        error = refused(*words, "--where", where)
        assert expected in error
        assert repr(where) in error


def test_out_that_holds_something_else(refused, store, images):
    """A run is written neither over a file nor into a folder of other things."""
    for out in (images, images / "manifest.csv", store):
        assert "is not a run" in refused("fit-head", store, *FIT, "--out", out)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"model_type": "bert"}'),
        ("config.json", '["fit-head"]'),
        ("config.json", '{"command": "train"}'),
        ("config.json", "no JSON"),
        ("metrics.json", "{}"),
    ],
)
def test_out_that_holds_something_of_a_like_name(refused, store, tmp_path, name, text):
    """A folder is a run by what its config.json says, not by the names of its files."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).write_text(text)
    assert "is not a run" in refused("fit-head", store, *FIT, "--out", tmp_path / "model")


def test_out_that_holds_half_a_run(command, store, tmp_path):
    """A run whose writing was cut short is written over."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"command": "zero-shot"}')
    assert command("fit-head", store, *FIT, "--out", tmp_path / "run").status == 0


def test_demo_does_not_clear_a_folder(refused, images):
    """The demonstration makes its folder anew only where it made it."""
    for out in (images, images / "manifest.csv"):
        assert "holds something else" in refused("demo", "--out", out)


# zero-shot, similar, index


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "no such file"),
        ("classes = ", "not TOML"),
        ("templates = ['a {}']", "[classes]"),
        ("[classes]\nlow = 'x'", "at least two labels"),
        ("templates = ['a photo']\n[classes]\nlow = 'x'\nhigh = 'y'", "with {} in it"),
        ("[classes]\nlow = 'x'\nhigh = []", "'high' needs a descriptor"),
        (
            "[classes]\nlow = 'x'\nhigh = 3",
            "'high' needs a descriptor",
        ),
        ("[classes]\nlow = 'x'\nhgh = 'y'", "has no class for label 'high'. Did you mean 'hgh'?"),
    ],
)
def test_prompts_that_cannot_be_used(refused, store, tmp_path, text, expected):
    """A prompts file that is missing, or lacks something, is named with what it needs; no prompt is embedded."""
    path = tmp_path / "prompts.toml"
    if text is not None:
        path.write_text(text)
    error = refused("zero-shot", store, "--features", "stub-16", "--prompts", path, "--label", "grade")
    assert expected in error
    assert "prompts.toml" in error


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("texture", "builtin:texture, which made texture/image, does not encode texts"),
        ("sub-16", "Did you mean 'stub-16/image'?"),
        ("ngram", "no features 'ngram/image'. Did you mean 'ngram/text'?"),
    ],
)
def test_zero_shot_needs_a_dual_encoder(refused, store, tmp_path, features, expected):
    """An encoder that lacks the image or the text side is refused."""
    path = tmp_path / "prompts.toml"
    path.write_text("[classes]\nlow = 'smooth'\nhigh = 'rough'")
    assert expected in refused("zero-shot", store, "--features", features, "--prompts", path, "--label", "grade")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--id", "s9"), "no sample 's9'. Did you mean"),
        ((), "pass one query: --id, --image or --text"),
        (("--id", "s01", "--text", "x"), "pass one query: --id, --image or --text"),
        (("--text", "x"), "builtin:texture, which made texture/image, does not encode texts"),
        (("--text", "x", "--exclude-same", "patient"), "goes with --id"),
        (("--image", "nothing.png"), "image file not found"),
        (("--id", "s01", "--exclude-same", "patent"), "--exclude-same: no column 'patent'. Did you mean 'patient'?"),
        (("--id", "s01", "--index", "flt"), "Did you mean 'flat'?"),
        (("--id", "s01", "--index", "flat"), "headwater index"),
        (("--id", "s01", "--weights", "w.pt"), "--weights goes with --image or --text"),
        (("--id", "s01", "--trust-remote-code"), "--trust-remote-code goes with --image or --text"),
    ],
)
def test_questions_that_cannot_be_answered(refused, store, words, expected):
    """A search for something that is not there is refused."""
    assert expected in refused("similar", store, "--features", "texture/image", *words)


def test_an_index_that_cannot_be_built(refused, store):
    """An index of an unknown kind, or of too few vectors, is refused and leaves nothing behind."""
    pytest.importorskip("faiss")
    for kind, expected in (
        ("flt", "Did you mean 'flat'?"),
        ("ivfpq", "needs at least 624 usable rows, but there are 48. Use flat"),
    ):
        assert expected in refused("index", store, "--features", "texture/image", "--kind", kind)


def test_a_run_that_is_not_there(tmp_path):
    """Opening what is no run says how to make one."""
    from headwater.api import open_run
    from headwater.errors import HeadError

    with pytest.raises(HeadError, match="fit-head"):
        open_run(tmp_path)


@pytest.mark.parametrize("words", [("--head", "knn"), ("--set", "C=0.1"), ("--set", "C=[0.1,1]"), ("--trials", "3")])
def test_a_fine_grid_of_what_has_no_penalty(store, refused, words):
    """--fine wants a head whose grid is of one penalty, and nothing else to select by."""
    pytest.importorskip("optuna")
    options = ("--features", "texture/image", "--label", "grade", "--groups", "patient", "--fine", *words)
    assert "--fine goes with a head" in refused("fit-head", store, *options)
