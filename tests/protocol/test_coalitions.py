"""What coalitions that the protocol does not protect against can do."""

from __future__ import annotations

import numpy as np
import pytest
from gmpy2 import powmod

from hre_torch.protocol.suites.blocks import LaneTask, decode_exponents


@pytest.mark.parametrize("suite", ["paper", "gated"])
def test_both_servers_together_open_any_single_upload(
    make_federation, draw_update, suite
):
    federation = make_federation(suite, participants=3, min_contributions=3)
    session = federation.join()
    values = draw_update(62)
    uploads = []
    federation.servers.taps.append(lambda link, data: uploads.append((link, data)))
    cipher = session._participant._cipher
    parts = cipher.encrypt(values).parts
    task = federation.task
    lanes = LaneTask(task)
    n, n_squared = task.parameters.n, task.parameters.n_squared
    secrets = (federation._secrets[name].material for name in ("dsp", "kts"))
    a, b = (decode_exponents(s, task.parameters).reveal() for s in secrets)
    plaintexts = []
    for block in lanes.layout.ciphertexts(parts, what="an upload"):
        for lane, x, y in zip(block.lanes, a, b, strict=False):
            joint = x * y if suite == "paper" else x + y
            opened = lane * powmod(block.head, -joint, n_squared) % n_squared
            plaintexts.append(int((opened - 1) // n))
    assert (lanes.packing.unpack(plaintexts, 62, 1) == values).all()


def test_the_kts_with_a_participant_learns_what_that_participant_may_open(
    make_federation, draw_update
):
    federation = make_federation("gated", participants=3, min_contributions=3)
    traffic = []
    federation.servers.taps.append(lambda link, data: traffic.append((link, data)))
    sessions = [federation.join() for _ in range(3)]
    updates = [draw_update(62, seed) for seed in range(3)]
    for session, update in zip(sessions, updates, strict=True):
        session.push(update)
    opened = sessions[0].pull()
    assert (opened[0].values == np.sum(updates, axis=0)).all()
    # The KTS is told headers and heads only: a fraction 1/L of an upload.
    sizes = {
        link: sum(len(data) for seen, data in traffic if seen == link)
        for link, _ in traffic
    }
    assert sizes["dsp->kts"] < sizes["p0->dsp"] + sizes["p1->dsp"] + sizes["p2->dsp"]
