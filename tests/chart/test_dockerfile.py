"""The image: linted, pinned, small, and not root."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTRUCTIONS = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text()).splitlines()


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None
    done = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_image_is_pinned() -> None:
    images = [line.split()[1] for line in INSTRUCTIONS if line.startswith("FROM ")]
    assert len(images) == 3
    assert all(re.search(r":\d+\.\d+\.\d+", image) for image in images)


def test_the_last_stage_has_no_build_tools_and_is_not_root() -> None:
    last = INSTRUCTIONS[max(index for index, line in enumerate(INSTRUCTIONS) if line.startswith("FROM ")) :]
    assert not any(line.startswith("RUN ") for line in last)
    assert [line for line in last if line.startswith("COPY ")] == ["COPY --from=build /opt/gatepass /opt/gatepass"]
    (user,) = [line for line in last if line.startswith("USER ")]
    assert re.fullmatch(r"USER [1-9]\d*:[1-9]\d*", user)
    assert 'ENTRYPOINT ["gatepass"]' in last


def test_nothing_but_what_it_needs_is_sent_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    sent = {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / path).exists() for path in sent)
    copied = {part for line in INSTRUCTIONS if line.startswith("COPY ") for part in line.split()[1:-1]}
    assert {part for part in copied if not part.startswith(("/", "--"))} == sent
