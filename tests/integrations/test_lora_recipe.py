"""The LoRA example, as its README starts it."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "recipes" / "transformers" / "lora.py"
RUN = ["-c", "from hre_torch.cli import main; main()", "run", "--participants", "4"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("peft") is None, reason="needs the extra `peft`"),
]


@pytest.mark.parametrize(
    "arguments",
    [[str(SCRIPT), "--simulate", "4"], [*RUN, str(SCRIPT)]],
    ids=["simulate", "run"],
)
def test_four_participants_tell_the_tone_of_unseen_reviews(arguments):
    """Who overlooks the word that turns the tone round is right in 75 % of them."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True
    )
    told = re.findall(r"unseen reviews ([\d.]+)", done.stdout)
    assert len(told) == (4 if "run" in arguments else 1)
    assert min(map(float, told)) > 0.8
