"""The OpenAPI document is what the server does: schemathesis makes requests of it, right and wrong ones."""

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
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
BOUNDED = settings(
    max_examples=10,  # of each operation
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_the_server_answers_as_its_document_says(server):
    client, _ = server
    document = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    tried = set()
    for found in document.get_all_operations():
        operation = found.ok()
        tried.add(f"{operation.method.upper()} {operation.path}")

        @BOUNDED
        @given(case=operation.as_strategy())
        def ask(case):
            case.call_and_validate(checks=CHECKS, timeout=60)

        ask()
    assert {"POST /v1/jobs", "POST /v1/stream", "GET /v1/jobs/{id}", "DELETE /v1/jobs/{id}"} <= tried
