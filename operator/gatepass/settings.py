"""What an installation sets: environment variables `GATEPASS_*`, parsed once and passed down."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, IPvAnyNetwork
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gatepass.core.types.common import parse_duration


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


# Without TLS only on this machine, as in a sandbox.
Issuer = Annotated[str, Field(pattern=r"^(https://[^ ?#@]*[^ ?#@/]|http://127\.0\.0\.1:[0-9]+)$")]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(_split)]


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
            pattern=r"^[A-Za-z0-9._/-]{1,200}$",
            description="Marks the rules of this installation. Absent: uid of kube-system + namespace/release.",
        ),
    ] = None
    watch_namespaces: Annotated[Names, Field(description="Namespaces to serve, with commas between. Empty: all.")] = ()
    resync_seconds: Annotated[
        float, Field(ge=1, description="How often everything is looked at again, to repair drift.")
    ] = 600
    credentials_namespaces: Annotated[
        Mapping[str, tuple[str, ...]] | None,
        Field(
            description="JSON: globs of namespaces to what they may use, `operator` for its own identity or globs of "
            "role ARNs. Absent: the release's own namespace may use everything."
        ),
    ] = None
    default_ttl_after_ended: Annotated[
        timedelta, BeforeValidator(parse_duration), Field(description="How long ended sessions are kept.")
    ] = timedelta(hours=24)
    log_format: Annotated[
        Literal["auto", "json", "console"], Field(description="auto: console on a terminal, else JSON.")
    ] = "auto"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="What is logged.")] = "info"
    health_host: Annotated[str, Field(description="Address of the probes.")] = "0.0.0.0"  # noqa: S104 the kubelet calls
    health_port: Annotated[int, Field(ge=0, le=65535, description="Port of /healthz and /readyz.")] = 8080
    api_host: Annotated[str, Field(description="Address of the REST API.")] = "0.0.0.0"  # noqa: S104 runners call
    api_port: Annotated[int, Field(ge=0, le=65535, description="Port of the REST API.")] = 8000
    trusted_proxies: Annotated[
        Networks, Field(description="Ranges, with commas between, whose X-Forwarded-For says who calls. Empty: none.")
    ] = ()
    rate_limit: Annotated[int, Field(ge=1, description="Requests a minute from one address.")] = 60
    cors_origins: Annotated[
        Names, Field(description="Origins, with commas between, whose pages may call. Empty: none.")
    ] = ()
    oidc_issuers: Annotated[
        tuple[Issuer, ...],
        NoDecode,
        BeforeValidator(_split),
        Field(
            description="CI providers, with commas between, whose tokens are taken where an ApiKeyBinding names them."
        ),
    ] = ("https://token.actions.githubusercontent.com", "https://gitlab.com")
    admission_unverified: Annotated[
        bool, Field(description="Serve sessions although no admission policy vouches for who created them.")
    ] = False

    @property
    def confinement(self) -> Mapping[str, tuple[str, ...]]:
        """Which namespaces may use which cloud identities, by default the release's own and any."""
        return (
            self.credentials_namespaces
            if self.credentials_namespaces is not None
            else {self.namespace: ("operator", "*")}
        )
