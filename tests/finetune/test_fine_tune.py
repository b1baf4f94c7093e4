"""Encoder and head trained together."""

import json
import re
import shutil

import numpy as np
import polars as pl
import pytest

import headwater as hw
from headwater.embed import load_again, load_encoder
from headwater.errors import EncoderError, HeadError, InputError, ManifestError, SpecMismatch, SplitError
from headwater.finetune import loop
from headwater.finetune.adapt import LoraSettings

pytest.importorskip("torch")
QUICK = {
    "label": "label",
    "groups": "patient",
    "folds": 2,
    "epochs": 2,
    "batch_size": 16,
    "device": "cpu",
    "precision": "fp32",
    "params": {"C": 0.01},
}
EXACT = {"dtype": "float32", "device": "cpu", "precision": "fp32"}
SMALL = {"width": 8, "heads": 2, "blocks": 1, "hidden": [8], "epochs": 2, "dropout": 0.0}


def tuned(cases, spec, **options):
    lora = {"lora": LoraSettings(rank=2)} if options.get("train", "lora") == "lora" else {}
    return hw.fine_tune(cases, encoder=spec, **{**QUICK, **lora, **options})


def scores(run):
    return run.predictions.select(pl.selectors.starts_with("score_")).to_numpy()


@pytest.mark.parametrize("train", ["lora", "last-1", "full"])
def test_what_a_run_holds(cases, tiny, tmp_path, train):
    """A run has the files, metrics and folds of fit-head, curves, what was trained, and frozen features beside."""
    run = tuned(cases, tiny("timm-vit").spec, train=train, out=tmp_path / "run")
    again = hw.open_run(tmp_path / "run")
    assert again.cost["peak_memory_bytes"] > 1e7
    assert again.metrics == run.metrics
    assert again.config["command"] == "fine-tune"
    assert len(run.predictions) == 48
    assert run.predictions["id"].n_unique() == 48
    assert set(run.metrics["frozen"]["mean"]) == set(run.metrics["mean"])
    assert again.curves.filter(pl.col("epoch") > 0)["train_loss"].is_finite().all()
    assert again.curves["fold"].unique().to_list() == [None, 0, 1]
    assert run.metrics["training"]["of_the_encoder"] < run.metrics["training"]["encoder_parameters"] or train == "full"
    assert again.config["trained_parameters"][tiny("timm-vit").spec]
    assert any("tuning" in line or "no epoch" in line for line in run.lines())
    assert not list(tmp_path.glob(".run*"))


def test_labels_that_mean_the_same_are_merged(cases, tiny, tmp_path, command):
    """A run with merged labels is that on labels that were merged before, and evaluate merges them again."""
    spec, table = tiny("timm-vit").spec, pl.read_csv(cases)
    images = (str(cases.parent) + "/" + table["image"]).alias("image")
    two_names = pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("bland")).otherwise("label")
    mixed = pl.when(pl.col("label") == "benign").then(two_names).otherwise("label").alias("mixed")
    table.with_columns(images, mixed).write_csv(tmp_path / "cases.csv")
    asked = {"train": "last-1", "epochs": 1}
    run = tuned(tmp_path / "cases.csv", spec, label="mixed", merge={"bland": "benign"}, out=tmp_path / "run", **asked)
    plain = tuned(tmp_path / "cases.csv", spec, **asked)
    assert run.config["merge"] == {"bland": "benign"}
    assert (run.metrics["classes"], run.mean) == (["benign", "malignant"], plain.mean)
    store = hw.embed(
        tmp_path / "cases.csv", tmp_path / "a.hw", encoder=spec, adapter=tmp_path / "run", device="cpu", name="tuned"
    )
    found = hw.evaluate(
        tmp_path / "run", store, features="tuned/image", label="mixed", groups="patient", allow_leakage="a test"
    )
    assert found.metrics["classes"] == ["benign", "malignant"]
    (tmp_path / "m.toml").write_text('"malignant" = "grave"\n"*" = "other"\n')
    words = ["fine-tune", tmp_path / "cases.csv", "--encoder", spec, "--label", "mixed", "--groups", "patient"]
    words += ["--folds", 2, "--train", "last-1", "--epochs", 1, "--set", "C=0.01", "--no-refit"]
    for given in ([tmp_path / "m.toml"], ["malignant=grave", "*=other"]):
        merge = [word for one in given for word in ("--merge", one)]
        assert command(*words, *merge, "--out", tmp_path / "other").status == 0
        config = hw.open_run(tmp_path / "other").config
        assert config["classes"] == ["grave", "other"]
        assert config["merge"] == {"malignant": "grave", "benign": "other", "bland": "other"}
    with pytest.raises(InputError, match="--merge blnd=benign: no sample has label 'blnd'"):
        tuned(tmp_path / "cases.csv", spec, label="mixed", merge={"blnd": "benign"}, **asked)


def test_a_label_that_an_expression_defines(cases, tiny, tmp_path):
    """The label of an expression over the manifest is that of a column, and evaluate finds the training samples."""
    spec = tiny("timm-vit").spec
    run = tuned(cases, spec, train="last-1", label="rough = label = 'malignant'", epochs=1, out=tmp_path / "run")
    assert (run.config["label"], run.config["label_sql"]) == (["rough"], {"rough": "label = 'malignant'"})
    labels = pl.read_csv(cases)["label"].to_list()
    assert [label == 1 for label in run.predictions.sort(pl.col("id").str.slice(5).cast(int))["label"].to_list()] == [
        label == "malignant" for label in labels
    ]
    store = hw.embed(cases, tmp_path / "a.hw", encoder=spec, adapter=tmp_path / "run", device="cpu", name="tuned")
    found = hw.evaluate(
        tmp_path / "run",
        store,
        features=["tuned/image"],
        label="rough = label = 'malignant'",
        groups="patient",
        allow_leakage="the same samples, to see that they are found",
    )
    assert found.metrics["external"]["shared"]["image"] == 48


def test_its_splits_are_those_of_fit_head(cases, tiny, tmp_path):
    """Fold by fold, the same samples are tested as by fit-head, and the frozen head scores them as it does."""
    spec = tiny("timm-vit").spec
    run = tuned(cases, spec, patience=None, epochs=1)
    store = hw.embed(
        cases, tmp_path / "s.hw", encoder=spec, name="vit", device="cpu", dtype="float32", precision="fp32"
    )
    frozen = hw.fit_head(store, features="vit/image", label="label", groups="patient", folds=2, params={"C": 0.01})
    assert run.predictions.select("id", "fold").equals(frozen.predictions.select("id", "fold"))
    assert run.metrics["frozen"]["mean"]["auc"] == pytest.approx(frozen.mean["auc"], abs=1e-6)
    assert run.metrics["frozen"]["mean"]["log_loss"] == pytest.approx(frozen.mean["log_loss"], abs=1e-4)
    compared = hw.compare([run, frozen])
    assert compared.lines()


@pytest.fixture
def elsewhere(tmp_path, picture):
    """Another data set: a manifest of 20 other images."""
    lines = ["id,image,label,patient"]
    for i in range(20):
        picture(tmp_path / f"other-{i}.png", 1000 + i)
        lines.append(f"other-{i},other-{i}.png,{('benign', 'malignant')[i % 2]},q{i // 2}")
    (tmp_path / "other.csv").write_text("\n".join(lines))
    return tmp_path / "other.csv"


@pytest.mark.parametrize("head", ["linear", "token-mlp"])
def test_a_tuned_head_on_another_data_set(cases, elsewhere, tiny, tmp_path, head):
    """The head that was trained with an encoder is evaluated on what this encoder makes of other images."""
    spec, run = tiny("timm-vit").spec, tmp_path / "run"
    options = {} if head == "linear" else {"head": head, "params": {"width": 8, "hidden": [], "blocks": 0}}
    made = tuned(cases, spec, out=run, epochs=1, **options)
    tokens = "none" if head == "linear" else "all"
    embedding = {"encoder": spec, "tokens": tokens, "device": "cpu"}
    store = hw.embed(elsewhere, tmp_path / "b.hw", adapter=run, name="tuned", **embedding)
    asked = {"label": "label", "groups": "patient"}
    with pytest.raises(InputError, match="Pass --features tuned/image"):
        hw.evaluate(run, store, **asked)
    found = hw.evaluate(run, store, features="tuned/image", **asked, out=tmp_path / "external")
    X = store.read("tuned/image", tokens=tokens == "all").X
    assert np.allclose(scores(found), made.head.predict_proba(X[:] if tokens == "none" else X), atol=1e-5)
    assert found.metrics["external"]["shared"] == {"image": 0}
    (own,) = made.config["features"]
    frozen = hw.embed(elsewhere, tmp_path / "c.hw", name=own.split("/")[0], **embedding)
    with pytest.raises(SpecMismatch, match=r"adapter: .* in the run, None here.*--encoder .* --adapter .*run"):
        hw.evaluate(run, frozen, **asked)


def test_a_tuned_head_on_its_own_images(cases, tiny, tmp_path, capsys):
    """Images that a run trained on are no other data set; where they are not to be found any more, that is said."""
    spec, run = tiny("timm-vit").spec, tmp_path / "run"
    folder = shutil.copytree(cases.parent, tmp_path / "moved")
    tuned(folder / cases.name, spec, out=run, epochs=1)
    store = hw.embed(cases, tmp_path / "b.hw", encoder=spec, adapter=run, name="tuned", device="cpu")
    asked = {"features": "tuned/image", "label": "label", "groups": "patient"}
    with pytest.raises(SplitError, match="among 48 samples there are 48 samples whose image the head was fitted on"):
        hw.evaluate(run, store, **asked)
    words = "cannot check whether the run was trained on any of these samples: "
    for gone, why in ((folder.glob("*.png"), "48 images of .* cannot be read$"), (folder.glob("*.csv"), "")):
        for path in gone:
            path.unlink()
        said = []
        assert hw.evaluate(run, store, **asked, progress=said.append).metrics["external"]["shared"] is None
        assert any(re.match(words + why, line) for line in said)


def test_rows_without_a_label_were_not_trained_on(cases, tiny, tmp_path):
    """Of the manifest that a run trained on, samples that had no label then are another data set."""
    spec, run = tiny("timm-vit").spec, tmp_path / "run"
    table = pl.read_csv(cases).with_columns(image=str(cases.parent) + "/" + pl.col("image"))
    held = pl.col("patient").is_in([f"p{i}" for i in range(8)])
    table.with_columns(label=pl.when(held).then(None).otherwise("label")).write_csv(tmp_path / "some.csv")
    table.filter(held).write_csv(tmp_path / "rest.csv")
    tuned(tmp_path / "some.csv", spec, out=run, epochs=1)
    store = hw.embed(tmp_path / "rest.csv", tmp_path / "b.hw", encoder=spec, adapter=run, name="tuned", device="cpu")
    found = hw.evaluate(run, store, features="tuned/image", label="label", groups="patient")
    assert found.metrics["external"]["shared"] == {"image": 0, "groups": 0}


def test_two_encoders_of_which_one_was_tuned(cases, elsewhere, tiny, tmp_path):
    """A head on images of the tuned encoder and texts of another, which was left as it was, is evaluated on both."""
    vit, bert, run = tiny("timm-vit").spec, tiny("hf-bert").spec, tmp_path / "run"
    options = {"train": ["image=last-1", "text=none"], "text": "text", "head": "mlp", "epochs": 1}
    tuned(cases, [vit, bert], out=run, params={"hidden": [8], "epochs": 2}, **options)
    table = pl.read_csv(elsewhere).with_columns(text="a gland " + pl.col("id"))
    table.write_csv(elsewhere)
    hw.embed(elsewhere, tmp_path / "b.hw", encoder=vit, adapter=run, name="v", device="cpu")
    store = hw.embed(elsewhere, tmp_path / "b.hw", encoder=bert, name="t", device="cpu")
    found = hw.evaluate(run, store, features=["v/image", "t/text"], label="label", groups="patient")
    assert len(found.predictions) == 20
    other = hw.embed(elsewhere, tmp_path / "c.hw", encoder=bert, name="t", device="cpu")
    with pytest.raises(InputError, match=r"no features 'v/image'.*--encoder \S+ --adapter \S+run\.$"):
        hw.evaluate(run, other, features=["v/image", "t/text"], label="label")


def test_a_run_that_does_not_say_what_was_trained(cases, elsewhere, tiny, tmp_path):
    """A run of before it was written down which features its head reads is refused, and not taken for another."""
    spec, run = tiny("timm-vit").spec, tmp_path / "run"
    tuned(cases, spec, out=run, epochs=1)
    config = json.loads((run / "config.json").read_text())
    del config["tokens"]
    (run / "config.json").write_text(json.dumps(config))
    store = hw.embed(elsewhere, tmp_path / "b.hw", encoder=spec, name="v", device="cpu", dtype="float32")
    with pytest.raises(
        InputError, match=r"was made by an older version that did not record what its head reads\. Run fine-tune again"
    ):
        hw.evaluate(run, store, features="v/image", label="label")


def test_a_decoder_tuned_on_pairs(cases, tiny, tmp_path):
    """A decoder reads image and text together in training, and with the adapter makes the features that were scored."""
    spec, prompt = tiny("hf-smolvlm").spec, "{image}Report: {text}, in a word:"
    options = {"lr": 0.003, "refit": False, "epochs": 1, "augment": ["flip"], "out": tmp_path / "run"}
    run = tuned(cases, spec, train="last-1", prompt=prompt, **options)
    assert run.config["prompt"] == prompt
    (name,) = run.config["features"]
    assert name.endswith("/pair")
    assert set(run.metrics["leakage"]["identical_across_splits"]) == {"image", "text"}
    more = {"name": "both", **EXACT}
    store = hw.embed(cases, tmp_path / "s.hw", encoder=spec, adapter=tmp_path / "run", **more)
    first = run.predictions.filter(fold=0)
    data = store.read("both/pair")
    place = {id: i for i, id in enumerate(data.ids.tolist())}
    ours = run.head.predict_proba(data.X[np.array([place[id] for id in first["id"]])])
    np.testing.assert_allclose(ours[:, 1], first["score_malignant"].to_numpy(), atol=2e-3)
    assert store.features("both/pair").spec.adapter


@pytest.mark.parametrize(
    ("member", "choices", "other"),
    [
        ("hf-qwen2_vl", {"pooling": "mean", "layer": "1", "prompt": "{image} is"}, {"pooling": "last-token"}),
        ("hf-smolvlm", {"pooling": "mean-image-tokens"}, {"pooling": "mean"}),
        ("timm-conv", {"layer": "stage2"}, {"layer": "stage1"}),
        ("timm-conv", {"layer": "stage2,stage3"}, {"layer": "stage2"}),
    ],
)
def test_what_was_chosen_of_an_encoder_comes_with_its_adapter(cases, tiny, tmp_path, member, choices, other):
    """Layer, pooling and prompt of the training are those of what its adapter makes, and others are refused."""
    spec = tiny(member).spec
    run = tuned(cases, spec, train="lora", image="image", refit=False, epochs=1, out=tmp_path / "run", **choices)
    assert choices.items() <= run.config.items()
    store = hw.embed(cases, tmp_path / "s.hw", encoder=spec, adapter=tmp_path / "run", name="t", **EXACT)
    made = store.features("t/image").spec
    assert made.layer == choices.get("layer", made.layer).replace(",", "+")
    assert load_again(made, adapter=tmp_path / "run", device="cpu").spec("image", made.dtype).layer == made.layer
    assert made.pooling == choices.get("pooling", made.pooling)
    data, first = store.read("t/image"), run.predictions.filter(fold=0)
    place = {id: i for i, id in enumerate(data.ids.tolist())}
    ours = run.head.predict_proba(data.X[np.array([place[id] for id in first["id"]])])
    np.testing.assert_allclose(ours[:, 1], first["score_malignant"].to_numpy(), atol=2e-3)
    ((option, value),) = other.items()
    with pytest.raises(EncoderError, match=f"was trained with '{choices[option]}'\\. Leave --{option} out"):
        hw.embed(cases, tmp_path / "s.hw", encoder=spec, adapter=tmp_path / "run", name="o", **{option: value})


@pytest.mark.parametrize("member", ["timm-vit", "timm-conv", "hf-clip", "open_clip"])
@pytest.mark.parametrize("train", ["lora", "last-1"])
def test_the_tuned_encoder_goes_back_into_the_store(cases, tiny, tmp_path, member, train):
    """Features embedded with the run's adapter, scored by the run's head, give what the run scored."""
    spec = tiny(member).spec
    run = tuned(cases, spec, train=train, lr=0.003, image="image", refit=False, out=tmp_path / "run")
    store = hw.embed(
        cases,
        tmp_path / "s.hw",
        encoder=spec,
        adapter=tmp_path / "run",
        dtype="float32",
        device="cpu",
        precision="fp32",
    )
    (name,) = [name for name in store.feature_names() if name.endswith("/image")]
    assert name.endswith("-run/image")
    first = run.predictions.filter(fold=0)
    data = store.read(name)
    place = {id: i for i, id in enumerate(data.ids.tolist())}
    X = data.X[np.array([place[id] for id in first["id"]])]
    ours = hw.open_run(tmp_path / "run").head.predict_proba(X)
    np.testing.assert_allclose(ours[:, 1], first["score_malignant"].to_numpy(), atol=2e-3)
    assert store.features(name).spec.adapter


def test_a_killed_run_goes_on_to_the_same_result(cases, tiny, tmp_path, monkeypatch):
    """Stopped at any epoch, the same command ends in the same files, to the bit."""
    spec = tiny("timm-vit").spec
    options = {"epochs": 3, "patience": None, "lr": 0.001, "augment": ["flip", "colour"]}
    options |= {"lora": LoraSettings(rank=2, dropout=0.2)}
    whole = tuned(cases, spec, **options)
    real = loop.Checkpoint.write

    def stopping_at(number):
        def write(self, *state):
            nonlocal count
            real(self, *state)
            count += 1
            if count == number:
                raise KeyboardInterrupt

        count = 0
        return write

    for number in (2, 3, 4):
        monkeypatch.setattr(loop.Checkpoint, "write", stopping_at(number))
        with pytest.raises(KeyboardInterrupt):
            tuned(cases, spec, out=tmp_path / "run", **options)
    monkeypatch.setattr(loop.Checkpoint, "write", real)
    run = tuned(cases, spec, out=tmp_path / "run", **options)
    np.testing.assert_array_equal(scores(run), scores(whole))
    same = ["fold", "epoch", "train_loss", "stop_loss", "lr"]
    assert run.curves.select(same).equals(whole.curves.select(same))
    for name, tensor in whole.adapters[0].tensors.items():
        assert np.array_equal(tensor.numpy(), run.adapters[0].tensors[name].numpy()), name


def test_another_configuration_is_not_gone_on_with(cases, tiny, tmp_path, monkeypatch):
    """What was begun with other settings is an error that names them, and stays; unless nothing was trained yet."""

    def refuse(*words):
        raise InputError("nothing was trained")

    def stop(self, *state):
        self.path.write_bytes(b"a checkpoint")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("headwater.experiment.tune_folds.FoldTraining.all_folds", refuse)
        with pytest.raises(InputError, match="nothing was trained"):
            tuned(cases, tiny("timm-vit").spec, out=tmp_path / "run", epochs=7)

    monkeypatch.setattr(loop.Checkpoint, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        tuned(cases, tiny("timm-vit").spec, out=tmp_path / "run")
    with pytest.raises(InputError, match=r"other settings \(epochs\)"):
        tuned(cases, tiny("timm-vit").spec, out=tmp_path / "run", epochs=5)
    assert (tmp_path / ".run.progress").exists()


def test_parts_of_a_step_are_the_step(cases, tiny):
    """Accumulating gradients over parts of a step gives what the step gives, class weights included."""
    spec = tiny("timm-vit").spec
    options = {"patience": None, "lr": 0.001, "params": {"C": 0.01, "class_weight": {"benign": 3.0}}}
    one = tuned(cases, spec, accumulate=1, **options)
    parts = tuned(cases, spec, accumulate=4, **options)
    np.testing.assert_allclose(scores(parts), scores(one), atol=1e-4)


def test_computing_activations_again_changes_nothing(cases, tiny):
    """With ``checkpoint_gradients`` the result is the same."""
    for member in ("timm-vit", "hf-clip"):
        options = {"patience": None, "image": "image", "lr": 0.001, "epochs": 1}
        one = tuned(cases, tiny(member).spec, **options)
        again = tuned(cases, tiny(member).spec, checkpoint_gradients=True, **options)
        np.testing.assert_allclose(scores(again), scores(one), atol=1e-5)


def test_training_that_never_helps_leaves_the_head_on_frozen_features(cases, tiny):
    """When no epoch lowers the loss of the rows held out, the state before the first is taken."""
    run = tuned(cases, tiny("timm-vit").spec, lr=0.3, head_lr=1.0, patience=1, params={"C": 1e-6})
    curves = run.curves.filter(fold=0)
    best = curves["stop_loss"].arg_min()
    assert best == 0
    assert len(curves) == 2
    assert run.metrics["training"]["epochs_taken"] == [0, 0]
    assert any(
        "no epoch lowered the loss on the held-out rows, so every fold keeps the" in line for line in run.lines()
    )
    assert not any("fine-tuning" in line for line in run.lines())


@pytest.mark.parametrize("head", ["self-attention", "efficient-probing", "token-mlp", "mlp"])
def test_heads_over_tokens_and_networks(cases, tiny, head):
    """Heads over the tokens of an image, and perceptrons, are trained with their encoder."""
    params = {"epochs": 2, "hidden": [8], "warmup": 0.5} if head == "mlp" else {**SMALL, "warmup": 0.5}
    params |= {} if head != "mlp" else {"lr": 0.001, "weight_decay": 0.01, "dropout": 0.1}
    run = tuned(cases, tiny("timm-conv").spec, head=head, params=params, train="last-1")
    assert np.isfinite(scores(run)).all()


@pytest.mark.parametrize("head", ["co-attention", "mlp", "linear"])
def test_image_and_text_of_two_encoders(cases, tiny, head):
    """An image encoder is trained, a frozen text encoder is run once, and the head fuses both."""
    params = {
        "co-attention": {**SMALL, "warmup": 0.5},
        "mlp": {"epochs": 2, "hidden": [8], "fusion": "gated", "warmup": 0.5, "lr": 0.001, "weight_decay": 0.01}
        | {"dropout": 0.0},
        "linear": {"C": 0.01},
    }[head]
    specs = [tiny("timm-conv").spec, tiny("hf-bert").spec]
    run = tuned(cases, specs, head=head, params=params, train=["image=last-1", "text=none"], epochs=1)
    assert set(run.config["trained_parameters"]) == {specs[0]}
    assert list(run.config["features"]) == [
        f"{spec.rpartition('/')[2]}/{m}" for spec, m in zip(specs, ("image", "text"), strict=True)
    ]
    assert np.isfinite(scores(run)).all()


def test_both_towers_of_one_encoder(cases, tiny, tmp_path):
    """Naming the text column makes it an input; both towers are trained, and both come back."""
    spec = tiny("hf-clip").spec
    run = tuned(cases, spec, text="text", train="last-1", lr=0.003, refit=False, out=tmp_path / "run", epochs=1)
    names = run.config["trained_parameters"][spec]
    assert any("vision" in name for name in names)
    assert any("text" in name for name in names)
    store = hw.embed(cases, tmp_path / "s.hw", encoder=spec, adapter=tmp_path / "run", name="t", **EXACT)
    data = store.read("t/image", "t/text")
    first = run.predictions.filter(fold=0)
    place = {id: i for i, id in enumerate(data.ids.tolist())}
    rows = np.array([place[id] for id in first["id"]])
    X = np.concatenate([np.asarray(data.inputs[name][rows]) for name in ("t/image", "t/text")], 1)
    np.testing.assert_allclose(run.head.predict_proba(X)[:, 1], first["score_malignant"].to_numpy(), atol=2e-3)


def test_texts_alone(cases, tiny):
    """A text encoder is tuned on the texts of a manifest."""
    run = tuned(cases, tiny("hf-bert").spec, train="lora", epochs=1)
    assert run.mean["auc"] > 0.8  # seven eighths of the labels can be told by a word


def test_bags(cases, tiny):
    """The images of a slide are one bag; every one is encoded, with gradients."""
    params = {"width": 8, "hidden": [8], "epochs": 2, "dropout": 0.0, "warmup": 0.5}
    run = tuned(
        cases, tiny("timm-conv").spec, head="mil", params=params, bags="slide", label="slide_label", groups="none",
        train="last-1", epochs=1, patience=None, batch_size=4,
    )  # fmt: skip
    assert len(run.predictions) == 12
    assert np.isfinite(scores(run)).all()


def test_bags_by_date(cases, tiny, tmp_path):
    """A bag may be named by what is no text, such as the day of an exam."""
    table = pl.read_csv(cases).with_columns(pl.format("{}/{}", pl.lit(str(cases.parent)), "image").alias("image"))
    day = pl.datetime(2020, 1, 1) + pl.duration(days=pl.int_range(48) // 2)
    table.with_columns(exam=day).write_parquet(tmp_path / "days.parquet")
    options = {"head": "mil", "bags": "exam", "params": {"epochs": 2, "warmup": 0.5, "hidden": [8], "width": 8}}
    run = tuned(tmp_path / "days.parquet", tiny("timm-vit").spec, train="last-1", epochs=1, **options)
    assert len(run.predictions) == 24
    assert run.metrics["leakage"]["identical_across_splits"] == {"image": 0}


def test_views_of_a_case(cases, tiny, tmp_path):
    """Each view is an input of its own, made by one encoder that is trained; the frozen head is fit-head's."""
    table = pl.read_csv(cases).with_columns(pl.format("{}/{}", pl.lit(str(cases.parent)), "image").alias("image"))
    table = table.with_columns(view=pl.Series(["CC", "MLO"] * 24)).drop("text")
    table.sample(fraction=1, shuffle=True, seed=1).write_csv(tmp_path / "views.csv")
    spec = tiny("timm-vit").spec
    options = {"bags": "patient", "views": "view", "groups": "slide"}
    run = tuned(tmp_path / "views.csv", spec, train="last-1", epochs=2, out=tmp_path / "run", **options)
    name = f"{spec.rpartition('/')[2]}/image"
    assert list(run.config["features"]) == [name]
    assert run.config["view_levels"] == ["CC", "MLO"]
    assert len(run.predictions) == 24
    assert len(run.config["trained_parameters"][spec]) > 0
    store = hw.embed(tmp_path / "views.csv", tmp_path / "s.hw", encoder=spec, **EXACT)
    alone = hw.fit_head(store, features=name, label="label", folds=2, params={"C": 0.01}, **options)
    assert run.metrics["frozen"]["mean"]["auc"] == pytest.approx(alone.mean["auc"], abs=1e-6)
    assert run.metrics["frozen"]["mean"]["log_loss"] == pytest.approx(alone.mean["log_loss"], abs=1e-4)
    again = hw.embed(tmp_path / "views.csv", tmp_path / "s.hw", encoder=spec, adapter=tmp_path / "run", **EXACT)
    (name,) = set(again.feature_names()) - {name}
    asked = {"features": name, "label": "label", "groups": "slide"}
    with pytest.raises(
        SplitError, match="48 samples whose image the head was fitted on and 12 slide values that the head was"
    ):
        hw.evaluate(run, again, **asked)
    found = hw.evaluate(run, again, **asked, allow_leakage="a test")
    assert len(found.predictions) == 24


def test_several_labels(cases, tiny):
    """Several labels a sample are trained as one problem each."""
    run = tuned(cases, tiny("timm-vit").spec, label="labels", label_separator=";", epochs=1)
    assert run.metrics["task"] == "multilabel"
    assert scores(run).shape == (48, 3)


def test_levels_and_patients(cases, tiny):
    """``by`` and ``per`` report as they do for heads."""
    run = tuned(cases, tiny("timm-vit").spec, by="slide_label", per="patient", epochs=1)
    assert set(run.metrics["by"]["levels"]) == {"mixed", "other"}
    assert run.metrics["per"]["mean"]["auc"] is not None


def test_tuned_and_frozen_systems_are_reported_alike(cases, tiny, tmp_path):
    """Calibration, threshold and prediction sets are fitted on rows held out to stop by, and kept for new cases."""
    asked = {"calibrate": "temperature", "sensitivity": 0.8, "conformal": 0.2}
    spec, out = tiny("timm-vit").spec, tmp_path / "run"
    run = tuned(cases, spec, patience=2, stop_share=0.4, prevalence=0.1, per="patient", **asked, out=out)
    for section in ("calibration", "threshold", "conformal"):
        assert "held out" in json.dumps(run.metrics[section])
        assert run.metrics[section]["folds"]
        assert run.metrics["frozen"][section]["folds"]
    assert run.metrics["threshold"]["at_prevalence"]["prevalence"] == 0.1
    low, high = run.metrics["threshold"]["intervals"]["sensitivity"]
    assert low <= run.metrics["threshold"]["mean"]["sensitivity"] <= high
    assert run.predictions["set"].list.len().max() <= 2
    decision = hw.open_run(out).decision
    assert decision["threshold"]["target"] == "sensitivity"
    assert {"calibrator", "conformal", "prior"} <= set(decision)


def test_several_seeds_are_several_trainings(cases, tiny, tmp_path):
    """Each seed has its own splits and training; the first gives what it gives alone, and the saved encoder."""
    spec = tiny("timm-vit").spec
    alone = tuned(cases, spec, epochs=1)
    both = tuned(cases, spec, epochs=1, seeds=2, out=tmp_path / "run")
    assert [(fold["seed"], fold["fold"]) for fold in both.metrics["folds"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    first = both.predictions.filter(pl.col("seed") == 0)
    assert first.drop("seed").equals(alone.predictions)
    other = both.predictions.filter(pl.col("seed") == 1)
    assert sorted(other["id"]) == sorted(first["id"])
    assert not other.sort("id")["score_malignant"].equals(first.sort("id")["score_malignant"])
    assert [part["seed"] for part in both.metrics["by_seed"]] == [0, 1]
    assert both.curves["seed"].unique().sort().to_list() == [None, 0, 1]
    assert hw.plot(tmp_path / "run", dpi=50).files


def test_without_held_out_rows_nothing_is_calibrated(cases, tiny):
    with pytest.raises(InputError, match="there are none: pass --patience"):
        tuned(cases, tiny("timm-vit").spec, calibrate="temperature", patience=None)


def test_what_per_names_is_kept_whole(cases, tiny):
    """Folds, selection and the rows to stop by divide no slide when ``per`` names it: all is as with ``groups``."""
    whole, found = (
        tuned(cases, tiny("timm-vit").spec, groups=groups, per="slide", patience=2) for groups in ("slide", "none")
    )
    assert found.predictions.equals(whole.predictions)
    assert found.metrics["per"] == whole.metrics["per"]
    assert found.metrics["frozen"] == whole.metrics["frozen"]


def test_a_random_start_does_not_begin_at_the_probe(cases, tiny):
    """With ``start="random"`` the head is drawn anew."""
    probe = tuned(cases, tiny("timm-vit").spec, epochs=1)
    drawn = tuned(cases, tiny("timm-vit").spec, epochs=1, start="random")
    first = [run.curves.filter(epoch=0, fold=0)["stop_loss"][0] for run in (probe, drawn)]
    assert first[0] != first[1]
    assert probe.metrics["frozen"]["mean"] == drawn.metrics["frozen"]["mean"]


def test_an_adapter_can_be_trained_further(cases, tiny, tmp_path):
    """A run's tuned encoder is where another starts; what both trained comes back."""
    spec = tiny("hf-clip").spec
    options = {"epochs": 1, "lr": 0.003, "patience": None, "refit": False}
    tuned(cases, spec, train="image=last-1", out=tmp_path / "one", **options)
    second = tuned(cases, spec, train="lora", image="image", adapter=tmp_path / "one", out=tmp_path / "two", **options)
    store = hw.embed(cases, tmp_path / "s.hw", encoder=spec, adapter=tmp_path / "two", name="t", **EXACT)
    first = second.predictions.filter(fold=0)
    data = store.read("t/image")
    place = {id: i for i, id in enumerate(data.ids.tolist())}
    X = np.asarray(data.X[np.array([place[id] for id in first["id"]])])
    np.testing.assert_allclose(second.head.predict_proba(X)[:, 1], first["score_malignant"].to_numpy(), atol=2e-3)


def test_a_run_of_two_encoders_is_gone_on_with_where_one_was_tuned(cases, tiny, tmp_path):
    """The encoder that a run tuned starts as it ended there; the other as it comes."""
    specs = [tiny("timm-conv").spec, tiny("hf-bert").spec]
    options = {"train": ["image=last-1", "text=none"], "epochs": 1, "lr": 0.003, "patience": None, "refit": False}
    tuned(cases, specs, out=tmp_path / "one", **options)
    both = options | {"train": ["image=last-1", "text=last-1"]}
    second = tuned(cases, specs, adapter=tmp_path / "one", out=tmp_path / "two", **both)
    of_image, of_text = (
        load_encoder(spec, adapter=tmp_path / "two", device="cpu", precision="fp32").tuned for spec in specs
    )
    assert of_image.before is not None
    assert of_text.before is None
    assert set(second.config["trained_parameters"]) == set(specs)
    with pytest.raises(EncoderError, match=f"has adapters for {specs[0]}, but the encoders are "):
        tuned(cases, [tiny("timm-vit").spec, specs[1]], adapter=tmp_path / "one", **options)


def test_other_labels_are_not_gone_on_with(cases, tiny, tmp_path, monkeypatch):
    """A run that was begun on other labels, or samples in another order, is not gone on with."""

    def stop(self, *state):
        self.path.write_bytes(b"a checkpoint")
        raise KeyboardInterrupt

    real = loop.Checkpoint.write
    monkeypatch.setattr(loop.Checkpoint, "write", stop)
    table = pl.read_csv(cases).with_columns(image=str(cases.parent) + "/" + pl.col("image"))
    table.write_csv(tmp_path / "m.csv")
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path / "m.csv", tiny("timm-vit").spec, out=tmp_path / "run")
    monkeypatch.setattr(loop.Checkpoint, "write", real)
    table.reverse().write_csv(tmp_path / "m.csv")
    with pytest.raises(InputError, match=r"other settings \(samples\)"):
        tuned(tmp_path / "m.csv", tiny("timm-vit").spec, out=tmp_path / "run")


def test_an_unreadable_image_is_left_out(cases, tiny, tmp_path):
    """Files that cannot be decoded are left out with the reason."""
    table = pl.read_csv(cases).with_columns(image=str(cases.parent) + "/" + pl.col("image"))
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    table = table.with_columns(
        image=pl.when(pl.col("id") == "case-3").then(pl.lit(str(tmp_path / "bad.png"))).otherwise("image")
    )
    table.write_csv(tmp_path / "m.csv")
    run = tuned(tmp_path / "m.csv", tiny("timm-vit").spec, epochs=1)
    assert run.metrics["n_samples"] == 47
    assert run.metrics["left_out"] == {"unreadable image": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "none"}, "nothing to tune: run headwater embed, then headwater fit-head"),
        ({"train": ["text=lora"]}, "trains none of the inputs"),
        ({"train": ["lora", "full"]}, "--train is given twice"),
        ({"train": ["sound=lora"]}, "neither image nor text"),
        ({"train": "last-99"}, "fewer than 99"),
        ({"start": "prob"}, "probe, random"),
        ({"batch_norm": "kept"}, "keep, update"),
        ({"augment": ["blur"]}, "There are: colour"),
        ({"epochs": 0}, "at least 1"),
        ({"epochs": 1.5}, "--epochs must be a whole number, but is 1.5"),
        ({"workers": 0}, "--workers must be at least 1"),
        ({"patience": 0}, "--patience must be at least 1"),
        ({"lr": 0.0}, "above 0"),
        ({"lr": float("inf")}, "--lr must be a finite number above 0, but is inf"),
        ({"head_lr": float("nan")}, "--head-lr must be a finite number above 0, but is nan"),
        ({"clip": float("inf")}, "--clip must be a finite number above 0, but is inf"),
        ({"weight_decay": -1.0}, "at least 0"),
        ({"weight_decay": float("nan")}, "--weight-decay must be a finite number at least 0, but is nan"),
        ({"warmup": -1}, "--warmup must be a finite number at least 0, but is -1"),
        ({"stop_share": 0.0}, "stop_share must be a finite number above 0"),
        ({"stop_share": 0.6}, "stop_share must be at most 0.5, but is 0.6"),
        ({"device": "gpu"}, "--device 'gpu'. Did you mean 'cpu'? There are: auto, cpu, cuda"),
        ({"precision": "fp8"}, "There are: auto"),
        ({"batch_norm": "update", "accumulate": 2}, "goes without --accumulate"),
        ({"lora": LoraSettings(rank=0)}, "at least 1"),
        ({"lora": LoraSettings(alpha=float("nan"))}, "--lora-alpha must be a finite number above 0, but is nan"),
        ({"lora": LoraSettings(dropout=1.0)}, "--lora-dropout must be from 0 to below 1"),
        ({"lora": LoraSettings(modules="(")}, "--lora-modules '(' is not a regular expression"),
        ({"lora": LoraSettings(rank=4), "train": "full"}, "--lora-rank goes with --train lora, but --train is full."),
        ({"split": "side", "holdout": 0.2, "folds": None}, "--split goes without --holdout: pass one of them"),
        ({"folds": 1}, "--folds must be at least 2"),
        ({"folds": None, "holdout": 1.5}, "--holdout must be between 0 and 1"),
        ({"allow_leakage": " "}, "--allow-leakage needs a reason in words"),
        ({"label": []}, "--label is an empty list. Name at least one"),
        ({"label": ["label", "image"], "label_separator": ";"}, "--label-separator goes with one --label"),
        ({"label_separator": ""}, "--label-separator is empty"),
        ({"label": "lable"}, "Did you mean 'label'"),
        ({"head": "knn", "params": {}}, "not trained by gradients"),
        ({"head": "co-attention", "params": SMALL}, "needs two inputs"),
        ({"bags": "slide"}, "goes with --head mil"),
        ({"groups": None}, "pass --groups patient"),
        ({"batch_size": 4, "accumulate": 8}, "cannot be divided into 8 parts"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(cases, tiny, options, message):
    """Settings that cannot be are errors of one line that say what to do."""
    with pytest.raises((InputError, HeadError), match=re.escape(message)) as caught:
        tuned(cases, tiny("timm-vit").spec, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("encoder", "options", "message"),
    [
        ([], {}, "--encoder is an empty list. Name at least one."),
        (hw.EncoderChoice("stub:8", weights="a.pt"), {"weights": "b.pt"}, "given twice: a.pt in the EncoderChoice"),
        (hw.EncoderChoice("stub:8", trust_remote_code=True), {}, "fine_tune does not use trust_remote_code"),
        ("stub:8", {"allow_leakage": " "}, "--allow-leakage needs a reason in words"),
    ],
)
@pytest.mark.parametrize("verb", [hw.fine_tune, hw.contrast])
def test_encoders_that_contradict_the_other_options(cases, verb, encoder, options, message):
    """No encoder, options that others would override, and an empty reason are errors before any file is read."""
    label = {"label": "label"} if verb is hw.fine_tune else {}
    message = message.replace("fine_tune", verb.__name__)
    with pytest.raises(InputError, match=re.escape(message)):
        verb(cases.parent / "none.csv", encoder=encoder, **label, **options)


def test_encoders_that_do_not_fit_are_refused(cases, tiny):
    """An encoder without weights, and one without a column, are errors."""
    with pytest.raises(EncoderError, match="cannot be trained"):
        tuned(cases, "builtin:texture")
    with pytest.raises(ManifestError, match=r"the manifest has no column left for timm:.* to encode"):
        tuned(cases, [tiny("timm-vit").spec, tiny("timm-conv").spec])


def test_a_loss_that_is_no_number_stops(cases, tiny):
    """A learning rate beyond all reason is an error that says at which step, and what to lower."""
    with pytest.raises(HeadError, match=r"not finite at step \d+ of epoch \d+: lower lr"):
        tuned(cases, tiny("timm-vit").spec, train="full", lr=1e30, patience=None, epochs=4, clip=1e30)


def test_from_the_command_line(cases, tiny, tmp_path):
    """The command writes the run, and its JSON is the metrics."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "headwater", "fine-tune", str(cases), "--encoder", tiny("timm-vit").spec]
    command += ["--label", "label", "--groups", "patient", "--folds", "2", "--epochs", "1", "--set", "C=0.01"]
    command += ["--train", "last-1", "--augment", "flip", "--out", str(tmp_path / "run"), "--json", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["frozen"]["mean"]["auc"] is not None
    assert "the linear head on frozen features" in done.stderr
    assert hw.open_run(tmp_path / "run").metrics["training"]["processes"] == 1
