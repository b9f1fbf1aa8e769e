"""The quick start of the README, block by block, as a reader would paste it."""

import re
import subprocess
from pathlib import Path

from gatepass.sandbox.environment import Sandbox
from tests.conftest import AwsAccount
from tests.e2e.firewall import Group

_README = Path(__file__).parents[2] / "README.md"
_BLOCK = re.compile(r"<!-- run -->\n```sh\n(.*?)```", re.DOTALL)
_MANIFEST = re.compile(r"```yaml\n(apiVersion: .*?)```", re.DOTALL)
_CLEAN_UP = """
kubectl delete --namespace shop accesssessions,protectedresources --all --timeout=30s
kubectl delete namespace shop --wait=false
"""


def test_the_quick_start_works(sandbox: Sandbox, group: Group, account: AwsAccount, tmp_path: Path) -> None:
    door, policy, use, session, stop = _BLOCK.findall(_README.read_text())
    variables = {"SECURITY_GROUP": group.id, "ADDRESS": "203.0.113.7"}

    def paste(block: str) -> str:
        done = subprocess.run(
            ["bash", "-eu", "-c", block],
            cwd=tmp_path,
            env={**sandbox.env, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    paste(door)
    paste(policy)
    assert group.id in (tmp_path / "policy.json").read_text()
    try:
        paste(use)
        for manifest in _MANIFEST.findall(_README.read_text()):
            paste(f"kubectl apply --dry-run=server --validate=strict -f - <<'EOF'\n{manifest}EOF")
        assert "Active" in paste(session)
        assert group.open_to() == {("203.0.113.7/32", 5432)}
        paste(stop)
        assert not group.rules()
    finally:
        paste(_CLEAN_UP)
