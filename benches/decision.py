#!/usr/bin/env python3
"""The decision, judged: every scenario of examples/scenarios in both worlds, as one table.

    cargo build --release
    WINDWARD_DATA=DIR benches/decision.py [--seeds 5] [--first 100] [--worlds eu,us] [--scenarios normal,flash] [--policy windward]

Each cell is the share of the oracle's saving that the policy captures, and the share of requests that missed a budget, failed or were
shed; beside it the misses of the carbon-blind policy, and how much of the traffic moved between regions in a minute. Without
WINDWARD_DATA the grids are made up. Nothing is asserted: the simulation's own tests do that.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCENARIOS = "normal,overload_green,outage,stale,flash,noisy,brownout,four_proxies,sixteen_proxies,strangers,cache"


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def run(binary, world, scenario, args):
    """All runs of one scenario, as `simulate --json` writes them."""
    path = ROOT / "examples/scenarios" / world / f"{scenario}.yaml"
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [binary, "simulate", str(path), "--policy", args.policy, "--json", out.name]
        if args.first is None:
            command += ["--seeds", str(args.seeds)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            return json.load(open(out.name))["runs"]
        runs = []
        for seed in range(args.first, args.first + args.seeds):
            subprocess.run(command + ["--seed", str(seed)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            runs += json.load(open(out.name))["runs"]
        return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/windward"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, help="the first seed; the scenario's own when left out")
    parser.add_argument("--worlds", default="eu,us")
    parser.add_argument("--scenarios", default=SCENARIOS)
    parser.add_argument("--policy", default="windward")
    args = parser.parse_args()
    print(f"| world | scenario | % of the oracle's saving (range over {args.seeds} seeds) | missed % | least_latency missed % | moved % a minute |")
    print("|---|---|---|---|---|---|")
    for world in args.worlds.split(","):
        for scenario in args.scenarios.split(","):
            runs = run(args.binary, world, scenario, args)
            of = lambda policy: [run for run in runs if run["policy"] == policy]
            shares = [run["percent_of_best"] for run in of(args.policy)]
            row = f"{mean(shares):.1f} ({min(shares):.1f}..{max(shares):.1f})"
            missed = [mean(100 * run["score"]["missed"] / run["score"]["requests"] for run in of(policy)) for policy in (args.policy, "least_latency")]
            moved = mean(run["score"]["movement_percent"] for run in of(args.policy))
            print(f"| {world} | {scenario} | {row} | {missed[0]:.2f} | {missed[1]:.2f} | {moved:.1f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
