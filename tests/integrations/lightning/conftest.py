from __future__ import annotations

import pytest

from tests.integrations.lightning.modules import make_loader


@pytest.fixture
def loader():
    return make_loader()
