"""When a message is sent again, when that is in vain, and what a person is told."""

from __future__ import annotations

import logging
import math
import random
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import httpx

from hre_torch.aggregators.replies import LostError

__all__ = ["Outage", "RetryPolicy", "loss_of"]

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
