"""What the clients of both servers share: addresses, answers, retries.

An answer is what is signed by whom it should be, and not too long. A message is sent
again until it has one; where that is in vain, or takes long, a person is told.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import random
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx

from hre_torch.errors import ConfigurationError, ProtocolError
from hre_torch.protocol.answers import read_answer
from hre_torch.protocol.wire import MAX_HEADER_BYTES, Envelope, Header

__all__ = [
    "KEPT_SECONDS",
    "Gathered",
    "LostError",
    "Outage",
    "RetryPolicy",
    "authentic",
    "checked_url",
    "client_options",
    "is_loopback",
    "loss_of",
]

KEPT_SECONDS: Final = 60
"""How long a client keeps an idle connection; a new one is a stranger's at first."""
_CONNECTIONS: Final = 100
"""At most at a time, which is httpx's own number."""


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked_url(url: str) -> str:
    """Return a server's URL, if it is one.

    Raises:
        ConfigurationError: it is not.
    """
    try:
        parts = urlsplit(url)
        # Reading the port is what checks it.
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        good = False
    if not good:
        raise ConfigurationError(
            f"{url!r} is no URL of a server; write it as https://dsp.example or "
            "http://127.0.0.1:8440"
        )
    return url


def client_options(url: str, ca_file: Path | None) -> dict[str, Any]:
    """Return how an httpx client should reach a URL.

    Proxies of the environment are for the world outside: nobody means them for this
    machine.

    Args:
        url: of a server.
        ca_file: PEM certificates to trust instead of the system's.

    Raises:
        ConfigurationError: the URL is none, or the file holds no certificates.
    """
    outside = not is_loopback(urlsplit(checked_url(url)).hostname or "")
    context: ssl.SSLContext | bool = True
    if ca_file is not None:
        try:
            context = ssl.create_default_context(cafile=str(ca_file))
        except OSError as error:
            raise ConfigurationError(
                f"{ca_file} holds no certificates to trust ({error}); name a PEM file"
            ) from error
    limits = httpx.Limits(max_connections=_CONNECTIONS, keepalive_expiry=KEPT_SECONDS)
    return {
        "base_url": url,
        "trust_env": outside,
        "verify": context,
        "limits": limits,
    }


H = TypeVar("H", bound=Header)

_SLACK: Final = 4096
"""Octets of lengths, proof and signature besides header and body."""


class LostError(Exception):
    """What came back is no answer; whoever asked asks again.

    Attributes:
        permanent: whether asking again is in vain.
        misconfigured: whether it is where nothing from there was ever an answer.
    """

    def __init__(
        self, reason: str, *, permanent: bool = False, misconfigured: bool = False
    ) -> None:
        super().__init__(reason)
        self.permanent = permanent
        self.misconfigured = misconfigured


class Gathered:
    """The octets of an answer, as they arrive.

    Args:
        max_bytes: most octets of body that the task allows.
    """

    def __init__(self, max_bytes: int) -> None:
        self._most = MAX_HEADER_BYTES + max_bytes + _SLACK
        self._octets = bytearray()

    def add(self, chunk: bytes) -> None:
        """Take some more.

        Raises:
            LostError: they are too many.
        """
        self._octets += chunk
        if len(self._octets) > self._most:
            raise LostError(f"an answer of more than {self._most} octets")

    def extend(self, chunks: Iterable[bytes]) -> Gathered:
        """Take everything.

        Raises:
            LostError: it is too much.
        """
        for chunk in chunks:
            self.add(chunk)
        return self

    def octets(self) -> bytes:
        """Return what has come."""
        return bytes(self._octets)


def authentic(
    answer: bytes,
    sent: bytes,
    kind: type[H],
    *,
    key: bytes,
    cfg: bytes,
    max_bytes: int,
) -> Envelope[Any]:
    """Return an answer, or a refusal, that the far end has signed for these octets.

    Args:
        answer: what came back.
        sent: what was sent.
        kind: header class of the answer that is hoped for.
        key: the far end's signing key.
        cfg: the task.
        max_bytes: most octets of body that the task allows.

    Raises:
        LostError: it is none.
    """
    try:
        return read_answer(answer, sent, kind, key=key, cfg=cfg, max_bytes=max_bytes)
    except ProtocolError as error:
        raise LostError(str(error)) from error


_LOGGER: Final = logging.getLogger("hre_torch")
_TOLD_AFTER_SECONDS: Final = 2.0
"""A server that is restarted is back by then, or soon; nobody need read of it."""
_CERTIFICATE_COMPLAINTS: Final = {
    9: "its certificate is not valid yet; check the clock of this machine",
    10: "its certificate has expired; whoever runs the server has to renew it",
    18: "its certificate is signed by nobody whom this machine trusts; name the "
    "certificates to trust with --ca FILE, in Python ca_file=",
    62: "its certificate is for another host name than the URL's; write the URL with "
    "the name in the certificate",
}
_SAME_COMPLAINT: Final = {19: 18, 20: 18, 21: 18, 64: 62}
"""OpenSSL's codes of X509_V_ERR_*: 18 to 21 are kinds of unknown signers, 62 and 64
are a name and an address that do not match."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter and a cap: the one rule for all retries.

    Attributes:
        timeout: seconds without an answer after which it is an error, at least 0; None
            goes on until the program is stopped.
        first_pause: seconds before the second attempt; every pause doubles.
        longest_pause: seconds at which doubling ends.
        silence: seconds without an octet after which an attempt is lost.
    """

    timeout: float | None = None
    first_pause: float = 0.1
    longest_pause: float = 5.0
    silence: float = 30.0

    def pauses(self) -> Iterator[float]:
        """Yield the pause before every further attempt.

        Half of it is left to chance, so that participants which lost the DSP at the
        same moment do not all come back at the same moment.
        """
        patience = math.inf if self.timeout is None else self.timeout
        deadline = time.monotonic() + patience
        pause = self.first_pause
        while (left := deadline - time.monotonic()) > 0:
            yield min(left, random.uniform(pause / 2, pause))
            pause = min(2 * pause, self.longest_pause)


def loss_of(error: httpx.HTTPError | LostError) -> LostError:
    """Return what an attempt met, in words; errors of TLS say what to do."""
    if isinstance(error, LostError):
        return error
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        code = _SAME_COMPLAINT.get(cause.verify_code, cause.verify_code)
        usual = f"its certificate does not verify: {cause.verify_message}"
        return LostError(_CERTIFICATE_COMPLAINTS.get(code, usual), misconfigured=True)
    if cause is not None and cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return LostError(
            "it does not speak TLS; write its URL with http:// or give it a "
            "certificate",
            misconfigured=True,
        )
    return LostError(f"{type(error).__name__}: {error}")


class Outage:
    """Tells a person that a server does not answer, and when it does again.

    Safe to use from several threads. One line for each, by `logging`, which writes to
    standard error unless the program says otherwise.

    Args:
        server: whom messages are sent to, in words.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._since: float | None = None
        self._told = False

    def lasts(self, reason: LostError) -> None:
        """Take note that an attempt has failed and another one follows."""
        now = time.monotonic()
        with self._lock:
            if self._since is None:
                self._since = now
            if self._told or now - self._since < _TOLD_AFTER_SECONDS:
                return
            self._told = True
        _LOGGER.warning(
            "%s does not answer (%s); nothing is lost, trying again until it does",
            self._server,
            reason,
        )

    def ends(self) -> None:
        """Take note of an answer."""
        with self._lock:
            since, told = self._since, self._told
            self._since, self._told = None, False
        if told and since is not None:
            seconds = time.monotonic() - since
            _LOGGER.warning("%s answers again after %.0f s", self._server, seconds)
