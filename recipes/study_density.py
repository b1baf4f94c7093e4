"""
Study: breast density on MIAS
=============================

The same question in nine ways: which of three densities has this breast? The 322 mammograms are of 161 women, two each,
and every split keeps the two together. Every system is tested on every image, in the same five folds.
"""

from dataclasses import replace

import headwater as hw
from support import Recipe, here

recipe = Recipe("density", "Breast density on MIAS")
manifest = recipe.manifest("mias")
encoder = recipe.encoder("timm:mobilenetv2_100", small="timm-conv")

# %%
# Write what is known of each mammogram as sentences, and embed images and texts once.

table = hw.text(manifest, template=here("density_text.toml"), out=recipe.out / "texts.parquet").path
store, runs = recipe.out / "features.hw", recipe.out / "runs"
hw.embed(table, store, encoder=replace(encoder, tokens="all"), image="image", name="mobilenet", progress=True)
hw.embed(table, store, encoder="builtin:clip", image="image", text="report", name="clip", tokens="all", progress=True)
hw.embed(table, store, encoder="builtin:texture", image="image", name="texture", progress=True)
hw.embed(table, store, encoder="builtin:ngram", text="report", name="ngram", progress=True)

# %%
# Zero-shot with the built-in CLIP. This is a demonstration of the command: the model was trained on synthetic histology
# and has never seen a mammogram.

same = {"label": "density", "groups": "patient", "progress": True}
made = {
    "zero-shot (a demonstration)": hw.zero_shot(
        store, features="clip", prompts=here("density.toml"), out=runs / "zero-shot", **same
    )
}

# %%
# Heads on stored features, from the simplest on; then MobileNetV2 trained as a whole.

image, tokens = "mobilenet/image", {"width": 64, "blocks": 1}
heads = {
    "linear probe": {"features": image},
    "texture": {"features": "texture/image"},
    "MLP": {"features": image, "head": "mlp"},
    "fusion with text": {"features": [image, "ngram/text"], "head": "mlp"},
    "co-attention with text": {"features": [image, "clip/text"], "head": "co-attention", "params": tokens},
}
for name, options in heads.items():
    made[name] = hw.fit_head(store, out=runs / name, **options, **same)
made["tuned"] = hw.fine_tune(manifest, encoder=encoder, train="full", lr=1e-4, epochs=5, out=runs / "tuned", **same)
print(
    hw.table(
        [run.path for run in made.values()], names=list(made), metrics=["accuracy", "f1_macro", "auc"], intervals=True
    )
)

# %%
# Is any of these better than the linear probe? The corrected t-test over folds, with Holm's correction for all pairs.

trained = [run for name, run in made.items() if not name.startswith("zero-shot")]
found = hw.compare(trained, metric="accuracy")
said = [d.verdict for d in found.differences if d.first == "linear probe"]

# %%
# Density is a grade. Does a head that knows the order of the grades do better?

order = ["fatty", "fatty-glandular", "dense-glandular"]
grades = [
    hw.fit_head(store, features=image, head=head, task="ordinal", order=order, out=runs / f"grades, {head}", **same)
    for head in ("ordinal", "linear")
]
said += [d.verdict for d in hw.compare(grades).differences]
hw.report([run.path for run in made.values()], names=list(made), out=recipe.out / "report.html", pictures=False)
recipe.write(made, published={}, metrics=["accuracy", "f1_macro", "auc"], differs={}, conclusions=said)
