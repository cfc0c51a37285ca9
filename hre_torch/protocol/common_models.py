"""Which model of each version is the common one, under everything that is released."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hre_torch.errors import ReleaseError
from hre_torch.protocol.entries import Entry

__all__ = ["CommonModels"]


class CommonModels:
    """What releases have established as the model of each version.

    Args:
        initial: digest of the weights that the task starts from, version 0.
        entries: lines of an earlier ledger; the released ones say what was established.
    """

    def __init__(self, initial: bytes, entries: Iterable[Entry] = ()) -> None:
        self._known = {0: initial}
        for entry in entries:
            if entry.status == "released":
                self.settle(entry)

    def settle(self, released: Entry) -> None:
        """Take the model under a released upload as that of its version."""
        self._known[released.base_version] = released.state_digest

    def admits(self, entry: Entry) -> bool:
        """Return whether an upload is not on another model than the common one."""
        known = self._known.get(entry.base_version, entry.state_digest)
        return entry.state_digest == known

    def agreed(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return the uploads on the model that is common, or that most name."""
        supporters: dict[int, dict[bytes, set[str]]] = {}
        for entry in entries:
            if entry.base_version not in self._known:
                models = supporters.setdefault(entry.base_version, {})
                models.setdefault(entry.state_digest, set()).add(entry.name)
        chosen = self._known | {
            version: max(models, key=lambda model: len(models[model]))
            for version, models in supporters.items()
        }
        return [e for e in entries if chosen[e.base_version] == e.state_digest]

    def check(self, uploads: Sequence[Entry]) -> None:
        """Check that a list sums updates of one common model per version.

        Raises:
            ReleaseError: it does not.
        """
        models = dict(self._known)
        for entry in uploads:
            known = models.setdefault(entry.base_version, entry.state_digest)
            if entry.state_digest != known:
                raise ReleaseError(
                    f"upload {entry.sequence} of {entry.name!r} was computed on "
                    f"another model than others of version {entry.base_version}: a "
                    "list must sum updates of one common model"
                )

    def forget(self, oldest: int) -> None:
        """Drop the models of versions on which nothing can build any more.

        Args:
            oldest: the oldest version on which an upload may still be based.
        """
        for version in [v for v in self._known if 0 < v < oldest]:
            del self._known[version]
