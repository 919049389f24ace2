"""A part of a scenario, as requests, and as files for the fleet, the proxy and `windward simulate`."""
import csv
import datetime
import functools
import gzip
import json
import math
import pathlib
import random
import subprocess

from .scenario import load, merge, seconds

SCENARIOS = pathlib.Path(__file__).resolve().parent.parent.parent / "examples/scenarios"
# A fleet's file takes only regions that are known; which ones does not matter, since the proxy is told the grids itself.
LABELS = ["aws/us-east-1", "aws/us-east-2", "aws/us-west-1", "aws/us-west-2", "aws/eu-west-1", "aws/eu-west-2", "aws/eu-west-3"]
# Where the stretch begins, in seconds of the scenario: a whole hour of the grid, some minutes before the first event.
BEGINS = {"normal": 1200, "overload_green": 1650, "outage": 1350, "stale": 750, "flash": 1350, "brownout": 1350}
# What an operator would expect of a region beyond its round trip, as `windward simulate` has it.
EXPECTED_READING_MS = 15


@functools.cache
def rows(path):
    with gzip.open(path, "rt") as file:
        return list(csv.DictReader(file))


class Stretch:
    """Times are seconds of the scenario from the part's own beginning."""

    def __init__(self, world, scenario, data, length, warm_up, factor):
        self.path, self.data, self.factor = SCENARIOS / world / f"{scenario}.yaml", pathlib.Path(data or "/nonexistent"), factor
        self.begin, self.length, self.warm_up = BEGINS[scenario], length, warm_up
        self.spec = load(self.path)
        self.regions, self.classes, self.policies = self.spec["regions"], self.spec["classes"], {one["name"]: one for one in self.spec["policies"]}
        self.hour = seconds(self.spec["carbon_hour"])
        assert self.begin % self.hour == 0, "a stretch begins with an hour of the grid"
        self.events = [event for one in self.spec.get("events") or [] if (event := self.event(one))]
        self.means = [self.mean(region) for region in self.regions]
        hours = 2 + int(self.length / self.hour)
        self.grids = [self.grid(region, hours) for region in self.regions]

    def event(self, entries):
        """One of the scenario's as ({what}, region, from, until); None where it is over before the stretch begins, or comes after it."""
        what = {key: value for key, value in entries.items() if key not in ("at", "for", "region")}
        begin = seconds(entries["at"]) - self.begin
        until = begin + seconds(entries.get("for", "1000000s"))
        region = [region["name"] for region in self.regions].index(entries["region"]) if "region" in entries else None
        return (what, region, max(0.0, begin), until) if until > 0 and begin < self.length else None

    def start(self):
        """The grid's time at the beginning."""
        first = datetime.datetime.strptime(self.spec["from"], "%Y-%m-%dT%H:%M:%SZ")
        return first + datetime.timedelta(hours=self.begin / self.hour)

    def recorded(self, region):
        path = self.data / "carbon" / f"{region['grid_zone']}.csv.gz"
        return rows(path) if path.exists() else None

    def mean(self, region):
        """What an operator would have as the zone's yearly figure."""
        recorded = self.recorded(region)
        values = [float(row["carbon_intensity_g_per_kwh"]) for row in recorded] if recorded else [region["grid"]["mean_g_per_kwh"]]
        return sum(values) / len(values)

    def grid(self, region, hours):
        """The region's hours: recorded, or a made-up wave around its mean."""
        first, recorded = self.start().strftime("%Y-%m-%dT%H:%M:%SZ"), self.recorded(region)
        if recorded:
            return [float(row["carbon_intensity_g_per_kwh"]) for row in recorded if row["datetime_utc"] >= first][:hours]
        depth, hour = 0.5 if region["grid"]["shape"] == "solar" else 0.15, self.start().hour
        return [region["grid"]["mean_g_per_kwh"] * (1 - depth * math.sin(2 * math.pi * (hour + nth - 6) / 24)) for nth in range(hours)]

    def joules(self, prompt, output):
        """At the machine."""
        return self.spec["energy"]["input_joules_per_token"] * prompt + self.spec["energy"]["output_joules_per_token"] * output

    def hour_of(self, at):
        return int(max(0.0, at) / self.hour)

    def intensity(self, region, at):
        return self.grids[region][min(self.hour_of(at), len(self.grids[region]) - 1)]

    def stale_since(self, at):
        """When the feed stood still, if it does."""
        return min([begin for what, _, begin, until in self.events if "stale" in what and begin <= at < until], default=None)

    def crowd(self, at):
        return math.prod(what["crowd"] for what, _, begin, until in self.events if "crowd" in what and begin <= at < until)

    def lengths(self, rng):
        """Pairs of prompt and output tokens: recorded, or log-normal ones like them."""
        path = self.data / self.spec["traffic"]["trace"]
        if path.exists():
            return [(max(1, int(row["input_tokens"])), max(2, int(row["output_tokens"]))) for row in rows(path)]
        draw = lambda median, spread, most: max(2, min(most, round(rng.lognormvariate(math.log(median), spread))))
        return [(draw(700, 0.9, 8000), draw(130, 0.8, 1500)) for _ in range(10000)]

    def asks(self, seed):
        """Poisson arrivals with the day's wave, bursts and crowds: when, class, resident, prompt, output."""
        rng, second, found, traffic = random.Random(seed), 0.0, [], self.spec["traffic"]
        pairs, burst, spread = self.lengths(rng), rng.gauss(0, 1), traffic["bursts"]["spread"]
        keep, shares = math.exp(-1 / seconds(traffic["bursts"]["correlation"])), [one["share"] for one in self.classes]
        while second < self.length:
            hour = self.start().hour + traffic.get("utc_offset_hours", 0) + second / self.hour
            wave = 1 + sum(height * math.sin(turns * 2 * math.pi * (hour - 8.5) / 24)
                           for turns, height in ((1, traffic["wave"]), (2, traffic["half_day_wave"])))
            burst = keep * burst + math.sqrt(1 - keep * keep) * rng.gauss(0, 1)
            rate = traffic["per_second"] * wave * math.exp(spread * burst - spread * spread / 2) * self.crowd(second)
            at = second + rng.expovariate(rate)
            while at < min(second + 1, self.length):
                found.append((at, rng.choices(self.classes, shares)[0], rng.random() < traffic["resident"], *rng.choice(pairs)))
                at += rng.expovariate(rate)
            second += 1
        return found

    def simulate(self, binary, asks, policies, folder):
        """What `windward simulate` makes of the same requests."""
        with gzip.open(f"{folder}/asks.csv.gz", "wt") as file:
            file.write("timestamp_s,input_tokens,output_tokens,class,resident\n")
            file.writelines(f"{at},{prompt},{output},{kind['name']},{str(resident).lower()}\n" for at, kind, resident, prompt, output in asks)
        region = lambda place: {} if place is None else {"region": self.regions[place]["name"]}
        events = [{"at": f"{begin}s", "for": f"{min(until, 1e6) - begin}s"} | region(place) | what
                  for what, place, begin, until in self.events if "crowd" not in what]
        text = {"extends": str(self.path), "from": self.start().strftime("%Y-%m-%dT%H:%M:%SZ"), "seeds": [1], "data": str(self.data) if self.data.exists() else "",
                "hours": self.length / self.hour, "warm_up": f"{self.warm_up}s", "traffic": {"arrivals": f"{folder}/asks.csv.gz"}, "events": events}
        pathlib.Path(f"{folder}/scenario.yaml").write_text(json.dumps(text))
        wanted = [part for policy in policies for part in ("--policy", policy)]
        command = [binary, "simulate", f"{folder}/scenario.yaml", *wanted, "--json", f"{folder}/simulated.json"]
        ran = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert ran.returncode == 0, ran.stderr
        return json.loads(pathlib.Path(f"{folder}/simulated.json").read_text())

    def fleet_file(self, ports):
        """The regions as the fleet is to play them, so many times faster than life."""
        text, factor, noise = "models: [m]\nregions:\n", self.factor, self.spec["noise"] | {"token": 0}
        for label, region, port in zip(LABELS, self.regions, ports):
            text += (f"  - {{ region: {label}, listen: 127.0.0.1:{port}, rtt_ms: {1e3 * seconds(region['rtt']) / factor}, replicas: {region['replicas']}, "
                     f"prefill_tokens_per_second: {24000 * factor}, token_ms: {16 / factor}, token_ms_per_request: {0.4 / factor}, "
                     f"tokens_per_chunk: 32, noise: {json.dumps(noise)} }}\n")
        return text

    def proxy_file(self, ports, feed, settings, own, admin, log):
        """As `windward simulate` makes a plan of it. Its times are those of life: the proxy's clock is faster."""
        millis = lambda text, more=0: f"{1e3 * seconds(text) + more:g}ms"
        backends = [{
            "name": region["name"], "url": f"http://127.0.0.1:{port}/v1", "region": region["name"], "grid_zone": region["grid_zone"],
            "pue": region["pue"], "models": ["m"], "max_in_flight": 64 * region["replicas"], "simulated": True,
            "expect": {"first_token": millis(region["rtt"], EXPECTED_READING_MS), "per_prompt_token": "62500ns"},
        } for region, port in zip(self.regions, ports)]
        inside = [region["name"] for region in self.regions if region.get("resident")]
        policies, routes = [], []
        for kind in self.classes:
            for resident in (False, True):
                name = kind["name"] + ("-resident" if resident else "")
                budget = {key: kind[key] for key in ("first_token", "per_prompt_token", "per_output_token") if key in kind}
                one = merge(merge({"latency_budget": budget}, kind.get("policy", {})), settings)
                policies.append(one | {"name": name} | ({"residency": inside} if resident else {}))
                routes.append({"name": name, "match": {"path": f"/{name}"}, "policy": name, "backends": [backend["name"] for backend in backends]})
        energy = {key: self.spec["energy"][key] for key in ("input_joules_per_token", "output_joules_per_token")}
        source = {"token": "none-is-needed", "base_url": f"http://127.0.0.1:{feed}/v4", "interval": "5s"}
        return json.dumps({
            "listeners": [{"address": f"127.0.0.1:{own}"}], "admin": {"address": f"127.0.0.1:{admin}"}, "workers": 1, "log": {"access": log},
            "limits": {"drain_delay": "0s"}, "energy": [{"model": "m"} | energy], "backends": backends, "policies": policies, "routes": routes,
            "carbon": {"sources": [{"electricity_maps": source}, "builtin"],
                       "zones": {region["grid_zone"]: {"yearly": mean} for region, mean in zip(self.regions, self.means)}},
        })
