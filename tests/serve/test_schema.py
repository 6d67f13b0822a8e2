"""The OpenAPI document is what the server does: schemathesis makes requests of it, right and wrong ones."""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
    use_after_free,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
    use_after_free,
]
EXAMPLES = 10
"""Requests of each operation."""


@pytest.fixture(scope="module")
def api(server):
    client, _ = server
    return schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(
    max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
def test_the_server_answers_as_its_document_says(case):
    case.call_and_validate(checks=CHECKS, timeout=60)
