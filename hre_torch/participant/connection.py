"""One participant's session against real servers: its key, its start, its connection.

Two sessions with one key would use the same sequence numbers: to the servers the second
one looks like a participant that tells two stories, and its
uploads would be kept as evidence. Locks end with their process, however it ends.

A session goes on at the beginning of the task, late, or after a crash.
"""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from hre_torch.durable_files import posix_locks, replace_file
from hre_torch.errors import (
    AggregatorError,
    KeyFileError,
    LayoutError,
    RunDirectoryError,
    WrongTaskError,
)
from hre_torch.http_client import RetryPolicy
from hre_torch.observer import Observer, silent
from hre_torch.participant.carriers import BackgroundCarrier
from hre_torch.participant.http import HTTPAggregator
from hre_torch.participant.newcomer import SnapshotResync, ask_for_snapshot
from hre_torch.participant.participant import ParticipantState
from hre_torch.participant.session import Session
from hre_torch.participant.session_state import SessionState, Statistics
from hre_torch.participant.snapshots import Released
from hre_torch.protocol.messages import Status
from hre_torch.protocol.roster import Secret
from hre_torch.protocol.task import Task
from hre_torch.protocol.vectors import state_digest
from hre_torch.protocol.workers import Workers
from hre_torch.setup.identities import open_role
from hre_torch.setup.roster_file import (
    parse_roster,
    profile_of,
    read_roster,
    task_of,
)

__all__ = [
    "KeyLock",
    "connect",
    "read_weights",
    "starting_state",
    "write_weights",
]

_HELD: Final[set[int]] = set()


class KeyLock:
    """Keeps a second session with the same key file away, on this machine.

    Args:
        key: the key file; it is locked itself, so that no other file has to lie there.

    Raises:
        KeyFileError: it cannot be read or locked.
        AggregatorError: a session has it.
        UnsupportedError: the system has no file locks.
    """

    def __init__(self, key: Path) -> None:
        locks = posix_locks()
        try:
            self._descriptor = os.open(key, os.O_RDONLY)
        except OSError as error:
            raise KeyFileError(
                f"cannot read the key file {key}: {error.strerror}; name the right file"
            ) from error
        try:
            locks.flock(self._descriptor, locks.LOCK_EX | locks.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise AggregatorError(
                f"a session with the key {key} is open on this machine already; wait "
                "until it has ended"
            ) from None
        except OSError as error:
            os.close(self._descriptor)
            raise KeyFileError(
                f"cannot lock the key file {key} ({error.strerror}), as some network "
                "file systems cannot; put it on a disk of this machine"
            ) from error
        _close_in_children()
        _HELD.add(self._descriptor)

    def release(self) -> None:
        """Give the key free; twice is no mistake."""
        if self._descriptor in _HELD:
            _HELD.remove(self._descriptor)
            os.close(self._descriptor)


@cache
def _close_in_children() -> None:
    """Let no worker process that outlives a killed participant hold its lock."""
    os.register_at_fork(after_in_child=_close_all)


def _close_all() -> None:
    for descriptor in _HELD:
        os.close(descriptor)
    _HELD.clear()


def starting_state(
    link: HTTPAggregator,
    task: Task,
    secret: Secret,
    *,
    initial: npt.NDArray[np.int64] | None,
    saved: SessionState | None,
    timeout: float | None,
) -> SessionState:
    """Return the state that a session starts from.

    Args:
        link: the connection to the DSP.
        task: the task.
        secret: the participant's keys.
        initial: the weights that the task starts from, if they are at hand.
        saved: where an earlier session of this participant stood, if that is known.
        timeout: seconds to wait for a snapshot; None waits until stopped.

    Raises:
        WrongTaskError: the saved state is another participant's, or of another task.
        LayoutError: the task has not begun and there is nothing to start from.
        AggregatorError: the DSP cannot be reached, or nobody sends a snapshot.
    """
    if saved is not None:
        saved.require(task, secret.name)
    crashed = saved is not None
    if saved is None:
        saved = _without_memory(link, task, secret, initial, timeout)
        crashed = saved.participant.sequence > 0
    return _brought_up_to_date(saved, link.status(), task) if crashed else saved


def _without_memory(
    link: HTTPAggregator,
    task: Task,
    secret: Secret,
    initial: npt.NDArray[np.int64] | None,
    timeout: float | None,
) -> SessionState:
    standing = link.status()
    if initial is not None and standing.oldest <= 1:
        start = Released(0, ParticipantState().chain, state_digest(initial), initial)
        return _state_at(start, standing, task, secret)
    if standing.version == 0:
        raise LayoutError(
            "the task has not begun yet: give the initial weights, the file that its "
            "operator published with the roster"
        )
    found = ask_for_snapshot(link, task, secret, timeout=timeout)
    return _state_at(found, standing, task, secret)


def _brought_up_to_date(
    state: SessionState, standing: Status, task: Task
) -> SessionState:
    """Return a saved state that uses no sequence number which was used since then.

    At most Q uploads were under way at a crash, and the network may deliver them yet:
    so many numbers are passed over. The DSP counts what it is reading when it is asked;
    what a network holds back for longer than that is not known here, and its batch is
    trained a second time. What was refused may have been sealed again since then, if
    anything was sent: the same values must not be sent twice, so it is dropped.
    """
    used = max(state.participant.sequence, standing.next_sequence)
    sequence = used + task.config.pending_limit
    sent = max(0, standing.next_sequence - state.participant.sequence)
    # An optimizer's state that is as old as this one must know that it is.
    spent = len(state.refused) if sent else 0
    statistics = replace(
        state.statistics,
        pushes=state.statistics.pushes + sent,
        spent=state.statistics.spent + spent,
    )
    return msgspec.structs.replace(
        state,
        refused=[] if spent else state.refused,
        statistics=statistics,
        participant=msgspec.structs.replace(state.participant, sequence=sequence),
        latest_version=max(state.latest_version, standing.version),
    )


def _state_at(
    found: Released, standing: Status, task: Task, secret: Secret
) -> SessionState:
    return SessionState(
        cfg=task.cfg,
        name=secret.name,
        participant=ParticipantState(
            sequence=standing.next_sequence, version=found.version, chain=found.chain
        ),
        released=found.weights.astype("<i8").tobytes(),
        pending={},
        refused=[],
        state_digests=found.state_digests,
        latest_version=standing.version,
        statistics=Statistics(),
    )


def connect(
    dsp_url: str,
    *,
    key_file: str | Path,
    roster: str | Path,
    passphrase: str | bytes,
    initial: str | Path | npt.NDArray[np.int64] | None = None,
    state: SessionState | None = None,
    module: Any = None,
    background: bool = True,
    ca_file: str | Path | None = None,
    timeout: float | None = None,
    workers: int = 1,
    observe: Observer = silent,
) -> Session:
    """Return a participant's session against a DSP elsewhere.

    The roster is the root of trust: compare its fingerprint with its operator's. Where
    the task has moved on and its first releases are gone, the released weights come
    from another participant, sealed (`snapshots.py`); so they do after a crash that
    took the session's state with it.

    Servers may come and go: what gets no answer is sent again until it has one, and a
    line on standard error says so. Until the session is closed, no other one with its
    key opens on this machine.

    Args:
        dsp_url: such as `"https://dsp.example"`.
        key_file: the participant's, made by `hre-torch keygen participant`.
        roster: the signed roster file.
        passphrase: of the key file.
        initial: the weights that the task starts from, or the file of them.
        state: of an earlier session of the same participant.
        module: the participant's model, a torch module; see `Federation.join`.
        background: send and fetch while training goes on; False waits for every
            answer, so that runs repeat bit for bit.
        ca_file: PEM certificates to trust instead of the system's, for https.
        timeout: seconds without an answer, or a snapshot, after which it is an error;
            None waits until the program is stopped.
        workers: processes for the cryptography.
        observe: told of the phases.

    Raises:
        KeyFileError, TaskError, SignatureError: a file does not open or not verify.
        WrongTaskError: the DSP serves another task, or `state` is not this one's.
        AggregatorError: the DSP cannot be reached or nobody sends a snapshot in time,
            URL or certificate cannot be right, or a session with this key is open on
            this machine.
        LayoutError: `initial` is not what the task starts from.
    """
    encoded = passphrase.encode() if isinstance(passphrase, str) else passphrase
    closing = contextlib.ExitStack()
    try:
        closing.callback(KeyLock(Path(key_file)).release)
        path = Path(roster)
        file = read_roster(path)
        task = task_of(file, profile_of(file, path.parent))
        secret = open_role(
            Path(key_file),
            encoded,
            suite=task.config.suite,
            parameters=task.parameters,
        )
        task.roster.participant(secret.name)
        task.roster.require_keys(secret)
        pool = Workers.processes(workers)
        closing.callback(pool.close)
        link = HTTPAggregator(
            secret.name,
            url=dsp_url,
            task=task,
            secret=secret,
            policy=RetryPolicy(timeout=timeout),
            ca_file=None if ca_file is None else Path(ca_file),
            on_close=closing.close,
        )
        closing.callback(link.exchange.close)
        _check_served(link, task)
        if isinstance(initial, str | Path):
            initial = read_weights(Path(initial))
        start = starting_state(
            link, task, secret, initial=initial, saved=state, timeout=timeout
        )
        resync = SnapshotResync(link, task, secret, timeout=timeout)
        session = Session(
            task,
            secret,
            link,
            initial,
            workers=pool,
            observe=observe,
            state=start,
            carrier=(
                BackgroundCarrier(link, resync.errand, pool) if background else None
            ),
            resync=resync,
        )
        session.module = module
        return session
    except BaseException:
        closing.close()
        raise


def read_weights(path: Path) -> npt.NDArray[np.int64]:
    """Return weights at scale 2^f from a file that `write_weights` wrote.

    Raises:
        LayoutError: it is none.
    """
    try:
        weights = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise LayoutError(
            f"{path} holds no weights ({error}); name the file that `hre-torch roster "
            "sign` wrote"
        ) from error
    if not isinstance(weights, np.ndarray) or weights.dtype != np.int64:
        kind = getattr(weights, "dtype", type(weights).__name__)
        raise LayoutError(
            f"{path} holds {kind}, but weights are int64 at scale 2^fraction_bits; "
            "name a file that `roster sign` or `participate --out` wrote"
        )
    return weights


def write_weights(path: Path, weights: npt.NDArray[np.int64]) -> None:
    """Write weights at scale 2^f, int64, shape `(n_values,)`, as a .npy file.

    Raises:
        RunDirectoryError: the file cannot be written; an older one is as it was.
    """
    buffer = io.BytesIO()
    np.save(buffer, weights.astype("<i8", copy=False), allow_pickle=False)
    try:
        replace_file(path, buffer.getvalue())
    except OSError as error:
        raise RunDirectoryError(f"cannot write {path}: {error.strerror}") from error


def _check_served(link: HTTPAggregator, task: Task) -> None:
    """Say in plain words that the servers run another task, before anything is sent."""
    shown = link.served_roster()
    if not shown:
        return
    served = parse_roster(shown, "what the DSP shows").task
    if served is None or served.digest() != task.cfg:
        raise WrongTaskError(
            "the DSP serves another task than this roster's; fetch the roster that its "
            "operator signed last"
        )
