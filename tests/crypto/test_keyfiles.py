"""Key files: only the owner, only with the passphrase, only undamaged."""

from __future__ import annotations

import json
import os
import stat
import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hre_torch.crypto.entropy import Entropy
from hre_torch.crypto.keys import key_files
from hre_torch.crypto.keys.key_files import (
    MAX_SECRET_BYTES,
    read_key_file,
    read_passphrase,
    write_key_file,
)
from hre_torch.errors import KeyFileError

SECRET = bytes(range(64, 128))
PASSPHRASE = b"correct horse battery staple"
DIGEST = bytes(range(32))

every_example_in_one_folder = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class CountingEntropy(Entropy):
    """Counts what is drawn."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def octets(self, count: int) -> bytes:
        self.lengths.append(count)
        return super().octets(count)


def write(path, **changes) -> bytes:
    values = {
        "role": "participant",
        "name": "Charité",
        "parameters_digest": DIGEST,
        "secret": SECRET,
        "passphrase": PASSPHRASE,
    }
    return write_key_file(path, **(values | changes))


@pytest.fixture
def cheap(monkeypatch):
    """Make scrypt cheap, for tests that open hundreds of files."""
    monkeypatch.setattr(key_files, "_SCRYPT_N", 2)


@pytest.fixture
def path(tmp_path, cheap):
    """A written key file."""
    path = tmp_path / "key"
    write(path)
    return path


def refusal(path, passphrase: bytes = PASSPHRASE) -> str:
    """Return why a file does not open."""
    with pytest.raises(KeyFileError) as caught:
        read_key_file(path, passphrase=passphrase)
    return str(caught.value)


def test_what_was_written_is_read_back_at_full_cost(tmp_path):
    key_id = write(tmp_path / "key")
    opened = read_key_file(tmp_path / "key", passphrase=PASSPHRASE)
    assert (opened.role, opened.name) == ("participant", "Charité")
    assert (opened.parameters_digest, opened.key_id) == (DIGEST, key_id)
    assert opened.secret == SECRET


def test_the_cost_is_that_of_the_security_design():
    assert (key_files._SCRYPT_N, key_files._SCRYPT_R, key_files._SCRYPT_P) == (
        2**17,
        8,
        1,
    )


@every_example_in_one_folder
@given(
    secret=st.binary(min_size=1, max_size=200),
    passphrase=st.binary(min_size=1, max_size=100),
    role=st.text(min_size=1, max_size=128),
    name=st.text(min_size=1, max_size=128),
    digest=st.sampled_from([b"", DIGEST]),
)
def test_anything_within_the_bounds_is_read_back(
    tmp_path, cheap, secret, passphrase, role, name, digest
):
    path = tmp_path / "key"
    path.unlink(missing_ok=True)
    write_key_file(
        path,
        role=role,
        name=name,
        parameters_digest=digest,
        secret=secret,
        passphrase=passphrase,
    )
    opened = read_key_file(path, passphrase=passphrase)
    assert (opened.role, opened.name) == (role, name)
    assert (opened.parameters_digest, opened.secret) == (digest, secret)


def test_the_largest_secret_is_read_back(tmp_path, cheap):
    write(tmp_path / "key", secret=bytes(MAX_SECRET_BYTES), name="\U0001f600" * 128)
    opened = read_key_file(tmp_path / "key", passphrase=PASSPHRASE)
    assert len(opened.secret) == MAX_SECRET_BYTES


def test_only_the_owner_may_read_the_file_whatever_the_umask(tmp_path, cheap):
    for mask in (0o000, 0o022):
        before = os.umask(mask)
        try:
            write(tmp_path / f"key{mask}")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / f"key{mask}").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o777])
def test_a_file_that_others_can_use_is_refused_with_the_remedy(path, mode):
    path.chmod(mode)
    assert f"chmod 600 {path}" in refusal(path)


def test_a_file_that_the_owner_may_only_read_is_accepted(path):
    path.chmod(0o400)
    assert read_key_file(path, passphrase=PASSPHRASE).secret == SECRET


def test_a_file_of_another_user_is_refused(path, monkeypatch):
    monkeypatch.setattr(key_files.os, "geteuid", lambda: 4711)
    status = list(path.stat())
    status[4] = 815
    monkeypatch.setattr(key_files.os, "fstat", lambda _: os.stat_result(status))
    assert "user 815, who can read it" in refusal(path)


def test_an_existing_file_is_never_overwritten(path):
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="never overwritten"):
        write(path)
    assert path.read_bytes() == before


def test_a_dangling_link_is_not_written_through(tmp_path, cheap):
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="never overwritten"):
        write(tmp_path / "key")
    assert not (tmp_path / "elsewhere").exists()


def test_a_link_to_a_private_file_is_followed(path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    assert read_key_file(tmp_path / "link", passphrase=PASSPHRASE).secret == SECRET


def test_file_and_folder_reach_the_disk_before_the_call_returns(
    tmp_path, cheap, monkeypatch
):
    synced = []
    real = os.fsync

    def fsync(descriptor):
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        real(descriptor)

    monkeypatch.setattr(key_files.os, "fsync", fsync)
    write(tmp_path / "key")
    assert synced == [False, True]


def test_a_failure_on_the_way_leaves_nothing_behind(tmp_path, cheap, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(key_files.os, "fsync", fail)
    with pytest.raises(KeyFileError, match="No space left"):
        write(tmp_path / "key")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist_is_named(tmp_path, cheap):
    with pytest.raises(KeyFileError, match="folder that exists"):
        write(tmp_path / "nowhere" / "key")


def test_a_missing_file_is_named(tmp_path):
    assert "there is no key file" in refusal(tmp_path / "key")


def test_a_folder_is_no_key_file(tmp_path):
    assert "no ordinary file" in refusal(tmp_path)


def test_a_named_pipe_does_not_hang_the_reader(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "no ordinary file" in refusal(tmp_path / "pipe")


def test_a_wrong_passphrase_and_any_damage_give_one_and_the_same_error(path):
    generic = refusal(path, b"wrong")
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert refusal(path) == generic
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert refusal(path) == generic
    path.write_bytes(whole + b"\n")
    assert refusal(path) == generic


FORGERIES = {
    "another version": lambda d: d.replace(b"key file 1", b"key file 2"),
    "capital digits": lambda d: d.replace(b"0a0b0c0d", b"0A0B0C0D"),
    "a blank": lambda d: d.replace(b"0a0b0c0d", b"0a 0b0c0d"),
    "other blanks": lambda d: json.dumps(json.loads(d)).encode(),
    "a doubled field": lambda d: d.replace(b"{", b'{"role": "dsp",', 1),
    "another order": lambda d: json.dumps(
        dict(reversed(json.loads(d).items())), indent=2
    ).encode(),
    "another role": lambda d: d.replace(b"participant", b"dsp"),
    "no text": lambda d: d.replace(b'"participant"', b"17"),
    "a list": lambda d: b"[1, 2]",
    "deep nesting": lambda d: b"[" * 100_000,
    "huge numbers": lambda d: b"9" * 100_000,
    "no text at all": lambda d: bytes(range(256)),
    "nothing": lambda d: b"",
    "too much": lambda d: d * 1000,
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_file_gives_the_same_error(path, forge):
    generic = refusal(path, b"wrong")
    before = path.read_bytes()
    path.write_bytes(forge(before))
    assert path.read_bytes() != before
    assert refusal(path) == generic


def test_a_secret_is_bound_to_whose_it_is(path):
    fields = json.loads(path.read_bytes())
    for field in ("role", "name", "parameters_digest", "key_id"):
        changed = fields | {field: fields[field].swapcase()[::-1]}
        path.write_bytes((json.dumps(changed, indent=2) + "\n").encode())
        assert "does not open" in refusal(path)


def test_two_files_of_one_secret_have_nothing_in_common(tmp_path, cheap):
    entropy = CountingEntropy()
    for name in ("a", "b"):
        write(tmp_path / name, entropy=entropy)
    a, b = (json.loads((tmp_path / name).read_bytes()) for name in ("a", "b"))
    for field in ("key_id", "salt", "nonce", "ciphertext"):
        assert a[field] != b[field]
    assert sorted(entropy.lengths) == [12, 12, 16, 16, 32, 32]


def test_no_secret_shows_in_a_repr_or_an_error(path):
    opened = read_key_file(path, passphrase=PASSPHRASE)
    with pytest.raises(KeyFileError) as caught:
        read_key_file(path, passphrase=PASSPHRASE + b"!")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    texts = [repr(opened), *traceback.format_exception(caught.value)]
    for text in texts:
        assert repr(SECRET)[2:-1] not in text
        assert SECRET.hex() not in text
        assert "correct horse" not in text


def test_the_file_shows_nothing_of_the_secret(path):
    assert SECRET.hex().encode() not in path.read_bytes()
    assert SECRET not in path.read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"passphrase": b""},
        {"secret": b""},
        {"secret": bytes(MAX_SECRET_BYTES + 1)},
        {"parameters_digest": bytes(31)},
        {"role": ""},
        {"role": "x" * 129},
        {"name": ""},
        {"name": "x" * 129},
    ],
)
def test_what_cannot_be_a_key_is_refused_before_anything_is_written(tmp_path, changes):
    with pytest.raises(KeyFileError):
        write(tmp_path / "key", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_passphrase_that_others_can_use_is_refused_with_what_to_do(tmp_path, mode):
    path = tmp_path / "passphrase"
    path.write_text("secret\n")
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=rf"passphrase file .*chmod 600 {path}"):
        read_passphrase(path)


def test_the_first_line_of_an_owners_file_is_the_passphrase(tmp_path):
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_text("secret\nmore\n")
    assert read_passphrase(path) == b"secret"


def test_a_pipe_may_bring_the_passphrase():
    reading, writing = os.pipe()
    os.write(writing, b"secret\n")
    os.close(writing)
    try:
        assert read_passphrase(Path(f"/dev/fd/{reading}")) == b"secret"
    finally:
        os.close(reading)
