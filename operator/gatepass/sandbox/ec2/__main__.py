"""Run the emulator: `python -m gatepass.sandbox.ec2 PORT LOG`."""

import asyncio
import sys
from pathlib import Path

from gatepass.sandbox.ec2.server import serve

port, log = sys.argv[1:]
asyncio.run(serve(int(port), Path(log)))
