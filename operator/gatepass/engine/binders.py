"""Do the admission policies vouch for who made an ApiKeyBinding, and who changed it?"""

from gatepass.core.ports import Cluster
from gatepass.core.stamps import unchanged, vouched
from gatepass.core.types.binding import ApiKeyBinding, Vouched


async def vouched_now(cluster: Cluster, binding: ApiKeyBinding) -> Vouched | None:
    """What to keep of it; None when nobody vouches for the binding, or nobody does now. Raises ClusterError.

    For what has changed since, only policies that were in force after that count.
    """
    policies_since = await cluster.requesters_verified_since(anew=not unchanged(binding))
    return vouched(binding, policies_since) if policies_since is not None else None
