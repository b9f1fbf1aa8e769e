"""What AWS's errors mean to the engine."""

import re
from typing import Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    TokenRetrievalError,
)

from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError

THROTTLED: Final = frozenset(
    {"RequestLimitExceeded", "Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException"}
)
_FORBIDDEN: Final = frozenset(
    {
        "UnauthorizedOperation",
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "Blocked",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "MissingAuthenticationToken",
        "OptInRequired",
        "RegionDisabledException",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_NOT_FOUND: Final = frozenset({"InvalidGroup.NotFound", "InvalidGroupId.Malformed", "InvalidSecurityGroupID.NotFound"})
_NOTHING_WAS_SENT: Final = (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError)
_NO_CREDENTIALS: Final = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
)
_ENCODED: Final = re.compile(r"\s*Encoded authorization failure message:.*", re.DOTALL)
_KEY_ID: Final = re.compile(r"\b(A(?:KIA|SIA|ROA|IDA)[A-Z0-9]{4})[A-Z0-9]{8,}\b")
_LONGEST: Final = 500


def code_of(error: ClientError) -> str:
    """AWS's own error code."""
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


def message_of(error: ClientError) -> str:
    """AWS's message, without the encoded part that only AWS can read, and without whole key ids."""
    text = str(error.response.get("Error", {}).get("Message", "")) or code_of(error)
    return _KEY_ID.sub(r"\1...", _ENCODED.sub("", text))[:_LONGEST]


def translated(error: Exception, action: str) -> ProviderError | UnknownOutcomeError:
    """A botocore exception in the engine's terms; `action` is the API call, such as `ec2:DescribeSecurityGroups`."""
    if isinstance(error, ClientError):
        return _client_error(error, action)
    if isinstance(error, _NO_CREDENTIALS):
        return ProviderError(
            Failure.FORBIDDEN, "NoCredentials", "the operator has no AWS identity: give its service account a role"
        )
    if isinstance(error, _NOTHING_WAS_SENT):
        return ProviderError(Failure.RETRY, "NoConnection", f"{action}: AWS cannot be reached")
    if isinstance(error, BotoCoreError):
        return UnknownOutcomeError(f"{action}: {type(error).__name__}")
    raise error


def _client_error(error: ClientError, action: str) -> ProviderError | UnknownOutcomeError:
    code, message = code_of(error), f"{action}: {message_of(error)}"
    if code in THROTTLED:
        return ProviderError(Failure.RETRY, code, f"{action}: AWS asks for fewer calls")
    if code in _FORBIDDEN:
        return ProviderError(Failure.FORBIDDEN, code, message)
    if code in _NOT_FOUND:
        return ProviderError(Failure.NOT_FOUND, code, message)
    if int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500:
        # A 5xx says nothing of whether the request has taken effect.
        return UnknownOutcomeError(f"{action}: {code}")
    return ProviderError(Failure.TERMINAL, code, message)
