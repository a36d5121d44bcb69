"""``python -m bench NAME [--json]``; without NAME the benches are listed. Exit 0 even when a row does not hold:
machines are shared and noisy, and a number is for people to judge, not a test."""

import argparse
import datetime as dt
import importlib
import json
import logging
import os
import platform
from pathlib import Path

from bench.row import Row

BENCHES = {
    "loop": "CPU and latency of the real agent against its bare engine, one and eight sources",
    "service": "restart to READY, CPU of an idle camera, memory, a status answer",
    "start": "time to the first detection, peak memory, time of a status answer",
    "fuzz": "what an attack on the status socket and the page costs the loop",
    "governor": "the governor on 1,000 simulated boards: limits, settling, throughput; what it costs",
    "engines": "what INT8 is worth, loading from the store, swapping under load; on the CPU",
    "gpu": "YOLOv8n on a GPU: our CUDA engine against PyTorch; needs one, and pycuda",
    "spool": "the spool against raw sqlite3, a million events, bytes on the wire, the loop's share",
}


def machine() -> str:
    """Return the processor and the number of cores, for the caption of a table."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}"


def show(name: str, rows: list[Row]) -> None:
    """Print the rows as a table."""
    print(f"bench {name}: {machine()}, {dt.datetime.now(dt.timezone.utc).date()}")
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"  {row.name:<{width}}  {row.value:9.3f}  {row.target:<12} {row.verdict}")


def main() -> None:
    """Run one bench and print its rows."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", nargs="?", choices=sorted(BENCHES))
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    parser.add_argument("--quick", action="store_true", help="shorter and noisier")
    options = parser.parse_args()
    if options.name is None:
        for name, text in BENCHES.items():
            print(f"{name:8} {text}")
        return
    logging.basicConfig(level="ERROR")
    rows: list[Row] = importlib.import_module(f"bench.{options.name}").run(quick=options.quick)
    if options.json:
        print(json.dumps([row.as_dict() for row in rows], indent=1))
    else:
        show(options.name, rows)


if __name__ == "__main__":
    main()
