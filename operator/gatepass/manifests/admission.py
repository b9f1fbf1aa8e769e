"""Admission without a webhook: policies by which the API server itself refuses what Gatepass would not serve.

The operator asks all of it again; these answer at once, to the person who asks, and close what only they can see: who
writes. Every policy fails closed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import dedent
from typing import Any, Final

from gatepass.core.types.common import ABANDON, API_VERSION, FINALIZER, GROUP, PRIVATE, REQUESTED_BY
from gatepass.core.types.resource import PLURAL as RESOURCES
from gatepass.core.types.session import PLURAL as SESSIONS
from gatepass.manifests.cel import (
    OPENS_OR_LENGTHENS,
    REQUESTER,
    STAMP,
    STAMP_BEFORE,
    condition,
    matching,
    validation,
    variable,
)

# A session names up to 32 resources; CEL's budget is 28 questions to the authorizer in a policy and 2 in an expression.
_USES_PER_POLICY: Final = 16
_USE_POLICIES: Final = 2


@dataclass(frozen=True, slots=True)
class Admission:
    """The policies of one installation.

    `name` begins the names of all of them, `account` is the user name of Gatepass's own service account, and
    `namespaces` the selector of the namespaces that it serves.
    """

    name: str
    account: str
    namespaces: Any

    def policies(self) -> list[dict[str, Any]]:
        """What validates, with its bindings."""
        return [
            *self._requester(),
            *self._twins(),
            *(policy for number in range(_USE_POLICIES) for policy in self._use(number)),
            *self._bounds(),
            *self._release(),
            *self._status(),
        ]

    def stamp(self) -> list[dict[str, Any]]:
        """What mutates: it writes who asks, and the finalizer, which saves the operator a write for each object.

        Where MutatingAdmissionPolicy is not served (before Kubernetes 1.36), clients write the annotation themselves.
        """
        spec = {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConstraints": matching(("CREATE",), (SESSIONS, RESOURCES)),
            "variables": [
                # Gatepass's own account acts for the owner of an API key, and says so.
                variable("kept", f"{self._is_gatepass} && {STAMP} != ''"),
                variable("requester", REQUESTER),
            ],
            "mutations": [
                {
                    "patchType": "ApplyConfiguration",
                    "applyConfiguration": {
                        "expression": dedent(f"""\
                            request.resource.resource == '{SESSIONS}' && !variables.kept
                            ? Object{{metadata: Object.metadata{{
                                finalizers: ['{FINALIZER}'], annotations: {{'{REQUESTED_BY}': variables.requester}}}}}}
                            : Object{{metadata: Object.metadata{{finalizers: ['{FINALIZER}']}}}}""")
                    },
                }
            ],
        }
        return self._bound("Mutating", "stamp", spec, {})

    @property
    def _is_gatepass(self) -> str:
        return f"request.userInfo.username == '{self.account}'"

    def _requester(self) -> list[dict[str, Any]]:
        """The annotation is the user who creates the session, and never changes."""
        return self._validating(
            "requester",
            matching(("CREATE", "UPDATE"), (SESSIONS,)),
            variables=[
                variable("requester", REQUESTER),
                variable("stamp", STAMP),
                variable("before", STAMP_BEFORE),
            ],
            validations=[
                validation(
                    dedent(f"""\
                        request.operation != 'CREATE' || variables.stamp == variables.requester ||
                        ({self._is_gatepass} && variables.stamp != '')"""),
                    f"'annotation {REQUESTED_BY} must be ' + variables.requester + ', got ' + "
                    "(variables.stamp == '' ? 'none' : variables.stamp)",
                    forbidden=True,
                ),
                validation(
                    "request.operation != 'UPDATE' || variables.stamp == variables.before",
                    f"'annotation {REQUESTED_BY} never changes: it was ' + "
                    "(variables.before == '' ? 'absent' : variables.before) + ' and is now ' + "
                    "(variables.stamp == '' ? 'absent' : variables.stamp)",
                    forbidden=True,
                ),
            ],
        )

    def _twins(self) -> list[dict[str, Any]]:
        """No resource twice, once with and once without the session's own namespace: the CRD cannot see that."""
        return self._validating(
            "twins",
            matching(("CREATE",), (SESSIONS,)),
            variables=[
                variable(
                    "keys", "object.spec.resources.map(r, r.?namespace.orValue(request.namespace) + '/' + r.name)"
                ),
                variable(
                    "twins", "variables.keys.filter(k, variables.keys.indexOf(k) != variables.keys.lastIndexOf(k))"
                ),
            ],
            validations=[
                validation(
                    "size(variables.twins) == 0",
                    "'spec.resources must not name a ProtectedResource twice, got ' + variables.twins.join(' and ')",
                )
            ],
        )

    def _use(self, number: int) -> list[dict[str, Any]]:
        """The verb `use` on each resource that the session names: there or not, here or in another namespace."""
        first = number * _USES_PER_POLICY
        return self._validating(
            f"use-{number + 1}",
            matching(("CREATE", "UPDATE"), (SESSIONS,)),
            conditions=[
                condition("not-gatepass", f"!({self._is_gatepass})"),
                condition("opens-or-lengthens", OPENS_OR_LENGTHENS),
                condition("names-so-many", f"size(object.spec.resources) > {first}"),
            ],
            variables=[
                variable(
                    "keys",
                    "object.spec.resources.map(r, {'namespace': r.?namespace.orValue(request.namespace), 'name': r.name})",
                ),
            ],
            validations=[
                validation(
                    dedent(f"""\
                        size(variables.keys) <= {index} ||
                        authorizer.group('{GROUP}').resource('{RESOURCES}')
                        .namespace(variables.keys[{index}].namespace).name(variables.keys[{index}].name)
                        .check('use').allowed()"""),
                    dedent(f"""\
                        size(variables.keys) <= {index} ? '' : 'user "' + request.userInfo.username +
                        '" may not use ProtectedResource ' + variables.keys[{index}].namespace + '/' +
                        variables.keys[{index}].name + ': needs the verb "use" on {RESOURCES}'"""),
                    forbidden=True,
                )
                for index in range(first, first + _USES_PER_POLICY)
            ],
        )

    def _bounds(self) -> list[dict[str, Any]]:
        """The policy of each resource of the session's own namespace; those of others are the operator's to ask."""
        policy, resource = "params.spec.policy", "params.metadata.namespace + '/' + params.metadata.name"
        ranges = "[" + ", ".join(f"'{net}'" for net in PRIVATE) + "]"
        return self._validating(
            "bounds",
            matching(("CREATE", "UPDATE"), (SESSIONS,)),
            param_kind="ProtectedResource",
            conditions=[
                # One condition, because all of them are computed for each resource of the namespace.
                condition(
                    "concerned",
                    f"({OPENS_OR_LENGTHENS}) &&\n"
                    "object.spec.resources.exists(r, r.name == params.metadata.name &&\n"
                    "r.?namespace.orValue(request.namespace) == params.metadata.namespace)",
                )
            ],
            variables=[
                variable("resource", resource),
                variable(
                    "wide",
                    dedent(f"""\
                        object.spec.source.cidrs.filter(c, cidr(c).prefixLength() < (cidr(c).ip().family() == 4
                        ? {policy}.minPrefixLength.ipv4 : {policy}.minPrefixLength.ipv6))"""),
                ),
                variable(
                    "private",
                    dedent(f"""\
                        {policy}.allowPrivateAddresses ? [] : object.spec.source.cidrs.filter(c,
                        {ranges}
                        .exists(net, cidr(net).containsCIDR(c) || cidr(c).containsCIDR(net)))"""),
                ),
                variable("labels", "namespaceObject.metadata.?labels.orValue({})"),
                variable("matchLabels", f"{policy}.allowedNamespaces.?selector.?matchLabels.orValue({{}})"),
                variable("matchExpressions", f"{policy}.allowedNamespaces.?selector.?matchExpressions.orValue([])"),
            ],
            validations=[
                validation(
                    f"duration(object.spec.duration) <= duration({policy}.maxDuration)",
                    f"'spec.duration: ' + object.spec.duration + ' is above the ' + {policy}.maxDuration + "
                    "' that ProtectedResource ' + variables.resource + ' allows (policy.maxDuration)'",
                ),
                validation(
                    "size(variables.wide) == 0",
                    "size(variables.wide) == 0 ? '' : 'spec.source.cidrs: ' + variables.wide[0] + ' is wider than the /' +\n"
                    "string(cidr(variables.wide[0]).ip().family() == 4\n"
                    f"? {policy}.minPrefixLength.ipv4 : {policy}.minPrefixLength.ipv6) +\n"
                    "' that ProtectedResource ' + variables.resource + ' allows (policy.minPrefixLength.ipv' +\n"
                    "string(cidr(variables.wide[0]).ip().family()) + ')'",
                ),
                validation(
                    "size(variables.private) == 0",
                    "size(variables.private) == 0 ? '' : 'spec.source.cidrs: ' + variables.private[0] +\n"
                    "' is a private address, which ProtectedResource ' + variables.resource +\n"
                    "' does not allow (policy.allowPrivateAddresses is false)'",
                ),
                validation(
                    f"oldObject != null || !{policy}.requireReason || object.spec.?reason.orValue('').trim() != ''",
                    "'spec.reason: ProtectedResource ' + variables.resource + ' requires one (policy.requireReason)'",
                ),
                # `Same` needs no test: a resource of another namespace is never here.
                validation(
                    dedent(f"""\
                        {policy}.allowedNamespaces.from != 'Selector' ||
                        (variables.matchLabels.all(k, variables.labels[?k] == optional.of(variables.matchLabels[k])) &&
                        variables.matchExpressions.all(e,
                          e.operator == 'Exists' ? e.key in variables.labels
                          : e.operator == 'DoesNotExist' ? !(e.key in variables.labels)
                          : (e.key in variables.labels && variables.labels[e.key] in e.values) == (e.operator == 'In')))"""),
                    "'sessions of namespace ' + request.namespace + ' may not use ProtectedResource ' + "
                    "variables.resource + ': its policy.allowedNamespaces is from: Selector'",
                ),
                validation(
                    "!has(params.metadata.deletionTimestamp)",
                    "'ProtectedResource ' + variables.resource + ' is being deleted'",
                ),
            ],
        )

    def _release(self) -> list[dict[str, Any]]:
        """Nobody lets go of an object whose rules are still there, but who may abandon them."""
        held = f"'{FINALIZER}' in {{}}.metadata.?finalizers.orValue([])"
        given_up = f"{{}}.metadata.?annotations[?'{ABANDON}'].orValue('')"
        before = f"oldObject == null ? '' : {given_up.format('oldObject')}"
        who = "'user \"' + request.userInfo.username + '\" may not "
        where = "request.resource.resource + ' ' + request.namespace + '/' + object.metadata.name"
        needs = "': needs the verb \"abandon\" on ' + request.resource.resource"
        return self._validating(
            "release",
            matching(("CREATE", "UPDATE"), (SESSIONS, RESOURCES)),
            variables=[
                variable("released", f"oldObject != null && {held.format('oldObject')} && !({held.format('object')})"),
                variable("abandons", f"!({given_up.format('object')} in ['', {before}])"),
                variable(
                    "may",
                    f"authorizer.group('{GROUP}').resource(request.resource.resource)\n"
                    ".namespace(request.namespace).name(object.metadata.name).check('abandon').allowed()",
                ),
            ],
            validations=[
                validation(
                    f"!variables.released || {self._is_gatepass} || variables.may",
                    f"{who}remove the finalizer {FINALIZER} of ' + {where} + {needs}",
                    forbidden=True,
                ),
                validation(
                    "!variables.abandons || variables.may",
                    f"{who}set the annotation {ABANDON} on ' + {where} + {needs}",
                    forbidden=True,
                ),
            ],
        )

    def _status(self) -> list[dict[str, Any]]:
        """What Gatepass reads back from a status is its own word, whatever RBAC says."""
        return self._validating(
            "status",
            matching(("UPDATE",), (f"{SESSIONS}/status", f"{RESOURCES}/status")),
            validations=[
                validation(
                    self._is_gatepass,
                    f"'user \"' + request.userInfo.username + '\" may not write the status of ' + "
                    f"request.resource.resource + ' ' + request.namespace + '/' + object.metadata.name + "
                    f"': only {self.account} does'",
                    forbidden=True,
                )
            ],
        )

    def _validating(
        self,
        suffix: str,
        constraints: dict[str, Any],
        *,
        validations: Sequence[dict[str, str]],
        variables: Sequence[dict[str, str]] = (),
        conditions: Sequence[dict[str, str]] = (),
        param_kind: str | None = None,
    ) -> list[dict[str, Any]]:
        spec: dict[str, Any] = {"failurePolicy": "Fail"}
        binding: dict[str, Any] = {"validationActions": ["Deny"]}
        if param_kind:
            spec["paramKind"] = {"apiVersion": API_VERSION, "kind": param_kind}
            # With no namespace here, the parameters are those of the request's own namespace.
            binding["paramRef"] = {"selector": {}, "parameterNotFoundAction": "Allow"}
        spec["matchConstraints"] = constraints
        if conditions:
            spec["matchConditions"] = list(conditions)
        if variables:
            spec["variables"] = list(variables)
        spec["validations"] = list(validations)
        return self._bound("Validating", suffix, spec, binding)

    def _bound(self, how: str, suffix: str, spec: dict[str, Any], binding: dict[str, Any]) -> list[dict[str, Any]]:
        metadata = {"name": f"{self.name}-{suffix}"}
        version = "admissionregistration.k8s.io/v1"
        return [
            {"apiVersion": version, "kind": f"{how}AdmissionPolicy", "metadata": metadata, "spec": spec},
            {
                "apiVersion": version,
                "kind": f"{how}AdmissionPolicyBinding",
                "metadata": metadata,
                "spec": {
                    "policyName": metadata["name"],
                    **binding,
                    "matchResources": {"namespaceSelector": self.namespaces},
                },
            },
        ]
