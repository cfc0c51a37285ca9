from __future__ import annotations

import pytest

from tests.lightning_callback.modules import make_loader


@pytest.fixture
def loader():
    return make_loader()
