"""`HREOptimizer` around an optimizer that leaves steps out, as Opacus's does."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from hre_torch.optim import FlatView, HREOptimizer

needs_opacus = pytest.mark.skipif(
    importlib.util.find_spec("opacus") is None,
    reason="needs the extra: pip install 'hre-torch[opacus]'",
)


class EverySecond(torch.optim.Optimizer):
    """Steps what it wraps at every second call."""

    def __init__(self, original):
        super().__init__(original.param_groups, original.defaults)
        self.original_optimizer, self.calls = original, 0
        self.param_groups = original.param_groups

    def step(self, closure=None):
        self.calls += 1
        if self.calls % 2 == 0:
            self.original_optimizer.step()


def test_a_call_that_leaves_the_step_out_is_neither_counted_nor_pushed(
    network, session
):
    model = network()
    inner = EverySecond(torch.optim.SGD(model.parameters(), lr=0.1))
    optimizer = HREOptimizer(inner, session(model))
    pushed = []
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.ones(2, 5)).square().sum().backward()
        optimizer.step()
        pushed.append(optimizer.session.statistics.pushes)
    assert pushed == [0, 1, 1, 2]
    assert optimizer.progress.local_steps == 2


@needs_opacus
@pytest.mark.filterwarnings("ignore")
def test_opacus_steps_are_pushed_and_its_skipped_steps_are_not(network, session):
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    model = network()
    wrapped = GradSampleModule(model)
    inner = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1),
        noise_multiplier=0.5,
        max_grad_norm=1.0,
        expected_batch_size=8,
    )
    optimizer = HREOptimizer(inner, session(model))
    before = FlatView.of(model).read()

    def gather(skip):
        optimizer.zero_grad()
        inner.signal_skip_step(do_skip=skip)
        nn.functional.mse_loss(wrapped(torch.ones(4, 5)), torch.ones(4, 3)).backward()
        optimizer.step()

    gather(skip=True)
    assert optimizer.session.statistics.pushes == 0
    assert optimizer.progress.local_steps == 0
    assert (FlatView.of(model).read() == before).all()
    gather(skip=False)
    assert optimizer.session.statistics.pushes == 1
    assert optimizer.progress.local_steps == 1
    assert (FlatView.of(model).read() != before).any()


@needs_opacus
@pytest.mark.filterwarnings("ignore")
def test_a_private_engine_trains_federated_in_virtual_batches(network, session):
    from opacus import PrivacyEngine
    from opacus.utils.batch_memory_manager import BatchMemoryManager

    model = network()
    inputs = torch.randn(32, 5, generator=torch.Generator().manual_seed(2))
    data = torch.utils.data.TensorDataset(inputs, (inputs.sum(1) > 0).long())
    engine = PrivacyEngine()
    private, inner, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=torch.utils.data.DataLoader(data, batch_size=16),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        poisson_sampling=False,
    )
    optimizer = HREOptimizer(inner, session(model))
    with BatchMemoryManager(
        data_loader=loader, max_physical_batch_size=4, optimizer=inner
    ) as pieces:
        for batch, labels in pieces:
            optimizer.zero_grad()
            nn.functional.cross_entropy(private(batch), labels).backward()
            optimizer.step()
    assert optimizer.progress.local_steps == 2
    assert optimizer.session.statistics.pushes == 2
    assert engine.get_epsilon(1e-5) > 0
