"""Commands that take a run to new cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headwater.commands import options as o
from headwater.commands.options import option
from headwater.commands.output import show, warn_of_code
from headwater.errors import InputError

CASES = "Cases"


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, or a bundle of one.")],
    cases: Annotated[
        str | None,
        typer.Argument(metavar="[CASES]", help="A manifest, an image or a folder of them, or a store with features."),
    ] = None,
    image: Annotated[
        list[Path] | None, option(panel=CASES, metavar="FILE", help="Predict this image; repeat for more.")
    ] = None,
    text: Annotated[
        list[str] | None,
        option(panel=CASES, metavar="WORDS", help="Predict this text, or the text beside each --image; repeat."),
    ] = None,
    features: Annotated[
        list[str] | None,
        option(panel=o.DATA, metavar="NAME/MODALITY", help="Features of a store, if they have other names there."),
    ] = None,
    where: o.Where = None,
    image_column: Annotated[
        str | None, option(panel=o.DATA, metavar="COL", help="A manifest's image paths. Default: found by name.")
    ] = None,
    text_column: Annotated[
        str | None, option(panel=o.DATA, metavar="COL", help="A manifest's texts. Default: found by name.")
    ] = None,
    id_column: Annotated[
        str | None, option(panel=o.DATA, metavar="COL", help="A manifest's ids. Default: found by name.")
    ] = None,
    weights: Annotated[
        list[str] | None,
        option(
            panel=o.ENCODER,
            metavar="FILE|NAME=FILE",
            help="The encoder's weights, if the file has moved; NAME= of the features if there are several encoders.",
        ),
    ] = None,
    trust_remote_code: o.Trust = False,
    device: o.Device = "auto",
    batch_size: o.BatchSize = 32,
    workers: o.Workers = None,
    verify: Annotated[
        bool,
        option("--verify", panel=CASES, help="Replay a bundle's made-up inputs, and predict nothing."),
    ] = False,
    heat_maps: Annotated[
        Path | None, option(panel=o.OUTPUT, metavar="FOLDER", help="Draw which parts of each image support its class.")
    ] = None,
    out: Annotated[
        Path | None, option(panel=o.OUTPUT, metavar="FILE", help="Write the predictions, as .csv or .parquet.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Predict new cases.

    They need no label and no store. Images and texts are encoded by the encoder of the run's features. Each case gets
    its probabilities, the decision at the run's threshold, its prediction set, how unlike the training data it is, and
    the nearest training cases.

    Example:
      headwater predict runs/density --image scan.png
      headwater predict runs/density new_scans.csv --out predictions.csv
    """
    from headwater import api
    from headwater.embed.plan import ManifestColumns

    warn_of_code(trust_remote_code)
    if verify:
        if cases is not None or image or text:
            raise InputError("--verify replays a bundle's own inputs. Leave the cases out, or --verify.")
        checked = api.verify_bundle(run)
        show(checked.lines(), checked.to_dict(), json)
        return
    named = (image_column, text_column, id_column)
    found = api.predict(
        run,
        cases,
        image=image or (),
        text=text or (),
        features=features,
        where=where,
        columns=ManifestColumns(*named) if any(named) else None,
        weights=_weights(weights),
        device=device,
        batch_size=batch_size,
        workers=workers,
        trust_remote_code=trust_remote_code,
        heat_maps=heat_maps,
        out=out,
        progress=True,
    )
    show(found.lines(), found.to_dict(), json)


def _weights(given: list[str] | None) -> str | dict[str, str] | None:
    """Return the files of weights: one, or several by the name of the features."""
    if not given:
        return None
    pairs = [word.partition("=") for word in given]
    if len(given) == 1 and (not pairs[0][1] or Path(given[0]).exists()):
        return given[0]
    for name, equals, file in pairs:
        if not (name and equals and file):
            raise InputError(f"--weights {name}{equals}{file}: with several encoders write NAME=FILE.")
    return {name: file for name, _, file in pairs}


def bundle(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run of fit-head, fine-tune or zero-shot.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.zip", help="The file to write.")],
    with_weights: Annotated[
        bool, option("--with-weights", panel=o.OUTPUT, help="Add the encoder, for a machine without a network.")
    ] = False,
    with_cases: Annotated[
        bool,
        option("--with-cases", panel=o.OUTPUT, help="Add the training cases as vectors with labels, without ids."),
    ] = False,
    weights: Annotated[
        list[str] | None,
        option(
            panel=o.ENCODER,
            metavar="FILE|NAME=FILE",
            help="The encoder's weights, if the file has moved; NAME= of the features if there are several encoders.",
        ),
    ] = None,
    json: o.Json = False,
) -> None:
    """Pack a run into one file to send.

    It holds data only, and no training case, id, path or patient identifier. `headwater predict` takes it like a run.

    Example:
      headwater bundle runs/density density.zip --with-weights
      headwater predict density.zip --verify
    """
    from headwater import api

    made = api.bundle(
        run, out, with_weights=with_weights, with_cases=with_cases, weights=_weights(weights), progress=True
    )
    show(made.lines(), made.to_dict(), json)
