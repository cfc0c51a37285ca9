"""What a federated training logs, through Lightning's own `log_dict`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import lightning.pytorch as pl

from hre_torch.observer import Observer, PhaseTimer
from hre_torch.optim import HREOptimizer
from hre_torch.protocol.session import Session

__all__ = ["Scalars"]


class Scalars:
    """Logs where a session stands, and how long its phases take.

    While it is open, a `PhaseTimer` watches the session besides the observer that the
    session has.

    Args:
        session: whose figures are logged.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before = session.observe
        self._timer = PhaseTimer()
        session.observe = _both(self._before, self._timer)

    def close(self) -> None:
        """Give the session its observer back."""
        self._session.observe = self._before

    def log(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: HREOptimizer
    ) -> None:
        """Log all scalars; version and pending uploads go to the progress bar too.

        Milliseconds are means of one call of a phase since the fit began.
        """
        if trainer.logger is None and trainer.progress_bar_callback is None:
            return
        session, statistics = self._session, self._session.statistics
        shown = {"hre/version": session.version, "hre/pending": session.pending}
        module.log_dict(
            {name: float(value) for name, value in shown.items()},
            prog_bar=True,
            logger=trainer.logger is not None,
        )
        if trainer.logger is None:
            return
        logged = {
            "hre/staleness": session.staleness,
            "hre/held_back": optimizer.progress.held_back,
            "hre/saturated": optimizer.progress.saturated,
            "hre/push_every": optimizer.push_every,
            "hre/update_norm": optimizer.progress.update_norm,
            "hre/skipped_steps": optimizer.progress.skipped_steps,
            "hre/bytes_up": statistics.bytes_up,
            "hre/bytes_down": statistics.bytes_down,
        }
        phases = self._timer.mean_milliseconds()
        module.log_dict(
            {name: float(value) for name, value in logged.items()}
            | {f"hre/ms_{phase}": spent for phase, spent in phases.items()}
        )


def _both(first: Observer, second: Observer) -> Observer:
    @contextmanager
    def observe(phase: str) -> Iterator[None]:
        with first(phase), second(phase):
            yield

    return observe
