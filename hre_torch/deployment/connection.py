"""One participant's session against real servers."""

from __future__ import annotations

import contextlib
import io
import queue
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from hre_torch.aggregators.http import BackgroundSession, HTTPAggregator, RetryPolicy
from hre_torch.aggregators.http.newcomer import ask_for_snapshot
from hre_torch.aggregators.http.snapshots import Released, SnapshotHelper
from hre_torch.deployment.alone import KeyLock
from hre_torch.deployment.followers import follower_processes
from hre_torch.deployment.identities import open_role
from hre_torch.deployment.roster_file import (
    parse_roster,
    profile_of,
    read_roster,
    task_of,
)
from hre_torch.deployment.starting import starting_state
from hre_torch.durable_files import replace_file
from hre_torch.errors import (
    HREError,
    LayoutError,
    RunDirectoryError,
    SnapshotNeededError,
    WrongTaskError,
)
from hre_torch.observer import Observer, silent
from hre_torch.protocol.ciphers import Integers
from hre_torch.protocol.participant import Opened
from hre_torch.protocol.requests import Asked
from hre_torch.protocol.session import Session
from hre_torch.protocol.session_state import SessionState
from hre_torch.protocol.task import Task

__all__ = [
    "ConnectedSession",
    "RejoiningSession",
    "connect",
    "read_weights",
    "write_weights",
]

_HELP_EVERY_SECONDS: Final = 1.0
_MOST_SNAPSHOTS: Final = 10
"""One after another: what follows each of them was gone again meanwhile."""


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
        pool = follower_processes(workers)
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
        kind = ConnectedSession if background else RejoiningSession
        session = kind(
            task,
            secret,
            link,
            initial,
            workers=pool,
            observe=observe,
            state=starting_state(
                link, task, secret, initial=initial, saved=state, timeout=timeout
            ),
            rejoin=partial(ask_for_snapshot, link, task, secret, timeout=timeout),
        )
        session.module = module
        return session
    except BaseException:
        closing.close()
        raise


class RejoiningSession(Session):
    """A session that goes on from a sealed snapshot, and seals them for others.

    Servers keep sums of old releases for a while only. Who comes back later finds the
    next one gone, and takes the released weights from another participant instead.
    With every push and pull a session looks, once a second at most, who asks for them.

    Args:
        rejoin: asks for the snapshot.
    """

    def __init__(
        self, *args: Any, rejoin: Callable[[], Released], **kwargs: Any
    ) -> None:
        self._rejoin = rejoin
        self._next_look = 0.0
        super().__init__(*args, **kwargs)
        self._helper = SnapshotHelper(self, self._link.secret)

    def push(self, values: Integers) -> int:
        """Seal and submit one quantised update; see `Session.push`."""
        self._help()
        return super().push(values)

    def pull(self) -> list[Opened]:
        """Apply every release that is new here; see `Session.pull`.

        Raises:
            AggregatorError: nobody seals a snapshot, where one is needed.
        """
        opened = self._pull_on(_MOST_SNAPSHOTS)
        self._help()
        return opened

    def _pull_on(self, most: int) -> list[Opened]:
        """Pull, from a snapshot if need be; the others may not wait for that."""
        try:
            return super().pull()
        except SnapshotNeededError:
            if most == 0:
                raise
        it = self._rejoin()
        self.rebase(it.version, it.chain, it.state_digests, it.weights)
        return self._pull_on(most - 1)

    @property
    def _link(self) -> HTTPAggregator:
        return cast(HTTPAggregator, self._aggregator)

    def _help(self) -> None:
        """Answer whoever asks; what is refused is no error of this session."""
        with contextlib.suppress(HREError):
            for message in self._helper.answers(self._look()):
                self._link.help_with(message)

    def _look(self) -> tuple[Asked, ...]:
        now = time.monotonic()
        if now < self._next_look:
            return ()
        self._next_look = now + _HELP_EVERY_SECONDS
        return self._link.wanted_snapshots()


class ConnectedSession(RejoiningSession, BackgroundSession):
    """Sends and fetches in the background; there it also looks for who comes late."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._asked: tuple[Asked, ...] = ()
        self._answers_to_them: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        super().__init__(*args, **kwargs)

    @property
    def _link(self) -> HTTPAggregator:
        return cast(HTTPAggregator, self._backend)

    def _help(self) -> None:
        """Seal here, where weights do not change meanwhile; the other thread sends."""
        asked, self._asked = self._asked, ()
        for message in self._helper.answers(asked):
            self._answers_to_them.put(message)
            self._prefetcher.call()

    def _when_idle(self) -> None:
        with contextlib.suppress(HREError):
            while not self._answers_to_them.empty():
                self._link.help_with(self._answers_to_them.get())
            self._asked = self._look() or self._asked


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
