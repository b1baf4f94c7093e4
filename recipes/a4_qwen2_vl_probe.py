"""
A4: Qwen2-VL, linear probe
==========================

A vision-language model reads each image once. Its language decoder's last hidden state becomes the image's vector, and
a logistic regression classifies it. Nothing in the model is trained, and it writes no text. The study did this with
Qwen2-VL-2B-Instruct on BreakHis, separately at each magnification, in five folds that keep patients whole.
"""

import headwater as hw
from support import Recipe, histology

recipe = Recipe("A4", "Qwen2-VL-2B-Instruct, linear probe")
manifest = recipe.manifest("breakhis", lambda folder: histology(folder, n_patients=40))

# %%
# Embed every image once, with a question behind it. The vector is the hidden state of the last token, which has seen
# the image and the question; or the mean over the tokens of the image. The paper does not say which of them it took,
# so both are tested.

encoder = recipe.encoder(
    "hf:Qwen/Qwen2-VL-2B-Instruct", small="hf-qwen2_vl", prompt="{image}Is this benign or malignant?"
)
store = recipe.out / "features.hw"
for pooling in ("last-token", "mean-image-tokens"):
    hw.embed(manifest, store, encoder=encoder, pooling=pooling, image="image", name=pooling, progress=True)

# %%
# Fit a probe at each magnification. Its penalty is selected inside the training patients of each fold.

common = {"label": "label", "groups": "patient", "folds": 5}
last = hw.fit_separately(store, "magnification", features="last-token/image", out=recipe.out / "last token", **common)
mean = hw.fit_separately(
    store, "magnification", features="mean-image-tokens/image", out=recipe.out / "image tokens", **common
)
print(hw.table([recipe.out / "last token", recipe.out / "image tokens"], metrics=["accuracy", "f1", "auc"], pairs=True))

# %%
# The paper gives the least and the greatest accuracy over magnifications.

recipe.write(
    {
        **{f"{level}x": run for level, run in last.items()},
        **{f"{level}x, image tokens": run for level, run in mean.items()},
    },
    published={f"{level}x": {"accuracy": "0.8037 to 0.8581"} for level in last},
    metrics=["accuracy", "precision", "recall", "f1", "auc"],
    differs={
        "data": "synthetic histology, 80 images of 40 patients at each magnification",
        "weights": "a tiny Qwen2-VL of random weights",
    },
    on_data={"protocol": "70 patients: blocks of one slide number stay together, which the paper counts as 82"},
)
