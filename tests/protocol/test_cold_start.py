"""A server that starts does nothing that can wait for the first who needs it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from gmpy2 import powmod

from hre_torch.crypto.dcr import fixed_base, schnorr
from hre_torch.crypto.dcr.fixed_base import FixedBaseTable
from hre_torch.crypto.dcr.modulus import load_profile
from hre_torch.crypto.keys.signatures import SigningKey
from hre_torch.protocol.roster import DATA_SERVICE, KEY_TRANSFORM
from hre_torch.protocol.suites import SUITES
from hre_torch.protocol.task import Task, sign_task
from hre_torch.protocol.workers import Workers
from tests.tasks import config_for

PARAMS = load_profile("toy-insecure")
NAMES = ["p0", "p1", "p2"]


def forget(made):
    """Be a process that has built no table yet."""
    fixed_base._shared.__init__(1 << 30)
    schnorr._generator.cache_clear()
    made.clear()


@pytest.fixture
def built(monkeypatch):
    """Forget all tables, and list those that are built."""
    made = []

    class Counted(FixedBaseTable):
        def __init__(self, *arguments):
            made.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr(fixed_base, "FixedBaseTable", Counted)
    monkeypatch.setattr(schnorr, "FixedBaseTable", Counted)
    monkeypatch.setattr(fixed_base, "_shared", fixed_base._TableCache(1 << 30))
    forget(made)
    yield made
    schnorr._generator.cache_clear()


def world(name, n_values=40, params=PARAMS):
    """Return a suite, a task of it, and everybody's secrets."""
    suite, operator = SUITES.get(name), SigningKey.generate()
    secrets, roster = suite.setup(NAMES, params, operator=operator.public)
    config = config_for(
        roster,
        params,
        np.zeros(n_values, dtype=np.int64),
        suite=name,
        profile=params.name,
        min_contributions=3,
        combine="sum",
        pending_limit=1,
    )
    return suite, Task(config, roster, params, sign_task(config, operator)), secrets


def servers(suite, task, secrets, workers):
    suite.check(task)
    suite.data_service(task, secrets[DATA_SERVICE], workers)
    suite.key_transform(task, secrets[KEY_TRANSFORM], workers)


@pytest.mark.parametrize("name", ["paper", "gated", "hybrid"])
def test_a_server_that_works_alone_starts_without_a_table(built, name):
    made = world(name)
    forget(built)
    servers(*made, Workers())
    assert built == []


@pytest.mark.parametrize("name", ["paper", "gated"])
def test_tables_are_there_before_workers_fork_that_share_them(built, name):
    made = world(name, n_values=2000)
    forget(built)
    servers(*made, Workers(ThreadPoolExecutor(), count=2))
    assert built


def test_workers_that_a_single_block_never_reaches_need_no_table(built):
    made = world("hybrid", params=load_profile("rsa2048"))
    forget(built)
    servers(*made, Workers(ThreadPoolExecutor(), count=2))
    assert built == []


def test_powers_of_the_generator_are_the_same_before_and_after_their_table(built):
    exponents = [3**k << 200 for k in range(2 * schnorr._POWERS_BEFORE_TABLE)]
    for count, exponent in enumerate(exponents):
        expected = powmod(PARAMS.g, exponent, PARAMS.n_squared)
        assert schnorr.generator_power(exponent, PARAMS) == expected
        assert len(built) == (count >= schnorr._POWERS_BEFORE_TABLE)


def test_servers_import_neither_torch_nor_what_reads_recipes():
    code = "import sys, hre_torch.servers.serving; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in found.stdout.split()}
    assert not loaded & {"torch", "lightning", "pydantic", "omegaconf", "phe"}
