"""Command line: what to measure, for how long, and where to write it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.measure import Patience, check_threads
from benchmarks.peers import PEERS
from benchmarks.presets import PRESETS, RESULTS
from benchmarks.suites import SuiteSystem
from benchmarks.system import SystemFactory
from benchmarks.training import UNPROTECTED, TrainingSystem, parse_course
from benchmarks.workload import Workload
from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.errors import ConfigurationError
from hre_torch.protocol.suites import SUITES

__all__ = ["Job", "parse", "plan"]

_ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class Job:
    """One system to be measured in one process.

    Attributes:
        label: what is said while it is measured.
        factory: makes the system.
        workloads: the work, shortest first.
    """

    label: str
    factory: SystemFactory
    workloads: Sequence[Workload]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options; those of a preset stand where none were given.

    Raises:
        ConfigurationError: an option has a value that cannot work.
        UnknownPluginError, ModulusError: no such suite, peer or profile.
    """
    parser = _parser()
    preset = parser.parse_known_args(arguments)[0].preset
    if preset:
        stem = _ROOT / RESULTS / preset
        parser.set_defaults(
            **PRESETS[preset],
            json=stem.with_suffix(".json"),
            markdown=stem.with_suffix(".md"),
            plots=stem,
        )
    options = parser.parse_args(arguments)
    _check(options)
    return options


def plan(options: argparse.Namespace) -> list[Job]:
    """Return everything there is to measure, suites first.

    Raises:
        UnknownPluginError: no suite or peer has that name.
        MissingExtraError: a peer's package is not installed.
        ConfigurationError: nothing is left to measure.
    """
    most = dict(options.max_values)
    jobs = []
    for name, label, factory in _systems(options):
        lengths = [v for v in options.values if v <= most.get(name, v)]
        workloads = [_workload(options, name, values) for values in lengths]
        if workloads:
            told = ", ".join(f"{values:,}" for values in lengths)
            jobs.append(Job(f"{label}: {told} values", factory, workloads))
    jobs += _training(options)
    if not jobs:
        raise ConfigurationError("there is nothing to measure; name suites or peers")
    return jobs


def _systems(options: argparse.Namespace) -> list[tuple[str, str, SystemFactory]]:
    """Return name, label and factory of every system asked for."""
    for name in options.suites:
        SUITES.get(name)
    found: list[tuple[str, str, SystemFactory]] = [
        (name, f"suite {name}", partial(SuiteSystem, name)) for name in options.suites
    ]
    for name in options.peers:
        systems = PEERS.get(name)
        found += [
            (name, f"peer {name} ({index} of {len(systems)})", factory)
            for index, factory in enumerate(systems, start=1)
        ]
    return found


def _training(options: argparse.Namespace) -> list[Job]:
    for name in options.train_suites:
        if name != UNPROTECTED:
            SUITES.get(name)
    jobs = []
    for course in map(parse_course, options.train):
        workload = Workload(course.values, options.profile, options.threads)
        jobs += [
            Job(
                f"training {course.network}, exchange every {course.every}, {name}",
                partial(TrainingSystem, name, course),
                [workload],
            )
            for name in options.train_suites
        ]
    return jobs


def _workload(options: argparse.Namespace, name: str, values: int) -> Workload:
    sample = None if name in options.suites else dict(options.sample).get(name)
    return Workload(values, options.profile, options.threads, sample)


def _check(options: argparse.Namespace) -> None:
    load_profile(options.profile)
    check_threads(options.threads)
    numbers = (options.rounds, *options.values)
    numbers += tuple(most for _, most in (*options.max_values, *options.sample))
    if min(numbers) < 1:
        raise ConfigurationError(
            f"rounds is {options.rounds}, values is {options.values}; all numbers must "
            "be at least 1"
        )
    for path in filter(None, (options.json, options.markdown, options.plots)):
        if not path.parent.is_dir():
            raise ConfigurationError(
                f"there is no folder {path.parent}; make it, or write elsewhere"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure suites and peers on one workload."
    )
    add = parser.add_argument
    add("--preset", choices=list(PRESETS), help="options of a published table")
    add("--suites", type=_names, default="hybrid,plain", help="comma-separated")
    add("--peers", type=_names, default="tenseal", help="comma-separated")
    add("--values", type=_numbers, default="109386", help="one or several lengths")
    add("--max-values", type=_limits, default="", help="NAME=LENGTH: none longer")
    add("--sample", type=_limits, default="", help="PEER=LENGTH: scale up from there")
    add("--train", type=_names, default="", help="NETWORK or NETWORK:EVERY, also")
    add("--train-suites", type=_names, default="hybrid,plain,torch", help="for --train")
    add("--profile", default="demo3072", help="modulus profile, name or path")
    add("--threads", type=int, default=1, help="cores that each system may use")
    add("--rounds", type=int, default=Patience.rounds, help="rounds to measure")
    add("--budget", type=float, default=Patience.budget, help="seconds per system")
    add("--json", type=Path, help="file for the records")
    add("--markdown", type=Path, help="file for the tables")
    add("--plots", type=Path, help="start of the names of PNG files")
    return parser


def _names(text: str) -> list[str]:
    names = (name.strip() for name in text.split(","))
    return list(dict.fromkeys(filter(None, names)))


def _numbers(text: str) -> list[int]:
    return _distinct(int(number) for number in _names(text))


def _limits(text: str) -> list[tuple[str, int]]:
    pairs = (entry.partition("=") for entry in _names(text))
    return [(name, int(number)) for name, _, number in pairs]


def _distinct(numbers: Iterable[int]) -> list[int]:
    return sorted(set(numbers))
