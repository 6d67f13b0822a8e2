from collections.abc import Iterator

import httpx
import pytest

from asymtalker.serve.service import Service
from asymtalker.serve.settings import Limits
from small_server import served


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[httpx.Client, Service]]:
    """A server for a file of tests, without a token."""
    limits = Limits(uploads_a_minute=6000, requests_a_minute=60_000)
    with served(tmp_path_factory.mktemp("serve"), limits=limits) as both:
        yield both
