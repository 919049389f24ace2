#!/usr/bin/env python3
"""The whole loop on sockets: load generator -> `windward serve` -> `windward mock`, with a carbon feed of Electricity Maps' shape.

    cargo build --release
    WINDWARD_DATA=DIR benches/closed_loop.py [--world eu] [--scenario normal] [--seconds 60] [--factor 10] [--seed 1] [--seeds 1]

A stretch of a scenario of examples/scenarios (normal, overload_green, outage, stale, flash, brownout) is played in real time, everything
shrunk by one factor: round trips, reading, tokens, budgets, the grid's hour, pauses between requests, events, and by `serve --faster`
whatever the proxy does every so often and for so long (the second between two prices, the five of a breaker, the 50 ms of holding, the
age of a reading). The same requests go by way of `windward simulate`, so that the table has its columns, its oracle, and its own rows for
the same stretch beside those of the sockets. Grams come from the fleet's ledger and the true grid, misses from the load generator's clock;
faults are switched by the fleet's control interface. With more seeds than one the policies take turns within each, and the table has
means and ranges, as that of `simulate`. What does not shrink is the millisecond of a runtime's timers, and the processors.

Below the table stands what the loop itself did: how far the proxy's log is from the ledger, how late the load generator was (99th
percentile), the proxy's own time before it sent a request on, and how many processors each part took. With `late` above some tenths of
the shortest budget, 300 ms over the factor, misses are this machine's and not the proxy's: then the factor is too high. It ends with
status 1 when log and ledger differ by 1 % or more, when a request has no line, or when anything still counts as under way.
Everything listens on loopback and ends by itself.
"""
import argparse
import asyncio
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from loop.ends import Feed, Load, ask, faults, free_port, processor_seconds, wait_for
from loop.stretch import BEGINS, SCENARIOS, Stretch

ROOT = pathlib.Path(__file__).resolve().parent.parent
WINDOW = 60.0
# Real seconds in which fleet and proxy start and the feed is heard, before the grid's clock comes to the first hour.
LEAD = 5.0
COLUMNS = ["policy", "mg/request", "% of best saving", "missed %", "first", "end", "failed", "shed", "spilled %", "p50 ms", "p99 ms", "moved/min %"]


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def movement(results):
    """As `simulate` counts it: half the sum of the changes of all shares from one minute to the next, as a mean."""
    windows = {}
    for one in results:
        if one["region"] and one["answered"]:
            window = windows.setdefault(int(one["at"] / WINDOW), {})
            window[one["region"]] = window.get(one["region"], 0) + 1
    shares = [{name: count / sum(windows[key].values()) for name, count in windows[key].items()} for key in sorted(windows)]
    moved = [sum(abs(a.get(name, 0) - b.get(name, 0)) for name in a.keys() | b.keys()) / 2 for a, b in zip(shares, shares[1:])]
    return 100 * sum(moved) / len(moved) if moved else 0.0


def under_way(admin, ports):
    """Requests and prompt tokens that still count as under way, at the proxy and in the fleet; it waits for them a while."""
    for _ in range(200):
        status = json.loads(ask(f"http://127.0.0.1:{admin}/status"))
        loads = [json.loads(ask(f"http://127.0.0.1:{port}/_ctl"))["load"] for port in ports]
        left = status["in_flight"] + sum(one["in_flight"] + one["pending_prompt_tokens"] for one in status["backends"])
        left += sum(load["resident"] + load["waiting"] for load in loads)
        if left == 0:
            break
        time.sleep(0.05)
    return left


def start_proxy(args, stretch, folder):
    """The proxy in fast motion, its time of day so much before the stretch begins as it has time for."""
    day_faster = stretch.factor * 3600 / stretch.hour
    day_from = stretch.start() - datetime.timedelta(seconds=LEAD * day_faster)
    fast = ["--faster", f"{stretch.factor:g}", "--day-faster", f"{day_faster:g}", "--day-from", day_from.strftime("%Y-%m-%dT%H:%M:%SZ")]
    with open(f"{folder}/errors", "w") as errors:
        return subprocess.Popen([args.binary, "serve", "--config", f"{folder}/proxy.yaml", *fast], stdout=subprocess.DEVNULL, stderr=errors)


def begins(admin, stretch):
    """When the proxy's time of day is that at which the stretch begins."""
    now = datetime.datetime.strptime(json.loads(wait_for(f"http://127.0.0.1:{admin}/status"))["now"][:19], "%Y-%m-%dT%H:%M:%S")
    left = (stretch.start() - now).total_seconds() * stretch.hour / 3600 / stretch.factor
    assert left > 1.0, "the proxy took so long to start that its feed would be late"
    return time.monotonic() + left


def play(name, args, stretch, asks, seed):
    """One policy over the requests: its figures, and what is wrong with its books."""
    ports, own, admin = [free_port() for _ in stretch.regions], free_port(), free_port()
    origin, factor = [None], stretch.factor
    moment = lambda: 0.0 if origin[0] is None else (time.monotonic() - origin[0]) * factor
    with tempfile.TemporaryDirectory() as folder:
        feed, log = Feed(stretch, moment), f"{folder}/access.jsonl"
        threading.Thread(target=feed.serve_forever, daemon=True).start()
        pathlib.Path(folder, "fleet.yaml").write_text(stretch.fleet_file(ports))
        settings = {key: value for key, value in stretch.policies[name].items() if key != "name"}
        pathlib.Path(folder, "proxy.yaml").write_text(stretch.proxy_file(ports, feed.server_port, settings, own, admin, log))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        fleet = subprocess.Popen([args.binary, "mock", "--config", f"{folder}/fleet.yaml", "--seed", str(seed)], **quiet)
        proxy = start_proxy(args, stretch, folder)
        try:
            wait_for(f"http://127.0.0.1:{ports[0]}/_ctl")
            origin[0] = begins(admin, stretch)

            async def run():
                load, switches = Load(own, origin[0], factor), asyncio.create_task(faults(stretch, ports, origin[0]))
                results = await asyncio.wait_for(asyncio.gather(*(load.send(one) for one in asks)), args.seconds + 120)
                await switches
                return results

            before = [time.process_time(), *(processor_seconds(process.pid) for process in (proxy, fleet))]
            results = asyncio.run(run())
            took = time.monotonic() - origin[0]
            after = [time.process_time(), *(processor_seconds(process.pid) for process in (proxy, fleet))]
            used = [(b - a) / took for a, b in zip(before, after)]
            for result, (_, _, _, prompt, output) in zip(results, asks):
                result["joules"] = stretch.joules(prompt, output)
            left = under_way(admin, ports)
            ledger = [(region, json.loads(line)) for region, port in enumerate(ports)
                      for line in ask(f"http://127.0.0.1:{port}/_ledger").splitlines()]
            proxy.terminate()
            proxy.wait(30)
            lines = [json.loads(line) for line in open(log)]
        except BaseException:
            print(pathlib.Path(folder, "errors").read_text(), file=sys.stderr)
            raise
        finally:
            for process in (proxy, fleet):
                process.kill()
                process.wait()
            feed.shutdown()
            feed.server_close()
    return judged(name, stretch, results, ledger, lines, used, left)


def stated(lines):
    """By the id that a region gave its answer: the intensity that the log states for it."""
    found = {}
    for line in lines:
        found[line.get("provider_request_id")] = ((line.get("carbon") or {}).get("chosen") or {}).get("intensity_g_per_kwh")
        found |= {one["provider_request_id"]: one.get("intensity_g_per_kwh") for one in line.get("attempts") or [] if one.get("provider_request_id")}
    return found


def judged(name, stretch, results, ledger, lines, used, left):
    """Grams of the ledger at the true intensity of the moment at which each row began, and what the clients saw. The proxy's log is held
    against the same grams; but where the feed stands still it cannot know the intensity, and is held against the one that it states."""
    zero = min((row["arrival_ms"] for _, row in ledger), default=0.0) - 1e3 * min(one["at"] for one in results) / stretch.factor
    grams = scored = told = 0.0
    by_id = stated(lines)
    for region, row in ledger:
        at = (row["arrival_ms"] - zero) / 1e3 * stretch.factor
        joules = stretch.joules(row["prompt_tokens"], row["output_tokens"]) if row["status"] == 200 else 0.0
        kilowatt_hours = joules * stretch.regions[region]["pue"] / 3.6e6
        intensity = stretch.intensity(region, at)
        grams, scored = grams + kilowatt_hours * intensity, scored + (kilowatt_hours * intensity if at >= stretch.warm_up else 0.0)
        told += kilowatt_hours * ((by_id.get(row["id"]) or intensity) if stretch.stale_since(at) is not None else intensity)
    booked = sum((line.get("emissions") or {}).get("grams", 0.0) or 0.0 for line in lines)
    wrong = [] if abs(booked / told - 1) < 0.01 else [f"{name}: the log has {booked:.4f} g, the ledger {told:.4f} g"]
    wrong += [f"{name}: {left} requests and prompt tokens are under way for ever"] if left else []
    wrong += [f"{name}: {len(results)} requests and {len(lines)} lines of the log"] if len(lines) != len(results) else []
    wrong += [f"{name}: a line is not marked as simulated"] if not all(line["simulated"] for line in lines) else []
    counted = [one for one in results if one["at"] >= stretch.warm_up]
    spilled = sum((line.get("decision") or {}).get("reason") in ("fastest_over_budget", "last_resort") for line in lines) * len(counted) / len(results)
    firsts = [1e3 * one["first"] for one in counted if one["answered"]]
    score = {
        "requests": len(counted), "grams": scored, "spilled": spilled, "shed": sum(one["shed"] for one in counted),
        "failed": sum(not one["answered"] and not one["shed"] for one in counted),
        "missed": sum(one["late_first_token"] or one["late_end"] or not one["answered"] for one in counted),
        "first_token_ms": [quantile(firsts, 0.5), quantile(firsts, 0.99)], "movement_percent": movement(counted),
        "joules": sum(one["joules"] for one in counted if one["answered"]), "unanswered_joules": sum(one["joules"] for one in counted if not one["answered"]),
    } | {key: sum(one[key] for one in counted) for key in ("late_first_token", "late_end")}
    # Its own time is by its own clock, which is as much faster.
    own_us = quantile([line.get("overhead_us") or 0 for line in lines], 0.99) / stretch.factor
    loop = [100 * (booked / told - 1), 1e3 * quantile([one["late"] for one in results], 0.99), own_us, *used, left, len(lines)]
    return score, loop, wrong


def aligned(rows):
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(zip(row, widths))) for row in rows)


def spread(values, digits):
    """As `simulate` writes a figure of several seeds."""
    mean = sum(values) / len(values)
    return f"{mean:.{digits}f}" + (f" [{min(values):.{digits}f}..{max(values):.{digits}f}]" if len(values) > 1 else "")


def table(sockets, simulated):
    """The table of `simulate`: what was measured on sockets, what simulation says of the same requests, and the oracle. By seed, both."""
    oracles = [one["oracle"][0] for one in simulated]
    rows = [COLUMNS]

    def row(name, scores, references):
        share = lambda key: [100 * score[key] / score["requests"] for score in scores]
        mean = lambda values, digits: f"{sum(values) / len(values) + 0.0:.{digits}f}"
        # As there: who got no answer saves nothing.
        grams = lambda score, reference: score["grams"] + reference["grams"] / reference["joules"] * score["unanswered_joules"]
        saved = [100 * (grams(reference, reference) - grams(score, reference)) / (grams(reference, reference) - oracle["grams"])
                 for score, reference, oracle in zip(scores, references, oracles)]
        rows.append([name, spread([1e3 * score["grams"] / score["requests"] for score in scores], 2), spread(saved, 1), spread(share("missed"), 2),
                     *(mean(share(key), 2) for key in ("late_first_token", "late_end", "failed", "shed", "spilled")),
                     *(mean([score["first_token_ms"][nth] for score in scores], 0) for nth in (0, 1)),
                     mean([score["movement_percent"] for score in scores], 1)])

    for name, scores in sockets.items():
        row(name, scores, sockets["least_latency"])
    in_simulation = {name: [next(run["score"] for run in one["runs"] if run["policy"] == name) for one in simulated] for name in sockets}
    for name, scores in in_simulation.items():
        row(f"{name} (simulated)", scores, in_simulation["least_latency"])
    best = [1e3 * oracle["grams"] / score["requests"] for oracle, score in zip(oracles, sockets["least_latency"])]
    rows.append(["(oracle)", spread(best, 2), "100"] + ["-"] * 8 + [f"{sum(one['movement_percent'] for one in oracles) / len(oracles) + 0.0:.1f}"])
    return aligned(rows)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/windward"))
    parser.add_argument("--world", default="eu", choices=sorted(path.name for path in SCENARIOS.iterdir() if path.is_dir()))
    parser.add_argument("--scenario", default="normal", choices=list(BEGINS))
    parser.add_argument("--policies", default="least_latency,windward", help="of the scenario's; least_latency, from which savings are counted, comes first and is always run")
    parser.add_argument("--seconds", type=float, default=60, help="of real time, for each policy")
    parser.add_argument("--warm-up", type=float, default=120, help="seconds of the scenario that are not scored")
    parser.add_argument("--factor", type=float, default=10, help="so many times faster than life")
    parser.add_argument("--seed", type=int, default=1, help="the first of them")
    parser.add_argument("--seeds", type=int, default=1, help="so many")
    return parser.parse_args()


def main():
    args = arguments()
    stretch = Stretch(args.world, args.scenario, os.environ.get("WINDWARD_DATA"), args.seconds * args.factor, args.warm_up, args.factor)
    assert stretch.warm_up < stretch.length, "all of it would be warm-up"
    policies = ["least_latency"] + [name for name in args.policies.split(",") if name != "least_latency"]
    assert all(name in stretch.policies for name in policies), f"the scenario has the policies {', '.join(stretch.policies)}"
    sockets, simulated, loops, wrong = {name: [] for name in policies}, [], [], []
    for seed in range(args.seed, args.seed + args.seeds):
        asks = stretch.asks(seed)
        with tempfile.TemporaryDirectory() as folder:
            simulated.append(stretch.simulate(args.binary, asks, policies, folder))
        for name in policies:
            print(f"{name}, seed {seed}: {len(asks)} requests in {args.seconds:g} s", file=sys.stderr)
            score, loop, faulty = play(name, args, stretch, asks, seed)
            sockets[name].append(score)
            loops.append([name, str(seed)] + [f"{value:.{digits}f}" for value, digits in zip(loop, (2, 1, 0, 2, 2, 2, 0, 0))])
            wrong += faulty
    print(table(sockets, simulated), end="\n\n")
    print(aligned([["the loop itself", "seed", "log off %", "late ms", "own us", "load: cores", "proxy", "fleet", "under way", "lines"], *loops]))
    print(f"\nOn sockets, {args.factor:g} times faster than life; milliseconds as in life but for `late` and `own`. {args.scenario}, {args.world}, from second "
          f"{stretch.begin} on for {stretch.length:g} s, of which {stretch.warm_up:g} are not scored. Grids: "
          f"{'recorded' if stretch.recorded(stretch.regions[0]) else 'made up'}. "
          f"Load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
