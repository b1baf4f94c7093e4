"""
D3: Metadata as text, joined by an MLP
======================================

What is known about the woman before anybody looks at her mammogram (age, breast density, device, institution) is
written as sentences by a template and encoded by a clinical language model. The simplest way to use it: join the two
pooled vectors and classify them by a multi-layer perceptron. The study found this better than the image alone (D1).
"""

from pathlib import Path

import headwater as hw
from support import Recipe, small_mammography

recipe = Recipe("D3", "ResNet-34 and metadata as text, naive MLP")
table = recipe.manifest(("rsna-mammo", "vindr-mammo", "cbis-ddsm"), small_mammography)

# %%
# The two tasks, as each data set has them: RSNA marks breasts with cancer, VinDr lists findings, CBIS-DDSM has both.
# Images of one patient stay together; VinDr does not name patients, so there its exams do.

tasks = {
    "rsna-mammo": {"malignancy": "label"},
    "vindr-mammo": {"calcification": "calc = finding_categories LIKE '%Calcification%'"},
    "cbis-ddsm": {"malignancy": "cancer = label = 'malignant'", "calcification": "calc = type = 'calcification'"},
    "synthetic": {"malignancy": "label", "calcification": "calc = finding = 'calcification'"},
}[recipe.kind]
whole = "exam" if recipe.kind == "vindr-mammo" else "patient"

# %%
# Table to text: a template fills sentences with the columns of each row, without a language model. A missing value
# reads "unknown", so headwater measures whether missing values alone would tell the hospital.

exams = recipe.out / "exams.parquet"
print(hw.text(table, template=Path(__file__).parent / "d_report.toml", out=exams, groups=whole))

# %%
# Image: pixels below 40 become black, the breast is cropped, and 1520 x 912 pixels go through ResNet-34. Text: the
# mean of BioClinicalBERT's token vectors. Both encoders run once and stay frozen.

size, steps = "192x128" if recipe.small else recipe.image_size("1520x912"), ["background=40", "breast"]
images = recipe.encoder("timm:resnet34.a1_in1k", small="timm-conv", image_size=size, steps=steps)
texts = recipe.encoder("hf:emilyalsentzer/Bio_ClinicalBERT", small="clip-bert", reads="text")
store = recipe.out / "exams.hw"
hw.embed(exams, store, encoder=images, name="mammogram", progress=True)
hw.embed(exams, store, encoder=texts, name="report", text="report", progress=True)

# %%
# The MLP. Beside it, the run reports each input alone, and images with the texts of other exams: whether the text helps
# is a claim that needs these controls.

params = {
    "fusion": "concat",
    "hidden": [1024, 512],
    "lr": 5e-5,
    "weight_decay": 1e-4,
    "warmup": 1,
    "epochs": 30,
    "batch_size": 96,
}
if recipe.small:
    params |= {"hidden": [64], "lr": 1e-3, "epochs": 30}
inputs, protocol = ["mammogram/image", "report/text"], hw.Protocol(groups=whole, folds=3 if recipe.small else 5)
runs = {}
for task, label in tasks.items():
    out = recipe.out / f"runs/{task}"
    runs[task] = hw.fit_head(store, features=inputs, label=label, head="mlp", params=params, protocol=protocol, out=out)
print(hw.table([run.path for run in runs.values()], names=list(runs), metrics=["auc", "average_precision"]))
print(*runs.values(), sep="\n\n")

recipe.write(
    runs,
    published={
        "malignancy": {"auc": "0.8816 (BRC-1), 0.8687 (BRC-2)"},
        "calcification": {"auc": "0.9198 (BRC-1), 0.8806 (BRC-2)"},
    },
    metrics=["auc"],
    differs={
        "data": "400 synthetic mammograms of 100 patients",
        "weights": "a tiny ResNet of random weights; the text encoder of builtin:clip, which knows histology",
        "size": "192 x 128 pixels, one hidden layer of 64",
        "protocol": "3 folds; the encoders are frozen",
    },
    on_data={"protocol": "5 folds that keep patients whole; the encoders are frozen, so that both run once"},
)
