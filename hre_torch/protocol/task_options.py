"""What somebody may choose about a task, with every default: the literal of a task."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Real
from typing import Annotated, Any, Literal, Self, TypeAlias, get_args, get_type_hints

import msgspec
from msgspec import Meta

from hre_torch.crypto.dcr.modulus import Parameters
from hre_torch.encoding.fixed_point import FixedPoint
from hre_torch.errors import TaskError
from hre_torch.protocol.roster import Roster
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import TaskConfig
from hre_torch.registry import nearest

__all__ = ["Buffers", "Combine", "ModelFacts", "TaskOptions", "is_positive"]

Buffers: TypeAlias = Literal["local", "mean"]
Combine: TypeAlias = Literal["sum", "mean", "weighted"]
Count: TypeAlias = Annotated[int, Meta(ge=1)]


def is_positive(number: Any) -> bool:
    """Whether this is a positive number that a float can hold."""
    if isinstance(number, bool) or not isinstance(number, Real):
        return False
    try:
        return 0 < float(number) < math.inf
    except OverflowError:
        return False


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a task says of the model that it was made from; see `TaskConfig`."""

    n_params: int
    n_buffers: int
    layout_digest: bytes
    names: tuple[str, ...]
    frozen_digest: bytes
    initial_digest: bytes


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """The numbers of a task as somebody writes them; `config` makes a task of them.

    `Federation.local`, `propose_task` and recipes take these names, and no other place
    spells them out. None stands for a default that depends on suite and participants.

    Attributes:
        suite: the protocol, such as `"hybrid"` or `"plain"`.
        profile: a shipped modulus profile, or the path of a profile file.
        min_contributions: t, distinct identities per release; by default what the suite
            recommends.
        assumed_colluders: c, participants that may collude with a server; by default
            t - 2, the most that leaves two honest contributions.
        combine: `"sum"` (plain asynchronous SGD, for push_every=1 without momentum),
            `"mean"` (updates divided by t) or `"weighted"` (federated averaging: by the
            samples behind each); mean by default.
        max_samples: most samples that an update may stand for, if it is weighted: those
            of the largest data set. Much more costs precision.
        max_additions: K, most uploads in one opened sum; by default the suite's.
        value_bits: b, bits of one quantised value, sign included.
        fraction_bits: f; values are integers at scale 2^f.
        staleness_bound: S, most releases that an upload may lag behind.
        buffers: `"local"`, or `"mean"` to average BatchNorm's statistics too.
        frozen: `"same"` refuses a participant whose frozen parameters, such as the base
            of a LoRA, are not those of the task's model; `"any"` does not.
        max_per_identity: m, most uploads of one identity in a release. Others wait.
        clip: C, L2 bound of an update's parameters. Everybody rejects a release whose
            sum is longer than updates of that length can make it. None for no bound.
        noise_width: sigma, the widest noise on an upload's values that this bound
            leaves room for, in units of 2^-f; see `GaussianNoise.width`.

    Raises:
        TaskError: a number is of another type or out of range; the message names it.

    >>> TaskOptions(suite="plain").additions
    256
    """

    suite: str = "hybrid"
    profile: str = "rsa2048"
    min_contributions: Count | None = None
    assumed_colluders: Annotated[int, Meta(ge=0)] | None = None
    combine: Combine | None = None
    max_samples: Count | None = None
    max_additions: Count | None = None
    value_bits: int = 16
    fraction_bits: int = 16
    staleness_bound: Count = 50
    buffers: Buffers = "local"
    frozen: Literal["same", "any"] = "same"
    max_per_identity: Count = 1
    clip: float | None = None
    noise_width: float | None = None

    def __post_init__(self) -> None:
        for name, kind in _kinds().items():
            value = getattr(self, name)
            try:
                msgspec.convert(value, kind, strict=True)
            except msgspec.ValidationError as error:
                words = _words(kind)
                reason = nearest(str(value), words) if words else str(error)
                raise TaskError(f"{name} is {value!r}: {reason}") from None
        for name in ("clip", "noise_width"):
            bound = getattr(self, name)
            if bound is not None and not is_positive(bound):
                raise TaskError(
                    f"{name} is {bound!r}; it must be a positive number or None"
                )
        # Refuses numbers of bits that are out of range.
        FixedPoint(fraction_bits=self.fraction_bits, value_bits=self.value_bits)

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> Self:
        """Return the options that keyword arguments mean.

        Raises:
            TaskError: there is no option of that name, or a value cannot work.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for keyword in keywords:
            if keyword not in names:
                raise TaskError(
                    f"a task has no option {keyword!r}: {nearest(keyword, names)}"
                )
        return cls(**keywords)

    @property
    def additions(self) -> int:
        """K, with the suite's default filled in."""
        return self.max_additions or SUITES.get(self.suite).default_max_additions

    def contributions(self, participants: int) -> int:
        """Return t for so many participants, with the suite's default filled in."""
        chosen = SUITES.get(self.suite)
        return self.min_contributions or chosen.default_contributions(participants)

    def config(
        self,
        roster: Roster,
        parameters: Parameters,
        *,
        n_params: int,
        n_buffers: int = 0,
        layout_digest: bytes,
        names: tuple[str, ...] = (),
        frozen_digest: bytes = b"",
        initial_digest: bytes,
    ) -> TaskConfig:
        """Return the task's numbers, with all defaults filled in.

        `Task` checks whether they fit together.

        Args:
            roster: who takes part.
            parameters: the modulus profile that `profile` names.
            n_params: trainable values in the flat vector.
            n_buffers: buffer values after them.
            layout_digest: hash of shapes and dtypes of the flat vector.
            names: of the model's tensors, in the order of the flat vector.
            frozen_digest: hash of the parameters that are not trained.
            initial_digest: `state_digest` of the weights that the task starts from.

        Raises:
            UnknownPluginError: no suite has that name.
            TaskError: the suite needs more participants.
        """
        participants, additions = len(roster.participants), self.additions
        least = SUITES.get(self.suite).least_contributions
        if 0 < participants < least:
            raise TaskError(
                f"there are {participants} participants, but suite {self.suite!r} "
                f"releases sums of at least {least} (t >= {least}), since of fewer one "
                f"could subtract its own: take {least} participants or more, or "
                "suite='plain' for a trial without protection"
            )
        t, c = self.contributions(participants), self.assumed_colluders
        clip, width = self.clip, self.noise_width
        return TaskConfig(
            suite=self.suite,
            profile=self.profile,
            parameters_digest=parameters.digest,
            fraction_bits=self.fraction_bits,
            value_bits=self.value_bits,
            max_additions=additions,
            clip=None if clip is None else float(clip),
            noise_width=None if width is None else float(width),
            min_contributions=t,
            assumed_colluders=max(0, t - 2) if c is None else c,
            staleness_bound=self.staleness_bound,
            max_per_identity=self.max_per_identity,
            pending_limit=self._pending_limit(participants),
            combine=self.combine or "mean",
            max_samples=self.max_samples,
            n_params=n_params,
            n_buffers=n_buffers,
            layout_digest=layout_digest,
            names=names,
            frozen_digest=frozen_digest,
            initial_digest=initial_digest,
            roster_digest=roster.digest(),
        )

    def _pending_limit(self, participants: int) -> int:
        """Return Q = min(floor(K / P), m floor(S / 2)), at least 1.

        S releases take m S uploads of one identity, so the last of Q that wait are
        released after half of the time in which they must be.
        """
        share = self.additions // max(1, participants)
        in_time = self.max_per_identity * (self.staleness_bound // 2)
        return max(1, min(share, in_time))


@cache
def _kinds() -> dict[str, Any]:
    """Return the types of options, but of those that have checks of their own."""
    hints = get_type_hints(TaskOptions, include_extras=True)
    return {
        name: kind for name, kind in hints.items() if kind not in (str, float | None)
    }


def _words(kind: Any) -> list[str]:
    """Return the words that an option may be, if it is one."""
    parts = [word for part in (kind, *get_args(kind)) for word in get_args(part)]
    return [word for word in parts if isinstance(word, str)]
