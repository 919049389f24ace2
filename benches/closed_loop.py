#!/usr/bin/env python3
"""The whole loop on sockets: load generator -> `windward serve` -> `windward mock`, with a carbon feed of Electricity Maps' shape.

    cargo build --release
    WINDWARD_DATA=DIR benches/closed_loop.py [--world eu] [--scenario normal] [--seconds 60] [--factor 10] [--seed 1]

A stretch of a scenario of examples/scenarios (normal, overload_green, outage, stale, flash, brownout) is played in real time, everything
shrunk by one factor: round trips, reading, tokens, budgets, the grid's hour, pauses between requests, events. The same requests go by
way of `windward simulate`, so that the table has its columns, its oracle, and its own rows for the same stretch beside those of the
sockets. Grams come from the fleet's ledger and the true grid, misses from the load generator's clock; faults are switched by the
fleet's control interface. What does not shrink is what the program has in seconds of its own (a second between two prices, five of a
breaker, 50 ms of holding), the millisecond of a runtime's timers, and the processors.

Below the table stands what the loop itself did: how far the proxy's log is from the ledger, how late the load generator was (99th
percentile), the proxy's own time before it sent a request on, and how many processors each part took. With `late` above some tenths of
the shortest budget, 300 ms over the factor, misses are this machine's and not the proxy's: then the factor is too high. It ends with
status 1 when log and ledger differ by 1 % or more, when a request has no line, or when anything still counts as under way.
Everything listens on loopback and ends by itself.
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
SCENARIOS = ROOT / "examples/scenarios"
INPUT_JOULES, OUTPUT_JOULES = 0.396, 1.28
CARBON_HOUR = 150.0
FROM = datetime.datetime(2022, 5, 3)
# A fleet's file takes only regions that are known; which ones does not matter, since the proxy is told the grids itself.
LABELS = ["aws/us-east-1", "aws/us-east-2", "aws/us-west-1", "aws/us-west-2", "aws/eu-west-1", "aws/eu-west-2", "aws/eu-west-3"]
# Name, share, budget to the first token in ms, ms more for each prompt token, ms for each output token, whether it can wait; and what
# is compared, by the names that it has there: as in common.yaml.
CLASSES = [("chat", 0.55, 300.0, 0.1, 35.0, False), ("agent", 0.30, 1000.0, 0.0, 35.0, True), ("batch", 0.15, 5000.0, 0.0, 80.0, True)]
POLICIES = {
    "least_latency": {"objective": "least_latency", "overload": "spill", "latency_budget": {"quantile": 0.99}},
    "windward": {"objective": "least_carbon", "latency_budget": {"quantile": 0.998}},
    "round_robin": {"objective": "round_robin", "overload": "spill", "latency_budget": {"quantile": 0.99}},
}
REGION = re.compile(
    r"name: (?P<name>\w+), grid_zone: (?P<zone>[\w-]+), rtt: (?P<rtt>\d+)ms, replicas: (?P<replicas>\d+), pue: (?P<pue>[\d.]+)"
    r"(?P<resident>, resident: true)?, grid: \{ shape: (?P<shape>\w+), mean_g_per_kwh: (?P<mean>\d+)"
)
# Where the stretch begins, in seconds of the scenario: a whole hour of the grid, some minutes before the first event.
BEGINS = {"normal": 1200, "overload_green": 1650, "outage": 1350, "stale": 750, "flash": 1350, "brownout": 1350}
WINDOW = 60.0


class Stretch:
    """A part of a scenario, with times in seconds of the scenario from the part's own beginning."""

    def __init__(self, args, data):
        self.folder, self.data, self.factor = SCENARIOS / args.world, data, args.factor
        self.begin, self.length, self.warm_up = BEGINS[args.scenario], args.seconds * args.factor, args.warm_up
        text, world = (self.folder / f"{args.scenario}.yaml").read_text(), (self.folder / "world.yaml").read_text()
        self.regions = [match.groupdict() for match in REGION.finditer(world)]
        assert len(self.regions) == world.count("grid_zone:"), "the world is not written as it was"
        for one in self.regions:
            one.update({key: float(one[key]) for key in ("rtt", "pue", "mean")}, replicas=int(one["replicas"]))
        self.offset = float((re.search(r"utc_offset_hours: (-?\d+)", world.partition("regions:")[0]) or [0, 0])[1])
        self.rate = float((re.search(r"per_second: ([\d.]+)", text) or [0, 36])[1])
        self.events = [event for line in re.findall(r"- \{ at: .* \}", text) if (event := self.event(line))]
        hours = 2 + int(self.length / CARBON_HOUR)
        self.grids = [self.grid(region, hours) for region in self.regions]

    def event(self, line):
        """One line of the scenario as ({what}, region, from, until); None where it is over before the stretch begins."""
        entries = dict(re.findall(r"(\w+): ([^,} ]+)", line))
        begin = float(entries.pop("at")[:-1]) - self.begin
        until = begin + float(entries.pop("for", "1e9s")[:-1])
        names = [region["name"] for region in self.regions]
        region = names.index(entries.pop("region")) if "region" in entries else None
        return (entries, region, max(0.0, begin), until) if until > 0 and begin < self.length else None

    def grid(self, region, hours):
        """The region's hours: recorded, or a made-up wave around its mean."""
        path = pathlib.Path(self.data or "/nonexistent") / "carbon" / f"{region['zone']}.csv.gz"
        first = self.start().strftime("%Y-%m-%dT%H:%M:%SZ")
        if path.exists():
            with gzip.open(path, "rt") as file:
                return [float(row["carbon_intensity_g_per_kwh"]) for row in csv.DictReader(file) if row["datetime_utc"] >= first][:hours]
        depth = 0.5 if region["shape"] == "solar" else 0.15
        hour = self.start().hour
        return [region["mean"] * (1 - depth * math.sin(2 * math.pi * (hour + nth - 6) / 24)) for nth in range(hours)]

    def start(self):
        return FROM + datetime.timedelta(hours=self.begin / CARBON_HOUR)

    def intensity(self, region, at):
        return self.grids[region][min(int(max(0.0, at) / CARBON_HOUR), len(self.grids[region]) - 1)]

    def read_at(self, at):
        """Of which moment the feed has its readings."""
        return min([begin for what, _, begin, until in self.events if "stale" in what and begin <= at < until], default=at)

    def crowd(self, at):
        return math.prod(float(what["crowd"]) for what, _, begin, until in self.events if "crowd" in what and begin <= at < until)

    def lengths(self, rng):
        """Pairs of prompt and output tokens: recorded, or log-normal ones like them."""
        path = pathlib.Path(self.data or "/nonexistent") / "traces/azure2023_conv.csv.gz"
        if path.exists():
            with gzip.open(path, "rt") as file:
                return [(max(1, int(row["input_tokens"])), max(2, int(row["output_tokens"]))) for row in csv.DictReader(file)]
        draw = lambda median, spread, most: max(2, min(most, round(rng.lognormvariate(math.log(median), spread))))
        return [(draw(700, 0.9, 8000), draw(130, 0.8, 1500)) for _ in range(10000)]

    def asks(self, seed):
        """Poisson arrivals with the day's wave, bursts and crowds: when, class, resident, prompt, output."""
        rng, second, found = random.Random(seed), 0.0, []
        pairs, keep, burst = self.lengths(rng), math.exp(-1 / 20), rng.gauss(0, 1)
        while second < self.length:
            hour = self.start().hour + self.offset + second / CARBON_HOUR
            wave = 1 + 0.45 * math.sin(2 * math.pi * (hour - 8.5) / 24) + 0.12 * math.sin(4 * math.pi * (hour - 8.5) / 24)
            burst = keep * burst + math.sqrt(1 - keep * keep) * rng.gauss(0, 1)
            rate = self.rate * wave * math.exp(0.2 * burst - 0.02) * self.crowd(second)
            at = second + rng.expovariate(rate)
            while at < min(second + 1, self.length):
                kind = rng.choices(range(len(CLASSES)), [one[1] for one in CLASSES])[0]
                found.append((at, CLASSES[kind], rng.random() < 0.3, *rng.choice(pairs)))
                at += rng.expovariate(rate)
            second += 1
        return found

    def simulate(self, binary, asks, policies, folder):
        """What `windward simulate` makes of the same requests."""
        with gzip.open(f"{folder}/asks.csv.gz", "wt") as file:
            file.write("timestamp_s,input_tokens,output_tokens,class,resident\n")
            file.writelines(f"{at},{prompt},{output},{kind[0]},{str(resident).lower()}\n" for at, kind, resident, prompt, output in asks)
        region = lambda place: {} if place is None else {"region": self.regions[place]["name"]}
        events = [{"at": f"{begin}s", "for": f"{min(until, 1e6) - begin}s"} | region(place) | {key: json.loads(value) for key, value in what.items()}
                  for what, place, begin, until in self.events if "crowd" not in what]
        text = {"extends": str(self.folder / "world.yaml"), "from": self.start().strftime("%Y-%m-%dT%H:%M:%SZ"), "seeds": [1],
                "hours": self.length / CARBON_HOUR, "warm_up": f"{self.warm_up}s", "traffic": {"arrivals": f"{folder}/asks.csv.gz"}, "events": events}
        pathlib.Path(f"{folder}/scenario.yaml").write_text(json.dumps(text))
        wanted = [part for policy in policies for part in ("--policy", policy)]
        command = [binary, "simulate", f"{folder}/scenario.yaml", *wanted, "--json", f"{folder}/simulated.json"]
        ran = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert ran.returncode == 0, ran.stderr
        return json.loads(pathlib.Path(f"{folder}/simulated.json").read_text())

    def fleet_file(self, ports):
        text, factor = "models: [m]\nregions:\n", self.factor
        for label, region, port in zip(LABELS, self.regions, ports):
            text += (f"  - {{ region: {label}, listen: 127.0.0.1:{port}, rtt_ms: {region['rtt'] / factor}, replicas: {region['replicas']}, "
                     f"prefill_tokens_per_second: {24000 * factor}, token_ms: {16 / factor}, token_ms_per_request: {0.4 / factor}, "
                     f"tokens_per_chunk: 32, noise: {{ rtt: 0.08, prefill: 0.12, token: 0, spikes: 0.001 }} }}\n")
        return text

    def proxy_file(self, ports, feed, settings, own, admin, log):
        nano = lambda millis: f"{max(1, round(1e6 * millis / self.factor))}ns"
        backends = [{
            "name": region["name"], "url": f"http://127.0.0.1:{port}/v1", "region": f"own/{region['name']}", "grid_zone": region["zone"],
            "pue": region["pue"], "models": ["m"], "max_in_flight": 64 * region["replicas"],
            "expect": {"first_token": nano(region["rtt"] + 15), "per_prompt_token": nano(1 / 16), "tokens_per_second": 50 * self.factor},
        } for region, port in zip(self.regions, ports)]
        inside = [region["name"] for region in self.regions if region["resident"]]
        policies, routes = [], []
        for name, _, first, prompt, output, waits in CLASSES:
            for resident in (False, True):
                full = name + ("-resident" if resident else "")
                budget = {"first_token": nano(first), "per_output_token": nano(output)} | settings["latency_budget"]
                budget |= {"per_prompt_token": nano(prompt)} if prompt else {}
                one = {"name": full, **({"overload": "hold_then_shed"} if waits else {}), **settings, "latency_budget": budget}
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


class Feed(http.server.ThreadingHTTPServer):
    """Electricity Maps' call for the latest value, of the moment that it is by the run's clock."""

    daemon_threads = True

    def __init__(self, stretch, moment):
        self.stretch, self.moment = stretch, moment
        self.zones = {region["zone"]: place for place, region in enumerate(stretch.regions)}
        super().__init__(("127.0.0.1", 0), Answers)


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        zone = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query).get("zone", [""])[0]
        place = self.server.zones.get(zone)
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        if place is None:
            return self.send_error(404)
        value = self.server.stretch.intensity(place, self.server.stretch.read_at(self.server.moment()))
        body = json.dumps({"zone": zone, "carbonIntensity": value, "datetime": now, "updatedAt": now, "emissionFactorType": "lifecycle",
                           "isEstimated": False}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Connection(asyncio.Protocol):
    """One kept connection of the load generator; it does as little with the bytes as tells when they came."""

    def connection_made(self, transport):
        self.transport, self.over = transport, None

    def ask(self, message):
        self.head, self.tail, self.token, self.status, self.who = b"", b"", None, 0, None
        self.over = asyncio.get_running_loop().create_future()
        self.transport.write(message)
        return self.over

    def data_received(self, data):
        if self.token is None:
            self.head += data
            if self.status == 0 and b"\r\n\r\n" in self.head:
                self.status = int(self.head[9:12])
                named = re.search(rb"x-windward-backend: (\S+)", self.head)
                self.who = named and named[1].decode()
            if b'"content":"' in self.head.partition(b"\r\n\r\n")[2]:
                self.token = time.monotonic()
        self.tail = (self.tail + data)[-64:]
        if self.status not in (0, 200) and self.head.endswith(b"}"):
            self.end(None)
        elif self.tail.endswith(b"0\r\n\r\n"):
            self.end(time.monotonic() if b"[DONE]" in self.tail else None)

    def end(self, at):
        if at is None:
            self.transport.abort()
        if not self.over.done():
            self.over.set_result(at)

    def connection_lost(self, _):
        if self.over is not None:
            self.end(None)


class Load:
    """Sends each request at its time, whatever became of those before."""

    def __init__(self, port, start, factor):
        self.port, self.start, self.factor, self.idle = port, start, factor, []

    async def send(self, ask):
        at, (name, _, first, per_prompt, per_output, _), resident, prompt, output = ask
        body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"' + b"tok " * prompt + b'"}]}'
        path = f"/{name}{'-resident' if resident else ''}/chat/completions"
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-mock-output-tokens: {output}\r\ncontent-length: {len(body)}\r\n\r\n"
        await asyncio.sleep(max(0.0, self.start + at / self.factor - time.monotonic()))
        begun, ended, one = time.monotonic(), None, None
        try:
            while self.idle and (one is None or one.transport.is_closing()):
                one = self.idle.pop()
            if one is None or one.transport.is_closing():
                _, one = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self.port)
            ended = await one.ask(head.encode() + body)
        except OSError:
            pass
        answered = ended is not None and one.token is not None
        if answered:
            self.idle.append(one)
        spans = [self.factor * (moment - begun) for moment in (one.token, ended)] if answered else [0.0, 0.0]
        budget = (first + per_prompt * prompt) / 1e3
        return {
            "at": at, "late": begun - self.start - at / self.factor, "answered": answered, "first": spans[0], "region": one and one.who,
            "shed": one is not None and one.status == 429 and one.who is None,
            "late_first_token": answered and spans[0] > budget, "late_end": answered and spans[1] > budget + per_output * output / 1e3,
        }


async def faults(stretch, ports, start):
    """Switches what the scenario's events say, by way of a region that is not theirs. In the end everybody is well again."""
    patch = {"slow": lambda value: {"slow": float(value)}, "down": lambda _: {"up": False}, "replicas": lambda value: {"replicas": int(value)},
             "error_rate": lambda value: {"error_rate": float(value)}}
    mend = {"slow": {"slow": 1}, "down": {"up": True}, "replicas": {"replicas": None}, "error_rate": {"error_rate": 0}}
    turns = []
    for what, place, begin, until in stretch.events:
        for key in patch.keys() & what.keys():
            turns += [(begin, place, patch[key](what[key])), (until, place, mend[key])]
    for at, place, change in sorted(turns, key=lambda turn: turn[0]):
        await asyncio.sleep(max(0.0, start + min(at, stretch.length) / stretch.factor - time.monotonic()))
        await asyncio.to_thread(ask, f"http://127.0.0.1:{ports[(place + 1) % len(ports)]}/_ctl?region={LABELS[place]}", change)


def ask(url, body=None):
    request = urllib.request.Request(url, data=None if body is None else json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(url):
    for _ in range(200):
        try:
            return ask(url)
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nobody answers at {url}")


def processor_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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


def play(name, args, stretch, asks):
    """One policy over the requests: its figures, and what is wrong with its books."""
    ports, own, admin = [free_port() for _ in stretch.regions], free_port(), free_port()
    origin, factor = [None], stretch.factor
    moment = lambda: 0.0 if origin[0] is None else (time.monotonic() - origin[0]) * factor
    with tempfile.TemporaryDirectory() as folder:
        feed, log = Feed(stretch, moment), f"{folder}/access.jsonl"
        threading.Thread(target=feed.serve_forever, daemon=True).start()
        pathlib.Path(folder, "fleet.yaml").write_text(stretch.fleet_file(ports))
        pathlib.Path(folder, "proxy.yaml").write_text(stretch.proxy_file(ports, feed.server_port, POLICIES[name], own, admin, log))
        with open(f"{folder}/errors", "w") as errors:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": errors}
            fleet = subprocess.Popen([args.binary, "mock", "--config", f"{folder}/fleet.yaml", "--seed", str(args.seed)], **quiet)
            proxy = subprocess.Popen([args.binary, "serve", "--config", f"{folder}/proxy.yaml"], **quiet)
        try:
            wait_for(f"http://127.0.0.1:{ports[0]}/_ctl")
            wait_for(f"http://127.0.0.1:{admin}/status")
            time.sleep(1.5)  # the feed's first values

            async def run():
                origin[0] = start = time.monotonic() + 0.2
                load, switches = Load(own, start, factor), asyncio.create_task(faults(stretch, ports, start))
                results = await asyncio.wait_for(asyncio.gather(*(load.send(one) for one in asks)), args.seconds + 120)
                await switches
                return results, time.monotonic() - start

            before = time.process_time()
            results, took = asyncio.run(run())
            used = [(time.process_time() - before) / took] + [processor_seconds(process.pid) / took for process in (proxy, fleet)]
            left = under_way(admin, ports)
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
    return judged(name, stretch, results, ledger, lines, used, left)


def judged(name, stretch, results, ledger, lines, used, left):
    """Grams of the ledger at the true intensity of the moment at which each row began, and what the clients saw. The proxy's log is held
    against the intensity that the feed told it, which may be an older one."""
    zero = min((row["arrival_ms"] for _, row in ledger), default=0.0) - 1e3 * min(one["at"] for one in results) / stretch.factor
    grams = scored = told = 0.0
    for region, row in ledger:
        at = (row["arrival_ms"] - zero) / 1e3 * stretch.factor
        joules = INPUT_JOULES * row["prompt_tokens"] + OUTPUT_JOULES * row["output_tokens"] if row["status"] == 200 else 0.0
        kilowatt_hours = joules * stretch.regions[region]["pue"] / 3.6e6
        own = kilowatt_hours * stretch.intensity(region, at)
        told += kilowatt_hours * stretch.intensity(region, stretch.read_at(at))
        grams, scored = grams + own, scored + (own if at >= stretch.warm_up else 0.0)
    booked = sum((line.get("emissions") or {}).get("grams", 0.0) or 0.0 for line in lines)
    wrong = [] if abs(booked / told - 1) < 0.01 else [f"{name}: the log has {booked:.4f} g, the ledger {told:.4f} g"]
    wrong += [f"{name}: {left} requests and prompt tokens are under way for ever"] if left else []
    wrong += [f"{name}: {len(results)} requests and {len(lines)} lines of the log"] if len(lines) != len(results) else []
    counted = [one for one in results if one["at"] >= stretch.warm_up]
    spilled = sum((line.get("decision") or {}).get("reason") == "fastest_over_budget" for line in lines) * len(counted) / len(results)
    firsts = [1e3 * one["first"] for one in counted if one["answered"]]
    score = {
        "requests": len(counted), "grams": scored, "spilled": spilled, "shed": sum(one["shed"] for one in counted),
        "failed": sum(not one["answered"] and not one["shed"] for one in counted),
        "missed": sum(one["late_first_token"] or one["late_end"] or not one["answered"] for one in counted),
        "first_token_ms": [quantile(firsts, 0.5), quantile(firsts, 0.99)], "movement_percent": movement(counted),
    } | {key: sum(one[key] for one in counted) for key in ("late_first_token", "late_end")}
    own_us = quantile([line.get("overhead_us") or 0 for line in lines], 0.99)
    loop = [100 * (booked / told - 1), 1e3 * quantile([one["late"] for one in results], 0.99), own_us, *used, left, len(lines)]
    return score, loop, wrong


def aligned(rows):
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(zip(row, widths))) for row in rows)


def table(sockets, simulated):
    """The table of `simulate`: what was measured on sockets, what simulation says of the same requests, and the oracle."""
    oracle = simulated["oracle"][0]
    rows = [["policy", "mg/request", "% of best saving", "missed %", "first", "end", "failed", "shed", "spilled %", "p50 ms", "p99 ms", "moved/min %"]]

    def row(name, score, reference):
        share = lambda key: f"{100 * score[key] / score['requests']:.2f}"
        saved = 100 * (reference - score["grams"]) / (reference - oracle["grams"])
        rows.append([name, f"{1e3 * score['grams'] / score['requests']:.2f}", f"{saved:.1f}", share("missed"), share("late_first_token"), share("late_end"),
                     share("failed"), share("shed"), share("spilled"), *(f"{ms:.0f}" for ms in score["first_token_ms"]), f"{score['movement_percent'] + 0.0:.1f}"])

    for name, score in sockets.items():
        row(name, score, sockets["least_latency"]["grams"])
    in_simulation = {run["policy"]: run["score"] for run in simulated["runs"]}
    for name, score in in_simulation.items():
        row(f"{name} (simulated)", score, in_simulation["least_latency"]["grams"])
    requests = sockets["least_latency"]["requests"]
    rows.append(["(oracle)", f"{1e3 * oracle['grams'] / requests:.2f}", "100"] + ["-"] * 8 + [f"{oracle['movement_percent'] + 0.0:.1f}"])
    return aligned(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/windward"))
    parser.add_argument("--world", default="eu", choices=["eu", "us"])
    parser.add_argument("--scenario", default="normal", choices=list(BEGINS))
    parser.add_argument("--policies", default="least_latency,windward", help=f"of {', '.join(POLICIES)}; least_latency, from which savings are counted, comes first and is always run")
    parser.add_argument("--seconds", type=float, default=60, help="of real time, for each policy")
    parser.add_argument("--warm-up", type=float, default=120, help="seconds of the scenario that are not scored")
    parser.add_argument("--factor", type=float, default=10, help="so many times faster than life")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    stretch = Stretch(args, os.environ.get("WINDWARD_DATA"))
    assert stretch.warm_up < stretch.length, "all of it would be warm-up"
    policies = ["least_latency"] + [name for name in args.policies.split(",") if name != "least_latency"]
    asks, sockets, loops, wrong = stretch.asks(args.seed), {}, [], []
    with tempfile.TemporaryDirectory() as folder:
        simulated = stretch.simulate(args.binary, asks, policies, folder)
    for name in policies:
        sockets[name], loop, faulty = play(name, args, stretch, asks)
        loops.append([name] + [f"{value:.{digits}f}" for value, digits in zip(loop, (2, 1, 0, 2, 2, 2, 0, 0))])
        wrong += faulty
    print(table(sockets, simulated), end="\n\n")
    print(aligned([["the loop itself", "log off %", "late ms", "own us", "load: cores", "proxy", "fleet", "under way", "lines"], *loops]))
    print(f"\nOn sockets, {args.factor:g} times faster than life; milliseconds as in life but for `late` and `own`. {args.scenario}, {args.world}, from second "
          f"{stretch.begin} on for {stretch.length:g} s, of which {stretch.warm_up:g} are not scored. Grids: {'recorded' if stretch.data else 'made up'}. "
          f"Load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
