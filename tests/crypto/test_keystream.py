from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from hre_torch.crypto.rlwe.sampling import Keystream
from hre_torch.errors import ConfigurationError

KEY = bytes(range(32))


def test_the_stream_is_the_published_vector_of_aes_256_in_counter_mode():
    # NIST SP 800-38A, F.5.5: output blocks 1 and 2.
    key = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
    counter = int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16)
    stream = Keystream(bytes.fromhex(key), counter)
    expected = "0bdf7df1591716335e9a8b15c860c502" + "5a6e699d536119065433863c8f657b94"
    assert stream.octets(32).hex() == expected


def test_blocks_are_encrypted_counters():
    counters = b"".join(k.to_bytes(16, "big") for k in range(7, 12))
    encryptor = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor()
    assert Keystream(KEY, 7).octets(80) == encryptor.update(counters)


def test_the_stream_goes_on_where_it_stopped():
    whole, parts = Keystream(KEY), Keystream(KEY)
    assert whole.octets(100) == parts.octets(33) + parts.octets(0) + parts.octets(67)


def test_entering_later_skips_whole_blocks():
    assert Keystream(KEY, 3).octets(20) == Keystream(KEY).octets(68)[48:]


def test_the_repr_does_not_show_the_key():
    assert KEY.hex() not in repr(Keystream(KEY))


def test_a_key_of_another_length_is_refused():
    with pytest.raises(ConfigurationError, match="32 octets, not 16"):
        Keystream(bytes(16))


@pytest.mark.parametrize("block", [-1, 2**128])
def test_a_block_outside_the_counter_is_refused(block):
    with pytest.raises(ConfigurationError, match="between 0 and 2"):
        Keystream(KEY, block)
