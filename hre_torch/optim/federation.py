"""A whole federation in one process: servers, participants, everybody's keys."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from torch import nn

import hre_torch
from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.durable_files import replace_file
from hre_torch.errors import BehindError, RunDirectoryError, TaskError
from hre_torch.observer import Observer, silent
from hre_torch.optim.proposal import propose_task
from hre_torch.participant.aggregator import AGGREGATORS
from hre_torch.participant.session import Session
from hre_torch.participant.session_state import SessionState
from hre_torch.protocol.roster import (
    DATA_SERVICE,
    KEY_TRANSFORM,
    Role,
    Roster,
    Secret,
    require_name,
)
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task, TaskConfig, sign_task
from hre_torch.protocol.task_options import TaskOptions
from hre_torch.protocol.vectors import decode_vector
from hre_torch.protocol.workers import Workers
from hre_torch.registry import nearest
from hre_torch.servers.local import LocalServers, LocalServersState

__all__ = ["Federation", "FederationState"]

_FORMAT: Final = 1
"""Of files that `Federation.save` writes."""


class SecretState(msgspec.Struct):
    """One role's secret as bytes."""

    role: Role
    signing: bytes
    material: bytes


class FederationState(msgspec.Struct):
    """Everything that a whole federation needs to go on; it holds every secret.

    Both servers' secrets lie side by side here, which is right only for a federation
    that runs in one process anyway. Whoever writes it to disk makes the file private.
    """

    config: TaskConfig
    roster: Roster
    signature: bytes
    operator: bytes
    secrets: dict[str, SecretState]
    initial: bytes
    servers: LocalServersState
    sessions: dict[str, SessionState]


class _Format(msgspec.Struct):
    format: int
    made_by: str


class _Saved(_Format):
    state: FederationState


class Federation:
    """Servers in this process, and the sessions of the participants that joined.

    Made by `Federation.local`, or by `Federation.resume` from a saved state. Closing it
    ends the worker processes; it is a context manager.

    Args:
        task: the task.
        secrets: everybody's secrets by name.
        initial: weights that the task starts from, int64, shape `(n_values,)`.
        operator: the key that has signed the task.
        workers: where block-wise arithmetic runs.
        observe: told of all phases.
        state: where an earlier federation of the same task stopped.
        model: what the task was made from, if it is at hand.

    Attributes:
        operator: signs what is said of the whole run, such as its list of files.
    """

    def __init__(
        self,
        task: Task,
        secrets: dict[str, Secret],
        initial: npt.NDArray[np.int64],
        *,
        operator: SigningKey,
        workers: Workers | None = None,
        observe: Observer = silent,
        state: FederationState | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self.task = task
        self.operator = operator
        self.observe = observe
        self._secrets = secrets
        self._initial = initial
        # Not kept alive: it belongs to the script.
        self._founder = None if model is None else weakref.ref(model)
        self._workers = workers or Workers()
        self.servers = LocalServers(
            task,
            secrets,
            workers=self._workers,
            observe=observe,
            state=state.servers if state else None,
        )
        if state is not None:
            _check_moment(state)
        self.sessions: dict[str, Session] = {}
        self._saved = dict(state.sessions) if state else {}

    @classmethod
    def local(
        cls,
        model: nn.Module,
        *,
        participants: int | Sequence[str],
        workers: int = 1,
        observe: Observer = silent,
        **options: Any,
    ) -> Federation:
        """Make keys and servers for a model, all in this process.

        Args:
            model: its trainable parameters are what the task trains, from the values
                they have now.
            participants: names, or how many (then they are called `p0`, `p1`, ...).
            workers: processes for the cryptography; 1 uses this very thread.
            observe: told of all phases, for measurements.
            options: numbers of the task by name: suite, min_contributions, profile,
                combine and all others that `TaskOptions` has.

        Raises:
            TaskError: an option that there is not, or numbers that do not fit together.
            UnknownPluginError, ModulusError: no such suite, or no such profile.
            LayoutError, UnsupportedError: the model cannot be federated.
        """
        chosen = TaskOptions.of(options)
        parameters = load_profile(chosen.profile)
        operator = SigningKey.generate()
        secrets, roster = SUITES.get(chosen.suite).setup(
            _names(participants), parameters, operator=operator.public
        )
        config, initial = propose_task(model, roster, parameters, chosen)
        return cls(
            Task(config, roster, parameters, sign_task(config, operator)),
            secrets,
            initial,
            operator=operator,
            workers=Workers.processes(workers),
            observe=observe,
            model=model,
        )

    @classmethod
    def resume(
        cls, state: FederationState, *, workers: int = 1, observe: Observer = silent
    ) -> Federation:
        """Return a federation that goes on where `state` was taken."""
        parameters = load_profile(state.config.profile)
        task = Task(state.config, state.roster, parameters, state.signature)
        secrets = {
            name: Secret(
                kept.role,
                name,
                state.config.suite,
                SigningKey(kept.signing),
                kept.material,
            )
            for name, kept in state.secrets.items()
        }
        missing = [
            card.name for card in state.roster.cards() if card.name not in secrets
        ]
        if missing:
            raise TaskError(
                f"the saved state lacks the keys of {', '.join(map(repr, missing))}: "
                "it is damaged; resume from an earlier one"
            )
        n_values = task.config.n_values
        initial = decode_vector(state.initial, "<i8", n_values).astype(np.int64)
        return cls(
            task,
            secrets,
            initial,
            operator=SigningKey(state.operator),
            workers=Workers.processes(workers),
            observe=observe,
            state=state,
        )

    def save(self, path: str | Path) -> None:
        """Write everything that `load` needs, beside a checkpoint of the model, say.

        The file holds every secret of the federation, and only its owner can read it.

        Args:
            path: where; an older file is replaced in one piece.

        Raises:
            AggregatorError: a session has an upload that is not acknowledged.
            RunDirectoryError: the file cannot be written; an older one is as it was.
        """
        document = _Saved(
            format=_FORMAT, made_by=hre_torch.__version__, state=self.state()
        )
        try:
            replace_file(Path(path), msgspec.msgpack.encode(document), mode=0o600)
        except OSError as error:
            raise RunDirectoryError(f"cannot write {path}: {error.strerror}") from error

    @classmethod
    def load(
        cls, path: str | Path, *, workers: int = 1, observe: Observer = silent
    ) -> Federation:
        """Return a federation that goes on where `save` was called.

        Args:
            path: the file.
            workers: as for `local`.
            observe: as for `local`.

        Raises:
            RunDirectoryError: it is missing, damaged, or of another version.
        """
        try:
            data = Path(path).read_bytes()
            found = msgspec.msgpack.decode(data, type=_Format)
            if found.format != _FORMAT:
                raise RunDirectoryError(
                    f"{path} has format {found.format} and was made by hre_torch "
                    f"{found.made_by}; this version reads format {_FORMAT}. Load it "
                    "with the version that made it"
                )
            saved = msgspec.msgpack.decode(data, type=_Saved)
        except OSError as error:
            raise RunDirectoryError(f"cannot read {path}: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RunDirectoryError(
                f"{path} is no saved federation, or damaged ({error}); load an earlier "
                "one"
            ) from None
        return cls.resume(saved.state, workers=workers, observe=observe)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all participants in the roster."""
        return self.task.roster.names

    def join(
        self,
        name: str | None = None,
        *,
        module: nn.Module | None = None,
        aggregator: str = "local",
        **options: Any,
    ) -> Session:
        """Return the session of one participant.

        Args:
            name: who joins; by default the next in the roster who has not.
            module: the participant's model. Needed where its optimizer has parameter
                groups in an order of their own, and torch was given no names.
            aggregator: backend that carries its messages.
            options: passed on to that backend.

        Raises:
            TaskError: no such participant, or it has joined already.
            UnknownPluginError: no such backend.
        """
        free = [known for known in self.names if known not in self.sessions]
        if name is None and free:
            name = free[0]
        if name is None:
            raise TaskError(
                f"all {len(self.names)} participants have joined already; each has one "
                "session, keep it and pass it on, or make the federation with more"
            )
        if name in self.sessions:
            raise TaskError(
                f"{name!r} has joined already; each participant has one session, keep "
                "it and pass it on"
            )
        if name not in free:
            raise TaskError(
                f"{name!r} is not in the roster: {nearest(name, list(self.names))}"
            )
        options.setdefault("servers", self.servers)
        self.sessions[name] = Session(
            self.task,
            self._secrets[name],
            AGGREGATORS.get(aggregator)(name, **options),
            self._initial,
            workers=self._workers,
            observe=self.observe,
            state=self._saved.get(name),
        )
        self.sessions[name].module = module
        self.sessions[name].founder = self._founder() if self._founder else None
        return self.sessions[name]

    def start_workers(self) -> None:
        """Start the worker processes now: everybody has joined, nobody trains yet.

        They are forked from this process, and threads that training starts may hold
        locks at that moment; without this call they start when they are first needed.
        """
        self._workers.start()

    def state(self) -> FederationState:
        """Return everything that `resume` needs, every secret included.

        Raises:
            AggregatorError: a session has an upload that is not acknowledged.
        """
        return FederationState(
            config=self.task.config,
            roster=self.task.roster,
            signature=self.task.signature,
            operator=self.operator.secret_bytes(),
            secrets={
                name: SecretState(
                    secret.role, secret.signing.secret_bytes(), secret.material
                )
                for name, secret in self._secrets.items()
            },
            initial=self._initial.astype("<i8").tobytes(),
            servers=self.servers.state(),
            sessions=self._saved
            | {name: session.state() for name, session in self.sessions.items()},
        )

    def close(self) -> None:
        """Close every session and end the worker processes."""
        for session in self.sessions.values():
            session.close()
        self._workers.close()

    def __enter__(self) -> Federation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _check_moment(state: FederationState) -> None:
    """See that no session has opened releases which the servers do not know.

    Raises:
        BehindError: one has.
    """
    known = state.servers.data_service.ledger.version
    newest = max((s.participant.version for s in state.sessions.values()), default=0)
    if newest > known:
        raise BehindError(
            f"the servers' state is older than the sessions': it knows {known} "
            f"releases, and {newest} were opened; resume from states of one moment"
        )


def _names(participants: int | Sequence[str]) -> list[str]:
    if type(participants) is int:
        return [f"p{index}" for index in range(participants)]
    if isinstance(participants, str) or not isinstance(participants, Sequence):
        raise TaskError(
            f"participants is {participants!r}; give a number, or a list of names"
        )
    if not all(isinstance(name, str) for name in participants):
        raise TaskError(f"participants is {participants!r}; names are texts")
    reserved = {DATA_SERVICE, KEY_TRANSFORM} & set(participants)
    if reserved:
        raise TaskError(
            f"a participant is named {', '.join(sorted(reserved))!r}, which is the "
            "name of a server; choose another"
        )
    for name in participants:
        require_name(name)
    return list(participants)
