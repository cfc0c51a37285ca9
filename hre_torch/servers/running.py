"""Sockets, who may be served where, start and end of a service."""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
import ssl
import threading
import time
from asyncio import sslproto
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import uvicorn
from starlette.applications import Starlette

from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.errors import AggregatorError, ConfigurationError, UnsupportedError
from hre_torch.http_client import KEPT_SECONDS, is_loopback
from hre_torch.servers.limits import guarded
from hre_torch.servers.logs import log_event

__all__ = ["check_certificate", "check_exposure", "hosted", "serve"]

_GRACE_SECONDS: Final = 10
_MOST_HEAD_OCTETS: Final = 16_384
_TLS_BUFFER_OCTETS: Final = 8192
"""With the head so far, and what waits for its turn before and after it is decrypted, a
stranger holds 64 KB at most."""
_START_SECONDS: Final = 10.0
_NOT_STARTED: Final = "the service did not start; its log says why"
_WAITING_CONNECTIONS: Final = 1024
"""How many the kernel keeps till they are accepted."""
_ACCEPTED_AT_ONCE: Final = 1
"""asyncio accepts as many in one turn of its loop as its argument `backlog` says."""


def check_exposure(parameters: Parameters, host: str) -> None:
    """Refuse to serve a profile where it must not be served.

    Args:
        parameters: the task's.
        host: address or name to listen on.

    Raises:
        UnsupportedError: an insecure profile, or one for loopback only elsewhere.
    """
    if parameters.insecure:
        raise UnsupportedError(
            f"profile {parameters.name!r} is INSECURE and is not served at all; make "
            "the task with 'rsa2048', or with a profile of your own ceremony"
        )
    if parameters.loopback_only and not is_loopback(host):
        raise UnsupportedError(
            f"profile {parameters.name!r} may be served on loopback only, not on "
            f"{host!r}: somebody once knew its factors; hold your own ceremony with "
            "`hre-torch keygen params`"
        )


def check_certificate(certificate: Path | None, private_key: Path | None) -> None:
    """Refuse to serve with TLS that would not work.

    Args:
        certificate: PEM chain; None for plain HTTP.
        private_key: PEM.

    Raises:
        ConfigurationError: they cannot be read, do not fit, or ask for a passphrase.
    """
    if certificate is None:
        return

    def refuse() -> NoReturn:
        raise ConfigurationError(
            f"{private_key} is encrypted; name a private key without a passphrase, "
            "readable by the server alone"
        )

    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            certificate, private_key, refuse
        )
    except OSError as error:
        raise ConfigurationError(
            f"no TLS with certificate {certificate} and private_key {private_key} "
            f"({error}); name PEM files that belong together"
        ) from error


def serve(
    app: Starlette,
    admin: Starlette,
    parameters: Parameters,
    *,
    host: str,
    port: int,
    admin_host: str,
    admin_port: int,
    certificate: Path | None = None,
    private_key: Path | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; requests that have begun are answered.

    Takes the process for itself: all objects made so far are kept to its end.

    Args:
        app: of a service.
        admin: what only whoever runs it should look at; plain HTTP, in a thread.
        parameters: the task's, which decide where it may be served.
        host: address or name to listen on.
        port: 0 for any free one.
        admin_host: address or name for `admin`.
        admin_port: 0 for any free one.
        certificate: PEM chain for TLS, with `private_key`; None for plain HTTP.
        private_key: PEM.

    Raises:
        UnsupportedError: see `check_exposure`.
        ConfigurationError: see `check_certificate`.
        AggregatorError: an address cannot be listened on.
    """
    check_exposure(parameters, host)
    check_certificate(certificate, private_key)
    with _listening(host, port) as listener, _aside(admin, admin_host, admin_port):
        log_event("listening", host=host, port=listener.getsockname()[1])
        server = _Server(_config(app, certificate, private_key))
        # Modules live as long as the server, and looking for garbage among them made
        # everybody wait for 40 ms now and then.
        gc.collect()
        gc.freeze()
        server.run(sockets=[listener])
        if not server.started:
            raise AggregatorError(_NOT_STARTED)


@contextlib.contextmanager
def hosted(
    app: Starlette,
    parameters: Parameters,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    certificate: Path | None = None,
    private_key: Path | None = None,
) -> Iterator[str]:
    """Serve in a thread of this process while the `with` lasts; gives the URL.

    Takes what `serve` takes, without `admin`.

    Raises:
        UnsupportedError: see `check_exposure`.
        ConfigurationError: see `check_certificate`.
        AggregatorError: the address cannot be listened on, or nothing starts.
    """
    check_exposure(parameters, host)
    check_certificate(certificate, private_key)
    with (
        _listening(host, port) as listener,
        _running(_Server(_config(app, certificate, private_key)), listener),
    ):
        scheme = "http" if certificate is None else "https"
        yield f"{scheme}://{host}:{listener.getsockname()[1]}"


@contextlib.contextmanager
def _aside(admin: Starlette, host: str, port: int) -> Iterator[None]:
    with (
        _listening(host, port) as listener,
        _running(_Server(_config(admin, None, None)), listener),
    ):
        log_event("admin", host=host, port=listener.getsockname()[1])
        yield


@contextlib.contextmanager
def _running(server: uvicorn.Server, listener: socket.socket) -> Iterator[None]:
    """Run a server in a thread while the `with` lasts."""
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, daemon=True
    )
    thread.start()
    try:
        _await_start(server, thread)
        yield
    finally:
        server.should_exit = True
        thread.join()


class _Server(uvicorn.Server):
    """uvicorn's server; a signal ends it gracefully, and not by that signal again."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; whoever is not accepted at once waits in the kernel."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_WAITING_CONNECTIONS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; asked a second time by Ctrl-C, end at once."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def _await_start(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise AggregatorError(_NOT_STARTED)
        time.sleep(0.005)


def _config(
    app: Starlette, certificate: Path | None, private_key: Path | None
) -> uvicorn.Config:
    # asyncio keeps a buffer of that size, 256 KB otherwise, for every connection.
    sslproto.SSLProtocol.max_size = _TLS_BUFFER_OCTETS
    return uvicorn.Config(
        app,
        http=guarded(),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=_ACCEPTED_AT_ONCE,
        # Longer than clients do, so that no request meets the end of its connection.
        timeout_keep_alive=KEPT_SECONDS + 15,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        h11_max_incomplete_event_size=_MOST_HEAD_OCTETS,
        ssl_certfile=None if certificate is None else str(certificate),
        ssl_keyfile=None if private_key is None else str(private_key),
    )


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's delays off only where the protocol is named, which
    # `socket.create_server` does not: 40 ms per answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_WAITING_CONNECTIONS)
        return listener
    except OSError as error:
        listener.close()
        raise AggregatorError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another "
            "port, or end whoever has it"
        ) from error
