"""Where the programs come from: a given folder, the cache, a download, Go."""

import hashlib
import io
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gatepass.sandbox import binaries
from gatepass.sandbox.binaries import KUBERNETES, Bundle, resolve
from gatepass.sandbox.download import Download
from gatepass.sandbox.errors import SandboxError
from gatepass.sandbox.processes import free_ports
from tests import programs

PROGRAM = b"#!/bin/sh\necho hello\n"


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server of release files: its address and its folder."""
    root = tmp_path / "site"
    root.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", root
        server.shutdown()
        thread.join()


def publish(site: tuple[str, Path], name: str, content: bytes, digest: str, member: str | None = None) -> Download:
    """Put a file and its checksum on the site."""
    address, root = site
    (root / name).write_bytes(content)
    (root / f"{name}.sha256").write_text(digest)
    program = Path(member or name).name
    return Download(program, f"{address}/{name}", f"{address}/{name}.sha256", member)


def archive(member: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        info = tarfile.TarInfo(member)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def bundle(*downloads: Download, module: Path | None = None) -> Bundle:
    packages = {each.name: "example.com/hello/cmd/hello" for each in downloads} or {
        "hello": "example.com/hello/cmd/hello"
    }
    return Bundle("hello", "v1.0.0", module, packages, (), lambda _system, _arch: downloads)


def test_a_given_folder_that_has_everything_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KUBERNETES.packages:
        (tmp_path / name).write_bytes(PROGRAM)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert binaries.kubernetes() == tmp_path


def test_a_given_folder_that_lacks_a_program_is_named_and_not_used(
    tmp_path: Path, site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASSETS", str(tmp_path))
    file = publish(site, "hello", PROGRAM, hashlib.sha256(PROGRAM).hexdigest())
    wanted = Bundle("hello", "v1", None, {"hello": "x/y"}, (), lambda _system, _arch: (file,), "ASSETS")
    assert resolve(wanted) != tmp_path
    assert "ASSETS is set but has no hello: not used" in capsys.readouterr().err


def test_downloads_are_checked_unpacked_and_cached(site: tuple[str, Path], empty_cache: Path) -> None:
    packed = archive("linux/inner", PROGRAM)
    files = (
        publish(site, "plain", PROGRAM, hashlib.sha256(PROGRAM).hexdigest()),
        publish(site, "a.tar.gz", packed, f"{hashlib.sha256(packed).hexdigest()}  a.tar.gz\n", "linux/inner"),
    )
    folder = resolve(bundle(*files))
    assert folder.parent == empty_cache / "gatepass"
    assert sorted(path.name for path in folder.iterdir()) == ["inner", "plain"]
    assert all(path.read_bytes() == PROGRAM and path.stat().st_mode & 0o111 for path in folder.iterdir())
    shutil.rmtree(site[1])
    assert resolve(bundle(*files)) == folder  # from the cache: the site is empty
    assert [path.name for path in folder.parent.iterdir() if ".tmp-" in path.name] == []


def test_a_download_that_differs_from_its_checksum_is_never_used(site: tuple[str, Path], empty_cache: Path) -> None:
    file = publish(site, "hello", PROGRAM, "0" * 64)
    with pytest.raises(SandboxError, match="is published: not used"):
        resolve(bundle(file))
    assert [path for path in (empty_cache / "gatepass").iterdir() if path.is_dir()] == []


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is only needed where the official files cannot be had")
def test_without_a_site_go_builds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = tmp_path / "module"
    (module / "cmd" / "hello").mkdir(parents=True)
    (module / "go.mod").write_text("module example.com/hello\n\ngo 1.21\n")
    (module / "go.sum").write_text("")
    (module / "cmd" / "hello" / "main.go").write_text('package main\n\nfunc main() { println("hello") }\n')
    (port,) = free_ports(1)
    closed = f"http://127.0.0.1:{port}"
    folder = resolve(bundle(Download("hello", f"{closed}/hello", f"{closed}/hello.sha256"), module=module))
    assert (folder / "hello").stat().st_mode & 0o111
    told = capsys.readouterr().err
    assert "downloading hello v1.0.0: not possible from here" in told
    assert "building hello v1.0.0 with Go, once" in told


def test_without_site_and_go_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for file in ("go.mod", "go.sum"):
        (tmp_path / file).touch()
    with pytest.raises(SandboxError, match=r"no `go` on PATH to build it: install Go 1\.26 or newer, or build once"):
        resolve(bundle(module=tmp_path))
    assets = Bundle("hello", "v1", None, {"hello": "x/y"}, (), lambda _system, _arch: (), "KUBEBUILDER_ASSETS")
    with pytest.raises(SandboxError, match="only in a checkout of Gatepass: set KUBEBUILDER_ASSETS to a folder"):
        resolve(assets)


def test_the_real_bundles_pin_their_modules_and_official_sites() -> None:
    for real in programs.ALL:
        assert real.module is not None
        assert (real.module / "go.sum").is_file()
        assert real.version in (real.module / "go.mod").read_text()
        for arch in ("amd64", "arm64"):
            files = real.downloads("linux", arch)
            assert {file.name for file in files} == set(real.packages)
            assert all(url.startswith("https://") for file in files for url in (file.url, file.checksum_url))
    assert binaries.KUBERNETES.downloads("darwin", "arm64") == ()
