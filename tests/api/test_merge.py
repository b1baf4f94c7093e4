"""Labels that mean the same are merged as the user says, and a run is the run of labels that were merged before."""

import json

import numpy as np
import pytest

from headwater.api import evaluate, fit_head, sweep
from headwater.errors import InputError

N = 60


@pytest.fixture
def mixed(make_store):
    """A store in which a kind has two names, and a list of labels two that mean the same."""
    rng = np.random.default_rng(0)
    kind = np.arange(N) // 3 % 3
    X = rng.standard_normal((N, 8))
    X[:, :3] += 1.5 * np.eye(3)[kind]
    names = np.array(["ash", "beech", "cedar"])[kind]
    named = [("Ash tree" if n == "ash" and i % 2 else str(n)) for i, n in enumerate(names)]
    lists = ["; ".join({"ash": ["ash"], "beech": ["beech", "ash"], "cedar": ["oak"]}[n]) for n in names]
    return make_store(
        X,
        kind=named,
        clean=names.tolist(),
        number=kind.tolist(),
        tags=[t.replace("ash", "ash tree") if i % 2 else t for i, t in enumerate(lists)],
        plain=lists,
        one=(kind == 0).astype(int).tolist(),
        two=(kind == 1).astype(int).tolist(),
        three=(kind == 2).astype(int).tolist(),
        either=(kind < 2).astype(int).tolist(),
        patient=[f"p{i // 3}" for i in range(N)],
    )


@pytest.fixture
def fit(command, mixed, tmp_path):
    """Return a function that runs fit-head and reads its run."""

    def run(*words, out="run"):
        asked = ["--features", "made/image", "--groups", "patient", "--folds", "3", "--set", "C=0.1"]
        done = command("fit-head", mixed.path, *asked, *words, "--out", tmp_path / out)
        assert done.status == 0, done.err
        read = json.loads((tmp_path / out / "config.json").read_text())
        return read, json.loads((tmp_path / out / "metrics.json").read_text()), done

    return run


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", "from,to\nAsh tree,ash\n"),
        ("m.tsv", "to\tfrom\nash\tAsh tree\n"),
        ("m.toml", '"Ash tree" = "ash"\n'),
        (None, "Ash tree=ash"),
    ],
)
def test_a_file_of_any_form_merges(fit, tmp_path, name, content):
    """A table, TOML and a pair on the command line make the run that merged labels would have made, and are kept."""
    word = content
    if name is not None:
        (tmp_path / name).write_text(content)
        word = tmp_path / name
    config, metrics, _ = fit("--label", "kind", "--merge", word)
    _, plain, _ = fit("--label", "clean", out="plain")
    assert config["merge"] == {"Ash tree": "ash"}
    assert config["classes"] == metrics["classes"] == ["ash", "beech", "cedar"]
    assert metrics["mean"] == plain["mean"]


@pytest.mark.parametrize(("name", "merged"), [("-1", -1), ("--5", "--5"), ("²", "²"), ("9" * 30, "9" * 30)])
def test_a_number_stays_one_only_if_it_is_written_as_one(fit, name, merged):
    """Whole numbers stay numbers where every name of a class is one, and become text for any other name."""
    config, _, _ = fit("--label", "number", "--merge", f"0={name}")
    assert sorted(map(str, config["classes"])) == sorted([str(merged), "1", "2"])
    assert all(isinstance(found, int) == isinstance(merged, int) for found in config["classes"])


def test_several_labels_are_merged(fit):
    """A sample has a merged label when it has any of those; a label that is mapped to nothing is gone."""
    merged = fit("--label", "tags", "--label-separator", ";", "--merge", "ash tree=ash")[1]
    plain = fit("--label", "plain", "--label-separator", ";", out="plain")[1]
    assert merged["classes"] == ["ash", "beech", "oak"]
    assert merged["mean"] == plain["mean"]
    columns = [word for name in ("one", "two", "three") for word in ("--label", name)]
    of_columns = fit(*columns, "--merge", "one=either", "--merge", "two=either", out="columns")[1]
    assert of_columns["classes"] == ["either", "three"]
    lost = fit(*columns, "--merge", "two=", out="lost")[1]
    assert lost["classes"] == ["one", "three"]
    assert lost["n_samples"] == N


def test_classes_that_are_numbers_stay_numbers(fit):
    """Whole numbers that are merged into one of them stay whole numbers."""
    config, metrics, _ = fit("--label", "number", "--merge", "2=1")
    assert metrics["classes"] == config["classes"] == [0, 1]
    assert metrics["task"] == "binary"


def test_samples_of_a_label_that_is_left_out(fit):
    """A label that is mapped to nothing leaves its samples out, counted."""
    _, metrics, _ = fit("--label", "clean", "--merge", "cedar=")
    assert metrics["left_out"] == {"left out by --merge": 18}
    assert metrics["classes"] == ["ash", "beech"]


def test_a_mapping_may_name_what_another_part_has(fit):
    """A mapping is of the whole store: labels that --where leaves out may stand in it."""
    _, metrics, _ = fit(
        "--label", "kind", "--where", "clean != 'cedar'", "--merge", "Ash tree=ash", "--merge", "cedar=ash"
    )
    assert metrics["classes"] == ["ash", "beech"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--merge", "Ash treee=ash"],
            "--merge Ash treee=ash: no sample has label 'Ash treee'. Did you mean 'Ash tree'?",
        ),
        (["--merge", "ash"], "write LABEL=CLASS"),
        (
            ["--merge", "Ash tree=ash", "--merge", "ash=beech"],
            "--merge Ash tree=ash: 'ash' is itself mapped to 'beech'. Use that.",
        ),
        (["--merge", "Ash tree=ash", "--merge", "cedar=ash", "--merge", "beech=ash"], "nothing to learn"),
        (["--merge", "none.csv"], "no such file"),
        (["--merge", "{}/a.csv"], "has the columns a, b, but needs from and to"),
        (["--merge", "{}/b.csv"], "'Ash tree' is mapped twice"),
        (["--merge", "{}/c.toml"], "c.toml: the value of 'ash' must be a label in quotes"),
        (["--merge", "{}/d.toml"], "is not TOML"),
        (["--merge", "{}/e.csv"], "is empty"),
        (["--merge", "{}/f.csv"], "f.csv: row 1 has no label"),
        (["--merge", "{}/g.json"], "two columns, from and to"),
        (["--merge", "{}/h.csv", "--merge", "Ash tree=ash"], "Ash tree was mapped before"),
    ],
)
def test_mappings_that_cannot_be_used(refused, mixed, tmp_path, words, message):
    """A label that nobody has, and a file of another form, are named with what to write."""
    for name, content in {
        "a.csv": "a,b\nx,y\n",
        "b.csv": "from,to\nAsh tree,ash\nAsh tree,beech\n",
        "c.toml": '[ash]\nto = "beech"\n',
        "d.toml": "Ash tree = ash",
        "e.csv": "",
        "f.csv": "from,to\n,ash\n",
        "g.json": "{}",
        "h.csv": "from,to\nAsh tree,ash\n",
    }.items():
        (tmp_path / name).write_text(content)
    asked = ["--features", "made/image", "--groups", "patient", "--label", "kind", "--out", tmp_path / "run"]
    assert message in refused("fit-head", mixed.path, *asked, *(w.format(tmp_path) for w in words))


def test_one_file_serves_both(mixed, make_store, tmp_path):
    """What merged the labels of a run maps those of another data set."""
    (tmp_path / "m.csv").write_text("from,to\nAsh tree,ash\n")
    asked = {"features": "made/image", "groups": "patient"}
    run = fit_head(mixed, **asked, label="kind", merge=tmp_path / "m.csv", out=tmp_path / "run")
    rng = np.random.default_rng(1)
    other = make_store(
        rng.standard_normal((9, 8)), path="other.hw", first_key=500, kind=["ash", "Ash tree", "beech"] * 3
    )
    again = evaluate(run, other, label="kind", n_draws=100)
    assert again.predictions["label"].to_list() == ["ash", "ash", "beech"] * 3
    tested = evaluate(run, other, label="kind", mapping=tmp_path / "m.csv", n_draws=100)
    assert tested.predictions["label"].to_list() == ["ash", "ash", "beech"] * 3
    assert tested.config["map"] == {"Ash tree": "ash"}


def test_a_sweep_merges_and_selects_on_so_many_inner_folds(command, mixed, tmp_path):
    """sweep takes --merge and --inner-folds as fit-head does; another mapping is another sweep."""
    words = ["sweep", mixed.path, "--features", "made/image", "--label", "kind", "--groups", "patient", "--folds", "3"]
    words += ["--set", "linear.C=[0.1,1]", "--out", tmp_path / "sweep"]
    done = command(*words, "--merge", "Ash tree=ash", "--inner-folds", "2")
    assert done.status == 0, done.err
    config = json.loads((tmp_path / "sweep" / "config.json").read_text())
    assert (config["merge"], config["inner_folds"]) == ({"Ash tree": "ash"}, 2)
    assert "other merge" in command(*words, "--inner-folds", "2").error
    found = sweep(
        mixed,
        features="made/image",
        label="kind",
        groups="patient",
        folds=3,
        params={"linear": {"C": [0.1, 1]}},
        merge={"Ash tree": "ash"},
        inner_folds=2,
        out=tmp_path / "sweep",
    )
    assert found.leaderboard["head"].to_list() == ["linear"]


def test_inner_folds_are_as_many_as_asked(command, mixed):
    """--inner-folds says in how many folds of the training rows settings are selected; fewer than two are refused."""
    done = command(
        *("fit-head", mixed.path, "--features", "made/image", "--groups", "patient", "--label", "clean"),
        *("--set", "C=[0.1,1]", "--inner-folds", "3", "--json"),
    )
    assert json.loads(done.out)["selection"]["inner_folds"] == 3
    assert f"{6 * 3 * 2} fits" in done.err
    with pytest.raises(InputError, match="--inner-folds must be at least 2"):
        fit_head(mixed, features="made/image", label="clean", groups="patient", inner_folds=1)
