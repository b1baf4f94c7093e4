"""
D1: Mammograms alone
====================

The baseline of the study: a mammogram is classified by its image alone, as malignant or not, and as showing
calcifications or not. The study had about 30,000 and 145,000 mammograms of two hospitals (BRC-1 and BRC-2), which are
not public.

The other recipes of this family add attention between image cells (D2), and what is known about the woman (D3 to D6).
"""

import headwater as hw
from support import Recipe, small_mammography

recipe = Recipe("D1", "ResNet-34 alone")
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
# The image: pixels below 40 become black, the breast is cropped, and 1520 x 912 pixels go through ResNet-34, once.
# Its pooled feature is stored.

size, steps = "192x128" if recipe.small else recipe.image_size("1520x912"), ["background=40", "breast"]
images = recipe.encoder("timm:resnet34.a1_in1k", small="timm-conv", image_size=size, steps=steps)
store = recipe.out / "exams.hw"
hw.embed(table, store, encoder=images, name="mammogram", progress=True)

# %%
# A linear probe on the pooled feature, its penalty selected inside the training patients of each fold.

inputs, protocol = ["mammogram/image"], hw.Protocol(groups=whole, folds=3 if recipe.small else 5)
runs = {}
for task, label in tasks.items():
    out = recipe.out / f"runs/{task}"
    runs[task] = hw.fit_head(store, features=inputs, label=label, head="linear", protocol=protocol, out=out)
print(hw.table([run.path for run in runs.values()], names=list(runs), metrics=["auc", "average_precision"]))

recipe.write(
    runs,
    published={
        "malignancy": {"auc": "0.8594 (BRC-1), 0.8352 (BRC-2)"},
        "calcification": {"auc": "0.9108 (BRC-1), 0.8575 (BRC-2)"},
    },
    metrics=["auc"],
    differs={
        "data": "400 synthetic mammograms of 100 patients",
        "weights": "a tiny ResNet of random weights",
        "size": "192 x 128 pixels",
        "protocol": "3 folds; the encoder is frozen",
    },
    on_data={"protocol": "5 folds that keep patients whole; the encoder is frozen, so that it runs once"},
)
