"""Rules of installations whose cluster may be lost: found by their tag, and revoked, with AWS credentials alone."""

import asyncio
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import boto3

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Access, Credentials, Gone, Revoked
from gatepass.core.rules import ObservedRule, Target
from gatepass.providers.aws_security_group import AwsSecurityGroups

T = TypeVar("T")

_PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between the attempts at a call that may work in a moment."""
_ANY_REGION: Final = "us-east-1"
"""Where the list of Regions is asked for without a Region of one's own."""


@dataclass(frozen=True, slots=True)
class Found:
    """A rule with the tag of an installation, and the group that it is in."""

    target: Target
    rule: ObservedRule


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and by Region why it could not be looked at."""

    rules: Sequence[Found]
    failed: Mapping[str, ProviderError]


class _NoSecrets:
    """There is no cluster: only the caller's own credentials are used."""

    async def read(self, namespace: str, name: str) -> Mapping[str, str]:
        raise ProviderError(Failure.FORBIDDEN, "NoCluster", f"Secret {namespace}/{name} is in a cluster")


class AwsSweep:
    """Looks with the credentials that boto3 finds, as the AWS command line does."""

    def __init__(self) -> None:
        self._groups = AwsSecurityGroups(_NoSecrets(), threads=8)

    def close(self) -> None:
        """Close the connections."""
        self._groups.close()

    async def regions(self) -> Sequence[str]:
        """All Regions that are enabled for the account; raises ProviderError."""
        access = _access(default_region() or _ANY_REGION)
        return await self._patiently(lambda: self._groups.regions(access))

    async def find(self, regions: Iterable[str], owner: str | None) -> Finding:
        """The tagged rules of one installation, or of all; a Region that fails does not stop the others."""
        asked = tuple(dict.fromkeys(regions))
        answers = await asyncio.gather(*(self._find(region, owner) for region in asked))
        found = [entry for answer in answers if not isinstance(answer, ProviderError) for entry in answer]
        failed = {at: answer for at, answer in zip(asked, answers, strict=True) if isinstance(answer, ProviderError)}
        return Finding(sorted(found, key=lambda entry: (entry.target, entry.rule.id)), failed)

    async def _find(self, region: str, owner: str | None) -> list[Found] | ProviderError:
        try:
            found = await self._patiently(lambda: self._groups.find(_access(region), owner))
        except ProviderError as error:
            return error
        return [Found(target, rule) for target, rule in found]

    async def revoke(self, chosen: Iterable[Found]) -> Mapping[str, ProviderError | None]:
        """Revoke the rules, one call for each group; answers by id, with the reason where one is still there."""
        groups: defaultdict[Target, list[str]] = defaultdict(list)
        for entry in chosen:
            groups[entry.target].append(entry.rule.id)
        outcomes: dict[str, ProviderError | None] = {}
        for target, ids in groups.items():
            outcomes |= await self._revoke(target, ids)
        return outcomes

    async def _revoke(self, target: Target, ids: Sequence[str]) -> dict[str, ProviderError | None]:
        scarce = ProviderError(Failure.RETRY, "CallsAreScarce", "AWS allows too few calls now: sweep once more")
        outcomes: dict[str, ProviderError | None] = dict.fromkeys(ids, scarce)
        left = list(ids)
        for pause in (*_PAUSES, None):
            found = await self._groups.revoke(_access(target.region), target, left)
            for id_, outcome in found.items():
                match outcome:
                    case Revoked() | Gone():
                        outcomes[id_] = None
                    case ProviderError():
                        outcomes[id_] = outcome
                    case _:
                        # Asked again by id, which tells whether it is gone.
                        outcomes[id_] = ProviderError(Failure.RETRY, "NoAnswer", "the answer was lost")
            left = [id_ for id_ in left if (error := outcomes[id_]) and error.failure is Failure.RETRY]
            if not left or pause is None:
                break
            await asyncio.sleep(pause)
        return outcomes

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        for pause in _PAUSES:
            try:
                return await call()
            except ProviderError as error:
                if error.failure is not Failure.RETRY:
                    raise
            await asyncio.sleep(pause)
        return await call()


def default_region() -> str | None:
    """The Region of the credentials' profile or environment."""
    return os.environ.get("AWS_REGION") or boto3.Session().region_name  # boto3 does not read this one, all others do


def _access(region: str) -> Access:
    return Access("aws", region, Credentials())
