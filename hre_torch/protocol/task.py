"""What everybody agrees on before the first update: the numbers of a task."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Final, Literal

import msgspec

from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.crypto.keys.signatures import SigningKey, verify
from hre_torch.encoding.fixed_point import FixedPoint
from hre_torch.errors import TaskError
from hre_torch.protocol.roster import Roster
from hre_torch.protocol.wire import DIGEST_BYTES, MAX_HEADER_BYTES

__all__ = ["Task", "TaskConfig", "sign_task"]

_LISTED_BYTES: Final = 64
"""What an upload takes in a list besides its owner's name, and some room."""
_MOST_STALENESS: Final = MAX_HEADER_BYTES // 2 // DIGEST_BYTES
"""So many digests take half of what a header may have."""
_MOST_WEIGHT: Final = 2**15 - 1
"""Finer weights would change no model, and take bits from the exact division."""
_MOST_BITS: Final = 62
"""A number of so many bits can be doubled in an int64."""
_FORMAT: Final = 2


class TaskConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The frozen numbers of a task; their hash `cfg` is inside every message.

    `TaskOptions` makes one of what somebody chose, and has all the defaults.

    Attributes:
        suite: name of the protocol behind the roles.
        profile: name of the modulus profile.
        parameters_digest: hash of the modulus, generator, lanes and exponent size.
        fraction_bits: `f`; values travel as integers at scale 2^f.
        value_bits: `b`, bits of one quantised value, sign included.
        max_additions: `K`, most uploads in one opened sum.
        clip: `C`, L2 bound of an update's parameters, or None. Where there is one, a
            release whose sum is longer than such updates can make it is rejected.
        noise_width: `sigma`, largest width of the noise on one upload's values, in
            units of 2^-f; None where the bound leaves no room for noise.
        min_contributions: `t`, least number of distinct identities in a release.
        assumed_colluders: `c`, participants assumed to collude with a server.
        staleness_bound: `S`, most releases an upload may lag behind.
        max_per_identity: `m`, most uploads of one identity in a release.
        pending_limit: `Q`, most unreleased uploads of one identity.
        combine: `"sum"` (the paper's ASGD), `"mean"` (updates divided by t) or
            `"weighted"` (federated averaging by numbers of samples).
        max_samples: most samples that an update may stand for, where it is weighted.
        n_params: trainable values in the flat vector.
        n_buffers: buffer values after them; a mean even where parameters are summed.
        layout_digest: hash of shapes and dtypes of the flat vector.
        names: of the model's tensors, in the order of the flat vector.
        frozen_digest: hash of parameters that are not trained, which all sites must
            have alike; empty where there are none, or where they may differ.
        initial_digest: `state_digest` of the weights that the task starts from.
        roster_digest: hash of the roster.
    """

    suite: str
    profile: str
    parameters_digest: bytes
    fraction_bits: int
    value_bits: int
    max_additions: int
    clip: float | None
    noise_width: float | None
    min_contributions: int
    assumed_colluders: int
    staleness_bound: int
    max_per_identity: int
    pending_limit: int
    combine: Literal["sum", "mean", "weighted"]
    max_samples: int | None
    n_params: int
    n_buffers: int
    layout_digest: bytes
    names: tuple[str, ...]
    frozen_digest: bytes
    initial_digest: bytes
    roster_digest: bytes
    format: int = _FORMAT

    @property
    def n_values(self) -> int:
        """Length of the flat vector: parameters, then buffers."""
        return self.n_params + self.n_buffers

    @property
    def n_sealed(self) -> int:
        """Values in an upload: the flat vector, and in a weighted task the weight."""
        return self.n_values + (self.combine == "weighted")

    @property
    def max_weight(self) -> int:
        """`M`, weight of `max_samples`; 0 where updates have no weights.

        As many as the samples, if a value has the bits for it.
        """
        limit = int(2 ** (self.value_bits - 1) - 1)
        return min(self.max_samples or 0, limit, _MOST_WEIGHT)

    def digest(self) -> bytes:
        """Return `cfg`, SHA-256 of the canonical encoding."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).digest()


class Task:
    """A checked task: configuration, roster and group parameters that fit together.

    Args:
        config: the frozen numbers.
        roster: who takes part.
        parameters: the modulus profile that `config.profile` names.
        signature: the operator's, from `sign_task`.

    Attributes:
        fixed_point: the quantiser of this task.

    Raises:
        TaskError: the three do not fit together, or a number is out of range.
        SignatureError: the signature is not the operator's.
    """

    def __init__(
        self,
        config: TaskConfig,
        roster: Roster,
        parameters: Parameters,
        signature: bytes,
    ) -> None:
        self.config = config
        self.roster = roster
        self.parameters = parameters
        self.signature = signature
        # Refuses numbers of bits out of range, before the rules shift by them.
        self.fixed_point = FixedPoint(
            fraction_bits=config.fraction_bits, value_bits=config.value_bits
        )
        for rules in (_rules_of_origin, _rules_of_release, _rules_of_training):
            for holds, message in rules(self):
                if not holds:
                    raise TaskError(message)
        verify(roster.operator, signature, _signed(config), who="the operator")

    def __repr__(self) -> str:
        return (
            f"Task(suite={self.config.suite!r}, profile={self.config.profile!r}, "
            f"participants={len(self.roster.participants)}, "
            f"n_values={self.config.n_values}, cfg={self.cfg.hex()[:16]})"
        )

    @cached_property
    def cfg(self) -> bytes:
        """The 32 octets that bind every message to this task."""
        return self.config.digest()


def _rules_of_origin(task: Task) -> Iterator[tuple[bool, str]]:
    """Yield what must hold for a task's three pieces to belong together."""
    config, roster = task.config, task.roster
    yield (
        config.format == _FORMAT,
        f"this version reads task format {_FORMAT}, not {config.format}",
    )
    yield (
        config.parameters_digest == task.parameters.digest,
        f"profile {config.profile!r} is not the one the task was made with; use the "
        "same profile file everywhere",
    )
    yield (
        config.roster_digest == roster.digest(),
        "the roster is not the one the task was made with; fetch both again",
    )
    yield (
        config.suite == roster.suite,
        f"the task says suite {config.suite!r}, the key cards in its roster "
        f"{roster.suite!r}; keys serve one suite only: sign a task of that suite, or "
        "have everybody make new keys",
    )
    yield (
        roster.operator not in {card.signing_key for card in roster.cards()[:2]},
        "the operator's key is that of a server, which could then invent "
        "participants; let somebody else sign the roster",
    )


def _rules_of_release(task: Task) -> Iterator[tuple[bool, str]]:
    """Yield what must hold for releases to come about and to fit their bounds."""
    config, names = task.config, task.roster.names
    count, limit, most = len(names), config.pending_limit, config.max_per_identity
    t, k = config.min_contributions, config.max_additions
    name_bytes = max((len(name.encode()) for name in names), default=0)
    yield count >= 1, "a task needs at least one participant"
    yield (
        1 <= t <= count,
        f"min_contributions (t) is {t}, but must be between 1 and the number of "
        f"participants, {count}: nothing could ever be released",
    )
    yield (
        t <= k,
        f"min_contributions (t) is {t} and max_additions (K) is {k}: a release of t "
        "uploads must fit into K additions; raise max_additions",
    )
    yield (
        most >= 1,
        f"max_per_identity (m) is {most}; a release must have room for at least 1 "
        "upload of an identity",
    )
    yield (
        limit >= 1 and min(most, limit) * (t - 1) < k,
        f"pending_limit (Q) is {limit}, max_per_identity (m) is {most}, t is {t} and K "
        f"is {k}: Q must be at least 1, and uploads of t - 1 identities must not fill "
        "a release alone, or nothing could ever be released; take m = 1 and Q = K // P",
    )
    yield (
        count * limit * (name_bytes + _LISTED_BYTES) < MAX_HEADER_BYTES,
        f"{count} participants with pending_limit (Q) = {limit} could make a release "
        "list longer than a message may be; lower max_additions (K) or pending_limit "
        "(Q)",
    )
    yield (
        config.assumed_colluders >= 0,
        f"assumed_colluders (c) is {config.assumed_colluders}; it must be >= 0",
    )
    yield (
        config.staleness_bound >= 1,
        f"staleness_bound (S) is {config.staleness_bound}; it must be >= 1",
    )
    yield (
        config.staleness_bound < _MOST_STALENESS,
        f"staleness_bound (S) is {config.staleness_bound}; it must be < "
        f"{_MOST_STALENESS}: every upload names the models of so many versions",
    )


def _rules_of_training(task: Task) -> Iterator[tuple[bool, str]]:
    """Yield what must hold for there to be something to train."""
    config = task.config
    yield (
        config.n_params >= 1 and config.n_buffers >= 0,
        f"a task of {config.n_params} parameters and {config.n_buffers} buffers has "
        "nothing to train",
    )
    yield (
        config.combine in ("sum", "mean", "weighted"),
        f"combine is {config.combine!r}; it must be 'sum', 'mean' or 'weighted'",
    )
    for name in ("clip", "noise_width"):
        bound = getattr(config, name)
        yield (
            bound is None or (math.isfinite(bound) and bound > 0),
            f"{name} is {bound}; it must be a positive number or None",
        )
    yield (
        config.clip is not None or config.noise_width is None,
        f"noise_width is {config.noise_width} and clip None: noise has a bound only "
        "where sums have one; set clip, or leave noise_width out",
    )
    yield from _rules_of_weights(config)


def _rules_of_weights(config: TaskConfig) -> Iterator[tuple[bool, str]]:
    """Yield what must hold for a weighted average to be computed exactly."""
    weighted, most = config.combine == "weighted", config.max_samples
    yield (
        (most is not None) == weighted,
        f"max_samples is {most} and combine is {config.combine!r}; combine='weighted' "
        "needs max_samples, the most samples that one update may stand for, and "
        "nothing else takes it",
    )
    yield (
        most is None or most >= 1,
        f"max_samples is {most}; it must be at least 1",
    )
    largest = config.max_additions * config.max_weight << (config.value_bits - 1)
    yield (
        largest.bit_length() <= _MOST_BITS,
        f"sums of {config.max_additions} weighted values (K) of {config.value_bits} "
        f"bits (b) with weights up to {config.max_weight} take {largest.bit_length()} "
        f"bits, but only {_MOST_BITS} are exact; lower max_additions or value_bits",
    )


def sign_task(config: TaskConfig, operator: SigningKey) -> bytes:
    """Return the operator's signature of a task; `config` binds the roster's hash."""
    return operator.sign(_signed(config))


def _signed(config: TaskConfig) -> bytes:
    return b"hre_torch task" + config.digest()
