"""What a training step takes alone and beside other programs, by how torch's threads wait for each other.

Run: `python -m benchmarks.busy [--architecture tutorial] [--rounds 3]`. Beside it runs no program, or one that keeps a core busy.
Threads spin while they wait, as by default, or soon give their core away, as `stages` sets it (GOMP_SPINCOUNT). A round measures
each in turn, in a process of its own; times are medians. Linux, with torch's own libgomp.
"""

import argparse
import os
import subprocess
import sys
from statistics import median

from benchmarks.pipeline import machine

# In a process of its own, as OpenMP reads the policy once. Prints seconds a step.
STEP = """
import sys, time
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from poster_genres.devices import autocast, prepare
from poster_genres.network import find_architecture
from poster_genres.processes import distribute

device = prepare()
name, height, width, batch, steps = sys.argv[1], *map(int, sys.argv[2:])
architecture = find_architecture(name)
network = architecture.make(24, height, width)
if architecture.load_pretrained is not None:
    architecture.load_pretrained(network)
    network.freeze(6)
network = distribute(network)
network.train()
optimizer = torch.optim.AdamW(parameter for parameter in network.parameters() if parameter.requires_grad)
posters = torch.rand(batch, height, width, 3).permute(0, 3, 1, 2)
labels = torch.rand(batch, 24).round()
for step in range(steps):
    start = time.perf_counter()
    optimizer.zero_grad()
    with autocast(device):
        logits = network(posters).float()
    binary_cross_entropy_with_logits(logits, labels).backward()
    optimizer.step()
    if step:
        print(time.perf_counter() - start)
"""
SIZES = {"tutorial": (200, 200, 64), "efficientnet_lite1": (320, 224, 16)}
POLICIES = {"spinning, the default": {}, "giving the core away soon, as it is": {"GOMP_SPINCOUNT": "4000"}}
BUSY = [sys.executable, "-c", "while True: pass"]


def measure(architecture: str, steps: int, policy: dict[str, str]) -> float:
    """Seconds of a training step."""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"} | policy
    command = [sys.executable, "-c", STEP, architecture, *map(str, SIZES[architecture]), str(steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return median(map(float, done.stdout.split()))


def main() -> None:
    parser = argparse.ArgumentParser(description="What a training step takes beside other programs.")
    parser.add_argument("--architecture", choices=SIZES, default="efficientnet_lite1")
    parser.add_argument("--steps", type=int, default=6, help="(6)")
    parser.add_argument("--rounds", type=int, default=3, help="(3)")
    arguments = parser.parse_args()
    print(f"{machine()}; {arguments.architecture}, milliseconds a step\n\n| threads wait | alone | beside a busy program |")
    print("| --- | --- | --- |")
    seconds: dict[tuple[str, int], list[float]] = {}
    for _ in range(arguments.rounds):
        for others in (0, 1):
            busy = [subprocess.Popen(BUSY) for _ in range(others)]
            try:
                for name, policy in POLICIES.items():
                    seconds.setdefault((name, others), []).append(measure(arguments.architecture, arguments.steps, policy))
            finally:
                for process in busy:
                    process.kill()
                    process.wait()
    for name in POLICIES:
        print(f"| {name} | {' | '.join(f'{1000 * median(seconds[name, others]):.0f}' for others in (0, 1))} |")


if __name__ == "__main__":
    main()
