"""serve: run the page of similar cases until it is interrupted."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater._devices import require_device
from headwater._extras import need
from headwater._options import with_options
from headwater._progress import Progress, progress_to
from headwater.errors import InputError
from headwater.serve.options import ServeOptions
from headwater.store import Store, open_store

KEEP_ALIVE, AT_ONCE = 5, 128  # seconds, and connections
HEADER_SECONDS = 20.0
"""Seconds within which the head of a request must have arrived."""
HEADER_BYTES = 32 << 10


@dataclass(frozen=True)
class Ready:
    """A server that is ready to run.

    Attributes
    ----------
    app
        The ASGI application.
    service
        What answers its requests.
    url
        The address to open; with the token if there is one.
    token
        What requests must bring; None if only this machine can reach the server.
    listens
        The socket that it listens on.
    """

    app: Any
    service: Any
    url: str
    token: str | None
    listens: socket.socket

    def lines(self) -> list[str]:
        """Return what a person needs to know."""
        options = self.service.options
        out = [f"open {self.url}"]
        if self.token is not None:
            out.append("whoever has this address sees what the page shows: pass it on with care")
        shown = ", ".join(options.show) if options.show else "no column (--show COL adds some)"
        out.append(f"shown of each case: image, similarity, {shown}")
        out.append(f"queries are noted in {self.service.log.folder}, without images and words; Ctrl-C ends")
        return out


def prepare(store: str | Path | Store, *, progress: Progress | bool | None = None, **options: Any) -> Ready:
    """Load store, encoders and runs, and listen; see `serve`.

    Raises
    ------
    InputError, StoreError, EncoderError, HeadError
        Each with one line that says what, where and what to do.
    MissingExtra
        When fastapi or uvicorn is not installed.
    """
    asked: ServeOptions = with_options("serve", options, ServeOptions())
    asked.refuse()
    require_device(asked.device)
    for module in ("fastapi", "uvicorn"):
        need(module, "serve")
    from headwater.serve.app import make_app
    from headwater.serve.guard import new_token
    from headwater.serve.service import Service

    _require_certificate(asked)
    listens = _listen(asked.host, asked.port)
    try:
        service = Service(store if isinstance(store, Store) else open_store(store), asked, progress_to(progress))
    except BaseException:
        listens.close()
        raise
    token = new_token() if asked.needs_token else None
    port = int(listens.getsockname()[1])
    through = asked.behind_proxy or not asked.is_local
    name = asked.allow_host[0] if asked.allow_host and through else asked.host
    shown = f"[{name}]" if ":" in name else name
    scheme = "http" if asked.certificate is None and not asked.behind_proxy else "https"
    query = "" if token is None else f"?token={token}"
    of_proxy = asked.behind_proxy and asked.is_local and bool(asked.allow_host)  # it listens on a port of its own
    at = shown if of_proxy else f"{shown}:{port}"
    return Ready(make_app(service, token=token), service, f"{scheme}://{at}/{query}", token, listens)


def run(ready: Ready) -> None:
    """Answer requests until interrupted."""
    server_of(ready).run(sockets=[ready.listens])


def server_of(ready: Ready) -> Any:
    """Return the uvicorn server that answers requests."""
    uvicorn = need("uvicorn", "serve")
    options = ready.service.options
    config = uvicorn.Config(
        ready.app,
        http=_impatient(need("uvicorn.protocols.http.auto", "serve").AutoHTTPProtocol),
        access_log=False,  # what people ask for is in the log of the service, without addresses
        log_level="warning",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        limit_concurrency=AT_ONCE,
        h11_max_incomplete_event_size=HEADER_BYTES,
        ssl_certfile=None if options.certificate is None else str(options.certificate),
        ssl_keyfile=None if options.key is None else str(options.key),
    )
    return uvicorn.Server(config)


def _impatient(protocol: type[Any]) -> type[Any]:
    """Return a protocol of uvicorn that closes connections on which no request arrives, which would fill the server."""

    class Impatient(protocol):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(HEADER_SECONDS, self._look, None)

        def _look(self, before: Any) -> None:
            """Close if nothing has been asked since the last look."""
            if self.transport.is_closing():
                return
            waits = self.cycle is None or self.cycle.response_complete
            if waits and self.cycle is before:
                self.transport.close()
            else:
                self.loop.call_later(HEADER_SECONDS, self._look, self.cycle)

    return Impatient


def serve(store: str | Path | Store, *, progress: Progress | bool | None = True, **options: Any) -> None:
    """Serve a page on which people find similar cases, with the findings of runs, until interrupted.

    Parameters
    ----------
    store
        A store, or its path.
    progress
        Where events go: None for nowhere, True for standard error, or a callable; see `headwater.Event`.
    options
        Any field of `headwater.serve.options.ServeOptions` by its name, such as ``runs`` or ``show``.

    Raises
    ------
    InputError, StoreError, EncoderError, HeadError, MissingExtra
        Each with one line that says what, where and what to do.
    """
    ready = prepare(store, progress=progress, **options)
    say = progress_to(progress)
    for line in ready.lines():
        say(line)
    run(ready)


def _require_certificate(options: ServeOptions) -> None:
    """Refuse files that hold no certificate, or not its key, before anything is loaded."""
    if options.certificate is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.certificate, options.key)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        why = getattr(error, "reason", None) or error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"--certificate {options.certificate} --key {options.key}: cannot be used ({why}). Give PEM files that "
            "belong together."
        ) from error


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; refuse a port that is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listens = socket.socket(family, socket.SOCK_STREAM)
    listens.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listens.bind((host, port))
        listens.listen(AT_ONCE)
    except OSError as error:
        listens.close()
        why = error.strerror or str(error)
        raise InputError(f"--host {host} --port {port}: cannot listen there ({why}). Choose another port.") from error
    return listens
