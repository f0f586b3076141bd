"""How long segrun takes to answer: help, list, a wrong choice, and the composed config.

Every command runs in a fresh process. The rounds are interleaved, so that what else the machine does falls on
all alike, and each median is given as a ratio to an empty Python and to ``import torch`` of the same rounds.

    python bench/startup.py [ROUNDS]

Exits with 1 if ``segrun --help`` takes 0.5 s or more.
"""

import os
import statistics
import subprocess
import sys
import time

SEGRUN = [sys.executable, "-m", "seg_cli"]
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "segrun --help": [*SEGRUN, "--help"],
    "segrun list": [*SEGRUN, "list"],
    "segrun --complete": [*SEGRUN, "--complete", "segrun loss=ce+"],
    "segrun model=unett": [*SEGRUN, "model=unett"],
    "segrun seed=abc": [*SEGRUN, "seed=abc"],
    "segrun --cfg job": [*SEGRUN, "--cfg", "job"],
}
TARGET_SECONDS = 0.5


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return time.perf_counter() - start


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    for command in COMMANDS.values():
        seconds(command)  # fill the caches of files and bytecode
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    medians = {name: statistics.median(values) for name, values in times.items()}

    print(f"median of {rounds} rounds      seconds   x python   x import torch")
    for name, median in medians.items():
        to_python, to_torch = median / medians["python -c pass"], median / medians["import torch"]
        print(f"{name:<24}  {median:7.3f}  {to_python:9.1f}  {to_torch:15.3f}")
    is_quick = medians["segrun --help"] < TARGET_SECONDS
    print(f"segrun --help < {TARGET_SECONDS} s: {'yes' if is_quick else 'NO'}")
    return 0 if is_quick else 1


if __name__ == "__main__":
    sys.exit(main())
