"""Sessions in the words of the contract, by what their objects say."""

import pytest

from gatepass.core.types.session import AccessSession
from gatepass.engine.store import Store
from gatepass.rest import views
from tests.core.builders import a_session


@pytest.mark.parametrize(
    ("reported", "told"),
    [
        ({}, "2026-11-22T17:00:00Z"),
        ({"observedGeneration": 1, "expiresAt": "2026-11-22T13:00:00Z"}, "2026-11-22T13:00:00Z"),
        ({"observedGeneration": 1, "expiresAt": "2026-11-22T19:00:00Z"}, "2026-11-22T17:00:00Z"),
        ({"observedGeneration": 2, "expiresAt": "2026-11-22T16:00:00Z"}, "2026-11-22T16:00:00Z"),
    ],
    ids=["nothing is reported yet", "a longer time does not hold yet", "a shorter time holds at once", "as reported"],
)
def test_the_end_that_is_told(reported: dict[str, object], told: str) -> None:
    body = a_session().to_json()
    body["metadata"]["generation"] = 2
    body["spec"]["duration"] = "5h"
    body["status"] = reported
    assert views.session(AccessSession.model_validate(body), None, Store())["expiresAt"] == told
