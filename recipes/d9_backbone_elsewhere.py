"""
D9: The image encoder of D6, tuned on another data set
======================================================

Training with text may also make a better encoder of images. The study took the ResNet-34 that had been trained with
co-attention (D6) on its own mammograms, left the text out, and tuned it on public data: for malignancy on RSNA, for
calcifications on VinDr. The data set with which the encoder is trained first is given by ``--external DIR``.
"""

from pathlib import Path

import headwater as hw
from support import Recipe, small_mammography

recipe = Recipe("D9", "the image encoder of D6, tuned on another data set")
sets = ("rsna-mammo", "vindr-mammo", "cbis-ddsm")
second = recipe.manifest(sets[:2], lambda folder: small_mammography(folder, n_patients=40))
first = recipe.external(sets, lambda folder: small_mammography(folder, n_patients=40, seed=1), required=True)

# %%
# Labels and groups, as each data set has them. Tasks are those that both data sets have.

labels = {
    "rsna-mammo": {"malignancy": "label"},
    "vindr-mammo": {"calcification": "calc = finding_categories LIKE '%Calcification%'"},
    "cbis-ddsm": {"malignancy": "cancer = label = 'malignant'", "calcification": "calc = type = 'calcification'"},
    "synthetic": {"malignancy": "label", "calcification": "calc = finding = 'calcification'"},
}
of_second, of_first = (labels[kind] for kind in recipe.kinds)
whole_second, whole_first = ("exam" if kind == "vindr-mammo" else "patient" for kind in recipe.kinds)
exams = recipe.out / "exams.parquet"
print(hw.text(first, template=Path(__file__).parent / "d_report.toml", out=exams, groups=whole_first))

# %%
# Training is the same in both steps. One split, with a fifth of the patients for testing, keeps it affordable.

how = {"image_size": "96x64" if recipe.small else recipe.image_size("1520x912"), "steps": ["background=40", "breast"]}
images = recipe.encoder("timm:resnet34.a1_in1k", small="timm-conv", **how)
texts = recipe.encoder("hf:emilyalsentzer/Bio_ClinicalBERT", small="clip-bert", reads="text")
asked = {"refit": False, "progress": True, "augment": ["affine", "elastic"], "weight_decay": 1e-4, "warmup": 1}
asked |= {"lr": 5e-5, "head_lr": 5e-5, "epochs": recipe.epochs(30, small=1), "batch_size": 128, "accumulate": 8}
params = {"tokenizer": "mix", "n_tokens": 256, "width": 256, "blocks": 3, "heads": 4, "pool": "max"}
params |= {"hidden": [1024, 512], "lr": 5e-5, "weight_decay": 1e-4, "epochs": 30}
if recipe.small:
    asked |= {"lr": 1e-3, "head_lr": 1e-3, "batch_size": 32, "accumulate": 1}
    params |= {"n_tokens": 16, "width": 32, "blocks": 1, "hidden": [32], "lr": 2e-3, "epochs": 8}

# %%
# First the system of D6, with all weights of ResNet-34 trained. Then its image encoder alone, as it is in ``adapter``,
# is tuned on the second data set; and for comparison the encoder that never saw the first.

joint = {"encoder": [images.spec, texts.spec], "weights": [str(images.weights or ""), str(texts.weights or "")]}
joint |= {"text": "report", "train": ["image=full", "text=none"], "head": "co-attention", "params": params}
runs = {}
for task in [task for task in of_second if task in of_first]:
    protocol, out = hw.Protocol(groups=whole_first, holdout=0.2), recipe.out / f"runs/{task}-first"
    d6 = hw.fine_tune(exams, label=of_first[task], protocol=protocol, out=out, **joint, **how, **asked)
    split = {"folds": 2} if recipe.small else {"holdout": 0.2}
    for name, adapter in (("from D6", d6.path), ("from ImageNet", None)):
        encoder = hw.EncoderChoice(images.spec, weights=images.weights, adapter=adapter, **how)
        protocol, out = hw.Protocol(groups=whole_second, **split), recipe.out / f"runs/{task} {name}"
        runs[f"{task}, {name}"] = hw.fine_tune(
            second, encoder=encoder, label=of_second[task], train="full", protocol=protocol, out=out, **asked
        )
    print(task, hw.compare(list(runs.values())[-2:]), sep="\n")

recipe.write(
    runs,
    published={
        "malignancy, from D6": {"auc": "0.7837 to 0.7928 (RSNA)"},
        "calcification, from D6": {"auc": "0.9760 to 0.9806 (VinDr)"},
    },
    metrics=["auc"],
    differs={
        "data": "two sets of 160 synthetic mammograms, of 40 patients each, by other seeds",
        "weights": "a tiny ResNet of random weights; the text encoder of builtin:clip, which knows histology",
        "size": "96 x 64 pixels, 1 epoch; 16 tokens of width 32, one block",
        "protocol": "2 folds that keep patients whole",
    },
    on_data={"protocol": "one split, a fifth of the patients for testing"},
)
