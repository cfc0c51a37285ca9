"""A participant that somebody else starts: its files, and one session at a time.

Whatever launches it (Flower, a batch system) hands over *paths*; keys, passphrase and
weights stay in files on the participant's own machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hre_torch.app.participant_checkpoint import Checkpoint
from hre_torch.app.recipes import Recipe, load_recipe
from hre_torch.crypto.keys.key_files import read_passphrase
from hre_torch.errors import ConfigurationError
from hre_torch.participant.connection import connect
from hre_torch.participant.session import Session
from hre_torch.setup.roster_file import read_roster

__all__ = ["NodeFiles", "open_session"]


@dataclass(frozen=True, kw_only=True)
class NodeFiles:
    """What one participant's machine knows.

    Attributes:
        dsp: URL of the DSP.
        key: the participant's key file.
        roster: the signed roster.
        passphrase: file whose first line opens the key file.
        recipe: what is trained.
        initial: the weights that the task starts from; needed only at the start.
        state: where it remembers how far it is, to go on from after a kill or, where
            training is made in parts, with the next one.
        out: where the released weights go in the end.
        ca: PEM certificates to trust, for https.
    """

    dsp: str
    key: Path
    roster: Path
    passphrase: Path
    recipe: Path
    initial: Path | None = None
    state: Path | None = None
    out: Path | None = None
    ca: Path | None = None

    @classmethod
    def of(cls, node: Mapping[str, object], run: Mapping[str, object]) -> NodeFiles:
        """Return the files that a launcher's settings name.

        A machine names its own files in its own settings. Virtual participants of a
        simulation have no settings but a number; they take it as their place in the
        roster of `run["simulation-folder"]`, where all their files are.

        Args:
            node: settings of this machine: the attributes' names to paths; in a
                simulation `partition-id`.
            run: settings of the run: `dsp`, and `simulation-folder` in a simulation.

        Raises:
            ConfigurationError: one that is needed is missing.
        """
        folder = str(run.get("simulation-folder", ""))
        if folder and "key" not in node:
            return _simulated(Path(folder), _number(node), str(run["dsp"]))
        given = {"dsp": run.get("dsp"), **node}
        needed = ("dsp", "key", "roster", "passphrase", "recipe")
        missing = [name for name in needed if not given.get(name)]
        if missing:
            raise ConfigurationError(
                f"this node's settings lack {', '.join(missing)}; name the files of "
                "its participant, with absolute paths"
            )
        optional = ("initial", "state", "out", "ca")
        return cls(
            dsp=str(given["dsp"]),
            **{name: Path(str(given[name])) for name in needed[1:]},
            **{name: Path(str(given[name])) for name in optional if given.get(name)},
        )

    def load_recipe(self, overrides: str = "") -> Recipe:
        """Return the recipe, with suite and participants of the roster.

        Args:
            overrides: `key=value` pairs with spaces between.

        Raises:
            RecipeError, TaskError: recipe or roster is not one.
        """
        file = read_roster(self.roster)
        fixed = [f"suite={file.suite}", f"participants={len(file.participants)}"]
        return load_recipe(self.recipe, [*fixed, *overrides.split()])

    def memory(self) -> Checkpoint | None:
        """Return what the participant remembers, if it has a file for it."""
        return None if self.state is None else Checkpoint(self.state)


@contextlib.contextmanager
def open_session(
    files: NodeFiles,
    memory: Checkpoint | None = None,
    *,
    background: bool = True,
    workers: int = 1,
) -> Iterator[Session]:
    """Open the participant's session; close it in the end.

    Args:
        files: the participant's.
        memory: what it remembers, `files.memory()`; it goes on from there.
        background: send and fetch while training goes on; see `connect`.
        workers: processes for the cryptography.

    Raises:
        RunDirectoryError: the memory is damaged.
        HREError: whatever `connect` raises.
    """
    session = connect(
        files.dsp,
        key_file=files.key,
        roster=files.roster,
        passphrase=read_passphrase(files.passphrase),
        initial=files.initial,
        state=None if memory is None else memory.session(),
        ca_file=files.ca,
        background=background,
        workers=workers,
    )
    try:
        yield session
    finally:
        session.close()


def _simulated(folder: Path, number: int, dsp: str) -> NodeFiles:
    names = [card.name for card in read_roster(folder / "roster.json").participants]
    if number >= len(names):
        raise ConfigurationError(
            f"the roster has {len(names)} participants, the simulation asks for number "
            f"{number}; simulate as many SuperNodes as the roster has participants"
        )
    name = names[number]
    return NodeFiles(
        dsp=dsp,
        key=folder / f"{name}.key",
        roster=folder / "roster.json",
        passphrase=folder / "passphrase",
        recipe=folder / "recipe.yaml",
        initial=folder / "initial.npy",
        state=folder / f"{name}.state",
    )


def _number(node: Mapping[str, object]) -> int:
    number = node.get("partition-id")
    if not isinstance(number, int):
        raise ConfigurationError(
            "this node's settings name neither `key` nor `partition-id`; give it the "
            "files of its participant"
        )
    return number
