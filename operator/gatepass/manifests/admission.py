"""Admission without a webhook: policies by which the API server itself refuses what Gatepass would not serve.

The operator asks all of it again. The policies answer at once, to the person who asks, and see what only they can: who
writes. Every one of them fails closed. Objects are untyped in a policy, so that `r.namespace` needs no escape there, as
it does in the rules of a CRD.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any, Final

import yaml

from gatepass.core.types.common import PRIVATE

Manifest = dict[str, Any]

# Who asks, as JSON: what the operator reads back as the requester.
_REQUESTER: Final = """\
'{"username":' + strings.quote(request.userInfo.username) +
',"uid":' + strings.quote(request.userInfo.?uid.orValue('')) +
',"groups":[' + request.userInfo.?groups.orValue([]).map(g, strings.quote(g)).join(',') + ']}'"""

# Any other update has to pass, or a bound that was tightened since would stand in the way of `stop: true`.
_OPENS_OR_LENGTHENS: Final = """\
oldObject == null || duration(object.spec.duration) > duration(oldObject.spec.duration) ||
(has(oldObject.spec.notAfter) && (!has(object.spec.notAfter) ||
timestamp(object.spec.notAfter) > timestamp(oldObject.spec.notAfter)))"""

# What stops a session or moves its end, and any change of what a key may do. Who has stopped or revoked it is the last
# to be told of: then nobody can stand in for him.
_CHANGES: Final = """\
oldObject != null && !oldObject.spec.?stop.orValue(false) && !oldObject.spec.?revoked.orValue(false) &&
(request.resource.resource == 'apikeybindings' ? object.spec != oldObject.spec : object.spec.?stop.orValue(false) ||
object.spec.?duration != oldObject.spec.?duration || object.spec.?notAfter != oldObject.spec.?notAfter)"""

# A session names up to 32 resources: two policies of 16 expressions.
_USES: Final = (range(16), range(16, 32))


@dataclass(frozen=True, slots=True)
class Installation:
    """What differs from one installation to the next; for the chart, the names of its own variables.

    `name` begins the names of what belongs to no namespace; `namespaces` selects the namespaces that are served.
    """

    name: str
    namespace: str
    service_account: str
    namespaces: Any

    @property
    def tokens(self) -> Mapping[str, str]:
        """What stands for `${NAME}` and so on in the files of this package."""
        account = f"system:serviceaccount:{self.namespace}:{self.service_account}"
        return {
            "NAME": self.name,
            "NAMESPACE": self.namespace,
            "SERVICE_ACCOUNT": self.service_account,
            "ACCOUNT": account,
            "BY_GATEPASS": f"request.userInfo.username == '{account}'",
            "REQUESTER": _REQUESTER,
            "OPENS_OR_LENGTHENS": _OPENS_OR_LENGTHENS,
            "CHANGES": _CHANGES,
            "PRIVATE": str(list(PRIVATE)),
        }

    def read(self, file: str) -> list[Manifest]:
        """The objects in a file of this package, with its tokens filled in."""
        text = (resources.files("gatepass.manifests") / file).read_text()
        return [_filled(document, self.tokens) for document in yaml.safe_load_all(text)]

    def validating(self) -> list[Manifest]:
        """The policies that refuse, each followed by its binding."""
        return [
            each
            for policy in (*self._use(), *self._bind(), *self.read("policies.yaml"))
            for each in (policy, self._binding(policy))
        ]

    def mutating(self) -> list[Manifest]:
        """The policies that write who asks, and the finalizer, each followed by its binding."""
        return [each for policy in self.read("stamp.yaml") for each in (policy, self._binding(policy))]

    def _use(self) -> Iterator[Manifest]:
        return self._of_each("use.yaml")

    def _bind(self) -> Iterator[Manifest]:
        return self._of_each("bind.yaml")

    def _of_each(self, file: str) -> Iterator[Manifest]:
        for number, indices in enumerate(_USES, start=1):
            (policy,) = self.read(file)
            (validation,) = policy["spec"]["validations"]
            policy["spec"]["validations"] = [_filled(validation, {"INDEX": index}) for index in indices]
            yield _filled(policy, {"NUMBER": number, "FIRST": indices.start})

    def _binding(self, policy: Manifest) -> Manifest:
        name = policy["metadata"]["name"]
        spec: Manifest = {"policyName": name}
        if policy["kind"] == "ValidatingAdmissionPolicy":
            spec["validationActions"] = ["Deny"]
        if "paramKind" in policy["spec"]:
            # With no namespace here, the parameters are those of the request's own namespace.
            spec["paramRef"] = {"selector": {}, "parameterNotFoundAction": "Allow"}
        return {
            "apiVersion": policy["apiVersion"],
            "kind": f"{policy['kind']}Binding",
            "metadata": {"name": name},
            "spec": {**spec, "matchResources": {"namespaceSelector": self.namespaces}},
        }


def _filled(node: Any, tokens: Mapping[str, Any]) -> Any:
    """A copy in which the tokens in every string are filled in, and other tokens left."""
    match node:
        case str():
            return Template(node).safe_substitute(tokens)
        case list():
            return [_filled(item, tokens) for item in node]
        case dict():
            return {key: _filled(value, tokens) for key, value in node.items()}
        case _:
            return node
