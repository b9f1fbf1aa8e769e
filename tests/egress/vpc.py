"""VPCs in the emulator, built by EC2's own calls as an administrator builds them."""

import ipaddress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

_numbers = count(10)


@dataclass
class Machine:
    """An instance, and its primary interface."""

    id: str
    zone: str
    private: str
    interface: str
    public: str | None
    ipv6: str | None = None

    @property
    def provider_id(self) -> str:
        """As the cloud provider writes it on the node."""
        return f"aws:///{self.zone}/{self.id}"


@dataclass
class Vpc:
    """A VPC with IPv4 and IPv6, an internet gateway, and a main route table with no way out."""

    ec2: Any
    region: str = "eu-central-1"
    id: str = field(init=False)
    main: str = field(init=False)

    def __post_init__(self) -> None:
        made = self.ec2.create_vpc(CidrBlock=f"10.{next(_numbers)}.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]
        self.id = made["VpcId"]
        self._v4 = ipaddress.ip_network(made["CidrBlock"]).subnets(new_prefix=24)
        v6 = ipaddress.ip_network(made["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"])
        self._v6 = v6.subnets(new_prefix=64)
        self.internet = self.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        self.ec2.attach_internet_gateway(InternetGatewayId=self.internet, VpcId=self.id)
        filters = [{"Name": "vpc-id", "Values": [self.id]}, {"Name": "association.main", "Values": ["true"]}]
        self.main = self.ec2.describe_route_tables(Filters=filters)["RouteTables"][0]["RouteTableId"]

    def subnet(self, zone: str = "a", **routes: str) -> str:
        """A subnet; with routes (`v4`, `v6`: an id) it has a table of its own."""
        given = {"CidrBlock": str(next(self._v4)), "Ipv6CidrBlock": str(next(self._v6))}
        made = self.ec2.create_subnet(VpcId=self.id, AvailabilityZone=self.region + zone, **given)["Subnet"]
        if routes:
            table = self.ec2.create_route_table(VpcId=self.id)["RouteTable"]["RouteTableId"]
            self.ec2.associate_route_table(RouteTableId=table, SubnetId=made["SubnetId"])
            self.route(table, **routes)
        return str(made["SubnetId"])

    def route(self, table: str, v4: str | None = None, v6: str | None = None) -> None:
        """The default routes of a table."""
        for id_, destination in (
            (v4, {"DestinationCidrBlock": "0.0.0.0/0"}),
            (v6, {"DestinationIpv6CidrBlock": "::/0"}),
        ):
            if id_ is not None:
                self.ec2.create_route(RouteTableId=table, **destination, **{_PARAMETERS[id_.partition("-")[0]]: id_})

    def address(self) -> dict[str, str]:
        """An Elastic IP."""
        made = self.ec2.allocate_address(Domain="vpc")
        return {"AllocationId": made["AllocationId"], "PublicIp": made["PublicIp"]}

    def nat(self, addresses: int = 1) -> tuple[str, list[str]]:
        """A NAT gateway with so many addresses, in a public subnet: its id and the addresses in their order."""
        made = [self.address() for _ in range(addresses)]
        gateway = self.ec2.create_nat_gateway(
            SubnetId=self.subnet(v4=self.internet),
            AllocationId=made[0]["AllocationId"],
            SecondaryAllocationIds=[each["AllocationId"] for each in made[1:]],
        )["NatGateway"]["NatGatewayId"]
        return str(gateway), sorted((each["PublicIp"] for each in made), key=ipaddress.ip_address)

    def egress_only(self) -> str:
        """An egress-only internet gateway."""
        made = self.ec2.create_egress_only_internet_gateway(VpcId=self.id)["EgressOnlyInternetGateway"]
        return str(made["EgressOnlyInternetGatewayId"])

    def transit(self) -> str:
        """A transit gateway."""
        return str(self.ec2.create_transit_gateway()["TransitGateway"]["TransitGatewayId"])

    def firewall(self) -> str:
        """The endpoint of a firewall behind a Gateway Load Balancer."""
        made = self.ec2.create_vpc_endpoint(
            VpcId=self.id,
            ServiceName=f"com.amazonaws.vpce.{self.region}.vpce-svc-1",
            VpcEndpointType="GatewayLoadBalancer",
            SubnetIds=[self.subnet()],
        )
        return str(made["VpcEndpoint"]["VpcEndpointId"])

    def machine(self, subnet: str, zone: str = "a", *, public: bool = False, ipv6: bool = False) -> Machine:
        """An instance that runs."""
        given = {"DeviceIndex": 0, "SubnetId": subnet, "AssociatePublicIpAddress": public}
        (made,) = self.ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1, NetworkInterfaces=[given])[
            "Instances"
        ]
        (shown,) = made["NetworkInterfaces"]
        id_ = shown["NetworkInterfaceId"]
        own = shown["PrivateIpAddresses"][0].get("Association", {}).get("PublicIp")
        machine = Machine(made["InstanceId"], self.region + zone, shown["PrivateIpAddress"], id_, own)
        if ipv6:
            found = self.ec2.assign_ipv6_addresses(NetworkInterfaceId=id_, Ipv6AddressCount=1)
            machine.ipv6 = found["AssignedIpv6Addresses"][0]
        return machine

    def pod_address(self, machine: Machine) -> str:
        """One more IPv4 address for a pod, as the CNI plugin puts it on the machine's interface."""
        before = {machine.private, *self._private(machine.interface)}
        self.ec2.assign_private_ip_addresses(NetworkInterfaceId=machine.interface, SecondaryPrivateIpAddressCount=1)
        (new,) = set(self._private(machine.interface)) - before
        return new

    def pod_interface(self, machine: Machine, subnet: str) -> tuple[str, str]:
        """One more interface, and an IPv4 address for a pod on it."""
        made = self.ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]
        id_ = str(made["NetworkInterfaceId"])
        self.ec2.attach_network_interface(NetworkInterfaceId=id_, InstanceId=machine.id, DeviceIndex=1)
        self.ec2.assign_private_ip_addresses(NetworkInterfaceId=id_, SecondaryPrivateIpAddressCount=1)
        (new,) = set(self._private(id_)) - {made["PrivateIpAddress"]}
        return id_, new

    def pod_prefix(self, machine: Machine) -> str:
        """An address in an IPv6 prefix that is delegated to the machine."""
        own = ipaddress.IPv6Interface(f"{machine.ipv6}/64")
        prefix = next(each for each in own.network.subnets(new_prefix=80) if own.ip not in each)
        self.ec2.assign_ipv6_addresses(NetworkInterfaceId=machine.interface, Ipv6Prefixes=[str(prefix)])
        return str(prefix[7])

    def _private(self, interface: str) -> list[str]:
        (found,) = self.ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])["NetworkInterfaces"]
        return [each["PrivateIpAddress"] for each in found["PrivateIpAddresses"]]


_PARAMETERS = {
    "igw": "GatewayId",
    "nat": "NatGatewayId",
    "eigw": "EgressOnlyInternetGatewayId",
    "tgw": "TransitGatewayId",
    "vpce": "VpcEndpointId",
}
