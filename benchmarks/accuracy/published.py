"""What others published on the same images, as remembered, and why ours differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.accuracy.matrix import Method

__all__ = ["PUBLISHED", "WHY_THEY_DIFFER", "Figure"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One published accuracy.

    Attributes:
        source: who published it.
        what: network and method there.
        percent: as quoted; none of them was compared with the publication's text.
        network: ours that comes nearest.
        method: ours that comes nearest.
    """

    source: str
    what: str
    percent: str
    network: str
    method: Method


_SHOKRI: Final = "Shokri and Shmatikov 2015"

PUBLISHED: Final = (
    Figure("Phong et al. 2018", "MLP, encrypted", "about 97", "mnist_mlp", "federated"),
    Figure(_SHOKRI, "CNN, selective, 10 %", "99.14", "mnist_cnn", "selective 10 %"),
    Figure(_SHOKRI, "CNN, selective, 1 %", "98.71", "mnist_cnn", "selective 1 %"),
    Figure(_SHOKRI, "CNN, alone", "93.16", "mnist_cnn", "alone"),
)
"""Quoted from memory, not verified: their tables say so."""

WHY_THEY_DIFFER: Final = """\
They are no targets and not the same experiment. Networks differ, and so do optimizers
(ours have momentum and a schedule), batches, the number of participants and of
images that each of them holds, on which "alone" depends most; the published curves go
on for more epochs than the few that are given here to every method; and our selective
SGD exchanges after some steps, not after an epoch. What can be compared is the order
of methods within one table."""
