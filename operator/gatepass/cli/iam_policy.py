"""`gatepass iam-policy`: what an AWS administrator has to allow."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gatepass.core.types.resource import ProtectedResource


def iam_policy(
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="YAML, - for standard input; instead of a cluster."),
    ] = None,
    kubeconfig: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Instead of the service account or KUBECONFIG.")
    ] = None,
    account: Annotated[
        str, typer.Option(help="Whose the groups are: 12 digits.", show_default="what Gatepass found out, else any")
    ] = "*",
    switch_role: Annotated[
        list[str] | None,
        typer.Option(help="A role of the installation's switchRoles, one for an account; may be repeated."),
    ] = None,
    pods_in: Annotated[
        list[str] | None,
        typer.Option(help="A Region whose nodes run pods that sessions name (source.pod); may be repeated."),
    ] = None,
) -> None:
    """Print the least IAM policy for the ProtectedResources of a cluster, or of files.

    It fits the identity that works for all of them. For a role or a Secret that only some resources name, put those
    into a file of their own.
    """
    import json
    import re

    from gatepass.core.types.resource import REGION, ROLE_ARN
    from gatepass.providers.aws_iam_policy import iam_policy as policy
    from gatepass.providers.aws_iam_policy import partition

    if not re.fullmatch(r"\*|[0-9]{12}", account):
        _fail(f"--account must be 12 digits, got {account}")
    if wrong := next((role for role in switch_role or () if not re.fullmatch(ROLE_ARN, role)), None):
        _fail(f"--switch-role must be the ARN of a role, got {wrong}")
    if wrong := next((region for region in pods_in or () if not re.fullmatch(REGION, region)), None):
        _fail(f"--pods-in must be a Region such as eu-central-1, got {wrong}")
    resources = list(_in_files(file)) if file else _in_cluster(kubeconfig)
    if not resources and not pods_in:
        _fail("there are no ProtectedResources")
    regions = {*(resource.spec.aws.region for resource in resources), *(pods_in or ())}
    if len(partitions := sorted({partition(region) for region in regions})) > 1:
        _fail(f"a policy is for one partition of AWS, and these are in {', '.join(partitions)}: name the files of one")
    print(json.dumps(policy(resources, account, switch_role or (), pods_in or ()), indent=2))


def _in_files(files: "Iterable[Path]") -> "Iterator[ProtectedResource]":
    import yaml
    from pydantic import ValidationError

    from gatepass.core.types.resource import ProtectedResource

    for path in files:
        try:
            for body in _documents(yaml.safe_load_all(sys.stdin if str(path) == "-" else path.read_text())):
                if body.get("kind") == "ProtectedResource":
                    # What only the API server gives, and what decides nothing here.
                    given = {"uid": "", "creationTimestamp": "1970-01-01T00:00:00Z", **(body.get("metadata") or {})}
                    yield ProtectedResource.model_validate({**body, "metadata": given})
        except ValidationError as error:
            _fail(f"{path}: " + "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()))
        except (OSError, ValueError, yaml.YAMLError) as error:
            _fail(f"{path}: {error}")


def _documents(bodies: "Iterable[Any]") -> "Iterator[dict[str, Any]]":
    """The objects of a YAML stream, those inside of lists too."""
    for body in bodies:
        if isinstance(body, dict):
            yield body
            yield from _documents(body.get("items") or ())


def _in_cluster(kubeconfig: Path | None) -> "list[ProtectedResource]":
    import asyncio

    from kubernetes.aio.config import ConfigException

    from gatepass.app import connect
    from gatepass.core.ports import ClusterError, GoneError
    from gatepass.core.types.resource import ProtectedResource
    from gatepass.kube.api import KubeApi
    from gatepass.kube.clock import CorrectedClock
    from gatepass.kube.operator import new_client

    async def every() -> "list[ProtectedResource]":
        await connect(kubeconfig)
        async with new_client(1) as client:
            api = KubeApi(client, CorrectedClock())
            return [ProtectedResource.model_validate(body) async for body in api.each(ProtectedResource, [])]

    try:
        return asyncio.run(every())
    except GoneError:
        _fail("the cluster does not know ProtectedResources: install Gatepass's CRDs, or name files with -f")
    except (ClusterError, ConfigException, OSError) as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    print(f"gatepass iam-policy: {message}", file=sys.stderr)
    raise typer.Exit(1)
