"""What an installation sets: environment variables `GATEPASS_*`, parsed once and passed down."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gatepass.core.types.common import parse_duration, parse_ttl


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


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


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
        Field(description="How long entries of the audit trail are kept; Never keeps all of them."),
    ] = timedelta(days=365)

    @property
    def confinement(self) -> Mapping[str, tuple[str, ...]]:
        """Which namespaces may use which cloud identities, by default the release's own and any."""
        return (
            self.credentials_namespaces
            if self.credentials_namespaces is not None
            else {self.namespace: ("operator", "*")}
        )
