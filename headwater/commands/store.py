"""Commands that fill a store and look after it: tiles, embed, doctor, demo, info, verify, gc, import, export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from headwater.commands import options as o
from headwater.commands.options import option
from headwater.commands.output import fail, show, warn_of_code

STORAGE, FAILURES, SHARING, TILES = "Storage", "Failures", "Many processes", "Tiles"
KINDS = "clip-retrieval folder, .npy, .npz, .h5, .pt, .safetensors, .parquet or .lance"


def demo(
    out: Annotated[Path, option(panel=o.OUTPUT, metavar="DIR", help="Where to write it.")] = Path("headwater-demo"),
    kind: Annotated[
        Literal["histology", "mammography"],
        option(panel=o.DATA, help="Stained tissue with captions, or mammograms with sentences from metadata."),
    ] = "histology",
    patients: Annotated[
        int | None, option(panel=o.DATA, min=4, metavar="N", help="Number of patients. Default: 24, or 60.")
    ] = None,
    seed: o.Seed = 0,
) -> None:
    """Try everything once on made-up images, without a network.

    It takes a minute or two.

    Example:
      headwater demo --out headwater-demo
      headwater demo --kind mammography --out mammography-demo
    """
    from headwater import api

    result = api.demo(out, kind=kind, n_patients=patients, seed=seed, progress=True)
    print("\n".join(["", *result.lines(), ""]))


def tiles(
    slides: Annotated[
        list[Path],
        o.typer.Argument(metavar="SLIDES…", help="Slides, folders of slides, or a table with a column slide."),
    ],
    out: Annotated[
        Path, option("--out", "-o", panel=o.OUTPUT, metavar="FILE", help="The table to write, .parquet or .csv.")
    ],
    mpp: Annotated[
        float, option(panel=TILES, metavar="X", help="Micrometres per pixel of the tiles: 0.5 is about 20x, 0.25 40x.")
    ] = 0.5,
    size: Annotated[int, option(panel=TILES, metavar="N", help="Pixels on a side of a tile.")] = 224,
    overlap: Annotated[int, option(panel=TILES, metavar="N", help="Pixels that neighbouring tiles share.")] = 0,
    mask: Annotated[
        Literal["otsu", "none"], option(panel=TILES, help="otsu: tiles on tissue; none: all tiles.")
    ] = "otsu",
    min_tissue: Annotated[
        float, option(panel=TILES, metavar="SHARE", help="Least share of tissue in a tile, 0 to 1.")
    ] = 0.5,
    mpp_of_slide: Annotated[
        float | None,
        option(panel=TILES, metavar="X", help="Micrometres per pixel of the slides, instead of what the files say."),
    ] = None,
    upsample: Annotated[
        bool, option("--upsample", panel=TILES, help="Accept slides that are coarser than --mpp, and enlarge them.")
    ] = False,
    thumbnails: Annotated[
        Path | None,
        option(panel=o.OUTPUT, metavar="DIR", help="Write a picture of each slide with its tiles drawn on it."),
    ] = None,
    workers: o.Workers = None,
    json: o.Json = False,
) -> None:
    """Cut whole slides into tiles on tissue.

    Writes a table of regions that headwater embed reads; no tile files.

    Example:
      headwater tiles slides/ -o tiles.parquet --mpp 0.5 --size 224 --thumbnails thumbnails
      headwater embed tiles.parquet slides.hw --encoder timm:resnet34.a1_in1k
    """
    from headwater import api

    done = api.tiles(
        slides,
        out,
        mpp=mpp,
        size=size,
        overlap=overlap,
        mask=mask,
        min_tissue=min_tissue,
        mpp_of_slide=mpp_of_slide,
        upsample=upsample,
        thumbnails=thumbnails,
        workers=workers,
        progress=True,
    )
    show(done.lines(), done.to_dict(), json)


def embed(
    manifest: o.Manifest,
    store: o.Store,
    encoder: o.Encoder,
    image: o.ImageColumn = None,
    text: o.TextColumn = None,
    id: o.IdColumn = None,
    weights: o.Weights = None,
    adapter: o.Adapter = None,
    tokens: o.Tokens = "none",
    layer: o.Layer = None,
    pooling: o.Pooling = None,
    prompt: o.Prompt = None,
    image_size: o.ImageSize = None,
    window: o.Window = None,
    decode: o.Decode = None,
    step: o.Steps = None,
    trust_remote_code: o.Trust = False,
    licence: o.Licence = "any",
    name: Annotated[
        str | None, option(panel=STORAGE, metavar="NAME", help="Name of the features. Default: from the encoder.")
    ] = None,
    dtype: Annotated[Literal["float16", "float32"], option(panel=STORAGE, help="Stored type.")] = "float16",
    tokens_dtype: Annotated[
        Literal["int8", "float16", "bfloat16", "float32"] | None,
        option(panel=STORAGE, help="Stored type of tokens. Default: that of --dtype."),
    ] = None,
    precision: o.Precision = "auto",
    device: o.Device = "auto",
    batch_size: o.BatchSize = 32,
    workers: o.Workers = None,
    feed: Annotated[
        Literal["auto", "threads", "processes"],
        option(panel=o.COMPUTING, help="What reads images for an encoder on a GPU."),
    ] = "auto",
    on_error: Annotated[
        Literal["skip", "stop"], option(panel=FAILURES, help="What to do about an item that cannot be read.")
    ] = "skip",
    retry_failed: Annotated[
        bool, option("--retry-failed", panel=FAILURES, help="Try items again that failed before.")
    ] = False,
    rehash: Annotated[bool, option("--rehash", panel=FAILURES, help="Read files again that look unchanged.")] = False,
    shard: Annotated[
        str | None, option(panel=SHARING, metavar="I/N", help="Make part I (from 0) of N, beside other processes.")
    ] = None,
    engine: Annotated[Literal["local", "ray"], option(panel=SHARING, help="Here, or on a Ray cluster.")] = "local",
    ray_address: Annotated[
        str | None, option(panel=SHARING, metavar="ADDRESS", help="Of a running Ray cluster.")
    ] = None,
    dry_run: Annotated[
        bool, option("--dry-run", panel=o.OUTPUT, help="Print what would be done, and write nothing.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Run an encoder once, and store the features.

    Items are known by their content: nothing is embedded twice, and the same command goes on where it stopped.

    Example:
      headwater embed scans.csv scans.hw --encoder timm:resnet34.a1_in1k
      headwater embed scans.csv scans.hw --encoder timm:resnet34.a1_in1k --dry-run
    """
    given = dict(locals())
    from headwater import api
    from headwater._options import picked
    from headwater.embed.choice import EncoderChoice, Execution
    from headwater.embed.plan import EmbedPlan, ManifestColumns, Storage

    warn_of_code(trust_remote_code)
    done = api.embed(
        manifest,
        store,
        encoder=picked(EncoderChoice, given, spec=encoder, steps=o.steps_of(given)),
        storage=picked(Storage, given),
        columns=picked(ManifestColumns, given),
        execution=picked(Execution, given),
        dry_run=dry_run,
        progress=True,
    )
    show(done.lines(), done.to_dict(), json)
    if isinstance(done, EmbedPlan):
        if done.refusals:
            sys.exit(1)
        return
    if done.failed_whole:
        n_failed = len(done.failed[done.failed_whole[0]])
        fail(f"{' and '.join(done.failed_whole)}: all failed ({n_failed:,} samples): see the reasons above.", 1)


def doctor(
    encoder: Annotated[
        str | None, option(panel=o.ENCODER, metavar="SPEC", help="Load this encoder, try it, and measure its speed.")
    ] = None,
    weights: o.Weights = None,
    tokens: Annotated[
        str | None,
        option(panel=o.ENCODER, metavar="none|all|N", help="Token features. Default: all, where it makes any."),
    ] = None,
    layer: o.Layer = None,
    pooling: o.Pooling = None,
    prompt: o.Prompt = None,
    image_size: o.ImageSize = None,
    trust_remote_code: o.Trust = False,
    licence: o.Licence = "any",
    precision: o.Precision = "auto",
    device: o.Device = "auto",
    batch_size: o.BatchSize = 32,
    offline: Annotated[
        bool, option("--offline", panel=o.COMPUTING, help="Fetch nothing: prove that no network is needed.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Check that an encoder loads and works.

    Shows what is installed; with --encoder, loads and tries it, and measures its speed before a long run.

    Example:
      headwater doctor --encoder timm:resnet34.a1_in1k --offline
    """
    from headwater import api

    warn_of_code(trust_remote_code)
    found = api.doctor(
        encoder=encoder,
        tokens=tokens,
        precision=precision,
        device=device,
        batch_size=batch_size,
        offline=offline,
        weights=weights,
        layer=layer,
        pooling=pooling,
        prompt=prompt,
        image_size=image_size,
        trust_remote_code=trust_remote_code,
        licence=licence,
    )
    show(found.lines(), found.to_dict(), json)


def info(
    store: o.Store,
    failed: Annotated[
        bool, option("--failed", panel=o.OUTPUT, help="List the items that failed, with the reasons.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Show what a store holds.

    Example:
      headwater info scans.hw --failed
    """
    from headwater import api

    found = api.info(store)
    show(found.lines(failed=failed), found.to_dict(), json)


def verify(
    store: o.Store,
    repair: Annotated[
        bool,
        option("--repair", panel=o.OUTPUT, help="Repair what can be restored, and embed only damaged blocks again."),
    ] = False,
    weights: o.Weights = None,
    trust_remote_code: o.Trust = False,
    device: o.Device = "auto",
    batch_size: o.BatchSize = 32,
    workers: o.Workers = None,
    json: o.Json = False,
) -> None:
    """Check a store against its checksums.

    Status 1 when something differs; --repair repairs what can be restored.

    Example:
      headwater verify scans.hw --repair
    """
    from headwater import api
    from headwater._checks import refuse_idle
    from headwater._options import fields_given, option_of

    encoding = api.Encoding(weights, device, batch_size, workers, trust_remote_code)
    if repair:
        warn_of_code(trust_remote_code)
        done = api.repair(store, encoding, progress=True)
        show(done.lines(), vars(done), json)
        if done.left:
            sys.exit(1)
        return
    idle = {option_of(name): True for name in fields_given(encoding)}
    refuse_idle(idle, "goes with --repair, which embeds damaged blocks again.")
    problems = api.verify(store)
    show(problems.lines(store), {"problems": problems, "unchecked": problems.unchecked}, json)
    if problems:
        sys.exit(1)


def gc(
    store: o.Store,
    drop: Annotated[
        list[str] | None, option(panel=o.DATA, metavar="NAME/MODALITY", help="Feature set to drop entirely; repeat.")
    ] = None,
    yes: Annotated[
        bool, option("--yes", panel=o.OUTPUT, help="Do it; otherwise only list what would be dropped.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Drop what no sample uses any more.

    Also drops feature sets that you name.

    Example:
      headwater gc scans.hw --drop old/image --yes
    """
    from headwater import api

    done = api.gc(store, drop=drop or (), yes=yes)
    show(done.lines(), vars(done), json)


def import_features(
    source: Annotated[Path, o.typer.Argument(metavar="SOURCE", help=f"What to import: {KINDS}.")],
    store: o.Store,
    name: Annotated[str, option(panel=STORAGE, metavar="NAME", help="Name of the features.")],
    modality: Annotated[
        Literal["image", "text"] | None, option(panel=o.DATA, help="What the vectors are of. Default: images.")
    ] = None,
    format: Annotated[
        str,
        option(panel=o.DATA, help="auto, clip-retrieval, npy, hdf5, pt, safetensors, parquet or lance."),
    ] = "auto",
    id: Annotated[str | None, option(panel=o.DATA, metavar="COL", help="Column of sample ids, or of slides.")] = None,
    table: Annotated[
        Path | None, option(panel=o.DATA, metavar="FILE", help="A table with one row a vector, or one row a slide.")
    ] = None,
    vectors: Annotated[
        str | None, option(panel=o.DATA, metavar="COL", help="Column or array that holds the vectors.")
    ] = None,
    prompts: Annotated[
        bool,
        option("--prompts", panel=o.DATA, help="Texts that are no samples, for zero-shot; with --modality text."),
    ] = False,
    dtype: Annotated[
        Literal["auto", "float16", "float32"], option(panel=STORAGE, help="Stored type; auto keeps it.")
    ] = "auto",
    json: o.Json = False,
) -> None:
    """Store vectors that another tool made.

    Example:
      headwater import vectors.npy scans.hw --name uni --table slides.csv --id slide
    """
    from headwater import api

    done = api.import_features(
        source,
        store,
        name=name,
        modality=modality,
        format=format,
        id=id,
        table=table,
        vectors=vectors,
        dtype=dtype,
        prompts=prompts,
        progress=True,
    )
    show(done.lines(), done.to_dict(), json)


def export(
    store: o.Store,
    out: Annotated[Path, o.typer.Argument(metavar="OUT", help="The file or folder to write.")],
    features: o.Features,
    format: Annotated[str, option(panel=o.OUTPUT, help="npy, hdf5, parquet, h5ad, datasets or safetensors.")] = "npy",
    where: o.Where = None,
    json: o.Json = False,
) -> None:
    """Write features and samples for other tools.

    Example:
      headwater export scans.hw vit.parquet --features vit/image --format parquet
    """
    from headwater import api

    done = api.export_features(store, out, features=features, format=format, where=where)
    show(done.lines(), done.to_dict(), json)
