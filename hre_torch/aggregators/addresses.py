"""What an address says: is it this machine, and whose certificates count there?"""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from hre_torch.errors import ConfigurationError

__all__ = ["KEPT_SECONDS", "checked_url", "client_options", "is_loopback"]

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
