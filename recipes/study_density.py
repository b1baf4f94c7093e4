"""
Study: breast density on MIAS
=============================

The same question in nine ways: which of three densities has this breast? The 322 mammograms are of 161 women, two each,
and every split keeps the two together. Every system tests each image once, in the same five folds.
"""

import headwater as hw
from support import Recipe, here

recipe = Recipe("density", "Breast density on MIAS")
manifest = recipe.manifest("mias")
encoder = recipe.encoder("timm:mobilenetv2_100", tokens="all")

# %%
# Write what is known of each mammogram as sentences, and embed images and texts once.

texts = hw.text(manifest, template=here("density_text.toml"), out=recipe.out / "texts.parquet")
store = recipe.out / "features.hw"
hw.embed(texts.path, store, encoder=encoder, image="image", name="mobilenet", progress=True)
hw.embed(
    texts.path, store, encoder="builtin:clip", image="image", text="report", name="clip", tokens="all", progress=True
)
hw.embed(texts.path, store, encoder="builtin:texture", image="image", name="texture", progress=True)
hw.embed(texts.path, store, encoder="builtin:ngram", text="report", name="ngram", progress=True)

# %%
# Zero-shot with the built-in CLIP. This is a demonstration: it was trained on synthetic histology and has never seen a
# mammogram.

protocol = hw.Protocol(groups="patient")
made = {
    "zero-shot": hw.zero_shot(store, features="clip", prompts=here("density.toml"), label="density", groups="patient")
}

# %%
# Heads on stored features, from the simplest on, and MobileNetV2 trained as a whole.

both = ["mobilenet/image", "ngram/text"]
tokens = {"features": ["mobilenet/image", "clip/text"], "head": "co-attention", "params": {"width": 64, "blocks": 1}}
heads = {
    "texture": {"features": "texture/image"},
    "linear probe": {"features": "mobilenet/image"},
    "MLP": {"features": "mobilenet/image", "head": "mlp"},
    "fusion with text": {"features": both, "head": "mlp"},
    "co-attention with text": tokens,
}
for name, options in heads.items():
    run = recipe.out / "runs" / name
    made[name] = hw.fit_head(store, label="density", protocol=protocol, out=run, progress=True, **options)
made["tuned"] = hw.fine_tune(
    manifest,
    encoder=encoder,
    label="density",
    protocol=protocol,
    train="full",
    epochs=5,
    out=recipe.out / "runs/tuned",
    progress=True,
)

# %%
# Density is a grade: fatty, fatty-glandular, dense-glandular. Does a head that knows the order do better?

grades = hw.Protocol(groups="patient", task="ordinal", order=["fatty", "fatty-glandular", "dense-glandular"])
ordered = {
    head: hw.fit_head(
        store,
        features="mobilenet/image",
        label="density",
        head=head,
        protocol=grades,
        out=recipe.out / "runs" / f"grades {head}",
    )
    for head in ("ordinal", "linear")
}

# %%
# Compare, and write one report of all.
