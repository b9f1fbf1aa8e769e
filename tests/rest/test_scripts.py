"""The scripts of EntryGuard's documentation, verbatim but for host, keys, ids, and the lines that wait and test."""

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from gatepass.sandbox.environment import CALLER, Sandbox
from tests.conftest import AwsAccount
from tests.e2e.tenant import wait_for
from tests.rest.organisation import Organisation

_SCRIPTS = Path(__file__).parent / "scripts"
_SAMPLE_ID = "660e8400-e29b-41d4-a716-44665544000"
_UNTIL_ACTIVE = """\
until [ "$(curl -s "$GATEPASS_API_URL/api/v1/sessions/$SESSION_ID" -H "X-API-Key: $READER" | jq -r .status)" = ACTIVE ]
do :; done"""
_TESTS = "touch running; until [ -e go ]; do sleep 0.02; done"


class Shell:
    """Runs the scripts in a folder of their own."""

    def __init__(self, sandbox: Sandbox, folder: Path, **variables: str) -> None:
        self._env = {**sandbox.env, "GITHUB_OUTPUT": str(folder / "output"), **variables}
        self._url = sandbox.api_url
        self.folder = folder

    def text(self, name: str, **changes: str) -> str:
        text = (_SCRIPTS / name).read_text().replace("https://api.entryguard.io", self._url)
        text = text.replace("sleep 10", _UNTIL_ACTIVE).replace("npm run test:integration", _TESTS)
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        return text

    def start(self, text: str) -> subprocess.Popen[str]:
        command = ["bash", "-c", text]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=self._env, stdout=pipe, stderr=pipe, text=True)

    def run(self, text: str) -> str:
        done = subprocess.run(
            ["bash", "-c", text], cwd=self.folder, env=self._env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def json(self, name: str, **changes: str) -> Any:
        return json.loads(self.run(self.text(name, **changes)))


@pytest.fixture(scope="module")
def door(org: Organisation) -> tuple[str, str]:
    return org.door()


@pytest.fixture
def shell(sandbox: Sandbox, org: Organisation, tmp_path: Path) -> Shell:
    writer, _ = org.key("sessions:write")
    reader, _ = org.key("sessions:read")
    return Shell(sandbox, tmp_path, ENTRYGUARD_API_KEY=writer, READER=reader)


def closed(org: Organisation, group: str) -> None:
    wait_for(lambda: not org.open_to(group), "the rule is gone")


def test_the_generic_script(org: Organisation, door: tuple[str, str], shell: Shell) -> None:
    resource, group = door
    running = shell.start(shell.text("generic.sh", **{f"{_SAMPLE_ID}1": resource}))
    wait_for((shell.folder / "running").exists, "the script's tests")
    assert org.open_to(group) == {f"{CALLER}/32"}
    (shell.folder / "go").touch()
    told, errors = running.communicate(timeout=60)
    assert running.returncode == 0, told + errors
    assert told.rstrip().endswith("Session stopped")
    closed(org, group)
    stopped = json.loads(re.findall(r"^\{.*\}", told, re.MULTILINE)[-1].removesuffix("Session stopped"))
    assert (stopped["ipv4Address"], stopped["ipv6Address"]) == (CALLER, None)
    reader = org.by(org.key("sessions:read")[0])
    now = wait_for(lambda: _in(reader.get(f"/sessions/{stopped['id']}").json(), "CANCELLED"), "the end")
    assert (now["endedReason"], [each["status"] for each in now["resourceIps"]]) == ("MANUAL", ["REMOVED"])


def _in(session: dict[str, Any], status: str) -> dict[str, Any] | None:
    return session if session["status"] == status else None


def test_the_generic_script_stops_its_session_when_its_tests_fail(
    org: Organisation, door: tuple[str, str], shell: Shell
) -> None:
    resource, group = door
    text = shell.text("generic.sh", **{f"{_SAMPLE_ID}1": resource, _TESTS: "false"})
    running = shell.start(text)
    told, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "Session stopped" in told, told + errors
    closed(org, group)


def test_the_generic_script_says_what_is_wrong(org: Organisation, shell: Shell) -> None:
    running = shell.start(shell.text("generic.sh"))
    told, _ = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "Failed to start session" in told
    assert "Resource not found" in told


def test_the_steps_of_github_actions(org: Organisation, door: tuple[str, str], shell: Shell) -> None:
    resource, group = door
    shell.run(shell.text("github-start.sh", **{f"{_SAMPLE_ID}1": resource}))
    name, _, session = (shell.folder / "output").read_text().strip().partition("=")
    assert name == "session_id"
    assert org.open_to(group) == {f"{CALLER}/32"}
    told = json.loads(shell.run(f"SESSION_ID={session}\n" + shell.text("github-stop.sh")))
    assert told["id"] == session
    closed(org, group)


def test_errors_are_told_by_the_status(org: Organisation, door: tuple[str, str], shell: Shell) -> None:
    resource, group = door
    after = '\necho "$HTTP_CODE $SESSION_ID"'
    code, session = shell.run(f"RESOURCE_ID={resource}\n" + shell.text("errors.sh") + after).split()
    assert code == "200"
    shell.run(f"SESSION_ID={session}\n" + shell.text("github-stop.sh"))
    closed(org, group)
    running = shell.start(f"RESOURCE_ID={_SAMPLE_ID}9\n" + shell.text("errors.sh"))
    told, _ = running.communicate(timeout=60)
    assert (running.returncode, told.splitlines()[0]) == (1, "Failed to start session (HTTP 404)")


def test_several_resources(org: Organisation, door: tuple[str, str], shell: Shell) -> None:
    doors = [door, org.door("cache"), org.door("queue")]
    ids = {f"{_SAMPLE_ID}{number}": each[0] for number, each in enumerate(doors, start=1)}
    told = shell.json("several.sh", **ids)
    assert {each["resourceId"] for each in told["resourceIps"]} == set(ids.values())
    wait_for(lambda: all(org.open_to(group) == {f"{CALLER}/32"} for _, group in doors), "three open doors")
    shell.run(f"SESSION_ID={told['id']}\n" + shell.text("github-stop.sh"))
    for _, group in doors:
        closed(org, group)


def test_without_resources_all_are_opened(org: Organisation, door: tuple[str, str], shell: Shell) -> None:
    writer, _ = org.key("sessions:write", resources=[{"name": "db"}])
    told = shell.json("using-a-key.sh", egk_1a2b3c4d5e6f7g8h9i0j=writer)
    assert [each["resourceName"] for each in told["resourceIps"]] == ["db"]
    hours = [time.strptime(told[name], "%Y-%m-%dT%H:%M:%SZ") for name in ("createdAt", "expiresAt")]
    assert time.mktime(hours[1]) - time.mktime(hours[0]) == 2 * 3600
    shell.run(f"SESSION_ID={told['id']}\n" + shell.text("github-stop.sh"))


def test_the_setup_steps(org: Organisation, door: tuple[str, str], shell: Shell) -> None:
    made = shell.json("create-key.sh", YOUR_ACCESS_TOKEN=org.token)
    assert (made["name"], made["scopes"]) == ("GitHub Actions CI", ["sessions:write"])
    assert made["key"].startswith("gp_live_")
    listed = shell.json("find-resource.sh", YOUR_ACCESS_TOKEN=org.token)
    assert door[0] in {each["id"] for each in listed}
    full = shell.json("full-access.sh", YOUR_ACCESS_TOKEN=org.token)
    assert full["scopes"] == ["sessions:read", "sessions:write", "resources:read"]
    assert org.by(full["key"]).get("/sessions").status_code == 200


def test_a_key_for_each_service(org: Organisation, shell: Shell) -> None:
    """The example leaves out who asks: as it stands it is refused, and by the header of a .curlrc it is not."""
    one_by_one = shell.text("separate-keys.sh").replace("# Key for", "echo\n# Key for")
    told = _each(shell.run(one_by_one))
    assert [(each["status"], each["error"]) for each in told] == [(401, "Unauthorized")] * 3
    (shell.folder / ".curlrc").write_text(f'header = "Authorization: Bearer {org.token}"\n')
    made = _each(shell.run(f"export CURL_HOME=$PWD\n{one_by_one}"))
    assert [(each["name"], each["scopes"]) for each in made] == [
        ("Dashboard", ["sessions:read", "resources:read"]),
        ("GitHub Actions", ["sessions:write"]),
        ("SIEM Integration", ["audit:read"]),
    ]
    listed = {each["id"]: each["revoked"] for each in org.person.get("/api-keys").json()}
    for each in made:
        assert org.by(each["key"]).get("/auth/me").json()["scopes"] == each["scopes"]
        assert not listed[each["id"]]


def _each(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines() if line]


def test_there_is_no_account_to_make_or_refresh(shell: Shell) -> None:
    for name in ("register.sh", "refresh.sh"):
        told = shell.json(name)
        assert (told["status"], told["error"]) == (404, "Not Found")
        assert "X-API-Key" in told["message"]


def test_a_resource_is_created(org: Organisation, account: AwsAccount, shell: Shell) -> None:
    secret = {"aws_access_key_id": account.access_key, "aws_secret_access_key": account.secret_key}
    name = org.secret("cloud", **secret)
    org.api.request(
        "PATCH",
        f"/api/v1/namespaces/{org.namespace}/secrets/{name}",
        {"metadata": {"labels": {"gatepass.dev/credential": "true"}}},
        "application/merge-patch+json",
    )
    uid = org.get_secret(name)["metadata"]["uid"]
    group = account.client("ec2").create_security_group(GroupName="seed", Description="seed")["GroupId"]
    ids = {"550e8400-e29b-41d4-a716-446655440000": uid, "sg-0123456789abcdef0": group, "us-east-1": account.region}
    made = shell.json("create-resource.sh", YOUR_TOKEN=org.token, **ids)
    assert (made["name"], made["provider"]) == ("Production Database", "AWS")
    ready = wait_for(lambda: _ready(org, made["id"]), "the resource is verified")
    assert ready["config"]["securityGroupId"] == group
    assert org.get("protectedresources", "production-database")["spec"]["aws"]["credentials"] == {
        "secretRef": {"name": name}
    }


def _ready(org: Organisation, uid: str) -> dict[str, Any] | None:
    told: dict[str, Any] = org.person.get(f"/resources/{uid}").json()
    return told if told["ready"] else None


def test_what_was_done_is_listed(org: Organisation, shell: Shell) -> None:
    made, _ = org.door("listed")

    def page() -> dict[str, Any] | None:
        told: dict[str, Any] = shell.json("audit-logs.sh", YOUR_TOKEN=org.token)
        return told if any(made == entry["subjectId"] for entry in told["content"]) else None

    told = wait_for(page, "the resource is told of")
    assert list(told) == [
        "content",
        "totalElements",
        "totalPages",
        "number",
        "size",
        "first",
        "last",
        "numberOfElements",
    ]
    assert (told["number"], told["size"], told["first"]) == (0, 50, True)
    assert {"id", "eventType", "timestamp"} <= told["content"][0].keys()


def test_health_and_address(org: Organisation, shell: Shell) -> None:
    assert shell.json("health.sh") == {"status": "UP"}
    assert shell.json("detect-ip.sh") == {"ip": CALLER, "version": "IPv4"}
