"""Whose access key it is, which keys are refused, and which roles ask for an external id."""

from dataclasses import dataclass

from moto.iam.models import get_account_id_from, iam_backends
from pydantic import BaseModel, ConfigDict

from gatepass.sandbox.ec2.query import AwsError


class Credential(BaseModel):
    """What an access key is: the account that it belongs to, or refused (as a deleted or wrong key is)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    account: str | None = None
    refused: bool = False


class Role(BaseModel):
    """What a role's trust policy asks for; a role that is not registered trusts everybody."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    external_id: str | None = None
    refused: bool = False


@dataclass(frozen=True)
class Caller:
    """Who calls: the account, and the role if the key came from AssumeRole."""

    account: str
    role: str | None


class Identities:
    """Registered access keys and roles; any other key is of moto's default account, or of the role it was made for."""

    def __init__(self) -> None:
        self.credentials: dict[str, Credential] = {}
        self.roles: dict[str, Role] = {}

    def caller(self, service: str, access_key: str) -> Caller:
        """Who calls with this key. Raises AwsError, in the words of the service, for a refused key."""
        known = self.credentials.get(access_key, Credential())
        if known.refused:
            raise _refusal(service)
        account = known.account or str(get_account_id_from(access_key))
        key = iam_backends[account]["aws"].access_keys.get(access_key)
        return Caller(account, getattr(key, "role_arn", None))

    def check_assume_role(self, arn: str, external_id: str | None, caller: Caller) -> None:
        """Raises AwsError AccessDenied unless the role trusts a caller with this external id."""
        role = self.roles.get(arn, Role())
        if role.refused or (role.external_id is not None and role.external_id != external_id):
            raise AwsError(
                "AccessDenied",
                f"User: {caller.role or f'arn:aws:sts::{caller.account}:user/moto'} is not authorized to perform: "
                f"sts:AssumeRole on resource: {arn}",
                403,
            )


def _refusal(service: str) -> AwsError:
    if service == "ec2":
        return AwsError("AuthFailure", "AWS was not able to validate the provided access credentials", 401)
    message = "The security token included in the request is invalid."
    if service == "sts":
        return AwsError("InvalidClientTokenId", message, 403)
    return AwsError("UnrecognizedClientException", message, 400)


def expiry(service: str) -> AwsError:
    """What a service says to credentials that have run out."""
    if service == "ec2":
        return AwsError("RequestExpired", "Request has expired.", 400)
    code = "ExpiredToken" if service == "sts" else "ExpiredTokenException"
    return AwsError(code, "The security token included in the request is expired", 403 if service == "sts" else 400)


def denial(service: str, action: str) -> AwsError:
    """What a service says when IAM does not allow an action."""
    if service == "ec2":
        return AwsError("UnauthorizedOperation", "You are not authorized to perform this operation.", 403)
    code = "AccessDenied" if service == "sts" else "AccessDeniedException"
    message = f"User is not authorized to perform: {service}:{action}"
    return AwsError(code, message, 403 if service == "sts" else 400)
