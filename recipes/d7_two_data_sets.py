"""
D7: Co-attention, trained on two data sets
==========================================

The system of D6, trained on the mammograms of two hospitals at once and tested on each. The study found this better
than training on one, for both of its hospitals and both tasks. Here, two public data sets take their place: RSNA and
CBIS-DDSM for malignancy, VinDr and CBIS-DDSM for calcifications (``--data DIR --external DIR``).
"""

from pathlib import Path

import headwater as hw
import polars as pl
from support import Recipe, small_mammography

recipe = Recipe("D7", "co-attention, trained on two data sets")
sets = ("rsna-mammo", "vindr-mammo", "cbis-ddsm")
first = recipe.manifest(sets, lambda folder: small_mammography(folder, n_patients=60))
second = recipe.external(sets, lambda folder: small_mammography(folder, n_patients=60, seed=1), required=True)

# %%
# One table of both. Labels become columns of the same name and meaning, and no patient number occurs in both. Columns
# that only one of them has are empty in the other. Tasks are those that both data sets have.

marks = {
    "rsna-mammo": {"malignancy": pl.col("label") == 1},
    "vindr-mammo": {"calcification": pl.col("finding_categories").str.contains("Calcification")},
    "cbis-ddsm": {"malignancy": pl.col("label") == "malignant", "calcification": pl.col("type") == "calcification"},
    "synthetic": {"malignancy": pl.col("label") == 1, "calcification": pl.col("finding") == "calcification"},
}
tasks = [task for task in ("malignancy", "calcification") if all(task in marks[kind] for kind in recipe.kinds)]
tables = []
for name, kind, path in zip(("first", "second"), recipe.kinds, (first, second), strict=True):
    table = pl.read_csv(path) if path.suffix == ".csv" else pl.read_parquet(path)
    paths = pl.Series("image", [str(path.parent.resolve() / image) for image in table["image"]])
    whole = "exam" if kind == "vindr-mammo" else "patient"
    names = [pl.format(name + "-{}", "id").alias("id"), pl.format(name + "-{}", whole).alias("patient")]
    labels = [marks[kind][task].cast(pl.Int64).alias(task) for task in tasks]
    tables.append(table.with_columns(paths, *names, *labels, pl.lit(name).alias("dataset")))
pl.concat(tables, how="diagonal_relaxed").write_parquet(recipe.out / "both.parquet")

# %%
# Texts and tokens, as in D6. One template serves both data sets, so the same fact has the same words.

exams, store, template = recipe.out / "exams.parquet", recipe.out / "exams.hw", Path(__file__).parent / "d_report.toml"
print(hw.text(recipe.out / "both.parquet", template=template, out=exams, groups="patient", site="dataset"))
size, steps = "192x128" if recipe.small else recipe.image_size("1520x912"), ["background=40", "breast"]
images = recipe.encoder("timm:resnet34.a1_in1k", small="timm-conv", tokens="all", image_size=size, steps=steps)
texts = recipe.encoder("hf:emilyalsentzer/Bio_ClinicalBERT", small="clip-bert", reads="text", tokens="all")
hw.embed(exams, store, encoder=images, name="mammogram", progress=True)
hw.embed(exams, store, encoder=texts, name="report", text="report", progress=True)

# %%
# Train on both, and report each data set by itself (``by``); then train on each alone. A head that only recognised the
# data set would do well on both together and badly on each, so look at the rows of each.

params = {"tokenizer": "mix", "n_tokens": 256, "width": 256, "blocks": 3, "heads": 4, "pool": "max"}
params |= {"hidden": [1024, 512], "lr": 5e-5, "weight_decay": 1e-4, "warmup": 1, "epochs": 30, "batch_size": 96}
params |= {"n_tokens": 16, "width": 32, "blocks": 1, "hidden": [32], "lr": 2e-3, "epochs": 8} if recipe.small else {}
protocol = hw.Protocol(groups="patient", folds=3 if recipe.small else 5, by="dataset")
head = {"head": "co-attention", "params": params, "controls": False, "protocol": protocol}
inputs, runs, shown = ["mammogram/image", "report/text"], {}, {}
for task in tasks:
    for trained in ("both", "first", "second"):
        where, out = None if trained == "both" else f"dataset = '{trained}'", recipe.out / f"runs/{task}-{trained}"
        shown[task, trained] = hw.fit_head(store, features=inputs, label=task, where=where, out=out, **head)
    runs |= {f"{task}, {name} set": (shown[task, "both"], name) for name in ("first", "second")}
print(hw.table([run.path for run in shown.values()], metrics=["auc"], by=True))

recipe.write(
    runs,
    published={
        "malignancy, first set": {"auc": 0.9320},
        "malignancy, second set": {"auc": 0.8870},
        "calcification, first set": {"auc": 0.9452},
        "calcification, second set": {"auc": 0.9267},
    },
    metrics=["auc"],
    differs={
        "data": "two sets of 240 synthetic mammograms, of 60 patients each, by other seeds",
        "weights": "a tiny ResNet of random weights; the text encoder of builtin:clip, which knows histology",
        "size": "192 x 128 pixels, 16 tokens of width 32, one block, 8 epochs",
        "protocol": "3 folds; the encoders are frozen",
    },
    on_data={"protocol": "5 folds that keep patients whole; the encoders are frozen, so that both run once"},
)
