"""Parameters of the one-time Ring-LWE mask: what fits, and why it is safe.

In blocks of N = 2048 words an update is sent as

    c_k = a_k s + e_k + Delta m_k  mod 2^32,   Delta = 2^10,

with public uniform `a_k`, secret `s` and errors `e_k` of width eta = 6 and encoded
numbers `m_k`: three service numbers (count, two checksum digits) and 2045 values.

What fits. K updates add up to `Delta sum m + sum e`, which must stay within half the
modulus: `Delta K (2^(b-1) - 1) + Delta / 2 < 2^31` for b value bits. The number
-2^(b-1) is forbidden: K = 64 of them, at b = 16, would be exactly -2^31. The second
checksum digit, up to 2045 for full blocks, must itself be an encoded number, hence
b >= 12.

Failure. Decoding rounds to the nearest multiple of Delta and fails where
`|sum e| >= Delta / 2`. A discrete Gaussian is sub-Gaussian, E[exp(t e)] <=
exp(t^2 eta^2 / 2), because `sum_x exp(-(x - c)^2 / (2 eta^2))` over the integers is
largest at c = 0. Chernoff's bound then gives, for n words,

    P(failure) <= 2 n exp(-(Delta / 2)^2 / (2 K eta^2)),

2^-58 for 10^7 words at K = 64, and below 2^-40 for any update of less than 2^40 values.

Why eta = 6 and K <= 64. Hiding (see below) wants a large eta. Openers refuse noise
beyond `10 eta sqrt(K)`, which means something only below Delta / 2 = 512: 480 at
eta = 6 and K = 64, but 520 at eta = 6.5. More additions would cost width.

Security. One update is Ring-LWE with secret and error of width 6, log2 q = 32 and
N = 2048. The Homomorphic Encryption Security Standard (2018, secret drawn from
the error distribution of width 3.2) allows, at N = 2048,

    log2 q <= 56 for 128 bits,   <= 39 for 192 bits,   <= 31 for 256 bits (classical).

Participants also learn the sum of all secrets and, after decoding, the sum of all
errors. For Gaussians this is Hint-MLWE, where each honest contributor hides behind the
others: with h >= 2 honest ones, Kim, Lee, Seo, Song reduce plain Ring-LWE of the width

    eta_h = (2 (1/eta^2 + 1/((h-1) eta^2)))^(-1/2) = eta sqrt((h-1) / (2h))

to it, 3 for h = 2. The reduction costs a statistical epsilon for each of the update's
ring elements, `s` and every `e_k`, as long as the Gaussian of the width eta_h is smooth
on the integers:

    eta_h >= sqrt(ln(2 N (1 + 1/epsilon))) / pi,   epsilon = 2^-116 for h = 2.

What counts of the rest is q / width, so the table is read at `log2 q + log2(3.2 / 3) =
32.1`: still below the 39 of 192 bits, with 23 bits to spare against the 56 of 128.
`README.md` beside this file has the figures of every recipe.

One sum for everybody. A DSP cannot change the words of a sum, to which the release
commits, but it can add some `d` to the secret that one participant obtains. Who opens a
sum therefore checks that the secret and the noise are as small as honest ones: the
largest of either by 10 deviations, and their mean squares, block by block, by one half
more than is expected. What passes must have `d` short and `a_0 d` close to a multiple
of Delta in every word of a block: a vector (d, a_0 d mod Delta) in a lattice of
dimension 2N and determinant Delta^N, of norm about `sqrt(K N) eta`, 2^11.1 at K = 64,
while a change of one number of the secret gives 2^13.7. That is a short solution of
Ring-SIS, for which lattice reduction would have to reach a root Hermite factor of 1.001
(argued, with Micciancio and Regev's formula; 1.0045 stands for about 128 bits). With a
few dozen words instead of N it would be easy. Therefore the first block is sent whole,
however few values there are, and the numbers behind the last value must be zero.

References:
    M. Albrecht et al., "Homomorphic Encryption Security Standard",
    HomomorphicEncryption.org, 2018, tables of recommended parameters.
    D. Kim, D. Lee, J. Seo, Y. Song, "Toward Practical Lattice-Based Proof of Knowledge
    from Hint-MLWE", CRYPTO 2023 (hardness of Hint-MLWE).
    D. Micciancio, O. Regev, "Lattice-based Cryptography", in Post-Quantum
    Cryptography, 2009 (short vectors by lattice reduction, section 3).
    D. Micciancio, C. Peikert, "Trapdoors for Lattices", EUROCRYPT 2012, lemma 2.8
    (sub-Gaussian discrete Gaussians).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from hre_torch.crypto.rlwe.ring import RING_DIMENSION
from hre_torch.crypto.rlwe.sampling import ETA
from hre_torch.errors import TaskError

__all__ = [
    "DELTA_BITS",
    "MODULUS_BITS",
    "MOST_ADDITIONS",
    "SERVICE_WORDS",
    "VALUES_PER_BLOCK",
    "RingParameters",
    "effective_width",
    "hint_epsilon_log2",
]

MODULUS_BITS: Final = 32
"""The modulus is 2^32: adding unsigned 32-bit words is the arithmetic."""

DELTA_BITS: Final = 10
"""Delta = 2^10: room for the noise of 64 additions."""

MOST_ADDITIONS: Final = 64
"""Largest K: the noise of this many updates stays below Delta / 2 at ten deviations."""

SERVICE_WORDS: Final = 3
"""Count, low and high digit of the checksum, at the head of every block."""

VALUES_PER_BLOCK: Final = RING_DIMENSION - SERVICE_WORDS

_DELTA: Final = 1 << DELTA_BITS
_HALF_MODULUS: Final = 1 << (MODULUS_BITS - 1)
_FEWEST_VALUE_BITS: Final = 12
_MOST_VALUE_BITS: Final = MODULUS_BITS - DELTA_BITS
_RESIDUAL_DEVIATIONS: Final = 10
_MEAN_SQUARE_FACTOR: Final = 1.5


@dataclass(frozen=True, slots=True)
class RingParameters:
    """How large encoded numbers may be and how many of them may be added.

    Args:
        value_bits: b, sign included, 12 <= b <= 22.
        max_additions: K, 1 <= K <= 64.

    Raises:
        TaskError: K is out of range, or K numbers of b bits do not fit under the
            modulus; the message names what does.

    >>> parameters = RingParameters(value_bits=16, max_additions=64)
    >>> parameters.limit, parameters.words(109_386)
    (32767, 109548)
    """

    value_bits: int = 16
    max_additions: int = 64

    def __post_init__(self) -> None:
        if not _FEWEST_VALUE_BITS <= self.value_bits <= _MOST_VALUE_BITS:
            raise TaskError(
                f"value_bits={self.value_bits} is not possible in suite 'hybrid': use "
                f"{_FEWEST_VALUE_BITS} to {_MOST_VALUE_BITS} bits, 16 suits most models"
            )
        if not 1 <= self.max_additions <= MOST_ADDITIONS:
            raise TaskError(
                f"max_additions (K) is {self.max_additions}, but suite 'hybrid' adds 1 "
                f"to {MOST_ADDITIONS} updates: the noise of more does not stay below "
                f"half a step of Delta; use K={MOST_ADDITIONS}, or suite 'gated'"
            )
        most = _most_additions(self.value_bits)
        if self.max_additions > most:
            bits = self.value_bits
            while _most_additions(bits) < self.max_additions:
                bits -= 1
            raise TaskError(
                f"value_bits={self.value_bits} with K={self.max_additions} does not "
                f"fit: use value_bits={bits} or K={most}"
            )

    @property
    def limit(self) -> int:
        """The largest magnitude of an encoded number, 2^(b-1) - 1."""
        return _limit(self.value_bits)

    def blocks(self, n_values: int) -> int:
        """Return how many ring elements carry `n_values` values."""
        return -(-n_values // VALUES_PER_BLOCK)

    def words(self, n_values: int) -> int:
        """Return how many 32-bit words a masked update has.

        Only the first block is sent whole however few values there are.
        """
        if n_values == 0:
            return 0
        return max(RING_DIMENSION, n_values + SERVICE_WORDS * self.blocks(n_values))

    def failure_log2(self, n_values: int) -> float:
        """Return log2 of a bound on the probability that a release decodes wrongly.

        Args:
            n_values: Values in one update, at least 1.

        >>> round(RingParameters().failure_log2(10**7))
        -58
        """
        exponent = (_DELTA / 2) ** 2 / (2 * self.max_additions * ETA**2)
        return 1 + math.log2(self.words(n_values)) - exponent / math.log(2)

    def residual_limit(self, count: int) -> int:
        """Return 10 eta sqrt(count), the largest noise a sum may show.

        Honest noise exceeds it with probability below 2^-71 per word, for any count:
        an honest release of 10^7 values is refused with probability below 2^-47.

        Args:
            count: How many updates were added, 1 <= count <= K.
        """
        return int(_RESIDUAL_DEVIATIONS * ETA * math.sqrt(count))

    def mean_square_limit(self, count: int) -> float:
        """Return 1.5 count eta^2, the largest mean square of N honest numbers.

        For sub-Gaussian numbers E[exp(t e^2)] <= (1 - 2 t eta^2)^(-1/2), so that
        honest ones exceed it with probability below
        exp(-N (0.5 - ln 1.5) / 2) < 2^-139. A wrong secret leaves noise whose mean
        square is about Delta^2 / 12, 25 times the limit at K = 64.

        Args:
            count: How many updates were added, 1 <= count <= K.
        """
        return _MEAN_SQUARE_FACTOR * count * ETA**2


def effective_width(honest: int) -> float:
    """Return eta_h, the width of plain Ring-LWE behind a sum of `honest` updates.

    Args:
        honest: h, contributors that do not collude, at least 2. With one the sum is
            its secret, and no width is left.

    Raises:
        TaskError: Fewer than two.

    >>> round(effective_width(2), 2), round(effective_width(3), 2)
    (3.0, 3.46)
    """
    if honest < 2:
        raise TaskError(
            f"a sum of {honest} honest updates hides nothing, at least 2 are needed; "
            "raise min_contributions"
        )
    return ETA * math.sqrt((honest - 1) / (2 * honest))


def hint_epsilon_log2(honest: int) -> float:
    """Return log2 of epsilon, the statistical loss of the reduction per ring element.

    `ln(2 N (1 + 1/epsilon)) = (pi eta_h)^2`, solved for epsilon.

    Args:
        honest: h, contributors that do not collude, at least 2.

    Raises:
        TaskError: Fewer than two.

    >>> round(hint_epsilon_log2(2)), round(hint_epsilon_log2(3))
    (-116, -159)
    """
    exponent = (math.pi * effective_width(honest)) ** 2
    return -math.log2(math.expm1(exponent - math.log(2 * RING_DIMENSION)))


def _limit(value_bits: int) -> int:
    return int(2 ** (value_bits - 1) - 1)


def _most_additions(value_bits: int) -> int:
    """Return the largest K with Delta K (2^(b-1) - 1) + Delta / 2 < 2^31."""
    return (_HALF_MODULUS - 1 - _DELTA // 2) // (_DELTA * _limit(value_bits))
