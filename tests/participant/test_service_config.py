"""A server's YAML file: what it may say, and how mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from hre_torch.crypto.keys import key_files
from hre_torch.errors import (
    ConfigurationError,
    KeyFileError,
    RecipeError,
    UnsupportedError,
)
from hre_torch.servers import serving
from hre_torch.servers.config import DSPConfig, KTSConfig, load_config
from tests.sites import furnish

GOOD = "roster: r.json\nkey: dsp.key\nstore: store\nkts: http://127.0.0.1:8441\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "server.yaml"
    path.write_text(text)
    return path


def test_defaults_are_loopback_and_two_processes(tmp_path):
    config = load_config(write(tmp_path, GOOD), DSPConfig)
    assert (config.host, config.port, config.workers) == ("127.0.0.1", 8440, 2)


def test_tables_of_recipients_take_a_gibibyte_unless_the_file_says_otherwise(tmp_path):
    assert load_config(write(tmp_path, GOOD), DSPConfig).recipient_tables_mib == 1024
    line = GOOD + "recipient_tables_mib: 64\n"
    assert load_config(write(tmp_path, line), DSPConfig).recipient_tables_mib == 64


def test_paths_are_relative_to_the_file(tmp_path):
    config = load_config(
        write(tmp_path, GOOD + "passphrase_file: /etc/secret\n"), DSPConfig
    )
    assert config.store == tmp_path / "store"
    assert config.passphrase_file == Path("/etc/secret")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("prot: 1", "did you mean 'port'"),
        ("port: 70000", "port"),
        ("workers: 0", "workers"),
        ("recipient_tables_mib: -1", "recipient_tables_mib"),
        ("kts: ftp://x", "no URL of a server"),
        ("kts: http://host:port", "no URL of a server"),
        ("certificate: c.pem", "both certificate and private_key"),
        ("a: [", "cannot read the configuration"),
        ("kts: 5", "kts"),
        ("store: 5", "store"),
        ("host: {}", "host"),
        ("1: 2", "unknown key 1"),
    ],
)
def test_a_mistake_is_told_with_its_key(tmp_path, line, says):
    with pytest.raises(RecipeError, match=says):
        load_config(
            write(tmp_path, GOOD.replace(f"{line.split(':')[0]}:", "#") + line),
            DSPConfig,
        )


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="2 lines for the key 'port'; keep one"):
        load_config(write(tmp_path, GOOD + "port: 1\nport: 2\n"), DSPConfig)


@pytest.mark.parametrize("text", ["", "{}"])
def test_a_file_that_says_nothing_is_refused(tmp_path, text):
    with pytest.raises(RecipeError):
        load_config(write(tmp_path, text), KTSConfig)


def test_a_missing_or_empty_file_is_said(tmp_path):
    with pytest.raises(RecipeError, match="cannot read"):
        load_config(tmp_path / "nothing.yaml", KTSConfig)
    with pytest.raises(RecipeError):
        load_config(write(tmp_path, "- a\n- b\n"), KTSConfig)


@pytest.fixture
def toy_site(tmp_path, monkeypatch):
    monkeypatch.setattr(key_files, "_SCRYPT_N", 2)
    monkeypatch.setattr(serving, "serve", lambda *args, **options: None)

    def make(profile):
        return furnish(tmp_path, "plain", profile=profile)

    return make


def test_an_insecure_profile_is_refused_before_any_key_is_opened(toy_site, tmp_path):
    toy_site("toy-insecure")
    with pytest.raises(UnsupportedError, match="INSECURE"):
        serving.serve_kts(tmp_path / "kts.yaml", lambda key, file: b"wrong")


def test_a_missing_certificate_is_told_before_any_key_is_opened(toy_site, tmp_path):
    toy_site("rsa2048")
    with (tmp_path / "kts.yaml").open("a") as file:
        file.write("certificate: c.pem\nprivate_key: k.pem\n")
    with pytest.raises(ConfigurationError, match=r"c\.pem"):
        serving.serve_kts(tmp_path / "kts.yaml", lambda key, file: b"wrong")


def test_a_server_does_not_start_with_the_key_of_another(toy_site, tmp_path):
    toy_site("rsa2048")
    text = (tmp_path / "kts.yaml").read_text()
    (tmp_path / "kts.yaml").write_text(text.replace("kts.key", "dsp.key"))
    with pytest.raises(KeyFileError, match="not the kts"):
        serving.serve_kts(tmp_path / "kts.yaml", lambda key, file: b"secret")
