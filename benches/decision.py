#!/usr/bin/env python3
"""The decision, judged: every scenario of examples/scenarios in both worlds, as one table.

    cargo build --release
    WINDWARD_DATA=DIR benches/decision.py [--seeds 5] [--first 100] [--worlds eu,us] [--scenarios normal,flash] [--policy windward]
    WINDWARD_DATA=DIR benches/decision.py --ablations [--seeds 3] [--worlds eu] [--scenarios normal,flash]

Each cell is the share of the oracle's saving that the policy captures, and the share of requests that missed a budget, failed or were
shed, in all and of each class; beside it the misses of the carbon-blind policy, and how much of the traffic moved between regions in a
minute. Then what an oracle saves that does not know how long answers will be, as no policy does; and where the policies are told figures
that are not true, what one saves and moves that plans by the same figures. Neither is a bound in the strict sense (`src/simulate/oracle.rs`). Without WINDWARD_DATA the grids are made up. With --ablations the same for the policy without each of its parts, a column for each scenario. Nothing is asserted: the simulation's own tests do that.
"""
import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCENARIOS = ("normal,overload_green,outage,stale,flash,flash_utc,noisy,brownout,four_proxies,sixteen_proxies,strangers,four_overload,four_noisy,"
             "four_brownout,flat_curve,steep_curve,wrong_figures,cache")
# What is not worth a file of its own: a shipped scenario, what is otherwise, and how a token's time grows with the batch.
PEERS = {"proxies": 4, "exchange": {"fast": "20ms", "slow": "500ms", "loss": 0.01, "delay": "2ms"}}
VARIANTS = {
    "four_overload": ("overload_green", PEERS, None),
    "four_noisy": ("noisy", PEERS, None),
    "four_brownout": ("brownout", PEERS, None),
    # In `us` two of these come at the height of the clients' day and two at night.
    "flash_utc": ("flash", {"events": [{"at": f"{at}s", "for": "120s", "crowd": crowd}
                                       for at, crowd in ((1500, 2.2), (3000, 3), (4600, 3), (6000, 2.6))]}, None),
    "flat_curve": ("normal", {}, "flat_then_linear"),
    "steep_curve": ("normal", {}, "steep"),
    "wrong_figures": ("normal", {"errors": {"energy": 0.15, "carbon": 0.1}}, None),
}
ABLATED = "normal,overload_green,noisy,brownout,cache,flash"
# What each row of the ablation table changes; the policy itself is as in examples/scenarios/common.yaml.
ABLATIONS = {
    "windward": {},
    "no price of capacity": {"ablate": ["no_price"]},
    "a price at any load, not only near the limit": {"ablate": ["flat_price"]},
    "no error budget": {"ablate": ["no_error_budget"]},
    "queue guessed from requests in flight": {"ablate": ["queue_by_count"]},
    "limits fixed at 74 % of what is declared": {"ablate": ["fixed_limits"]},
    "no limits": {"ablate": ["no_limits"]},
    "one length of answers for a route": {"ablate": ["one_answer_length"]},
    "no belief fades that nothing confirms": {"ablate": ["no_doubt"]},
    "no conversation is known again": {"ablate": ["no_affinity"]},
    "nobody is held: refused at once": {"ablate": ["no_hold"]},
    "nobody is held or refused": {"ablate": ["no_shed"]},
    "no place is kept free for those in a hurry": {"ablate": ["no_reserve"]},
    "nobody is sent beyond a learned limit": {"ablate": ["no_strain"]},
    "limits and prices every 5 s": {"ablate": ["tick_5s"]},
    "every 15 s": {"ablate": ["tick_15s"]},
    "quantile 0.995": {"latency_budget": {"quantile": 0.995}},
    "a second of waiting worth 10 mg": {"latency_price_mg_per_s": 10},
    "worth 50 mg": {"latency_price_mg_per_s": 50},
    "worth 300 mg": {"latency_price_mg_per_s": 300},
}


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def run(binary, world, scenario, args):
    """All runs of one scenario, as `simulate --json` writes them."""
    folder = ROOT / "examples/scenarios" / world
    policy = ["--policy", args.policy]
    if scenario not in VARIANTS:
        return runs_of(binary, folder / f"{scenario}.yaml", policy, args)
    base, changes, curve = VARIANTS[scenario]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        # JSON is YAML.
        lines = [f"{key}: {json.dumps(value)}\n" for key, value in ({"extends": str(folder / f"{base}.yaml")} | changes).items()]
        if curve:
            regions = (folder / "world.yaml").read_text().partition("regions:\n")[2]
            lines += ["regions:\n", regions.replace(", grid: ", f", token_curve: {curve}, grid: ")]
        file.writelines(lines)
        file.flush()
        return runs_of(binary, file.name, policy, args)


def runs_of(binary, path, more, args):
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [binary, "simulate", str(path), *more, "--json", out.name]
        if args.first is None:
            command += ["--seeds", str(args.seeds)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            return found(out.name)
        runs = []
        for seed in range(args.first, args.first + args.seeds):
            subprocess.run(command + ["--seed", str(seed)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            runs += found(out.name)
        return runs


def found(path):
    """The runs, each with what the oracle did on the same seed."""
    with open(path) as file:
        result = json.load(file)
    oracle = {best["seed"]: best for best in result["oracle"]}
    return [run | {"oracle": oracle[run["seed"]], "classes": result["classes"]} for run in result["runs"]]


def ratio(of, to):
    """How many times one figure is another; no number where one is not there, or is 0."""
    return of / to if of is not None and to else math.nan


def of_told(runs):
    """What an oracle saves and moves that is told what the policies are told, and how much of that these runs make."""
    told = [(run, run["oracle"]["told"]) for run in runs if run["oracle"].get("told")]
    if not told:
        return "-"
    shares = [math.nan if one["percent_of_best"] is None else one["percent_of_best"] for _, one in told]
    part = mean(100 * ratio(run["percent_of_best"], one["percent_of_best"]) for run, one in told)
    times = mean(ratio(run["score"]["movement_percent"], one["movement_percent"]) for run, one in told)
    moved = mean(one["movement_percent"] for _, one in told)
    return f"{mean(shares):.1f} ({min(shares):.1f}..{max(shares):.1f}), of which {part:.1f}; {moved:.1f} ({times:.2f})"


def by_class(runs):
    """The share of each class's requests that missed, in the scenario's order."""
    columns = zip(*(run["score"]["classes"] for run in runs))
    shares = [mean(100 * missed / requests for requests, missed in column if requests) for column in columns]
    return ", ".join(f"{name} {share:.2f}" for name, share in zip(runs[0]["classes"], shares))


def ablations(args):
    """A row for each part that is taken away, a column for each scenario."""
    scenarios = (args.scenarios or ABLATED).split(",")
    policies = [{"name": "reference", "objective": "least_latency", "overload": "spill", "latency_budget": {"quantile": 0.99}}]
    for nth, change in enumerate(ABLATIONS.values()):
        one = {"name": f"a{nth}", "objective": "least_carbon", "latency_budget": {"quantile": 0.9975}}
        policies.append(one | change)
    for world in args.worlds.split(","):
        cells = {name: [] for name in ABLATIONS}
        for scenario in scenarios:
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                # JSON is YAML.
                json.dump({"extends": str(ROOT / "examples/scenarios" / world / f"{scenario}.yaml"), "policies": policies}, file)
                file.flush()
                runs = runs_of(args.binary, file.name, [], args)
            for nth, name in enumerate(ABLATIONS):
                own = [run for run in runs if run["policy"] == f"a{nth}"]
                missed = mean(100 * run["score"]["missed"] / run["score"]["requests"] for run in own)
                cells[name].append(f"{mean(run['percent_of_best'] for run in own):.1f} / {missed:.2f}")
        print("| " + " | ".join([world, *scenarios]) + " |\n" + "|---" * (len(scenarios) + 1) + "|")
        for name, row in cells.items():
            print("| " + " | ".join([name, *row]) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/windward"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, help="the first seed; the scenario's own when left out")
    parser.add_argument("--worlds", default="eu,us")
    parser.add_argument("--scenarios", help="all of them when left out")
    parser.add_argument("--ablations", action="store_true", help="what each part of the policy is worth")
    parser.add_argument("--policy", default="windward")
    args = parser.parse_args()
    if args.ablations:
        return ablations(args)
    print(f"| world | scenario | % of the oracle's saving (range over {args.seeds} seeds) | missed % | of them by class | least_latency missed % | moved % a minute (times the oracle's) | an oracle without lengths of answers: % of the saving | one told the same: % of the saving, of which so many % were made; moved % (times that) |")
    print("|---|---|---|---|---|---|---|---|---|")
    for world in args.worlds.split(","):
        for scenario in (args.scenarios or SCENARIOS).split(","):
            runs = run(args.binary, world, scenario, args)
            of = lambda policy: [run for run in runs if run["policy"] == policy]
            shares = [run["percent_of_best"] for run in of(args.policy)]
            row = f"{mean(shares):.1f} ({min(shares):.1f}..{max(shares):.1f})"
            missed = [mean(100 * run["score"]["missed"] / run["score"]["requests"] for run in of(policy)) for policy in (args.policy, "least_latency")]
            times = mean(ratio(run["score"]["movement_percent"], run["oracle"].get("movement_percent")) for run in of(args.policy))
            moved = mean(run["score"]["movement_percent"] for run in of(args.policy))
            # Of an older build that is compared it is not known.
            blind = mean(ratio(run["oracle"].get("percent_without_lengths"), 1) for run in of(args.policy))
            print(f"| {world} | {scenario} | {row} | {missed[0]:.2f} | {by_class(of(args.policy))} | {missed[1]:.2f} | {moved:.1f} ({times:.2f}) | {blind:.1f} | {of_told(of(args.policy))} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
