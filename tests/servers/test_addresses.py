"""Addresses and certificates are checked before anything is sent or served."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hre_torch.errors import ConfigurationError
from hre_torch.http_client import checked_url, client_options
from hre_torch.servers.running import check_certificate


@pytest.mark.parametrize(
    "url",
    [
        "https://dsp.example",
        "http://127.0.0.1:8440",
        "http://[::1]:8440/",
        "https://dsp.example/under/a/path",
    ],
)
def test_a_url_of_a_server_is_taken_as_it_is(url):
    assert checked_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "dsp.example",
        "dsp.example:8440",
        "ftp://dsp.example",
        "http://",
        "http://:8440",
        "http://host:port",
        "http://host:0",
        "http://host:99999",
        "http://[::1",
        "http://a\x00b",
    ],
)
def test_what_is_no_url_is_told_and_how_one_is_written(url):
    with pytest.raises(ConfigurationError, match="write it as https://"):
        client_options(url, None)


def test_certificates_to_trust_that_are_none_are_told_by_name(tmp_path):
    empty, missing = tmp_path / "empty.pem", tmp_path / "missing.pem"
    empty.write_text("nothing")
    for path in (empty, missing, tmp_path):
        with pytest.raises(ConfigurationError, match=f"{path} holds no certificates"):
            client_options("https://dsp.example", path)


def test_tls_that_cannot_work_is_refused(tmp_path):
    key, nothing = tmp_path / "key.pem", tmp_path / "nothing.pem"
    nothing.write_text("nothing")
    key.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    check_certificate(None, None)
    for certificate in (nothing, key, tmp_path / "missing.pem"):
        with pytest.raises(ConfigurationError, match="PEM files that belong together"):
            check_certificate(certificate, key)
