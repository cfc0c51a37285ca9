"""Whatever arrives: a valid object, or a typed error; never a crash, never a hang.

Every decoder gets 20,000 malformed inputs (marked slow: 200,000). A mutant may happen
to be well-formed; then what was decoded must be exactly what arrived.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, get_args, get_type_hints

import msgspec
import numpy as np
import pytest
import torch

from hre_torch.crypto.dcr.proofs import verify_blocks, verify_heads
from hre_torch.crypto.dcr.schnorr import verify_knowledge
from hre_torch.crypto.dcr.shared_key import SharedKey
from hre_torch.crypto.dcr.transcript import decode_elements, encode_elements
from hre_torch.errors import HREError, KeyFileError
from hre_torch.optim.federation import Federation
from hre_torch.protocol import messages
from hre_torch.protocol.answers import read_answer
from hre_torch.protocol.evidence import Evidence, check_evidence, decode_evidence
from hre_torch.protocol.suites.blocks import decode_exponents, decode_keys
from hre_torch.protocol.wire import (
    Envelope,
    Header,
    Refusal,
    decode,
    decode_head,
    kind_of,
    lengths_of,
    refuse,
    seal,
)
from tests.protocol.barrage import attack, counts, endless
from tests.protocol.mutations import Mutator

MESSAGES = (
    Refusal,
    *(
        kind
        for kind in vars(messages).values()
        if isinstance(kind, type)
        and issubclass(kind, Header)
        and kind.__module__ == messages.__name__
        and not kind.__subclasses__()
    ),
)
BETWEEN_PROCESSES = {
    *("status_request", "status", "fetch", "task_request", "task_reply", "voucher"),
    *("snapshot_request", "snapshot", "snapshot_query", "snapshot_reply"),
    *("wanted_request", "wanted"),
}
"""Tags of what only real servers and newcomers send."""


@dataclass
class Traffic:
    """A toy federation that has run, and every message that crossed a link."""

    federation: Federation
    messages: dict[str, list[bytes]]
    crossed: set[str]


@pytest.fixture(scope="module")
def traffic() -> Iterator[Traffic]:
    torch.manual_seed(7)
    with Federation.local(
        torch.nn.Linear(30, 2),
        participants=4,
        suite="gated",
        profile="toy-insecure",
        min_contributions=3,
        workers=1,
    ) as federation:
        seen: dict[str, list[bytes]] = defaultdict(list)
        federation.servers.taps.append(
            lambda link, data: seen[kind_of(data)].append(data)
        )
        sessions = [federation.join() for _ in range(4)]
        generator = np.random.default_rng(3)
        for _ in range(2):
            for session in sessions:
                values = generator.integers(-100, 101, 62).astype(np.int32)
                session.push(values)
            for session in sessions[:3]:
                session.pull()
                session.attest()
        key = federation._secrets["dsp"].signing
        cfg = federation.task.cfg
        for error in (HREError("no"), KeyFileError("x" * 3000)):
            seen["refusal"].append(refuse(error, cfg=cfg, sender="dsp", key=key))
        crossed = set(seen)
        for kind in MESSAGES:
            tag = kind.__struct_config__.tag
            if tag not in seen:
                # Only real servers and newcomers send it.
                seen[tag].append(seal(example(kind, cfg), key, (b"part",)).encode())
        yield Traffic(federation, dict(seen), crossed)


def example(kind: type, cfg: bytes) -> Any:
    """Return some valid instance of a struct, from the types of its fields."""
    hints = get_type_hints(kind)
    values = {name: _some(hints[name]) for name in kind.__struct_fields__}
    if "cfg" in values:
        values |= {"cfg": cfg, "sender": "p0"}
    return kind(**values)


def _some(hint: Any) -> Any:
    if isinstance(hint, UnionType):
        return _some(get_args(hint)[0])
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return example(hint, bytes(32))
    plain = {int: 1, str: "p0", bytes: bytes(32), bool: True}
    return plain.get(hint, ())


def limit_of(traffic: Traffic) -> int:
    return traffic.federation.servers._max_bytes


def whole(envelope: Envelope, data: bytes) -> bool:
    return envelope.encode() == data


@counts(4_000)
@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_kind_of_message_is_decoded_whole_or_refused(traffic, kind, count):
    mutator = Mutator(1)
    samples = traffic.messages[kind.__struct_config__.tag]
    cfg, limit = traffic.federation.task.cfg, limit_of(traffic)
    answers = attack(
        lambda data: decode(data, kind, cfg=cfg, max_bytes=limit),
        endless(mutator.message, samples),
        count,
        whole,
    )
    assert answers["MessageError"] > count // 2


def test_all_messages_of_a_run_are_attacked(traffic):
    tags = {kind.__struct_config__.tag for kind in MESSAGES}
    assert tags - traffic.crossed == BETWEEN_PROCESSES


@counts(4_000)
def test_a_head_is_decoded_before_its_body_or_refused(traffic, count):
    mutator = Mutator(2)
    samples = traffic.messages["upload"]
    cfg = traffic.federation.task.cfg

    def read(data: bytes) -> Envelope:
        kind_of(data)
        header, proof = lengths_of(data)
        return decode_head(data[: 12 + header + proof + 64], messages.Upload, cfg=cfg)

    attack(read, endless(mutator.message, samples), count)


@counts(4_000)
def test_an_answer_is_authentic_or_refused(traffic, count):
    mutator = Mutator(3)
    federation = traffic.federation
    sent = traffic.messages["upload"][0]
    key = federation.task.roster.data_service.signing_key
    samples = traffic.messages["ack"] + traffic.messages["refusal"]
    answers = attack(
        lambda data: read_answer(
            data, sent, messages.Ack, key=key, cfg=federation.task.cfg, max_bytes=0
        ),
        (data for data in endless(mutator.message, samples) if data not in samples),
        count,
    )
    assert answers["accepted"] == 0


@counts(4_000)
@pytest.mark.parametrize("nontrivial", [True, False])
def test_group_elements_are_decoded_exactly_or_refused(traffic, nontrivial, count):
    mutator = Mutator(4)
    params = traffic.federation.task.parameters
    n, n_squared = int(params.n), int(params.n_squared)
    width = params.element_bytes
    numbers = (0, 1, n, n_squared - 1, n_squared, n_squared + 1, 2 ** (8 * width) - 1)
    samples = list(_parts(traffic, "upload", 1))
    samples += [samples[0][:-width] + x.to_bytes(width, "big") for x in numbers]
    size = len(samples[0]) // width
    answers = attack(
        lambda data: decode_elements(
            data, size, params, what="elements", nontrivial=nontrivial
        ),
        endless(mutator.octets, samples),
        count,
        lambda elements, data: encode_elements(elements, params) == data,
    )
    assert answers["InvalidElementError"] > count // 4


@counts(4_000)
def test_a_proof_of_blocks_holds_or_is_refused(traffic, count):
    mutator = Mutator(5)
    task = traffic.federation.task
    uploads = [
        decode(data, messages.Upload, max_bytes=limit_of(traffic))
        for data in traffic.messages["upload"]
    ]
    lanes = traffic.federation.servers._data_service._cipher._lanes
    proofs = [upload.proof for upload in uploads]
    blocks = lanes.layout.ciphertexts(uploads[0].parts, what="an upload")
    heads, header = [block.head for block in blocks], uploads[0].header_bytes

    def check(proof: bytes) -> None:
        # As the KTS, which cannot see whether the response about lanes is right; then
        # as the DSP.
        plaintexts = lanes.layout.plaintexts
        verify_heads(heads, proof, plaintexts, task.parameters, header)
        verify_blocks(blocks, proof, lanes.joint, task.parameters, header)

    mutants = (p for p in endless(mutator.octets, proofs) if p != proofs[0])
    assert attack(check, mutants, count)["accepted"] == 0


@counts(4_000)
def test_a_key_card_proves_what_it_holds_or_is_refused(traffic, count):
    mutator = Mutator(6)
    task = traffic.federation.task
    card = task.roster.data_service
    public = decode_keys(card.public, task.parameters, whose="dsp")

    def check(data: bytes) -> None:
        keys = decode_keys((data,), task.parameters, whose="somebody")
        verify_knowledge(keys, card.proof, task.parameters, b"context")

    def check_proof(proof: bytes) -> None:
        verify_knowledge(public, proof, task.parameters, b"context")

    cards = [b"".join(card.public) for card in task.roster.cards()]
    assert attack(check, endless(mutator.octets, cards), count // 2)["accepted"] == 0
    proofs = [card.proof for card in task.roster.cards()]
    mutants = endless(mutator.octets, proofs)
    assert attack(check_proof, mutants, count // 2)["accepted"] == 0


@counts(4_000)
def test_secret_exponents_and_shared_keys_are_decoded_or_refused(traffic, count):
    mutator = Mutator(7)
    parameters = traffic.federation.task.parameters
    material = [s.material for s in traffic.federation._secrets.values()]
    attack(
        lambda data: decode_exponents(data, parameters),
        endless(mutator.octets, material),
        count,
    )
    shared = [SharedKey.generate(256).to_bytes() for _ in range(2)]
    mutants = (d for d in endless(mutator.octets, shared) if d not in shared)
    attack(SharedKey.from_bytes, mutants, count // 10)


@counts(4_000)
def test_plaintexts_are_unpacked_within_bounds_or_refused(traffic, count):
    mutator = Mutator(8)
    packing = traffic.federation.servers._data_service._cipher._lanes.packing
    width = -(-packing.modulus.bit_length() // 8)
    values = np.arange(-31, 31, dtype=np.int32)
    packed = packing.pack(values)
    samples = [
        b"".join((k * m % packing.modulus).to_bytes(width, "big") for m in packed)
        for k in (1, 3, -1)
    ]

    def unpack(data: bytes) -> np.ndarray:
        residues = [
            int.from_bytes(data[i : i + width], "big")
            for i in range(0, len(data), width)
        ]
        return packing.unpack(residues, values.size, 3)

    answers = attack(
        unpack,
        endless(mutator.octets, samples),
        count,
        lambda sums, data: abs(sums).max() <= 3 * packing.limit,
    )
    assert answers["ChecksumError"] > 0


@counts(4_000)
def test_evidence_is_decoded_and_convicts_nobody_or_is_refused(traffic, count):
    mutator = Mutator(9)
    uploads = [
        decode(data, messages.Upload, max_bytes=limit_of(traffic))
        for data in traffic.messages["upload"]
    ]
    samples = [Evidence.of(*uploads[:2]).encode(), Evidence.of(*uploads[2:4]).encode()]
    attack(
        lambda data: check_evidence(decode_evidence(data), traffic.federation.task),
        endless(mutator.record, samples),
        count,
        lambda sentence, data: False,
    )


def _parts(traffic: Traffic, kind: str, index: int) -> Sequence[bytes]:
    return [
        decode(data, messages.Upload, max_bytes=limit_of(traffic)).parts[index]
        for data in traffic.messages[kind]
    ]
