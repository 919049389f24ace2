#!/usr/bin/env python3
"""The whole loop on sockets: load generator -> `windward serve` -> `windward mock`, with a carbon feed of Electricity Maps' shape.

    cargo build --release
    WINDWARD_DATA=DIR benches/closed_loop.py [--world eu] [--scenario normal|brownout|outage] [--seconds 60] [--factor 3]

Regions, classes, lengths and grids are those of examples/scenarios. Everything is shrunk by one factor: round trips, reading, tokens,
budgets, the grid's hour and the pauses between requests; so the same hours pass in a fraction of the time. What does not shrink is
the proxy's own second between two prices and the processors. Grams come from the fleet's own ledger and the true grid, misses from
the clock of the load generator. For each policy it prints what `simulate` prints of it; then it checks that the proxy's log agrees with
the ledger within 1 % and that nothing is under way any more, and ends with status 1 if not.

Python sends the requests, and how late it was with them (99th percentile) stands beside the result: above some milliseconds the factor
is too high for this machine, and the misses are its own. "own us" is the proxy's own time before it sent a request on, likewise. Everything listens on loopback and ends by itself.
"""
import argparse
import asyncio
import csv
import datetime
import gzip
import http.server
import json
import math
import os
import pathlib
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
INPUT_JOULES, OUTPUT_JOULES = 0.396, 1.28
CARBON_HOUR = 150.0
FROM = "2022-05-03T00:00:00Z"
RATE = 36.0
# A fleet's file takes only regions that are known; which ones does not matter, since the proxy is told the grids itself.
LABELS = ["aws/us-east-1", "aws/us-east-2", "aws/us-west-1", "aws/us-west-2", "aws/eu-west-1", "aws/eu-west-2", "aws/eu-west-3"]
# Name, share, budget to the first token in ms, ms more for each prompt token, ms for each output token; as in common.yaml.
CLASSES = [("chat", 0.55, 300.0, 0.1, 35.0), ("agent", 0.30, 1000.0, 0.0, 35.0), ("batch", 0.15, 5000.0, 0.0, 80.0)]
REGION = re.compile(
    r"name: (?P<name>\w+), grid_zone: (?P<zone>[\w-]+), rtt: (?P<rtt>\d+)ms, replicas: (?P<replicas>\d+), pue: (?P<pue>[\d.]+)"
    r"(?P<resident>, resident: true)?, grid: \{ shape: (?P<shape>\w+), mean_g_per_kwh: (?P<mean>\d+)"
)


def regions(world):
    text = (ROOT / "examples/scenarios" / world / "world.yaml").read_text()
    found = [match.groupdict() for match in REGION.finditer(text)]
    assert len(found) == text.count("grid_zone:"), "the world is not written as it was"
    return [dict(one, rtt=float(one["rtt"]), replicas=int(one["replicas"]), pue=float(one["pue"]), mean=float(one["mean"])) for one in found]


def grid(region, hours, data):
    """The region's hours: recorded, or a made-up wave around its mean."""
    path = pathlib.Path(data or "/nonexistent") / "carbon" / f"{region['zone']}.csv.gz"
    if path.exists():
        with gzip.open(path, "rt") as file:
            rows = [float(row["carbon_intensity_g_per_kwh"]) for row in csv.DictReader(file) if row["datetime_utc"] >= FROM]
        return rows[:hours]
    depth = 0.5 if region["shape"] == "solar" else 0.15
    return [region["mean"] * (1 - depth * math.sin(2 * math.pi * (hour - 6) / 24)) for hour in range(hours)]


def lengths(data, rng):
    """Pairs of prompt and output tokens: recorded, or log-normal ones like them."""
    path = pathlib.Path(data or "/nonexistent") / "traces/azure2023_conv.csv.gz"
    if path.exists():
        with gzip.open(path, "rt") as file:
            return [(max(1, int(row["input_tokens"])), max(2, int(row["output_tokens"]))) for row in csv.DictReader(file)]
    draw = lambda median, spread, most: max(2, min(most, round(rng.lognormvariate(math.log(median), spread))))
    return [(draw(700, 0.9, 8000), draw(130, 0.8, 1500)) for _ in range(10000)]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Feed(http.server.ThreadingHTTPServer):
    """Electricity Maps' call for the latest value, at the hour that it is by the run's clock."""

    daemon_threads = True

    def __init__(self, grids, hour):
        self.grids, self.hour = grids, hour
        super().__init__(("127.0.0.1", 0), Answers)


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        hours = self.server.grids.get(query.get("zone", [""])[0])
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        if hours is None:
            return self.send_error(404)
        body = json.dumps({"zone": query["zone"][0], "carbonIntensity": hours[min(self.server.hour(), len(hours) - 1)], "datetime": now,
                           "updatedAt": now, "emissionFactorType": "lifecycle", "isEstimated": False}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def ask(url, body=None):
    request = urllib.request.Request(url, data=None if body is None else json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def fleet_file(world, ports, factor):
    text = "models: [m]\nregions:\n"
    for label, region, port in zip(LABELS, world, ports):
        text += (f"  - {{ region: {label}, listen: 127.0.0.1:{port}, rtt_ms: {region['rtt'] / factor}, replicas: {region['replicas']}, "
                 f"prefill_tokens_per_second: {24000 * factor}, token_ms: {16 / factor}, token_ms_per_request: {0.4 / factor}, tokens_per_chunk: 32 }}\n")
    return text


def proxy_file(world, ports, feed, policy, own, admin, log, factor):
    us = lambda millis: f"{max(1, round(1e3 * millis / factor))}us"
    nano = lambda millis: f"{max(1, round(1e6 * millis / factor))}ns"
    backends = [{
        "name": region["name"], "url": f"http://127.0.0.1:{port}/v1", "region": f"own/{region['name']}", "grid_zone": region["zone"],
        "pue": region["pue"], "models": ["m"], "max_in_flight": 64 * region["replicas"],
        "expect": {"first_token": us(region["rtt"] + 15), "per_prompt_token": nano(1 / 16), "tokens_per_second": 50 * factor},
    } for region, port in zip(world, ports)]
    inside = [region["name"] for region in world if region["resident"]]
    policies, routes = [], []
    for name, _, first, prompt, output in CLASSES:
        for resident in (False, True):
            full = name + ("-resident" if resident else "")
            budget = {"first_token": us(first), "per_output_token": us(output), "quantile": 0.998}
            budget |= {"per_prompt_token": nano(prompt)} if prompt else {}
            one = {"name": full, "objective": policy, "latency_budget": budget}
            one |= {"latency_price_mg_per_s": 10 * factor} if policy == "least_carbon" else {}
            one |= {"residency": [f"own/{region}" for region in inside]} if resident else {}
            policies.append(one)
            routes.append({"name": full, "match": {"path": f"/{full}"}, "policy": full, "backends": [backend["name"] for backend in backends]})
    return json.dumps({
        "listeners": [{"address": f"127.0.0.1:{own}"}], "admin": {"address": f"127.0.0.1:{admin}"}, "workers": 1, "log": {"access": log},
        "limits": {"drain_delay": "0s"},
        "carbon": {"sources": [{"electricity_maps": {"token": "none-is-needed", "base_url": f"http://127.0.0.1:{feed}/v4", "interval": "1s"}}]},
        "energy": [{"model": "m", "input_joules_per_token": INPUT_JOULES, "output_joules_per_token": OUTPUT_JOULES}],
        "backends": backends, "policies": policies, "routes": routes,
    })


def asks(pairs, seconds, factor, seed):
    """Poisson arrivals with the day's wave: when, class, resident, prompt, output, expected budgets."""
    rng, at, found = random.Random(seed), 0.0, []
    while at < seconds:
        hour = 12 + at * factor / CARBON_HOUR
        wave = 1 + 0.45 * math.sin(2 * math.pi * (hour - 8.5) / 24) + 0.12 * math.sin(4 * math.pi * (hour - 8.5) / 24)
        at += rng.expovariate(RATE * factor * wave)
        kind = rng.choices(CLASSES, [one[1] for one in CLASSES])[0]
        found.append((at, kind, rng.random() < 0.3, *rng.choice(pairs)))
    return found


async def send(port, ask, start, factor):
    """One request; when it was sent, first token, end, and whether it was answered."""
    at, (name, _, first, per_prompt, per_output), resident, prompt, output = ask
    await asyncio.sleep(max(0.0, start + at - time.monotonic()))
    begun = time.monotonic()
    late = begun - start - at
    body = ('{"model":"m","stream":true,"messages":[{"role":"user","content":"' + "tok " * prompt + '"}]}').encode()
    path = f"/{name}{'-resident' if resident else ''}/chat/completions"
    head = (f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-mock-output-tokens: {output}\r\n"
            f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n").encode()
    token = ended = None
    writer = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + body)
        seen = b""
        while piece := await reader.read(1 << 16):
            seen = (seen + piece)[-1 << 12:] if token else seen + piece
            if token is None and b'"content":"' in seen.partition(b"\r\n\r\n")[2]:
                token = time.monotonic()
        ended = time.monotonic() if b"[DONE]" in seen else None
    except OSError:
        pass
    finally:
        if writer:
            writer.close()
    answered = token is not None and ended is not None
    budget = (first + per_prompt * prompt) / 1e3 / factor
    whole = budget + per_output * (output - 1) / 1e3 / factor
    return {"late": late, "answered": answered, "first": (token or 0) - begun, "first_missed": answered and token - begun > budget,
            "end_missed": answered and ended - begun > whole}


async def faults(world, ports, scenario, seconds, start):
    """Brownouts: the cleanest three times slower, three times a twelfth of the run. Outages: it is gone, twice."""
    clean = min(range(len(world)), key=lambda one: world[one]["mean"])
    other = ports[(clean + 1) % len(ports)]
    patches = {"brownout": ({"slow": 3}, {"slow": 1}, (0.2, 0.45, 0.7)), "outage": ({"up": False}, {"up": True}, (0.25, 0.6))}
    if scenario == "normal":
        return
    wrong, right, times = patches[scenario]
    for at in times:
        for patch, moment in ((wrong, at), (right, at + 1 / 12)):
            await asyncio.sleep(max(0.0, start + seconds * moment - time.monotonic()))
            await asyncio.to_thread(ask, f"http://127.0.0.1:{other}/_ctl?region={LABELS[clean]}", patch)


def wait_for(url):
    for _ in range(200):
        try:
            return ask(url)
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nobody answers at {url}")


def hour_after(seconds, factor):
    """The hour of the grid; a run begins in the middle of one, so that a short one sees the next, too."""
    return max(0, int(0.5 + seconds * factor / CARBON_HOUR))


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def play(policy, args, world, grids, pairs):
    """One policy over the same requests; its figures, and what is wrong."""
    factor, ports, own, admin = args.factor, [free_port() for _ in world], free_port(), free_port()
    origin = [None]
    hour = lambda: 0 if origin[0] is None else hour_after(time.monotonic() - origin[0], factor)
    with tempfile.TemporaryDirectory() as folder:
        feed = Feed({region["zone"]: hours for region, hours in zip(world, grids)}, hour)
        threading.Thread(target=feed.serve_forever, daemon=True).start()
        log = f"{folder}/access.jsonl"
        files = {"fleet": fleet_file(world, ports, factor), "proxy": proxy_file(world, ports, feed.server_port, policy, own, admin, log, factor)}
        for name, text in files.items():
            pathlib.Path(folder, f"{name}.yaml").write_text(text)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": open(f"{folder}/errors", "w")}
        fleet = subprocess.Popen([args.binary, "mock", "--config", f"{folder}/fleet.yaml", "--seed", str(args.seed)], **quiet)
        proxy = subprocess.Popen([args.binary, "serve", "--config", f"{folder}/proxy.yaml"], **quiet)
        try:
            wait_for(f"http://127.0.0.1:{ports[0]}/_ctl")
            wait_for(f"http://127.0.0.1:{admin}/status")
            time.sleep(1.5)  # the feed's first values
            requests = asks(pairs, args.seconds, factor, args.seed)

            async def run():
                origin[0] = start = time.monotonic()
                troubles = asyncio.create_task(faults(world, ports, args.scenario, args.seconds, start))
                results = await asyncio.wait_for(asyncio.gather(*(send(own, one, start, factor) for one in requests)), args.seconds + 120)
                await troubles
                return results

            wall = time.time()
            results = asyncio.run(run())
            for _ in range(100):
                status = json.loads(ask(f"http://127.0.0.1:{admin}/status"))
                under_way = status["in_flight"] + sum(one["in_flight"] + one["pending_prompt_tokens"] for one in status["backends"])
                loads = [json.loads(ask(f"http://127.0.0.1:{port}/_ctl"))["load"] for port in ports]
                under_way += sum(load["resident"] + load["waiting"] for load in loads)
                if under_way == 0:
                    break
                time.sleep(0.05)
            ledger = [(region, json.loads(line)) for region, port in enumerate(ports)
                      for line in ask(f"http://127.0.0.1:{port}/_ledger").splitlines()]
            proxy.terminate()
            proxy.wait(30)
            lines = [json.loads(line) for line in open(log)]
        finally:
            for process in (proxy, fleet):
                process.kill()
                process.wait()
            feed.shutdown()
            feed.server_close()
    records = {line.get("provider_request_id"): line for line in lines}
    grams, booked = 0.0, 0.0
    for region, row in ledger:
        line = records.get(row["id"])
        moment = datetime.datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp() if line else wall
        intensity = grids[region][min(hour_after(moment - wall, factor), len(grids[region]) - 1)]
        one = (INPUT_JOULES * row["prompt_tokens"] + OUTPUT_JOULES * row["output_tokens"]) * world[region]["pue"] * intensity / 3.6e6
        grams += one if row["status"] == 200 else 0.0
    for line in lines:
        booked += (line.get("emissions") or {}).get("grams", 0.0) or 0.0
    count = len(results)
    missed = {key: 100 * sum(one[key] for one in results) / count for key in ("first_missed", "end_missed")}
    failed = 100 * sum(not one["answered"] for one in results) / count
    either = 100 * sum(one["first_missed"] or one["end_missed"] or not one["answered"] for one in results) / count
    firsts = [1e3 * factor * one["first"] for one in results if one["answered"]]
    print(f"{policy:14} {1e3 * grams / count:10.2f} {either:9.2f} {missed['first_missed']:6.2f} {missed['end_missed']:6.2f} {failed:7.2f} "
          f"{quantile(firsts, 0.5):7.0f} {quantile(firsts, 0.99):7.0f} {100 * (booked / grams - 1):10.2f} {1e3 * quantile([one['late'] for one in results], 0.99):9.1f} {quantile([line.get('overhead_us') or 0 for line in lines], 0.99):8} {count:9}", flush=True)
    wrong = []
    if abs(booked / grams - 1) > 0.01:
        wrong.append(f"{policy}: the log has {booked:.4f} g, the ledger {grams:.4f} g")
    if under_way:
        wrong.append(f"{policy}: {under_way} requests and prompt tokens are under way for ever")
    if len(lines) != count:
        wrong.append(f"{policy}: {count} requests and {len(lines)} lines of the log")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/windward"))
    parser.add_argument("--world", default="eu", choices=["eu", "us"])
    parser.add_argument("--scenario", default="normal", choices=["normal", "brownout", "outage"])
    parser.add_argument("--policies", default="least_latency,least_carbon", help="objectives, as the configuration names them")
    parser.add_argument("--seconds", type=float, default=50, help="of requests, for each policy")
    parser.add_argument("--factor", type=float, default=3, help="so many times faster than life")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    data, world = os.environ.get("WINDWARD_DATA"), regions(args.world)
    hours = 2 + int(0.5 + args.seconds * args.factor / CARBON_HOUR)
    grids, pairs = [grid(region, hours, data) for region in world], lengths(data, random.Random(args.seed))
    print(f"{'policy':14} {'mg/request':>10} {'missed %':>9} {'first':>6} {'end':>6} {'failed':>7} {'p50 ms':>7} {'p99 ms':>7} {'log off %':>10} {'late ms':>9} {'own us':>8} {'requests':>9}")
    wrong = [fault for policy in args.policies.split(",") for fault in play(policy, args, world, grids, pairs)]
    print(f"\nOn sockets, {args.factor:g} times faster than life; milliseconds as in life. Grids: {'recorded' if data else 'made up'}, "
          f"{hours - 1} hours of {args.world}, {args.scenario}.", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
