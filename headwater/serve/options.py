"""Options of the server."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headwater._checks import require_whole
from headwater._devices import Device
from headwater._options import as_tuple
from headwater.errors import InputError

LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServeOptions:
    """What is served, and to whom.

    Attributes
    ----------
    features
        The feature sets to search in; by default all that hold images, or else all.
    runs
        Runs, or bundles of these, whose findings are shown.
    show
        Columns of the samples that are shown, and that may be filtered by. No other value leaves the server.
    label
        The column whose values among the neighbours are counted. Default: the label of the first run.
    patient
        The column of patients: those of the query are left out, and each is found once. It is not shown. Default: the
        groups of the first run.
    by
        The column of the site, scanner or slide: a line says when neighbours crowd on one of its values.
    host, port
        Where to listen.
    allow_host
        Names under which a browser may reach the server, besides ``host``.
    certificate, key
        Files for TLS.
    behind_proxy
        Whether a proxy encrypts what goes beyond this machine.
    blind
        Record the reader's own call before findings are shown.
    log
        A folder for the audit log and for readers' calls. Default: beside the store.
    max_bytes, max_pixels
        Limits of an uploaded image.
    keep_minutes
        How long an uploaded image is kept in memory.
    device
        Where images and texts are encoded.
    weights
        A file of the encoder's weights, if that recorded by the store has moved.
    show_burned_in
        Show stored DICOM images even if they say that their pixels show text (Burned In Annotation).
    trust_remote_code
        Allow code that comes with a model, or that store and runs name, to run.
    """

    features: Sequence[str] = ()
    runs: Sequence[str | Path] = ()
    show: Sequence[str] = ()
    label: str | None = None
    patient: str | None = None
    by: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    allow_host: Sequence[str] = ()
    certificate: str | Path | None = None
    key: str | Path | None = None
    behind_proxy: bool = False
    blind: bool = False
    log: str | Path | None = None
    max_bytes: int = 64 << 20
    max_pixels: int = 200_000_000
    keep_minutes: int = 60
    device: Device = "auto"
    weights: str | Path | None = None
    show_burned_in: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for name in ("features", "runs", "show", "allow_host"):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host in LOCAL:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def needs_token(self) -> bool:
        """Whether others than this machine can reach the server, directly or through a proxy on it."""
        return not self.is_local or self.behind_proxy or any(name.lower() not in LOCAL for name in self.allow_host)

    def refuse(self) -> None:
        """Raise `InputError` for options that do not go together."""
        require_whole("--port", self.port, 0)
        if self.port > 65_535:
            raise InputError(f"--port must be at most 65535, but is {self.port}.")
        for option, number in (("--max-bytes", self.max_bytes), ("--max-pixels", self.max_pixels)):
            require_whole(option, number, 1)
        require_whole("--keep-minutes", self.keep_minutes, 1)
        if (self.certificate is None) != (self.key is None):
            raise InputError("--certificate and --key go together: pass both.")
        for option, file in (("--certificate", self.certificate), ("--key", self.key)):
            if file is not None and not Path(file).is_file():
                raise InputError(f"{option} {file}: no such file.")
        if not self.is_local and self.certificate is None and not self.behind_proxy:
            raise InputError(
                f"--host {self.host} is reached from other machines, and patients' images must not travel unencrypted. "
                "Pass --certificate and --key, or --behind-proxy if a proxy in front of it encrypts."
            )
        if not self.is_local and not self.allow_host and self.host in ("0.0.0.0", "::"):
            raise InputError(
                f"--host {self.host} listens on every address. Say by which names browsers reach it: --allow-host NAME."
            )

    @property
    def hosts(self) -> list[str]:
        """Host names that a request may give; another may be of a page elsewhere that was bound to this address."""
        own = [] if self.host in ("0.0.0.0", "::") else [self.host]
        return [*dict.fromkeys([*own, *(LOCAL if self.is_local else ()), *self.allow_host])]
