"""The command that serves the page of similar cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from headwater.commands import options as o
from headwater.commands.options import option
from headwater.commands.output import warn_of_code

PAGE, NETWORK = "Page", "Network"


def serve(
    store: o.Store,
    features: Annotated[
        list[str] | None,
        option(panel=o.DATA, metavar="NAME/MODALITY", help="Features to search in. Default: all of images; repeat."),
    ] = None,
    run: Annotated[
        list[Path] | None, option(panel=PAGE, metavar="RUN", help="A run or bundle whose findings are shown; repeat.")
    ] = None,
    show: Annotated[
        list[str] | None, option(panel=PAGE, metavar="COL", help="Show this column, and filter by it; repeat.")
    ] = None,
    label: Annotated[
        str | None,
        option(panel=PAGE, metavar="COL", help="Count it among neighbours. Default: the label of --run."),
    ] = None,
    patient: Annotated[
        str | None,
        option(panel=PAGE, metavar="COL", help="Column of patients, which is not shown. Default: --groups of --run."),
    ] = None,
    by: Annotated[
        str | None,
        option(panel=PAGE, metavar="COL", help="Site or scanner: warn if neighbours share it."),
    ] = None,
    show_burned_in: Annotated[
        bool, option("--show-burned-in", panel=PAGE, help="Show DICOM whose pixels hold text, such as a name.")
    ] = False,
    blind: Annotated[bool, option("--blind", panel=PAGE, help="Ask for the reader's call before findings.")] = False,
    host: Annotated[str, option(panel=NETWORK, help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, option(panel=NETWORK, min=0, help="Port to listen on; 0 for a free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None, option(panel=NETWORK, metavar="NAME", help="A name that browsers may use; repeat.")
    ] = None,
    certificate: Annotated[Path | None, option(panel=NETWORK, metavar="FILE", help="Certificate for TLS.")] = None,
    key: Annotated[Path | None, option(panel=NETWORK, metavar="FILE", help="Private key for TLS.")] = None,
    behind_proxy: Annotated[
        bool, option("--behind-proxy", panel=NETWORK, help="A proxy in front of it encrypts.")
    ] = False,
    max_bytes: Annotated[int, option(panel=NETWORK, min=1, help="Most bytes of an uploaded image.")] = 64 << 20,
    max_pixels: Annotated[int, option(panel=NETWORK, min=1, help="Most pixels of an uploaded image.")] = 200_000_000,
    keep_minutes: Annotated[
        int, option(panel=NETWORK, min=1, help="Minutes for which an uploaded image is kept in memory.")
    ] = 60,
    log: Annotated[
        Path | None,
        option(panel=o.OUTPUT, metavar="FOLDER", help="Folder of the log and readers' calls. Default: STORE.serve"),
    ] = None,
    weights: o.Weights = None,
    trust_remote_code: o.Trust = False,
    device: o.Device = "auto",
) -> None:
    """Serve a page of similar cases.

    Drop an image on it: it shows the most similar cases, what they were, and what runs find in the image. Nothing
    leaves the machine unless --host says so.

    Example:
      headwater serve scans.hw --run runs/density --show density
    """
    from headwater.serve.server import serve as run_server

    warn_of_code(trust_remote_code)
    run_server(
        store,
        features=features or (),
        runs=run or (),
        show=show or (),
        label=label,
        patient=patient,
        by=by,
        show_burned_in=show_burned_in,
        blind=blind,
        host=host,
        port=port,
        allow_host=allow_host or (),
        certificate=certificate,
        key=key,
        behind_proxy=behind_proxy,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        keep_minutes=keep_minutes,
        log=log,
        weights=weights,
        trust_remote_code=trust_remote_code,
        device=device,
    )
