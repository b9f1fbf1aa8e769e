"""What AWS's and botocore's errors mean to the engine, and what they never say."""

from typing import Any

import pytest
from botocore import exceptions
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.providers.aws_errors import translated

URL = "http://ec2.example"


def refusal(code: str, message: str = "told", status: int = 400) -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "AuthorizeSecurityGroupIngress")


@pytest.mark.parametrize(
    ("code", "status", "failure"),
    [
        ("RequestLimitExceeded", 503, Failure.RETRY),
        ("Throttling", 400, Failure.RETRY),
        ("TooManyRequestsException", 429, Failure.RETRY),
        ("NewCode", 429, Failure.RETRY),
        ("UnauthorizedOperation", 403, Failure.FORBIDDEN),
        ("AccessDenied", 403, Failure.FORBIDDEN),
        ("AuthFailure", 401, Failure.FORBIDDEN),
        ("ExpiredToken", 400, Failure.FORBIDDEN),
        ("RequestExpired", 400, Failure.FORBIDDEN),
        ("InvalidClientTokenId", 403, Failure.FORBIDDEN),
        ("SignatureDoesNotMatch", 403, Failure.FORBIDDEN),
        ("OptInRequired", 403, Failure.FORBIDDEN),
        ("InvalidGroup.NotFound", 400, Failure.NOT_FOUND),
        ("InvalidGroupId.Malformed", 400, Failure.NOT_FOUND),
        ("InvalidPermission.Duplicate", 400, Failure.TERMINAL),
        ("RulesPerSecurityGroupLimitExceeded", 400, Failure.TERMINAL),
        ("InvalidParameterValue", 400, Failure.TERMINAL),
        ("NewCode", 400, Failure.TERMINAL),
    ],
)
def test_a_refusal_says_what_may_be_done(code: str, status: int, failure: Failure) -> None:
    found = translated(refusal(code, status=status), "ec2:AuthorizeSecurityGroupIngress")
    assert isinstance(found, ProviderError)
    assert (found.failure, found.reason) == (failure, code)
    assert found.message.startswith("ec2:AuthorizeSecurityGroupIngress: ")


@pytest.mark.parametrize(
    "error",
    [
        refusal("InternalError", status=500),
        refusal("Unavailable", status=503),
        exceptions.ReadTimeoutError(endpoint_url=URL),
        exceptions.ConnectionClosedError(endpoint_url=URL),
        exceptions.HTTPClientError(error=OSError("x-amz-security-token: t0ken")),
        ResponseParserError("<html>t0ken</html>"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_lost_answer_is_an_unknown_outcome(error: Exception) -> None:
    found = translated(error, "ec2:RevokeSecurityGroupIngress")
    assert isinstance(found, UnknownOutcomeError)
    assert "t0ken" not in str(found)


@pytest.mark.parametrize(
    ("error", "failure", "reason"),
    [
        (exceptions.ConnectTimeoutError(endpoint_url=URL), Failure.RETRY, "NoConnection"),
        (exceptions.EndpointConnectionError(endpoint_url=URL), Failure.RETRY, "NoConnection"),
        (exceptions.ProxyConnectionError(proxy_url=URL), Failure.RETRY, "NoConnection"),
        (exceptions.NoCredentialsError(), Failure.FORBIDDEN, "NoCredentials"),
        (exceptions.ParamValidationError(report="bad"), Failure.TERMINAL, "InvalidRequest"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_was_never_sent_has_no_effect(error: Exception, failure: Failure, reason: str) -> None:
    found = translated(error, "ec2:DescribeSecurityGroups")
    assert isinstance(found, ProviderError)
    assert (found.failure, found.reason) == (failure, reason)


def test_a_defect_stays_what_it_is() -> None:
    defect = KeyError("x")
    assert translated(defect, "ec2:DescribeSecurityGroups") is defect


def test_the_encoded_part_is_cut_off_and_the_remedy_named() -> None:
    message = (
        "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/ci is not authorized "
        "to perform: ec2:AuthorizeSecurityGroupIngress on resource: sg-1. Encoded authorization failure message: "
        + "Zm9v"
        * 400
    )
    found = str(translated(refusal("UnauthorizedOperation", message, 403), "ec2:AuthorizeSecurityGroupIngress"))
    assert "Zm9v" not in found
    assert "Encoded" not in found
    assert "user/ci is not authorized to perform: ec2:AuthorizeSecurityGroupIngress on resource: sg-1: allow" in found
    assert "gatepass iam-policy" in found


@pytest.mark.parametrize(
    "code", ["SignatureDoesNotMatch", "IncompleteSignature", "InvalidClientTokenId", "AuthFailure", "NewCode"]
)
def test_no_key_is_ever_quoted(code: str) -> None:
    told = "Credential=AKIAIOSFODNN7EXAMPLE/20261122 of ASIAIOSFODNN7EXAMPLE"
    if code != "NewCode":
        told += " The Canonical String should have been 'POST x-amz-security-token:IQoJb3JpZ2luX2VjEXAMPLE'"
    found = str(translated(refusal(code, told, 403), "sts:GetCallerIdentity"))
    assert "IOSFODNN7EXAMPLE" not in found
    assert "IQoJb3JpZ2luX2Vj" not in found
