"""The programs that tests run beside the product. As a module: have them all, before anything else begins.

Where they cannot be downloaded a compiler takes all processors for minutes, and beside it nobody is on time.
"""

import sys
from pathlib import Path

from gatepass.sandbox import binaries
from gatepass.sandbox.download import Download
from gatepass.sandbox.errors import SandboxError

_TOOLS = Path(__file__).resolve().parents[1] / "tools"
_HELM = "v4.3.1"
_PROMETHEUS = "3.5.2"
_PROMETHEUS_MODULE = "v0.305.2"
"""The same release, as Go counts it."""
_PROMETHEUS_RELEASE = f"https://github.com/prometheus/prometheus/releases/download/v{_PROMETHEUS}"
_ACTIONLINT = "1.7.12"
_ACTIONLINT_RELEASE = f"https://github.com/rhysd/actionlint/releases/download/v{_ACTIONLINT}/actionlint_{_ACTIONLINT}"


def _helm_downloads(system: str, arch: str) -> tuple[Download, ...]:
    archive = f"https://get.helm.sh/helm-{_HELM}-{system}-{arch}.tar.gz"
    return (Download("helm", archive, f"{archive}.sha256sum", f"{system}-{arch}/helm"),)


def _promtool_downloads(system: str, arch: str) -> tuple[Download, ...]:
    folder = f"prometheus-{_PROMETHEUS}.{system}-{arch}"
    archive, sums = f"{_PROMETHEUS_RELEASE}/{folder}.tar.gz", f"{_PROMETHEUS_RELEASE}/sha256sums.txt"
    return (Download("promtool", archive, sums, f"{folder}/promtool"),)


def _actionlint_downloads(system: str, arch: str) -> tuple[Download, ...]:
    archive, sums = f"{_ACTIONLINT_RELEASE}_{system}_{arch}.tar.gz", f"{_ACTIONLINT_RELEASE}_checksums.txt"
    return (Download("actionlint", archive, sums, "actionlint"),)


HELM = binaries.Bundle(
    name="helm",
    version=_HELM,
    module=_TOOLS / "helm",
    packages={"helm": "helm.sh/helm/v4/cmd/helm"},
    ldflags=(f"-X helm.sh/helm/v4/internal/version.version={_HELM}",),
    downloads=_helm_downloads,
)
PROMTOOL = binaries.Bundle(
    name="promtool",
    version=_PROMETHEUS_MODULE,
    module=_TOOLS / "promtool",
    packages={"promtool": "github.com/prometheus/prometheus/cmd/promtool"},
    ldflags=(),
    downloads=_promtool_downloads,
)
ACTIONLINT = binaries.Bundle(
    name="actionlint",
    version=_ACTIONLINT,
    module=_TOOLS / "actionlint",
    packages={"actionlint": "github.com/rhysd/actionlint/cmd/actionlint"},
    ldflags=(),
    downloads=_actionlint_downloads,
)

ALL = (binaries.KUBERNETES, HELM, PROMTOOL, ACTIONLINT)

if __name__ == "__main__":
    try:
        for bundle in ALL:
            binaries.resolve(bundle)
    except SandboxError as error:
        sys.exit(str(error))
