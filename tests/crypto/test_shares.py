"""Two shares open a block; none of them alone does."""

from __future__ import annotations

import pytest

from hre_torch.crypto.dcr.encryption import Ciphertext, Exponents, encrypt
from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.dcr.shares import (
    Share,
    combine,
    open_share,
    share,
    strip,
    unmasked,
)
from hre_torch.errors import CryptoError, DecryptionError

TOY = load_profile("toy-insecure")
PLAINTEXTS = [0, 1, -5]


class Setting:
    """Keys of both servers and of two participants, and one encrypted block."""

    def __init__(self) -> None:
        self.a, self.b, self.k, self.other = (Exponents.generate(TOY) for _ in range(4))
        self.joint = [
            x * y % TOY.n_squared
            for x, y in zip(self.a.public(TOY), self.b.public(TOY), strict=True)
        ]
        self.block = encrypt(PLAINTEXTS, self.joint, TOY)

    def shares(self, block: Ciphertext) -> tuple[Share, Share]:
        recipient = self.k.public(TOY)
        own = unmasked(block, self.a, TOY)
        stripped = strip(block.head, self.b, len(block.lanes), TOY)
        return share(own, recipient, TOY), share(stripped, recipient, TOY)

    def opened(self, block: Ciphertext) -> list[int]:
        return open_share(combine(*self.shares(block), TOY), self.k, TOY)


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_stripping_is_an_ordinary_power(setting):
    head = setting.block.head
    for lane, x in zip(strip(head, setting.a, 3, TOY), setting.a.reveal(), strict=True):
        assert int(lane) == pow(int(head), -int(x), int(TOY.n_squared))


def test_both_shares_together_open_the_block(setting):
    assert setting.opened(setting.block) == [m % TOY.n for m in PLAINTEXTS]


def test_one_share_alone_does_not_open(setting):
    for single in setting.shares(setting.block):
        with pytest.raises(DecryptionError):
            open_share(single, setting.k, TOY)


def test_another_recipient_does_not_open(setting):
    combined = combine(*setting.shares(setting.block), TOY)
    with pytest.raises(DecryptionError):
        open_share(combined, setting.other, TOY)


def test_a_negated_lane_counts_as_what_it_would_have_been(setting):
    block = setting.block
    negated = Ciphertext(
        block.head, tuple(TOY.n_squared - lane for lane in block.lanes)
    )
    assert setting.opened(negated) == [m % TOY.n for m in PLAINTEXTS]


def test_shares_of_different_blocks_are_refused(setting):
    own, theirs = setting.shares(setting.block)
    with pytest.raises(CryptoError, match="ask both servers again"):
        combine(own, Share(theirs.head, theirs.lanes[:1]), TOY)


def test_every_share_is_blinded_anew(setting):
    first, _ = setting.shares(setting.block)
    again, _ = setting.shares(setting.block)
    assert first.head != again.head
    assert set(first.lanes).isdisjoint(again.lanes)


def test_the_exponents_that_a_power_walks_through_are_fresh_every_time(
    setting, monkeypatch
):
    walked = []

    def recording(base, exponents, modulus):
        walked.extend(exponents)
        return [pow(base, e, modulus) for e in exponents]

    monkeypatch.setattr("hre_torch.crypto.dcr.shares.powers_of_one_base", recording)
    for _ in range(2):
        strip(setting.block.head, setting.a, 3, TOY)
    assert len(set(walked)) == len(walked) == 12
    assert not set(walked) & set(setting.a.reveal())
