"""
B9: What the paper leaves open
==============================

Would cross-attention between image and caption be better than concatenation? Would training all of CLIP be? What does
the system look at, and how does a pathologist correct it? Each question is an option of headwater. The first two are
rows of one table here, on the same test cases.
"""

import headwater as hw
from support import Recipe, multilabel_histology

recipe = Recipe("B9", "Open questions: fusion, full tuning, heat maps, a person in the loop")

# %%
# The data set is one row per image-caption pair. The column ``pathology`` holds its labels, with semicolons between.
# Labels that mean the same are united by ``merge.csv``, a table of the user with the columns ``from`` and ``to``. Pairs
# without a caption or a corrected caption are left out, as in the paper.

manifest = recipe.manifest("quilt", small=multilabel_histology)
labels = {"label": "pathology", "label_separator": ";", "merge": recipe.beside("merge.csv")}
complete = "text IS NOT NULL AND corrected_text IS NOT NULL"

# %%
# Embed images and captions once, with the tokens of both: the patches of the image and the words of the caption.

encoder = recipe.encoder("hf:openai/clip-vit-base-patch32", small="builtin:clip", tokens="all")
store = recipe.out / "features.hw"
hw.embed(manifest, store, encoder=encoder, image="image", text="text", name="clip", progress=True)

# %%
# Fusion: a network on the two pooled vectors, against heads whose tokens of the image ask those of the caption, and the
# other way round.

same = {**labels, "where": complete, "groups": "video", "holdout": 0.2}
network = {"hidden": [512, 512, 512], "lr": 1e-3, "dropout": 0.1}
attention = {"width": 128, "blocks": 1, "heads": 4, "hidden": [128], "lr": 1e-3, "epochs": 20}
heads = {"concatenated": ("mlp", network), "cross-attention": ("cross-attention", attention)}
runs = {
    at: hw.fit_head(
        store,
        features=["clip/image", "clip/text"],
        head=head,
        params=params,
        **same,
        out=recipe.out / "runs" / at,
    )
    for at, (head, params) in heads.items()
}

# %%
# Full tuning: all weights of both encoders, from the head on frozen features.

runs["full tuning"] = hw.fine_tune(
    manifest,
    encoder=recipe.encoder("hf:openai/clip-vit-base-patch32", small="builtin:clip"),
    image="image",
    text="text",
    **same,
    head="mlp",
    params=network,
    train="full",
    lr=1e-4 if recipe.small else 1e-5,
    epochs=recipe.epochs(30, small=2),
    refit=False,
    out=recipe.out / "runs/full tuning",
)
print(hw.table([run.path for run in runs.values()], names=list(runs), costs=True))
print(hw.compare([run.path for run in runs.values()], metric="auc_micro"))

# %%
# Heat maps: what in an image and which words of its caption support the first finding, for a case of the test set. The
# deletion check says whether the map does better than a random one.

tested = runs["cross-attention"].predictions["id"][0]
print(hw.explain(runs["cross-attention"].path, id=tested, out=recipe.out / "heat-map.png"))

# %%
# A person in the loop: ``headwater serve features.hw --run "runs/cross-attention" --blind`` asks the pathologist for a
# call before it shows findings, and records both in a table that is a manifest: embed it, and fit the next head on the
# column ``own_call``. ``+`` and ``-`` under a similar case refine a search. Distillation into a smaller encoder is not
# part of headwater.

SPLIT = "videos stay whole; the paper divides pairs at random"
recipe.write(
    runs,
    published={},
    metrics=["auc_micro", "top3_f1_micro", "top3_f1_macro", "top3_hamming", "top3_1", "top3_2", "top3_3"],
    differs={
        "data": "synthetic histology, 240 pairs of 120 patients, three of 14 labels each",
        "weights": "a small dual encoder, trained on other synthetic histology",
        "size": "2 epochs of full tuning, with a learning rate of 1e-4",
        "protocol": SPLIT,
    },
    on_data={"protocol": SPLIT},
)
