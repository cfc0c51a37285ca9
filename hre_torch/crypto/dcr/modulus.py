"""Public parameters: a modulus, its generator, and the profiles that name them.

Whoever knows the factors of `n` decrypts everything alone, so a deployment should know
where its modulus comes from. A *profile* is a small JSON file that says so:

* `rsa2048`: the RSA-2048 challenge number; nobody is known to hold its factors.
* `demo3072`: made by our ceremony, for trying out and benchmarks; whoever trusts it
  trusts the authors to have deleted the factors.
* `toy-insecure`: small enough to break, for tests only.
* the path of a file that a deployment's own ceremony has written.

A profile is parsed and checked once into a frozen `Parameters`; below that nobody
checks again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import gmpy2
from gmpy2 import mpz

from hre_torch.crypto.dcr.foreign_parameters import check_claims, check_modulus
from hre_torch.errors import ModulusError

__all__ = [
    "Parameters",
    "check_modulus",
    "derive_generator",
    "load_profile",
    "profile_json",
    "shipped_profiles",
]

_SHIPPED: Final = Path(__file__).with_name("profiles")
_GENERATOR_LABEL: Final = b"hre_torch generator 1"
_FORMAT: Final = "hre_torch profile 1"
_FIELDS: Final[Mapping[str, type]] = {
    "format": str,
    "name": str,
    "modulus_bits": int,
    "modulus": str,
    "lanes": int,
    "exponent_bits": int,
    "security_bits": int,
    "provenance": str,
    "sha256": str,
}
_HEXADECIMAL: Final = re.compile(r"0x[0-9a-f]+")
_DECIMAL: Final = re.compile(r"[0-9]+")
_MOST_FILE_BYTES: Final = 65536


@dataclass(frozen=True, slots=True)
class Parameters:
    """A checked modulus with its generator, lanes and exponent width.

    The constructor runs every check of `check_modulus`, so an instance can be trusted.
    `g` and `n_squared` are derived; pickling carries them, so a worker process
    computes nothing again.

    Attributes:
        name: Lower-case profile name; holds "insecure" where strength lacks.
        n: Modulus, a product of two unknown primes.
        lanes: `L`, ciphertexts that share one randomness, `1 <= L <= 255`.
        exponent_bits: Width of short exponents in bits.
        security_bits: Claimed strength in bits, at most what NIST SP 800-57 allows.
        provenance: Where `n` comes from and who could know its factors.
        g: Generator, an n-th residue modulo `n^2` that nobody chose.
        n_squared: `n^2`.

    Raises:
        ModulusError: The modulus fails a check, or name, lanes, widths and claimed
            strength do not fit each other.
    """

    name: str
    n: mpz = field(repr=False)
    lanes: int
    exponent_bits: int
    security_bits: int
    provenance: str = field(repr=False)
    g: mpz = field(init=False, repr=False, compare=False)
    n_squared: mpz = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", mpz(self.n))
        check_claims(
            self.name,
            self.modulus_bits,
            self.lanes,
            self.exponent_bits,
            self.security_bits,
        )
        check_modulus(self.n, self.modulus_bits)
        object.__setattr__(self, "n_squared", self.n * self.n)
        object.__setattr__(self, "g", derive_generator(self.n))

    @property
    def modulus_bits(self) -> int:
        """Length of `n` in bits."""
        return int(self.n.bit_length())

    @property
    def modulus_bytes(self) -> int:
        """Bytes that hold a residue modulo `n`."""
        return (self.modulus_bits + 7) // 8

    @property
    def element_bytes(self) -> int:
        """Bytes that hold an element of `Z*_{n^2}`."""
        return 2 * self.modulus_bytes

    @property
    def insecure(self) -> bool:
        """Whether the profile is too weak for anything but tests."""
        return "insecure" in self.name

    @property
    def loopback_only(self) -> bool:
        """Whether a server may use the profile on its own machine only.

        True for insecure profiles and for those whose provenance starts with "demo":
        a deployment has no reason to trust the people who once knew their factors.
        """
        return self.insecure or self.provenance.startswith("demo")

    @property
    def digest(self) -> bytes:
        """SHA-256 over `n`, `g`, lanes and exponent width: what signatures bind."""
        width = self.modulus_bytes
        return hashlib.sha256(
            b"hre_torch parameters 1"
            + width.to_bytes(4, "big")
            + self.n.to_bytes(width, "big")
            + self.g.to_bytes(2 * width, "big")
            + self.lanes.to_bytes(4, "big")
            + self.exponent_bits.to_bytes(4, "big")
        ).digest()


@functools.lru_cache(maxsize=16)
def derive_generator(n: mpz, label: bytes = _GENERATOR_LABEL) -> mpz:
    """Return `g = h^(2n) mod n^2` where `h` is hashed from a public label and `n`.

    `g` is an n-th residue and a square that nobody chose. A generator whose subgroup
    contained `1 + n` would let any participant shift decryptions.

    Args:
        n: Checked modulus.
        label: Domain of the hash; another label gives an independent generator.

    Raises:
        ModulusError: `g` generates nothing, which a sound modulus never shows.
    """
    width = (n.bit_length() + 7) // 8
    # 128 surplus bits keep the bias of the reduction modulo n below 2^-128.
    expanded = hashlib.shake_256(label + n.to_bytes(width, "big")).digest(width + 16)
    h = mpz.from_bytes(expanded, "big") % n
    g = gmpy2.powmod(h, 2 * n, n * n)
    if gmpy2.gcd(h, n) != 1 or g == 1:
        raise ModulusError(
            "the generator derived from this modulus is trivial, so the modulus is no "
            "product of two large primes; use a shipped profile or one made by "
            "`hre-torch keygen params`"
        )
    return g


def shipped_profiles() -> list[str]:
    """Return the names of the profiles that come with the package, sorted."""
    return sorted(path.stem for path in _SHIPPED.glob("*.json"))


def load_profile(name_or_path: str | Path) -> Parameters:
    """Return the parameters of a shipped profile or of a profile file.

    Args:
        name_or_path: A name from `shipped_profiles()`, or a path: anything that is a
            `Path`, holds a folder separator, or ends in ".json".

    Raises:
        ModulusError: No such profile, or the file fails a check.
    """
    text = str(name_or_path)
    path = Path(name_or_path)
    if not (isinstance(name_or_path, Path) or "/" in text or text.endswith(".json")):
        path = _SHIPPED / f"{text}.json"
        if text not in shipped_profiles():
            raise ModulusError(
                f"no profile is called {text!r}; the shipped ones are "
                f"{', '.join(shipped_profiles())}; a file is named by its path, such "
                "as ./mine.json"
            )
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_FILE_BYTES + 1)
    except OSError as error:
        raise ModulusError(
            f"cannot read the profile file {text}: {error.strerror}; name an existing "
            f"file or a shipped profile: {', '.join(shipped_profiles())}"
        ) from error
    return _parse_profile(data, text)


def profile_json(params: Parameters) -> str:
    """Return the text of a profile file, which `load_profile` reads back.

    The checksum over all other fields finds damage and typing errors; it is no
    signature. What a task may use is decided by the digest in the signed task.
    """
    fields: dict[str, Any] = {
        "format": _FORMAT,
        "name": params.name,
        "modulus_bits": params.modulus_bits,
        "modulus": hex(params.n),
        "lanes": params.lanes,
        "exponent_bits": params.exponent_bits,
        "security_bits": params.security_bits,
        "provenance": params.provenance,
    }
    return json.dumps({**fields, "sha256": _checksum(fields)}, indent=2) + "\n"


# Keyed by the file's bytes, so a changed file is parsed again.
@functools.lru_cache(maxsize=16)
def _parse_profile(data: bytes, source: str) -> Parameters:
    """Return the checked parameters in `data`; `source` names it in messages."""
    if len(data) > _MOST_FILE_BYTES:
        raise ModulusError(
            f"{source} is larger than {_MOST_FILE_BYTES} bytes and no profile file"
        )
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModulusError(
            f"{source} is no JSON document ({error}); write profiles with "
            "`hre-torch keygen params`"
        ) from error
    fields = _check_fields(document, source)
    digits = fields["modulus"]
    if _HEXADECIMAL.fullmatch(digits):
        n = mpz(digits[2:], 16)
    elif _DECIMAL.fullmatch(digits):
        n = mpz(digits, 10)
    else:
        raise ModulusError(
            f"{source}: the modulus is written neither in decimal digits nor as 0x "
            "and lower-case hexadecimal digits"
        )
    check_modulus(n, fields["modulus_bits"])
    return Parameters(
        name=fields["name"],
        n=n,
        lanes=fields["lanes"],
        exponent_bits=fields["exponent_bits"],
        security_bits=fields["security_bits"],
        provenance=fields["provenance"],
    )


def _check_fields(document: object, source: str) -> dict[str, Any]:
    """Return the fields if exactly the known ones are there, typed and undamaged."""
    if not isinstance(document, dict) or document.keys() != _FIELDS.keys():
        found = sorted(document) if isinstance(document, dict) else "no object"
        raise ModulusError(
            f"{source} holds {found}, expected exactly the fields {sorted(_FIELDS)}"
        )
    for key, kind in _FIELDS.items():
        # A bool is an int to isinstance, so the types are compared exactly.
        if type(document[key]) is not kind:
            raise ModulusError(
                f"{source}: field {key!r} is a {type(document[key]).__name__}, "
                f"expected {kind.__name__}"
            )
    if document["format"] != _FORMAT:
        raise ModulusError(
            f"{source} has format {document['format']!r}, expected {_FORMAT!r}; "
            "update hre_torch or make the profile again"
        )
    fields = {key: value for key, value in document.items() if key != "sha256"}
    if document["sha256"] != _checksum(fields):
        raise ModulusError(
            f"{source} is damaged: its checksum does not match its fields; fetch it "
            "again from whoever made it"
        )
    return fields


def _checksum(fields: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the fields as compact JSON with sorted keys, in hex."""
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
