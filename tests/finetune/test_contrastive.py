"""Encoders trained on pairs of images and texts."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import headwater as hw
from headwater.errors import HeadwaterError, InputError, SplitError
from headwater.finetune.adapt import LoraSettings
from headwater.finetune.contrastive import Pairs, contrast, retrieval

torch = pytest.importorskip("torch")
QUICK = {
    "groups": "patient",
    "epochs": 2,
    "batch_size": 12,
    "device": "cpu",
    "precision": "fp32",
    "holdout": 0.25,
}
PROMPTS = 'templates = ["a {} gland"]\n[classes]\nbenign = "benign"\nmalignant = "severe"\n'


def units(n, d, seed):
    v = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(v, dim=1)


def test_the_clip_loss_is_that_of_open_clip():
    """Without shared texts the loss is what open_clip computes."""
    from open_clip.loss import ClipLoss

    images, texts, scale = units(6, 5, 0), units(6, 5, 1), torch.tensor(2.0, dtype=torch.float64)
    ours = contrast("clip", images, texts, torch.eye(6, dtype=torch.bool), scale, torch.tensor(0.0))
    torch.testing.assert_close(ours, ClipLoss()(images, texts, scale.exp()))


def test_the_siglip_loss_is_that_of_open_clip():
    """The sigmoid loss is what open_clip computes, bias included."""
    from open_clip.loss import SigLipLoss

    images, texts, scale = units(6, 5, 0), units(6, 5, 1), torch.tensor(2.0, dtype=torch.float64)
    bias = torch.tensor(-3.0, dtype=torch.float64)
    ours = contrast("siglip", images, texts, torch.eye(6, dtype=torch.bool), scale, bias)
    torch.testing.assert_close(ours, SigLipLoss()(images, texts, scale.exp(), bias))


def test_views_of_one_exam_are_no_rivals():
    """Of images that share a report, each is as likely for it; to the sigmoid loss both are matches."""
    images, texts, scale = units(4, 8, 0), units(4, 8, 1), torch.tensor(3.0, dtype=torch.float64)
    texts[1] = texts[0]
    pairs = Pairs(np.arange(4), np.array([0, 0, 2, 3]))
    same = torch.from_numpy(pairs.same(np.arange(4)))
    assert same.sum() == 6
    logits = scale.exp() * images @ texts.T
    soft = same.double() / same.sum(1, keepdim=True)
    expected = (
        torch.nn.functional.cross_entropy(logits, soft) + torch.nn.functional.cross_entropy(logits.T, soft.T)
    ) / 2
    torch.testing.assert_close(contrast("clip", images, texts, same, scale, torch.tensor(0.0)), expected)
    pairwise = torch.nn.functional.binary_cross_entropy_with_logits(logits, same.double(), reduction="sum") / 4
    torch.testing.assert_close(contrast("siglip", images, texts, same, scale, torch.tensor(0.0)), pairwise)


def test_retrieval_counts_distinct_items():
    """Ranks are among distinct texts and images; a text that several images share is found by each."""
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(5, 16))
    texts[1] = texts[0]
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    pairs = Pairs(np.arange(5), np.array([7, 7, 2, 3, 4]))
    found = retrieval(texts, texts, pairs, np.arange(5))
    assert found["image_to_text_r1"] == found["text_to_image_r1"] == 1
    assert found["image_to_text_median_rank"] == 1
    worst = retrieval(-texts, texts, pairs, np.arange(5))
    assert worst["image_to_text_r1"] == 0
    assert worst["image_to_text_median_rank"] == 4


def test_training_on_pairs_teaches_the_words(cases, tiny, tmp_path):
    """After some epochs on smooth and rough images with their words, held-out ones are told apart by prompts."""
    (tmp_path / "p.toml").write_text(PROMPTS)
    word = pl.col("label").replace({"malignant": "severe"})
    table = pl.read_csv(cases).with_columns(
        image=str(cases.parent) + "/" + pl.col("image"),
        text="a "
        + word
        + " gland"
        + pl.when(pl.int_range(pl.len()) % 3 > 0).then(pl.lit(" left")).otherwise(pl.lit("")),
    )
    cases = tmp_path / "m.csv"
    table.write_csv(cases)
    done = hw.contrast(
        cases,
        encoder=tiny("hf-clip").spec,
        prompts=tmp_path / "p.toml",
        label="label",
        out=tmp_path / "run",
        **{**QUICK, "lr": 3e-3, "epochs": 15, "patience": None},
    )
    assert done.metrics["test"]["zero_shot_auc"] > 0.9
    assert done.metrics["test"]["image_to_text_r1"] > done.metrics["before"]["image_to_text_r1"]
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == done.metrics
    store = hw.embed(cases, tmp_path / "s.hw", encoder=tiny("hf-clip").spec, adapter=tmp_path / "run", name="t")
    run = hw.zero_shot(store, features="t", prompts=tmp_path / "p.toml", label="label")
    assert run.mean["auc"] > 0.9
    scale = store.features("t/image").spec.logit_scale
    assert scale == pytest.approx(float(np.exp(done.adapters[0].tensors["logit_scale"].item())), rel=1e-5)
    assert hw.similar(store, features="t/image", text="a severe gland", k=3)


@pytest.mark.parametrize("loss", ["clip", "siglip"])
@pytest.mark.parametrize("member", ["hf-clip", "open_clip", "hf-siglip"])
def test_gradient_caching_is_the_same_step(cases, tiny, loss, member):
    """Encoding a step's pairs in parts gives what encoding them at once gives."""
    options = {**QUICK, "lr": 1e-3, "patience": None, "loss": loss, "train": "last-1"}
    one, parts = (hw.contrast(cases, encoder=tiny(member).spec, accumulate=n, **options) for n in (1, 3))
    for name, tensor in one.adapters[0].tensors.items():
        if not name.endswith(("k_proj.bias", "in_proj_bias")):  # keys' biases move nothing, so rounding moves them
            torch.testing.assert_close(parts.adapters[0].tensors[name], tensor, rtol=2e-2, atol=3e-4, msg=name)
    assert parts.curves["train_loss"][1] == pytest.approx(one.curves["train_loss"][1], rel=1e-4)


@pytest.mark.parametrize("text", ["full", "none"])
def test_two_encoders_are_joined(cases, tiny, tmp_path, text):
    """An image and a text encoder are brought to common vectors; the result is an encoder like any other."""
    (tmp_path / "p.toml").write_text(PROMPTS)
    specs = [tiny("timm-conv").spec, tiny("hf-bert").spec]
    done = hw.contrast(
        cases,
        encoder=specs,
        train=["image=last-1", f"text={text}"],
        dim=16,
        prompts=tmp_path / "p.toml",
        label="label",
        out=tmp_path / "run",
        **{**QUICK, "lr": 1e-3, "head_lr": 1e-2, "epochs": 8, "patience": None},
    )
    assert done.metrics["test"]["zero_shot_auc"] > 0.8
    assert len(done.adapters) == (2 if text == "full" else 1)
    spec = f"joined:{tmp_path / 'run'}"
    options = {"encoder": spec, "name": "j", "device": "cpu", "precision": "fp32"}
    store = hw.embed(cases, tmp_path / "s.hw", text="text", **options)
    assert store.features("j/image").spec.dim == store.features("j/text").spec.dim == 16
    run = hw.zero_shot(store, features="j", prompts=tmp_path / "p.toml", label="label")
    assert run.mean["auc"] > 0.8
    again = hw.embed(cases, tmp_path / "s.hw", text="text", **options)
    assert again.results["j/image"].embedded == 0
    with pytest.raises(
        HeadwaterError, match=r"there are no joined encoders\. Run: headwater contrast … with two --encoder"
    ):
        hw.embed(cases, tmp_path / "s.hw", encoder=f"joined:{tmp_path}", name="k")


def test_a_locked_tower_stays(cases, tiny):
    """With ``image=none`` the images are encoded once, and none of their tower's parameters is trained."""
    done = hw.contrast(cases, encoder=tiny("hf-clip").spec, train=["image=none", "text=full"], **QUICK)
    trained = done.config["trained_parameters"][tiny("hf-clip").spec]
    assert trained
    assert all(name.startswith("text") for name in trained)


def test_two_encoders_of_which_one_was_tuned_before(cases, tiny, tmp_path):
    """A tuned encoder is joined to another if it is trained on; locked, what it was given would be lost: refused."""
    vit, bert, run = tiny("timm-vit").spec, tiny("hf-bert").spec, tmp_path / "run"
    hw.fine_tune(
        cases, encoder=vit, train="last-1", label="label", groups="patient", folds=2, epochs=1, device="cpu", out=run,
        image_size="64", steps=["resize=48x48"],
    )  # fmt: skip
    options = {"encoder": [vit, bert], "adapter": run, "dim": 8, **QUICK, "epochs": 1}
    with pytest.raises(
        InputError,
        match=r"--train image=none with --adapter .*run: two joined encoders cannot keep an adapter that",
    ):
        hw.contrast(cases, train=["image=none", "text=last-1"], **options)
    hw.contrast(cases, train=["image=last-1", "text=none"], out=tmp_path / "pairs", **options)
    joined = {"encoder": f"joined:{tmp_path / 'pairs'}", "name": "j", "device": "cpu"}
    store = hw.embed(cases, tmp_path / "s.hw", text="text", **joined)
    seen = store.features("j/image").spec.preprocessing
    assert (seen["steps"], seen["image_size"]) == (["resize=48x48"], [64, 64])


def test_it_goes_on_where_it_stopped(cases, tiny, tmp_path, monkeypatch):
    """Stopped after an epoch, the same command ends with the same tensors."""
    from headwater.finetune.checkpoint import Checkpoint

    options = {**QUICK, "train": "lora", "lora": LoraSettings(rank=2), "epochs": 3, "patience": None, "lr": 1e-3}
    whole = hw.contrast(cases, encoder=tiny("hf-clip").spec, **options)
    real = Checkpoint.write

    def stopping(self, *state):
        real(self, *state)
        raise KeyboardInterrupt

    for _ in range(2):
        monkeypatch.setattr(Checkpoint, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            hw.contrast(cases, encoder=tiny("hf-clip").spec, out=tmp_path / "run", **options)
    monkeypatch.setattr(Checkpoint, "write", real)
    done = hw.contrast(cases, encoder=tiny("hf-clip").spec, out=tmp_path / "run", **options)
    for name, tensor in whole.adapters[0].tensors.items():
        assert torch.equal(done.adapters[0].tensors[name], tensor), name
    assert not (tmp_path / ".run.progress").exists()


@pytest.mark.parametrize(
    ("member", "options", "message"),
    [
        ("timm-vit", {}, "needs a dual encoder"),
        ("hf-clip", {"loss": "clap"}, "There are: clip, siglip"),
        ("hf-clip", {"label": "label"}, "--prompts and --label go together"),
        ("hf-clip", {"batch_size": 1}, "at least 2"),
        ("hf-clip", {"dim": 8}, "--dim goes with two encoders, which it joins."),
        ("hf-clip", {"split": "patient"}, "--split goes without --holdout: pass one of them"),
        ("hf-clip", {"holdout": 1.0}, "--holdout must be between 0 and 1"),
        ("hf-clip", {"seed": -1}, "--seed must be at least 0"),
        ("hf-clip", {"allow_leakage": " "}, "--allow-leakage needs a reason in words"),
        ("hf-clip", {"train": "full", "lora": LoraSettings(rank=2)}, "--lora-rank goes with --train lora"),
        ("hf-clip", {"train": "none"}, "nothing to tune"),
        ("hf-clip", {"groups": None}, "pass --groups patient"),
        ("hf-clip", {"accumulate": 20}, "cannot be divided into 20 parts"),
    ],
)
def test_what_cannot_be_is_refused(cases, tiny, member, options, message):
    """Settings that cannot be are errors of one line that say what to do."""
    with pytest.raises(HeadwaterError, match=re.escape(message)):
        hw.contrast(cases, encoder=tiny(member).spec, **{**QUICK, **options})


def test_a_split_into_several_folds_is_refused(cases, tiny, tmp_path):
    """A column of fold numbers is an error, since contrastive training has one test set."""
    absolute = pl.format("{}/{}", pl.lit(str(cases.parent)), "image").alias("image")
    fold = pl.Series("fold", [i // 12 for i in range(48)])
    pl.read_csv(cases).with_columns(absolute, fold).write_csv(tmp_path / "m.csv")
    with pytest.raises(
        SplitError, match=r"^--split fold numbers 4 folds, but contrast trains once: name a column with"
    ):
        hw.contrast(
            tmp_path / "m.csv",
            encoder=tiny("hf-clip").spec,
            **{**QUICK, "groups": "none", "split": "fold", "holdout": None},
        )


def test_prompts_are_read_first(cases, tmp_path, monkeypatch):
    """A missing file of prompts is an error before an encoder is loaded."""
    monkeypatch.setattr("headwater.experiment.contrast.load_encoders", lambda *asked, **options: pytest.fail("loaded"))
    with pytest.raises(HeadwaterError, match=r"nope\.toml"):
        hw.contrast(cases, encoder="builtin:clip", prompts=tmp_path / "nope.toml", label="label", **QUICK)


def test_prompts_describe_every_label(cases, tiny, tmp_path):
    """A label without prompts is an error that names it, before training."""
    (tmp_path / "p.toml").write_text(PROMPTS.replace("malignant", "malignent"))
    with pytest.raises(InputError, match=r"has no class for label 'malignant'\. Did you mean 'malignent'\?"):
        hw.contrast(cases, encoder=tiny("hf-clip").spec, prompts=tmp_path / "p.toml", label="label", **QUICK)


def test_the_same_image_on_both_sides_is_refused(cases, tiny, tmp_path):
    """An image file that is tested and trained on, under the names of two patients, needs a reason."""
    table = pl.read_csv(cases).with_columns(pl.format("{}/{}", pl.lit(str(cases.parent)), "image").alias("image"))
    sides = pl.Series("side", ["test" if i < 12 else "train" for i in range(48)])
    copied = table["image"].to_list()
    copied[40] = str(tmp_path / "copy.png")
    shutil.copy(table["image"][2], copied[40])
    table.with_columns(sides, pl.Series("image", copied)).write_csv(tmp_path / "cases.csv")
    options = {**QUICK, "train": "last-1", "epochs": 1, "split": "side", "holdout": None}
    with pytest.raises(SplitError, match=r"1 identical image on both sides \('case-2' and 'case-40'\)\. Pass --groups"):
        hw.contrast(tmp_path / "cases.csv", encoder=tiny("hf-clip").spec, **options)
    with pytest.raises(InputError, match="needs a reason"):
        hw.contrast(tmp_path / "cases.csv", encoder=tiny("hf-clip").spec, allow_leakage=" ", **options)
    said = []
    done = hw.contrast(
        tmp_path / "cases.csv", encoder=tiny("hf-clip").spec, allow_leakage="one scan", progress=said.append, **options
    )
    allowed = [line for line in said if line.startswith("allowed")]
    assert allowed == ["allowed (one scan): 1 identical image on both sides ('case-2' and 'case-40')"]
    assert done.metrics["leakage"] == {
        "groups_across_splits": 0,
        "identical_across_groups": {"image": 1, "text": 4},  # texts of these cases are drawn from a few
        "identical_across_splits": {"image": 1, "text": 4},
        "allowed": "one scan",
    }
    assert done.metrics["n_test_images_in_training"] == 1


def test_from_the_command_line(cases, tiny, tmp_path):
    """``contrast`` writes an encoder, and says how pairs are found."""
    command = [sys.executable, "-m", "headwater", "contrast", str(cases), "--encoder", tiny("hf-clip").spec]
    command += ["--groups", "patient", "--epochs", "1", "--batch-size", "8"]
    done = subprocess.run(
        [*command, "--device", "cpu", "--out", str(tmp_path / "run")], capture_output=True, text=True, check=True
    )
    assert "image_to_text_r1" in done.stdout
    assert "--adapter" in done.stdout


@pytest.mark.parametrize("label", [(), ("--label", "label")])
def test_the_option_it_once_was(command, cases, label):
    """``fine-tune --objective contrastive`` says which command to run now, with ``--label`` or without."""
    done = command("fine-tune", cases, "--encoder", "builtin:clip", *label, "--objective", "contrastive")
    assert done.status == 1
    assert done.error == "headwater: --objective contrastive is a command of its own now: run headwater contrast."
    with pytest.raises(TypeError, match=r"'objective'\. Contrastive training is the function contrast\."):
        hw.fine_tune(cases, encoder="builtin:clip", label="label", objective="contrastive")


def test_a_run_that_is_replaced_is_never_half_of_two(cases, tiny, tmp_path, monkeypatch):
    """Where writing breaks off, what is there is no run; a file of another run is gone when it is whole again."""
    options = {**QUICK, "train": "last-1", "epochs": 1, "encoder": tiny("hf-clip").spec, "out": tmp_path / "run"}
    hw.contrast(cases, **options)
    (tmp_path / "run" / "decision.json").write_text("{}")  # of a run of another kind
    replace, calls = Path.replace, []

    def breaking(self, target):
        if self.parent.name.endswith(".tmp"):
            calls.append(self)
            if len(calls) == 2:
                raise OSError("the disk is gone")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", breaking)
        with pytest.raises(OSError, match="disk is gone"):
            hw.contrast(cases, **{**options, "seed": 1})
    assert not (tmp_path / "run" / "metrics.json").exists()
    hw.contrast(cases, **{**options, "seed": 1})
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 1
    assert not (tmp_path / "run" / "decision.json").exists()
    assert [path.name for path in tmp_path.glob(".run*")] == []
