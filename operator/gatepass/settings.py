"""What an installation sets: environment variables `GATEPASS_*`, parsed once and passed down."""

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, IPvAnyNetwork, SecretStr, ValidationInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gatepass.core.rules import OWNER
from gatepass.core.types.common import Name, parse_ttl
from gatepass.core.types.resource import ROLE_ARN


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _needs(other: str) -> Callable[[object, ValidationInfo], object]:
    def check(value: object, info: ValidationInfo) -> object:
        if value and not info.data.get(other):
            raise ValueError(f"needs GATEPASS_{other.upper()}")
        return value

    return check


def _served(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("sqlite:///", "postgresql:", "postgresql+", "postgres:")):
        raise ValueError("must begin with sqlite:/// or postgresql://")
    return url


def _counted(url: SecretStr) -> SecretStr:
    if not re.match(r"(valkeys?|rediss?)://[^/]", url.get_secret_value()):
        raise ValueError("must begin with valkey://, valkeys://, redis:// or rediss://, and name a host")
    return url


# Without TLS only on this machine, as in a sandbox.
Issuer = Annotated[str, Field(pattern=r"^(https://[^ ?#@]*[^ ?#@/]|http://127\.0\.0\.1:[0-9]+)$")]
EchoUrl = Annotated[
    str, Field(pattern=r"^(https://[^ ?#@,]*[^ ?#@/,]|http://(127\.0\.0\.1|\[::1\]):[0-9]+(/[^ ?#@,]*)?)$")
]
Names = Annotated[tuple[Name, ...], NoDecode, BeforeValidator(_split)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(_split)]
Roles = Annotated[tuple[Annotated[str, Field(pattern=ROLE_ARN)], ...], NoDecode, BeforeValidator(_split)]


def _at_least_an_hour(kept: timedelta) -> timedelta:
    if kept < timedelta(hours=1):
        raise ValueError("must be 1h at least, or Never: entries are removed once an hour")
    return kept


class Settings(BaseSettings):
    """Every setting; the chart has a value of the same name in camelCase for each."""

    model_config = SettingsConfigDict(env_prefix="GATEPASS_", frozen=True, extra="ignore")

    namespace: Annotated[str, Field(description="Namespace of the release; part of the install id.")] = (
        "gatepass-system"
    )
    release: Annotated[str, Field(description="Name of the release; part of the install id.")] = "gatepass"
    install_id: Annotated[
        str | None,
        Field(
            pattern=OWNER,
            description="Marks the rules of this installation. Absent: uid of kube-system + namespace/release.",
        ),
    ] = None
    watch_namespaces: Annotated[Names, Field(description="Namespaces to serve, with commas between. Empty: all.")] = ()
    resync_seconds: Annotated[
        float, Field(ge=1, description="How often everything is looked at again, to repair drift.")
    ] = 600
    lease_seconds: Annotated[
        float,
        Field(
            ge=15,
            le=300,
            description="How long a leader that is not heard of keeps the lease. It renews every 2/15 of it, and gives "
            "up after 2/3 of it without a renewal: 15, 2 and 10 s, as in client-go.",
        ),
    ] = 15
    credentials_namespaces: Annotated[
        Mapping[str, tuple[str, ...]] | None,
        Field(
            description="JSON: globs of namespaces to what they may use, `operator` for its own identity or globs of "
            "role ARNs. Absent: the release's own namespace may use everything."
        ),
    ] = None
    switch_roles: Annotated[
        Roles,
        Field(
            description="ARNs of roles, one for each AWS account, with which EventBridge Scheduler closes rules that "
            "the operator does not close. Empty: no dead man's switch."
        ),
    ] = ()
    default_ttl_after_ended: Annotated[
        timedelta, BeforeValidator(parse_ttl), Field(description="How long ended sessions are kept; or Never.")
    ] = timedelta(hours=24)
    log_format: Annotated[
        Literal["auto", "json", "console"], Field(description="auto: console on a terminal, else JSON.")
    ] = "auto"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="What is logged.")] = "info"
    health_host: Annotated[str, Field(description="Address of the probes and the metrics.")] = "0.0.0.0"  # noqa: S104 the kubelet calls
    health_port: Annotated[int, Field(ge=0, le=65535, description="Port of /healthz and /readyz.")] = 8080
    metrics_port: Annotated[int, Field(ge=0, le=65535, description="Port of /metrics, for Prometheus.")] = 9090
    api_host: Annotated[str, Field(description="Address of the REST API.")] = "0.0.0.0"  # noqa: S104 runners call
    api_port: Annotated[int, Field(ge=0, le=65535, description="Port of the REST API.")] = 8000
    trusted_proxies: Annotated[
        Networks, Field(description="Ranges, with commas between, whose X-Forwarded-For says who calls. Empty: none.")
    ] = ()
    public_url: Annotated[
        str | None,
        Field(
            pattern=r"^(https://[^ ?#@]*[^ ?#@/]|http://127\.0\.0\.1:[0-9]+)$",
            description="Where runners find the REST API, such as https://gatepass.example.com, for sessions that are "
            "claimed. Absent: none can be.",
        ),
    ] = None
    echo_urls: Annotated[
        tuple[EchoUrl, ...],
        NoDecode,
        BeforeValidator(_split),
        Field(
            description="Services, with commas between, that say which address they are called from, for sessions "
            "with source.operator; two of different hosts must agree. https://.../api/v1/detect-ip of another Gatepass "
            "is one."
        ),
    ] = ("https://checkip.amazonaws.com", "https://icanhazip.com", "https://ifconfig.co/ip", "https://api64.ipify.org")
    rate_limit: Annotated[int, Field(ge=1, description="Requests a minute from one address.")] = 60
    rate_limit_storage: Annotated[
        SecretStr | None,
        Field(
            description="Where replicas count requests together: valkey://HOST:6379/0, or redis, or valkeys with TLS. "
            "Absent: each counts by itself."
        ),
        AfterValidator(lambda url: url if url is None else _counted(url)),
    ] = None
    cors_origins: Annotated[
        Origins, Field(description="Origins, with commas between, whose pages may call. Empty: none.")
    ] = ()
    oidc_issuers: Annotated[
        tuple[Issuer, ...],
        NoDecode,
        BeforeValidator(_split),
        Field(
            description="CI providers, with commas between, whose tokens are taken where an ApiKeyBinding names them."
        ),
    ] = ("https://token.actions.githubusercontent.com", "https://gitlab.com")
    oidc_private_issuers: Annotated[
        Origins,
        Field(
            description="Those of them, with commas between, that may be at addresses that are not public, such as a "
            "GitLab of your own. Empty: none."
        ),
    ] = ()
    oidc_ca_file: Annotated[
        Path | None,
        Field(description="Certificates of authorities that vouch for issuers, as PEM, beside the system's own."),
    ] = None
    admission_unverified: Annotated[
        bool, Field(description="Serve sessions although no admission policy vouches for who created them.")
    ] = False

    audit_key_file: Annotated[
        Path | None,
        Field(description="Keys that seal the audit trail, a line of 32 characters or more for each, the newest last."),
    ] = None
    database_url: Annotated[
        SecretStr | None,
        Field(description="Where the audit trail is: sqlite:///FILE or postgresql://... Absent: no trail is kept."),
        AfterValidator(lambda url: url if url is None else _served(url)),
        AfterValidator(_needs("audit_key_file")),
    ] = None
    audit_required: Annotated[
        bool,
        Field(description="Open nothing before its entry is in the audit trail. Closing never waits for it."),
        AfterValidator(_needs("database_url")),
    ] = False
    audit_retention: Annotated[
        timedelta,
        BeforeValidator(parse_ttl),
        Field(description="How long the audit trail keeps entries, 1h at least; Never: for ever."),
        AfterValidator(_at_least_an_hour),
    ] = timedelta(days=365)

    @property
    def confinement(self) -> Mapping[str, tuple[str, ...]]:
        """Which namespaces may use which cloud identities, by default the release's own and any."""
        return (
            self.credentials_namespaces
            if self.credentials_namespaces is not None
            else {self.namespace: ("operator", "*")}
        )

    @property
    def echo_services(self) -> tuple[str, ...]:
        """Who says what Gatepass is seen as: the services that are named, and its own REST API from outside."""
        own = () if self.public_url is None else (f"{self.public_url}/api/v1/detect-ip",)
        return (*self.echo_urls, *own)
