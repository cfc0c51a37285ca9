"""Known-answer vectors for the re-encryption of suite `paper`, in plain Python.

An independent implementation: it shares no code with the package and uses nothing but
`int`, `pow`, `hashlib` and `json`. Every number is hashed from a label, so the output
is the same on every machine. From the root of the repository:

    python tests/vectors/generate_reencryption.py > tests/vectors/reencryption.json

The formulas are those of `README.md` beside this file, written once and slowly. Each
valid run is also checked in another way: its moduli are small and their factors known
here, and whoever knows the factors opens every ciphertext without any key.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from itertools import count
from math import prod

LABEL = b"hre_torch vectors 1: "
SMALL_PRIMES = [p for p in range(3, 2000) if all(p % d for d in range(2, p))]
FACTORS = [1, 2, 3, -1, 255, -256, 65537, 0, 2**64, 1]


def number(label: str, bits: int) -> int:
    """Return the integer below `2^bits` that belongs to a label."""
    width = (bits + 7) // 8
    octets = hashlib.shake_256(LABEL + label.encode()).digest(width)
    return int.from_bytes(octets, "big") >> (8 * width - bits)


def is_prime(n: int) -> bool:
    """Trial division, then 24 rounds of Miller and Rabin."""
    if any(n % p == 0 for p in SMALL_PRIMES):
        return n in SMALL_PRIMES
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in SMALL_PRIMES[:24]:
        x = pow(base, odd, n)
        if x not in (1, n - 1) and all(
            pow(x, 2**i, n) != n - 1 for i in range(1, twos)
        ):
            return False
    return True


def prime(label: str, bits: int) -> int:
    """Return the first prime of a label, with its two highest bits set."""
    for attempt in count():
        candidate = number(f"{label}/{attempt}", bits) | 3 << (bits - 2) | 1
        if is_prime(candidate):
            return candidate
    raise AssertionError("unreachable")


@dataclass(eq=False)
class Group:
    """A modulus with known factors, its generator, lanes and exponent width."""

    name: str
    bits: int
    lanes: int
    exponent_bits: int

    def __post_init__(self) -> None:
        self.p = prime(f"{self.name}/p", self.bits // 2)
        self.q = prime(f"{self.name}/q", self.bits // 2)
        self.n = self.p * self.q
        self.square = self.n**2
        width = (self.bits + 7) // 8
        wide = hashlib.shake_256(
            b"hre_torch generator 1" + self.n.to_bytes(width, "big")
        ).digest(width + 16)
        h = int.from_bytes(wide, "big") % self.n
        self.g = pow(h, 2 * self.n, self.square)
        self.element_bytes = 2 * width

    def dealer_opens(self, lanes: list[int]) -> list[int]:
        """Open ciphertexts with the factors: n-th residues vanish under phi(n)."""
        phi = (self.p - 1) * (self.q - 1)
        return [
            (pow(x, phi, self.square) - 1) // self.n * pow(phi, -1, self.n) % self.n
            for x in lanes
        ]

    def edges(self) -> list[int]:
        """Plaintexts at which a sign, a carry or a reduction could go wrong."""
        n = self.n
        return [0, 1, n - 1, n // 2, -1, 1 - n, -(n // 2), n // 2 + 1, n - 2, 2]


def blinding(group: Group, label: str, extreme: str) -> int:
    """Return the exponent `1 <= x < 2^bits` of a label, or an extreme one."""
    largest = 2**group.exponent_bits - 1
    fresh = max(1, number(label, group.exponent_bits))
    return {"smallest": 1, "largest": largest}.get(extreme, fresh)


def secrets(group: Group, label: str, extreme: str = "") -> list[int]:
    """Return even exponents, one per lane, all different."""
    bits, lanes = group.exponent_bits, range(group.lanes)
    if extreme == "smallest":
        return [2 + 2 * lane for lane in lanes]
    if extreme == "largest":
        return [2**bits - 2 - 2 * lane for lane in lanes]
    return [2 * max(1, number(f"{label}/{lane}", bits - 1)) for lane in lanes]


def upload(group: Group, run: dict, index: int, turn: int, extreme: str) -> dict:
    """Return one encrypted block; the first of a run holds edge plaintexts."""
    n, square, name = group.n, group.square, run["name"]
    edges = group.edges()
    plaintexts = [
        edges[(index + lane) % len(edges)]
        if turn == 0
        else number(f"{name}/m/{turn}/{lane}", group.bits - 1) - n // 2
        for lane in range(1 + index % group.lanes)
    ]
    r = blinding(group, f"{name}/r/{turn}", extreme)
    lanes = [
        (1 + m * n) * pow(key, r, square) % square
        for m, key in zip(plaintexts, run["joint"], strict=False)
    ]
    head = pow(group.g, r, square)
    return {"plaintexts": plaintexts, "r": r, "head": head, "lanes": lanes}


def transform(group: Group, run: dict, extreme: str) -> dict:
    """Return both phases and the opening of the run's scaled block."""
    n, square, name = group.n, group.square, run["name"]
    rho, tau, sigma = (
        blinding(group, f"{name}/{x}", extreme) for x in ("rho", "tau", "sigma")
    )
    head, lanes = run["scaled"]["head"], run["scaled"]["lanes"]
    lane_keys = list(zip(run["recipient"], run["joint"], strict=True))[: len(lanes)]
    a, b, k = (run[x][: len(lanes)] for x in "abk")
    X = [
        t * pow(pk, rho, square) * pow(PK, tau, square) % square
        for t, (pk, PK) in zip(lanes, lane_keys, strict=True)
    ]
    Y = [pow(head * pow(group.g, tau, square), x, square) for x in a]
    Z = pow(group.g, rho, square)
    U = [
        x * pow(y, -e, square) * pow(pk, sigma, square) % square
        for x, y, e, (pk, _) in zip(X, Y, b, lane_keys, strict=True)
    ]
    V = Z * pow(group.g, sigma, square) % square
    unmasked = [u * pow(V, -x, square) % square for u, x in zip(U, k, strict=True)]
    assert all(x % n == 1 for x in unmasked)
    opened = [(x - 1) // n for x in unmasked]
    assert opened == group.dealer_opens(lanes) == group.dealer_opens(U)
    return {
        "head_powers": [pow(head, x, square) for x in a],
        "rho": rho,
        "tau": tau,
        "X": X,
        "Y": Y,
        "Z": Z,
        "sigma": sigma,
        "U": U,
        "V": V,
        "opened": opened,
    }


def valid_run(group: Group, index: int) -> dict:
    """Return one run from key generation to opening, every exponent given."""
    square, name = group.square, f"{group.name}/{index}"
    extreme = {5: "smallest", 6: "largest"}.get(index % 9, "")
    a = secrets(group, f"{name}/a", extreme)
    b, k = secrets(group, f"{name}/b"), secrets(group, f"{name}/k")
    run = {"name": name, "modulus": group.name, "a": a, "b": b, "k": k}
    for key, own in (("a_public", a), ("b_public", b), ("recipient", k)):
        run[key] = [pow(group.g, x, square) for x in own]
    run["joint"] = [pow(x, y, square) for x, y in zip(run["b_public"], a, strict=True)]
    blocks = [upload(group, run, index, turn, extreme) for turn in range(1 + index % 3)]
    head = prod(x["head"] for x in blocks) % square
    lanes = [prod(x) % square for x in zip(*(y["lanes"] for y in blocks), strict=True)]
    factor = FACTORS[index % len(FACTORS)]
    run |= {
        "uploads": blocks,
        "sum": {"head": head, "lanes": lanes},
        "factor": factor,
        "scaled": {
            "head": pow(head, factor, square),
            "lanes": [pow(x, factor, square) for x in lanes],
        },
    }
    run |= transform(group, run, extreme)
    columns = zip(*(x["plaintexts"] for x in blocks), strict=True)
    assert run["opened"] == [sum(column) * factor % group.n for column in columns]
    return run


def refused(kind: str, name: str, error: str, **fields: object) -> dict:
    """Return an invalid case: what to try, on what, and how it must fail."""
    return {"name": name, "kind": kind, **fields, "error": error}


def invalid_encodings(group: Group) -> list[dict]:
    """Return byte strings that no decoder of three elements may accept."""
    width, n, square = group.element_bytes, group.n, group.square
    good = [pow(group.g, x, square) for x in (3, 5, 7)]
    wrong = {
        "zero": 0,
        "n^2": square,
        "n^2 + 1": square + 1,
        "the largest of its width": 256**width - 1,
        "n": n,
        "a multiple of n": n * number(f"{group.name}/multiple", group.bits - 2),
        "a factor of n": group.p,
        "a multiple of the other factor": group.q * good[0] % square,
    }
    trivial = {"1": 1, "n^2 - 1": square - 1}
    cases = []
    for place in range(3):
        for what, element in (wrong | trivial).items():
            row = [*good[:place], element, *good[place + 1 :]]
            data = b"".join(x.to_bytes(width, "big") for x in row)
            cases.append((f"element {place} is {what}", data, what in trivial))
    data = b"".join(x.to_bytes(width, "big") for x in good)
    lengths = {
        "nothing at all": b"",
        "the last byte is missing": data[:-1],
        "the first byte is missing": data[1:],
        "one byte trails": data + b"\0",
        "one byte leads": b"\0" + data,
        "an element is missing": data[width:],
        "an element trails": data + data[:width],
        "half an element is missing": data[: -width // 2],
    }
    cases += [(what, octets, False) for what, octets in lengths.items()]
    return [
        refused(
            "decode",
            f"{group.name}: {what}",
            "InvalidElementError",
            modulus=group.name,
            count=3,
            nontrivial=nontrivial,
            data=octets.hex(),
        )
        for what, octets, nontrivial in cases
    ]


def invalid_openings(group: Group, run: dict) -> list[dict]:
    """Return downloads that must not open: a wrong key, or a changed element."""
    n, square, k, U, V = group.n, group.square, run["k"], run["U"], run["V"]
    changes = {
        "another participant's key": ([x + 2 for x in k], U, V),
        "half the key": ([max(2, x // 4 * 2) for x in k], U, V),
        "a server's key": (run["a"], U, V),
        "V of the first phase": (k, U, run["Z"]),
        "X instead of U": (k, run["X"], V),
        "the ciphertext itself": (k, run["scaled"]["lanes"], run["scaled"]["head"]),
        "the last U times g": (k, [*U[:-1], U[-1] * group.g % square], V),
        "the first U negated": (k, [square - U[0], *U[1:]], V),
        "V times g": (k, U, V * group.g % square),
    }
    if len(U) > 1:
        changes["exchanged lanes"] = (k, U[::-1], V)
        changes["exchanged keys"] = (k[::-1], U, V)
    cases = []
    for what, (keys, lanes, head) in changes.items():
        masks = [pow(head, -x, square) for x in keys[: len(lanes)]]
        assert any(u * w % n != 1 for u, w in zip(lanes, masks, strict=True)), what
        found = {"modulus": group.name, "k": keys, "U": lanes, "V": head}
        name = f"{run['name']}: {what}"
        cases.append(refused("open", name, "DecryptionError", **found))
    return cases


def invalid_inputs(group: Group) -> list[dict]:
    """Return plaintexts, exponents and public keys that must be refused."""
    n, lanes, bits = group.n, group.lanes, group.exponent_bits
    keys = [pow(group.g, x, group.square) for x in secrets(group, "repeated")]
    cases = [
        *(("encrypt", [m], "SlotOverflowError") for m in (n, -n, n + 1, n**2)),
        ("encrypt", [], "CryptoError"),
        ("encrypt", [0] * (lanes + 1), "CryptoError"),
        *(("exponents", x, "CryptoError") for x in ([], [0], [-2], [3], [2, 4, 2])),
        ("exponents", [2**bits - 1], "CryptoError"),
        ("public_keys", keys[1:], "InvalidElementError"),
        ("public_keys", [*keys, keys[0]], "InvalidElementError"),
    ]
    return [
        refused(
            kind,
            f"{group.name}: {kind} {place}",
            error,
            modulus=group.name,
            values=values,
        )
        for place, (kind, values, error) in enumerate(cases)
    ]


def invalid_moduli() -> list[dict]:
    """Return moduli of 256 bits, or not, that must be refused."""
    p, q = prime("bad/p", 128), prime("bad/q", 128)
    close = next(x for x in count(p + 2, 2) if is_prime(x))
    largest_small = next(x for x in count(2**20, -1) if is_prime(x))
    cases = {
        "even": (p * q - 1, 256),
        "a prime": (prime("bad/prime", 256), 256),
        "a square": (p * p, 256),
        "a fourth power": (prime("bad/root", 64) ** 4, 255),
        "a multiple of 3": (3 * prime("bad/3", 254), 256),
        "a factor just below 2^20": (largest_small * prime("bad/20", 236), 256),
        "two consecutive primes": (p * close, 256),
        "shorter than announced": (p * q, 257),
        "longer than announced": (p * q, 255),
        "zero": (0, 256),
        "one": (1, 1),
        "negative": (-p * q, 256),
    }
    return [
        refused("modulus", f"modulus: {what}", "ModulusError", n=n, bits=bits)
        for what, (n, bits) in cases.items()
    ]


def spell(value: object) -> object:
    """Write every integer in hexadecimal: JSON readers round large numbers."""
    if isinstance(value, dict):
        return {key: spell(item) for key, item in value.items()}
    if isinstance(value, list):
        return [spell(item) for item in value]
    return hex(value) if type(value) is int else value


def main() -> None:
    """Write the vectors to standard output."""
    sizes = {
        Group("one lane, 256 bits", 256, 1, 64): 50,
        Group("three lanes, 256 bits", 256, 3, 61): 36,
        Group("two lanes, 512 bits", 512, 2, 128): 18,
    }
    valid, invalid = [], invalid_moduli()
    for group, runs in sizes.items():
        done = [valid_run(group, index) for index in range(runs)]
        valid += done
        invalid += invalid_encodings(group) + invalid_inputs(group)
        for run in done[:3]:
            invalid += invalid_openings(group, run)
    moduli = {
        group.name: {
            field: getattr(group, field)
            for field in ("n", "p", "q", "g", "bits", "lanes", "exponent_bits")
        }
        for group in sizes
    }
    document = {"moduli": moduli, "valid": valid, "invalid": invalid}
    sys.stdout.write(json.dumps(spell(document), indent=1) + "\n")


if __name__ == "__main__":
    main()
