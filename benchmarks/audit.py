"""Time and memory of each level of an audit: `python benchmarks/audit.py [--sample 5]`, in a suite that has run. It prints a table.

CPU seconds are those of the whole process and its children, memory is that of the largest of them. `plausibility` is the part of the level
`hash` that looks for what is hard to believe, by itself. The level `stage` runs the stages that a draw with seed 0 takes; what all of them
take stands in their records.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

PLAUSIBILITY = "from backtrail.audit import plausible; from backtrail.ledger.ledger import open_ledger; plausible.suspicions(open_ledger())"
AUDIT = ("-m", "backtrail", "audit", "--json")


def measured(*arguments: str) -> tuple[float, float, float, str]:
    """CPU seconds, seconds by the clock, peak memory (MB) and standard output of a Python process; it may end with any exit code."""
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime, time.perf_counter() - started, used.ru_maxrss / 1e3, printed


def recorded_s() -> float:
    """CPU seconds of all stages, by their records."""
    records = (json.loads(path.read_text(encoding="utf-8")) for path in Path("results/records").glob("*.json"))
    return sum(record["cpu_seconds"] for record in records)


def what(printed: str) -> str:
    """What an audit looked at."""
    found = json.loads(printed)
    stages = f", {found['stages_again']} stages again" if found["stages_again"] else ""
    return f"{len(found['numbers']):,} numbers, {found['bytes_read'] / 1e6:,.0f} MB read{stages}, exit code {found['exit_code']}"


def main() -> None:
    """Measure each level once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=5, help="stages that the level `stage` runs again")
    n = parser.parse_args().sample
    rows = [("plausibility", ("-c", PLAUSIBILITY)), ("hash", AUDIT)]
    rows += [(level, (*AUDIT, "--level", level)) for level in ("metric", "figure")]
    rows += [(f"stage, `--sample {n}`", (*AUDIT, "--level", "stage", "--sample", str(n), "--seed", "0"))]
    print("| level | CPU s | s by the clock | largest process, MB | what |\n|---|---|---|---|---|")
    for level, arguments in rows:
        cpu, wall, peak, printed = measured(*arguments)
        print(f"| {level} | {cpu:.1f} | {wall:.0f} | {peak:,.0f} | {what(printed) if printed else ''} |", flush=True)
    print(f"| stage, all | {recorded_s():,.0f} | | | by the records; `make repro` again |")


if __name__ == "__main__":
    main()
