"""The printed IAM policy allows what looking for pods calls, and no more."""

from gatepass.egress.aws_topology import AwsTopology
from gatepass.providers.aws_iam_policy import iam_policy
from tests.conftest import AwsAccount
from tests.egress.test_aws_topology import addresses
from tests.egress.vpc import Vpc


async def test_it_allows_what_the_topology_calls_and_no_more(topology: AwsTopology, vpc: Vpc, aws: AwsAccount) -> None:
    gateway, expected = vpc.nat()
    vpc.route(vpc.main, v4=gateway)
    public = vpc.machine(vpc.subnet(v4=vpc.internet), public=True)
    private = vpc.machine(vpc.subnet())
    last = aws.control.last()
    assert await addresses(topology, private, "192.168.0.7") == expected
    assert await addresses(topology, public, "192.168.0.7") == [public.public]
    found = [each for each in aws.control.log(last) if each["account"] == aws.account]
    called = {f"{each['service']}:{each['action']}" for each in found} - {"sts:GetCallerIdentity"}
    (statement,) = iam_policy([], pods_in=[vpc.region])["Statement"]
    assert called == set(statement["Action"])
