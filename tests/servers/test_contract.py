"""Every backend keeps the contract."""

from __future__ import annotations

import pytest

from tests.servers.contract import AggregatorContract


class TestLocal(AggregatorContract):
    @pytest.fixture
    def serve(self, serve_locally):
        return serve_locally


class TestHTTP(AggregatorContract):
    @pytest.fixture
    def serve(self, serve_http):
        return serve_http
