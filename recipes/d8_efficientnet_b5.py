"""
D8: EfficientNet-B5, trained in full
====================================

A larger image encoder, all of whose weights are trained: alone, and with co-attention between its feature map and what
is known about the woman, written as text. The study found EfficientNet-B5 better than ResNet-34 where it stands alone,
and about equal with text.
"""

from pathlib import Path

import headwater as hw
from support import Recipe, small_mammography

recipe = Recipe("D8", "EfficientNet-B5 alone, and with co-attention")
sets = ("rsna-mammo", "vindr-mammo", "cbis-ddsm")
table = recipe.manifest(sets, lambda folder: small_mammography(folder, n_patients=50))

# %%
# The two tasks, as each data set has them; and the columns whose values stay together.

tasks = {
    "rsna-mammo": {"malignancy": "label"},
    "vindr-mammo": {"calcification": "calc = finding_categories LIKE '%Calcification%'"},
    "cbis-ddsm": {"malignancy": "cancer = label = 'malignant'", "calcification": "calc = type = 'calcification'"},
    "synthetic": {"malignancy": "label", "calcification": "calc = finding = 'calcification'"},
}[recipe.kind]
whole = "exam" if recipe.kind == "vindr-mammo" else "patient"
exams = recipe.out / "exams.parquet"
print(hw.text(table, template=Path(__file__).parent / "d_report.toml", out=exams, groups=whole))

# %%
# How the encoder is trained. A step of 128 images is computed in 8 parts of 16, what the study had on each of 8 GPUs;
# ``accelerate launch`` divides it over several. Images are rotated, moved, scaled and sheared, and deformed smoothly.
# Fine-tuning costs as much as the data set is large, so there is one split, with a fifth of the patients for testing.

images = recipe.encoder("timm:tf_efficientnet_b5.ns_jft_in1k", small="timm-efficientnet")
texts = recipe.encoder("hf:emilyalsentzer/Bio_ClinicalBERT", small="clip-bert", reads="text")
protocol = hw.Protocol(groups=whole, folds=2) if recipe.small else hw.Protocol(groups=whole, holdout=0.2)
asked = {"protocol": protocol, "refit": False, "progress": True, "steps": ["background=40", "breast"]}
asked |= {"image_size": "96x64" if recipe.small else recipe.image_size("1520x912"), "augment": ["affine", "elastic"]}
asked |= {"lr": 5e-5, "head_lr": 5e-5, "weight_decay": 1e-4, "warmup": 1, "epochs": recipe.epochs(30, small=1)}
asked |= {"batch_size": 128, "accumulate": 8}
if recipe.small:
    asked |= {"lr": 1e-3, "head_lr": 1e-3, "batch_size": 32, "accumulate": 1}
params = {"tokenizer": "mix", "n_tokens": 256, "width": 256, "blocks": 3, "heads": 4, "pool": "max"}
params |= {"hidden": [1024, 512], "lr": 5e-5, "weight_decay": 1e-4, "epochs": 30}
if recipe.small:
    params |= {"n_tokens": 16, "width": 32, "blocks": 1, "hidden": [32], "lr": 2e-3, "epochs": 8}

# %%
# The image alone, by a linear layer on the pooled feature; then image and text. BioClinicalBERT stays frozen, and its
# tokens are encoded once. Each head first learns on the frozen encoder, so that its first steps do no damage. The
# result has both: what the frozen encoder gave, and what training added.

joint = {"encoder": [images.spec, texts.spec], "weights": [str(images.weights or ""), str(texts.weights or "")]}
joint |= {"text": "report", "train": ["image=full", "text=none"], "head": "co-attention", "params": params}
runs = {}
for task, label in tasks.items():
    alone, both = recipe.out / f"runs/{task}-alone", recipe.out / f"runs/{task}-co-attention"
    runs[f"{task}, alone"] = hw.fine_tune(exams, encoder=images, label=label, train="full", out=alone, **asked)
    runs[f"{task}, co-attention"] = hw.fine_tune(exams, label=label, out=both, **joint, **asked)
    print(task, hw.compare([alone, both]), sep="\n")

recipe.write(
    runs,
    published={
        "malignancy, alone": {"auc": "0.8992 (BRC-1), 0.8624 (BRC-2)"},
        "malignancy, co-attention": {"auc": "0.9247 (BRC-1), 0.8864 (BRC-2)"},
        "calcification, alone": {"auc": "0.9219 (BRC-1), 0.8822 (BRC-2)"},
        "calcification, co-attention": {"auc": "0.9434 (BRC-1), 0.9186 (BRC-2)"},
    },
    metrics=["auc"],
    differs={
        "data": "200 synthetic mammograms of 50 patients",
        "weights": "a tiny EfficientNet of random weights; the text encoder of builtin:clip, which knows histology",
        "size": "96 x 64 pixels, 1 epoch; 16 tokens of width 32, one block",
        "protocol": "2 folds that keep patients whole",
    },
    on_data={"protocol": "one split, a fifth of the patients for testing"},
)
