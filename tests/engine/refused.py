"""Groups of one identity, permissions that it lacks for a while, and answers that never come."""

import asyncio

from gatepass.core.rules import Target
from gatepass.core.types.session import AccessSession
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World


def refuse(cloud: SlowFirewalls, what: str, refused: bool = True) -> None:
    """Have the identity lack one permission or all of EC2, or be nobody; or no more."""
    cloud.read_refused = refused and what == "read"
    cloud.revoke_refused = refused and what == "revoke"
    cloud.relabel_refused = refused and what == "relabel"
    cloud.all_refused = refused and what == "ec2"
    cloud.missing = [None] if refused and what == "identity" else ()


async def opened(world: World, cloud: SlowFirewalls, groups: int) -> tuple[list[Target], list[AccessSession]]:
    """As many groups, each with a resource of its own, of one identity, and a session that is open."""
    targets = [cloud.create(f"sg-{number:04}") for number in range(groups)]
    for target in targets:
        world.resource(target.id, groups=(target.id,))
    sessions = [world.session(each.id, resources=({"name": each.id},)) for each in targets]
    await asyncio.sleep(20)
    assert all(cloud.rules(each) for each in targets)
    return targets, sessions


async def granted_unheard(world: World, cloud: SlowFirewalls, *, shown: bool = True) -> AccessSession:
    """A session whose rule is put, and the answer to that is lost, as those to all grants from now on."""
    world.resource()
    await asyncio.sleep(5)
    cloud.lose_answers, cloud.blind = True, not shown
    session = world.session()
    await asyncio.sleep(0.2)
    return session


async def stopped(world: World, cloud: SlowFirewalls, groups: int) -> list[Target]:
    """The same, and what was open ends now."""
    targets, sessions = await opened(world, cloud, groups)
    for session in sessions:
        world.edit(AccessSession, session.key, stop=True)
    return targets
