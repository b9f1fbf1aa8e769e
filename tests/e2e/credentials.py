"""Another AWS account, and the ways into it."""

from tests.conftest import AwsAccount
from tests.e2e.firewall import Firewall, Group
from tests.e2e.tenant import Tenant
from tests.observer.observer import Observer


class Elsewhere:
    """An AWS account that is not the operator's own, with a key for the operator and one for the tests."""

    def __init__(self, account: AwsAccount, key: AwsAccount, observer: Observer, owner: str) -> None:
        self.account = account
        self._key = key
        self._firewall = Firewall(account, observer, owner)

    def group(self) -> Group:
        """A new, empty security group of that account."""
        return self._firewall.group()

    def secret_of(self, tenant: Tenant, name: str = "aws") -> dict[str, dict[str, str]]:
        """Put the key into a Secret of the tenant; answers the credentials that name it."""
        tenant.secret(name, aws_access_key_id=self._key.access_key, aws_secret_access_key=self._key.secret_key)
        return {"secretRef": {"name": name}}

    def refuse(self) -> None:
        """The key is deleted at AWS."""
        self._key.control.set_credential(self._key.access_key, account=self._key.account, refused=True)

    def accept(self) -> None:
        """The key works again."""
        self._key.control.set_credential(self._key.access_key, account=self._key.account)
