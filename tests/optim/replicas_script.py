"""Two processes of one participant, by DDP; started by `test_replicas.py`.

Each writes what it has seen to the folder given.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[2]))

from hre_torch import Federation, HREOptimizer
from hre_torch.errors import AggregatorError, HREError


def bits(module):
    return b"".join(p.detach().numpy().tobytes() for p in module.parameters()).hex()


def session_of(model, **options):
    federation = Federation.local(
        model, participants=1, suite="plain", profile="toy-insecure", **options
    )
    return federation, federation.join()


def train(model, optimizer, rank, steps=5):
    for step in range(steps):
        inputs = torch.randn(
            4, 3, generator=torch.Generator().manual_seed(10 * step + rank)
        )
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()


def refusal(action):
    try:
        action()
    except (HREError, ValueError) as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]


def begin(rank, *, leads):
    torch.manual_seed(rank)  # Different first weights: the task's must reach all.
    network = nn.Linear(3, 2)
    session = session_of(network)[1] if leads else None
    model = DistributedDataParallel(network)
    inner = torch.optim.Adam(model.parameters(), lr=0.05)
    return model, session, inner


def alike(rank, leader):
    """Train, look at released weights, finish; return the weights at each place."""
    model, session, inner = begin(rank, leads=rank == leader)
    optimizer = HREOptimizer(inner, session, push_every=2, pull_every=3)
    seen = [bits(model)]
    train(model, optimizer, rank)
    seen.append(bits(model))
    with optimizer.released():
        seen.append(bits(model))
    seen.append(bits(model))
    optimizer.finish()
    seen.append(bits(model))
    pushes = session.statistics.pushes if session is not None else 0
    return {"seen": seen, "pushes": pushes, "steps": optimizer.progress.local_steps}


def skipped(rank, only):
    """Have a gradient of one process, or of all, be NaN."""
    model, session, inner = begin(rank, leads=rank == 0)
    optimizer = HREOptimizer(inner, session, push_every=100, pull_every=100)
    train(model, optimizer, rank, steps=2)
    if only in (rank, None):
        next(model.parameters()).grad.fill_(float("nan"))
    optimizer.step()
    train(model, optimizer, rank, steps=6)
    return {"weights": bits(model), "finite": "nan" not in str(model.state_dict())}


def failing(rank):
    """Have the server of the leader fail at a push; go on afterwards."""
    model, session, inner = begin(rank, leads=rank == 0)
    optimizer = HREOptimizer(inner, session)
    if session is not None:
        submit = session._carrier.aggregator.submit

        def fail(data):
            raise AggregatorError("the DSP is away")

        session._carrier.aggregator.submit = fail
    told = refusal(lambda: train(model, optimizer, rank, steps=1))
    if session is not None:
        session._carrier.aggregator.submit = submit
    weights = bits(model)
    train(model, optimizer, rank, steps=2)
    return {"told": told, "weights": [weights, bits(model)]}


def follower_failing(rank):
    """Have rank 1 fail in its closure, and in the middle of its step."""
    model, session, inner = begin(rank, leads=rank == 0)
    optimizer = HREOptimizer(inner, session)
    train(model, optimizer, rank, steps=1)

    def fail(*arguments):
        raise ValueError("no closure today")

    def loss():
        return 0.0

    told = [refusal(lambda: optimizer.step(fail if rank == 1 else loss))]
    if rank == 1:
        stepped, inner.step = inner.step, fail
    told.append(refusal(optimizer.step))
    if rank == 1:
        inner.step = stepped
    train(model, optimizer, rank, steps=2)
    return {"told": told, "weights": bits(model)}


def averaged(rank):
    """Name averaged buffers in the task alone."""
    torch.manual_seed(rank)
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = network[1].running_mean.tolist()
    session = session_of(network, buffers="mean")[1] if rank == 0 else None
    model = DistributedDataParallel(network, broadcast_buffers=False)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = HREOptimizer(inner, session, module=network)
    train(model, optimizer, rank, steps=2)
    return {"before": before, "mean": network[1].running_mean.tolist()}


def numbers_of_sessions(rank):
    """Pass sessions on both processes, then on none."""
    told = []
    for leads in (True, False):
        _, session, inner = begin(rank, leads=leads)
        told.append(refusal(lambda i=inner, s=session: HREOptimizer(i, s)))
    return {"told": told}


def sharded(rank):
    """Pass what FSDP makes of a model."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import init_device_mesh

    model = nn.Linear(4, 2)
    _, session = session_of(model)
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    return {"told": refusal(lambda: HREOptimizer(inner, session))}


def main(rank: int, folder: str) -> None:
    """Play every scene; write what this process has seen."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    seen = {
        "alike": [alike(rank, leader) for leader in (0, 1)],
        "skipped": [skipped(rank, only) for only in (0, 1, None)],
        "failing": failing(rank),
        "follower failing": follower_failing(rank),
        "buffers": averaged(rank),
        "sessions": numbers_of_sessions(rank),
        "sharded": sharded(rank),
    }
    Path(folder, f"rank{rank}.json").write_text(json.dumps(seen))
    distributed.destroy_process_group()


if __name__ == "__main__":
    multiprocessing.spawn(main, (sys.argv[1],), nprocs=2)
