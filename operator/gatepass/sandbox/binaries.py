"""Find, download or build the programs of the sandbox: the Kubernetes control plane and kubectl.

The order is `$KUBEBUILDER_ASSETS`, the cache, the official downloads, `go build` from the pinned modules in `tools/`.
The downloads are the projects' own releases, not the envtest archive: that one has no kube-controller-manager, and is
not published for every patch release. Kubernetes publishes its servers for Linux only; elsewhere Go builds the same.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gatepass.sandbox import download
from gatepass.sandbox.errors import SandboxError
from gatepass.sandbox.processes import die_with_parent
from gatepass.sandbox.progress import Step, say, step

KUBERNETES_VERSION = "v1.36.3"
ETCD_VERSION = "v3.6.8"

_TOOLS = (Path(__file__).resolve().parents[3] / "tools", Path(__file__).resolve().parent / "tools")


@dataclass(frozen=True)
class Bundle:
    """Programs that are fetched and cached together.

    `module` is the folder of the Go module that builds them, if there is one here; `packages` maps each program to its
    Go package; `downloads` gives the official files for an operating system and architecture in Go's spelling, or
    nothing where there are none; `assets_variable` is the environment variable that may name a folder with them all.
    """

    name: str
    version: str
    module: Path | None
    packages: Mapping[str, str]
    ldflags: tuple[str, ...]
    downloads: Callable[[str, str], tuple[download.Download, ...]]
    assets_variable: str | None = None


def _module(name: str) -> Path | None:
    """The folder of a Go module in the checkout, or beside this file in an installed package."""
    return next((root / name for root in _TOOLS if (root / name / "go.sum").is_file()), None)


def _kubernetes_downloads(system: str, arch: str) -> tuple[download.Download, ...]:
    if system != "linux":
        return ()
    base = f"https://dl.k8s.io/{KUBERNETES_VERSION}/bin/linux/{arch}"
    etcd = f"etcd-{ETCD_VERSION}-linux-{arch}"
    etcd_base = f"https://github.com/etcd-io/etcd/releases/download/{ETCD_VERSION}"
    return (
        *(
            download.Download(name, f"{base}/{name}", f"{base}/{name}.sha256")
            for name in ("kube-apiserver", "kube-controller-manager", "kubectl")
        ),
        download.Download("etcd", f"{etcd_base}/{etcd}.tar.gz", f"{etcd_base}/SHA256SUMS", f"{etcd}/etcd"),
    )


_K8S_VERSION_PACKAGES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")

KUBERNETES = Bundle(
    name="kubernetes",
    version=KUBERNETES_VERSION,
    module=_module("kubernetes"),
    packages={
        "etcd": "go.etcd.io/etcd/server/v3",
        "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
        "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
        "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    },
    # Without these every program calls itself v0.0.0, and kubectl refuses to run.
    ldflags=tuple(
        f"-X {package}.{name}={value}"
        for package in _K8S_VERSION_PACKAGES
        for name, value in (
            ("gitVersion", KUBERNETES_VERSION),
            ("gitMajor", KUBERNETES_VERSION[1:].split(".")[0]),
            ("gitMinor", KUBERNETES_VERSION[1:].split(".")[1]),
            ("gitTreeState", "clean"),
        )
    ),
    downloads=_kubernetes_downloads,
    assets_variable="KUBEBUILDER_ASSETS",
)


def kubernetes() -> Path:
    """The folder with etcd, kube-apiserver, kube-controller-manager and kubectl.

    The first call may take minutes and shows its progress on stderr. Raises SandboxError when there is no way to it.
    """
    return resolve(KUBERNETES)


def resolve(bundle: Bundle) -> Path:
    """The folder that has all programs of `bundle`, made if need be; raises SandboxError if it cannot be."""
    if bundle.assets_variable and (given := os.environ.get(bundle.assets_variable)):
        missing = [name for name in bundle.packages if not os.access(Path(given) / name, os.X_OK)]
        if not missing:
            return Path(given)
        say(f"{bundle.assets_variable} is set but has no {', '.join(missing)}: not used")
    target = _cache_root() / _cache_key(bundle)
    if target.is_dir():
        return target
    with _locked(target):
        if not target.is_dir():
            _fill(bundle, target)
    return target


def _cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gatepass"


def _go_platform() -> tuple[str, str]:
    machine = platform.machine().lower()
    return platform.system().lower(), {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _cache_key(bundle: Bundle) -> str:
    """Changes whenever what would be built changes."""
    digest = hashlib.sha256(repr((bundle.version, sorted(bundle.packages.items()), bundle.ldflags)).encode())
    if bundle.module is not None:
        digest.update((bundle.module / "go.mod").read_bytes())
        digest.update((bundle.module / "go.sum").read_bytes())
    system, arch = _go_platform()
    return f"{bundle.name}-{bundle.version}-{system}-{arch}-{digest.hexdigest()[:12]}"


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Only one process at a time fills the cache; the others wait and then find it full."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is preparing {target.name}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fill(bundle: Bundle, target: Path) -> None:
    for stale in target.parent.glob(f".{target.name}.tmp-*"):  # of a process that was killed: we hold the lock
        shutil.rmtree(stale, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
    try:
        files = bundle.downloads(*_go_platform())
        if not (files and download.fetch(files, work, f"downloading {bundle.name} {bundle.version}")):
            _build(bundle, work)
        work.chmod(0o755)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _build(bundle: Bundle, work: Path) -> None:
    """`go build` all programs of the bundle into `work`; needs a Go module proxy, minutes and about 2 GB of disk."""
    go = shutil.which("go")
    way_out = (
        f"set {bundle.assets_variable} to a folder that has {', '.join(bundle.packages)}"
        if bundle.assets_variable
        else "build once in a checkout of Gatepass, whose cache is then used"
    )
    if bundle.module is None:
        raise SandboxError(
            f"{bundle.name} {bundle.version} cannot be downloaded from here, and the Go module that builds it is "
            f"only in a checkout of Gatepass: {way_out}"
        )
    if go is None:
        raise SandboxError(
            f"{bundle.name} {bundle.version} cannot be downloaded from here, and there is no `go` on PATH to build "
            f"it: install Go 1.26 or newer, or {way_out}"
        )
    packages = list(bundle.packages.values())
    title = f"{bundle.name} {bundle.version}"
    try:
        with step(f"fetching the Go modules of {title}", "modules") as progress:
            listed = _run_go([go, "list", "-deps", *packages], bundle.module, progress, None)
        total = sum(not line.startswith("go: ") for line in listed)
        ldflags = " ".join(("-s", "-w", *bundle.ldflags))
        command = [go, "build", "-v", "-trimpath", "-ldflags", ldflags, "-o", f"{work}/", *packages]
        with step(f"building {title} with Go, once", "packages") as progress:
            _run_go(command, bundle.module, progress, total)
    except subprocess.CalledProcessError as error:
        raise SandboxError(f"Go cannot build {title}:\n{error.output}\nTo go on, {way_out}") from error
    for name, package in bundle.packages.items():
        built = work / _go_output_name(package)
        if built.name != name:
            built.rename(work / name)


def _run_go(command: list[str], folder: Path, progress: Step, total: int | None) -> list[str]:
    """Run a Go command to its end and return what it printed, telling its progress by the lines printed so far.

    Raises CalledProcessError with the end of the output.
    """
    env = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, preexec_fn=die_with_parent) as process,
    ):
        try:
            while process.poll() is None:
                progress.update(os.pread(log.fileno(), 1 << 20, 0).count(b"\n"), total)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.5)
        except BaseException:
            process.terminate()
            raise
        log.seek(0)
        lines = log.read().splitlines()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, "\n".join(lines[-15:]))
    return lines


def _go_output_name(package: str) -> str:
    """What `go build` calls the program: the last element of the path that is not a major version."""
    last, before = package.split("/")[-1], package.split("/")[-2]
    return before if last[0] == "v" and last[1:].isdigit() else last
