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
    ParamValidationError,
    PartialCredentialsError,
    ProxyConnectionError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError

THROTTLED: Final = frozenset(
    {
        "EC2ThrottledException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
    }
)
UNSENT: Final = frozenset({"InvalidRequest", "NoCredentials", "NotLeading"})
"""Reasons of our own: AWS was not asked."""
UNANSWERED: Final = frozenset({"NoAnswer", "NoConnection"})
DUPLICATE: Final = "InvalidPermission.Duplicate"
FULL: Final = "RulesPerSecurityGroupLimitExceeded"
GONE: Final = "InvalidSecurityGroupRuleId.NotFound"
_DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
_NOT_ACCEPTED: Final = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidIdentityToken",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_CLOSED: Final = frozenset({"Blocked", "OptInRequired", "PendingVerification", "RegionDisabledException"})
_NOT_FOUND: Final = frozenset({"InvalidGroup.NotFound", "InvalidGroupId.Malformed", "InvalidSecurityGroupID.NotFound"})
_NOTHING_WAS_SENT: Final = (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError)
_NO_CREDENTIALS: Final = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
)
_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERROR: Final = 500
_ENCODED: Final = re.compile(r"[\s.]*Encoded authorization failure message:.*", re.DOTALL)
_KEY_ID: Final = re.compile(r"\b((?:AKIA|ASIA)[A-Z0-9]{4})[A-Z0-9]{8,}\b")
_LONGEST: Final = 500


def translated(error: Exception, action: str) -> Exception:
    """An exception of botocore as ProviderError or UnknownOutcomeError; any other, which is a defect, as it is.

    `action` is the API call as IAM spells it, such as `ec2:DescribeSecurityGroups`.
    """
    match error:
        case ClientError():
            return _refused(error, action)
        case _ if isinstance(error, _NO_CREDENTIALS):
            return ProviderError(
                Failure.FORBIDDEN,
                "NoCredentials",
                f"{action}: the operator has no AWS identity: give its service account a role",
            )
        case _ if isinstance(error, _NOTHING_WAS_SENT):
            return ProviderError(Failure.RETRY, "NoConnection", f"{action}: AWS cannot be reached")
        case ParamValidationError():
            return ProviderError(Failure.TERMINAL, "InvalidRequest", f"{action}: {error}"[:_LONGEST])
        case BotoCoreError() | ResponseParserError():
            # Its text may hold headers, and headers hold keys: the kind of error has to do.
            return UnknownOutcomeError(f"{action}: the answer was lost ({type(error).__name__})")
    return error


def _refused(error: ClientError, action: str) -> ProviderError | UnknownOutcomeError:
    details = error.response.get("Error", {})
    code = str(details.get("Code") or "Unknown")
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    message = f"{action}: {_cleaned(str(details.get('Message') or code))}"
    if code in THROTTLED or status == _TOO_MANY_REQUESTS:
        return ProviderError(Failure.RETRY, code, f"{action}: AWS asks for fewer calls; tried again in a moment")
    if code in _DENIED:
        remedy = "allow it: `gatepass iam-policy` prints the policy that is needed"
        return ProviderError(Failure.FORBIDDEN, code, f"{message.rstrip('.')}: {remedy}")
    if code in _NOT_ACCEPTED:
        # Some services quote the signed request here, session token and all: none of AWS's words are kept.
        remedy = "check or renew them, and see that the Region is enabled for the account"
        return ProviderError(Failure.FORBIDDEN, code, f"{action}: AWS does not accept the credentials: {remedy}")
    if code in _CLOSED:
        return ProviderError(Failure.FORBIDDEN, code, message)
    if code in _NOT_FOUND:
        return ProviderError(Failure.NOT_FOUND, code, message)
    if status >= _SERVER_ERROR:
        # It says nothing of whether the request has taken effect.
        return UnknownOutcomeError(f"{action}: {code}")
    return ProviderError(Failure.TERMINAL, code, message)


def _cleaned(message: str) -> str:
    """AWS's words without the encoded part, which only AWS can read, and without whole key ids."""
    return _KEY_ID.sub(r"\1...", _ENCODED.sub("", message))[:_LONGEST]


def names_id(error: ProviderError, id_: str) -> bool:
    """Is it about this id?"""
    return f"'{id_}'" in error.message
