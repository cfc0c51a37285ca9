"""`hre-torch run`: one script, several processes, servers of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from torch import nn

import hre_torch
from hre_torch.errors import RecipeError, UnsupportedError

pytestmark = pytest.mark.servers

SCRIPT = """
import os, sys
import torch
import hre_torch
from hre_torch import HREOptimizer

torch.set_num_threads(1)
torch.manual_seed(int(os.environ["HRE_TORCH_PARTICIPANT"]))
inputs = torch.randn(90, 5, generator=torch.Generator().manual_seed(0))
labels = (inputs.sum(1) > 0).long()
data = hre_torch.share(torch.utils.data.TensorDataset(inputs, labels))
model = torch.nn.Linear(5, 2)
inner = torch.optim.SGD(model.parameters(), lr=0.5)
optimizer = HREOptimizer(inner, hre_torch.join(model))
for epoch in range(int(sys.argv[1])):
    for start in range(0, len(data), 10):
        items = [data[i] for i in range(start, min(start + 10, len(data)))]
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            model(torch.stack([x for x, _ in items])),
            torch.stack([y for _, y in items]),
        )
        loss.backward()
        optimizer.step()
        if "crash" in sys.argv and os.environ["HRE_TORCH_PARTICIPANT"] == "2":
            sys.exit(3)
optimizer.finish(timeout=5)
print("every", optimizer.push_every, "version", optimizer.session.version)
"""


def launch(tmp_path, script, *arguments, options=()):
    path = tmp_path / "main.py"
    path.write_text(script)
    code = "from hre_torch.cli import main; main()"
    command = [sys.executable, "-c", code, "run", *options, str(path), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def outcome(process):
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


@pytest.mark.gate
def test_a_script_federates_and_a_crash_of_one_stops_nobody(tmp_path):
    options = ["-n", "3", "--suite", "plain", "--push-every", "2"]
    options += ["--min-contributions", "2"]
    status, output = outcome(launch(tmp_path, SCRIPT, "3", "crash", options=options))
    assert status == 3, output
    assert "run p2 ended with status 3" in output
    for who in (" p0 ", " p1 "):
        (line,) = [each for each in output.splitlines() if f"{who}every" in each]
        words = line.split()
        assert words[words.index("every") + 1] == "2"
        assert int(words[words.index("version") + 1]) >= 1


def test_if_participant_0_ends_first_all_end_with_its_error(tmp_path):
    script = """
import os, sys
import torch
import hre_torch
if os.environ["HRE_TORCH_PARTICIPANT"] == "0":
    sys.exit("a bug in the script")
hre_torch.join(torch.nn.Linear(2, 1))
"""
    status, output = outcome(launch(tmp_path, script, options=["-n", "2"]))
    assert status == 1
    assert " p0 a bug in the script" in output
    assert "participant 0 ended with status 1" in output


@pytest.mark.gate
def test_numbers_that_do_not_fit_are_told_and_all_end(tmp_path):
    options = ["-n", "2", "--suite", "hybrid"]
    status, output = outcome(launch(tmp_path, SCRIPT, "1", options=options))
    assert status != 0
    assert "take 3 participants or more" in output


def test_an_interrupt_ends_everything(tmp_path):
    script = "import os, time; print('pid', os.getpid()); time.sleep(600)"
    pids = []
    with launch(tmp_path, script, options=["-n", "2"]) as process:
        while len(pids) < 2:
            line = process.stdout.readline()
            if " pid " in line:
                pids.append(int(line.split()[-1]))
        process.send_signal(signal.SIGINT)
        process.wait(30)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(alive, pids)):
        time.sleep(0.1)
    assert not any(map(alive, pids))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_two_surroundings_at_once_are_refused(monkeypatch):
    monkeypatch.setenv("HRE_TORCH_RUN", "/nowhere")
    monkeypatch.setenv("HRE_TORCH_SITE", "site.yaml")
    with pytest.raises(UnsupportedError, match="both set"):
        hre_torch.join(nn.Linear(1, 1))


def test_a_site_of_one_task_has_no_other(monkeypatch):
    monkeypatch.setenv("HRE_TORCH_SITE", "site.yaml")
    with pytest.raises(UnsupportedError, match=r"\{task\}"):
        hre_torch.join(nn.Linear(1, 1), "critic")


def test_a_wrong_key_of_a_site_is_named(monkeypatch, tmp_path):
    site = tmp_path / "site.yaml"
    site.write_text("dsp: http://127.0.0.1:1\nkeyy: a\n")
    monkeypatch.setenv("HRE_TORCH_SITE", str(site))
    with pytest.raises(RecipeError, match="keyy"):
        hre_torch.join(nn.Linear(1, 1))


def joins_in_a_worker(queue):
    try:
        hre_torch.join(nn.Linear(1, 1))
    except UnsupportedError as error:
        queue.put(str(error))


def test_a_process_that_a_participant_started_may_not_join(monkeypatch):
    monkeypatch.setenv("HRE_TORCH_RUN", "/nowhere")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=joins_in_a_worker, args=(queue,))
    worker.start()
    assert "data loader's worker" in queue.get(timeout=60).replace("\n", " ")
    worker.join()
