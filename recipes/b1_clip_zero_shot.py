"""
B1: CLIP zero-shot
==================

Nothing is trained. CLIP ViT-L/14 compares each image with one sentence for each label, "A pathology image of ...", and
the three labels whose sentences are nearest are its answer. The data are a subset of Quilt-1M, with exactly three of
about 60 labels for each image-caption pair.
"""

import headwater as hw
import polars as pl
from support import Recipe, multilabel_histology

recipe = Recipe("B1", "CLIP ViT-L/14 zero-shot")

# %%
# The data set is one row per image-caption pair. The column ``pathology`` holds its labels, with semicolons between.
# Labels that mean the same are united by ``merge.csv``, a table of the user with the columns ``from`` and ``to``. Pairs
# without a caption or a corrected caption are left out, as in the paper.

manifest = recipe.manifest("quilt", small=multilabel_histology)
merge = recipe.beside("merge.csv")
complete = "text IS NOT NULL AND corrected_text IS NOT NULL"
store = recipe.out / "features.hw"
encoder = recipe.encoder("hf:openai/clip-vit-large-patch14", small="builtin:clip")
hw.embed(manifest, store, encoder=encoder, image="image", text="text", name="clip", progress=True)

# %%
# Write one sentence for each label that is there.

names = hw.open_store(store).select(complete)["pathology"].drop_nulls().str.split(";").explode().str.strip_chars()
if merge:
    names = names.replace(dict(pl.read_csv(merge).rows()))
sentences = [f'"{name}" = "{name}"' for name in names.unique().sort()]
prompts = recipe.out / "prompts.toml"
prompts.write_text("\n".join(['templates = ["A pathology image of {}"]', "[classes]", *sentences]))

# %%
# Score every image. Scores rank the labels of an image, so read the AUC and what the three highest scores give;
# a threshold of 0.5 has no meaning here.

run = hw.zero_shot(
    store,
    features="clip",
    prompts=prompts,
    label="pathology",
    label_separator=";",
    merge=merge,
    where=complete,
    groups="video",
    out=recipe.out / "run",
)
print(run)

ALL = "all pairs are tested, since nothing is trained"
recipe.write(
    {"": run},
    published={
        "": {
            "auc_micro": 0.6343,
            "top3_f1_micro": 0.1317,
            "top3_f1_macro": 0.0615,
            "top3_hamming": 0.1140,
            "top3_1": 0.4460,
            "top3_2": 0.0263,
            "top3_3": 0.0001,
        }
    },
    differs={
        "data": "synthetic histology, 240 pairs of 120 patients, three of 14 labels each",
        "weights": "a small dual encoder, trained on other synthetic histology",
        "protocol": ALL,
    },
    on_data={"protocol": ALL},
)
