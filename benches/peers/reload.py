#!/usr/bin/env python3
"""What reloads cost the requests beside them: latency with and without 30 reloads, by turns in one run.

  benches/peers/reload.py --rounds 3

Chat requests come in an open loop, and 32 streams of paced events go on beside them. In every second window the configuration is
replaced and `POST /reload` asked 30 times, evenly over its time; every other file lacks one of the three backends, so that a third
of the streams runs on what is no longer in the plan. Placement and limits are those of compare.py, which README.md tells.
"""
import argparse
import http.client
import json
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time

import proxies
from compare import renice

RELOADS = 30
STREAMS = 32
ADMIN = 18099


def template(original, to):
    """The template of the comparison with an admin address."""
    text = pathlib.Path(original).read_text() + f"\nadmin: {{ address: 127.0.0.1:{ADMIN} }}\n"
    to.write_text(text)
    return to


def without_last_backend(text):
    """The same configuration with one backend less."""
    before, rest = text.split("  - name: bench-c\n", 1)
    return (before + rest[rest.index("\nroutes:"):]).replace("bench-b, bench-c]", "bench-b]")


def reload():
    admin = http.client.HTTPConnection("127.0.0.1", ADMIN, timeout=10)
    try:
        admin.request("POST", "/reload")
        answer = admin.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise SystemExit(f"the reload was refused: {answer.status} {said[:300]}")
    finally:
        admin.close()


def reload_over(file, texts, seconds, took):
    """30 reloads, evenly over that time."""
    begun = time.monotonic()
    for nth in range(RELOADS):
        time.sleep(max(0, begun + seconds * (nth + 0.5) / RELOADS - time.monotonic()))
        next_file = file.with_suffix(".next")
        next_file.write_text(texts[(nth + 1) % 2])
        os.rename(next_file, file)
        asked = time.monotonic()
        reload()
        took.append(time.monotonic() - asked)


def load(proxy, *args):
    return [f"{proxies.BIN}/wb-load", "--port", str(proxy.port), "--pids", ",".join(map(str, proxy.pids())), *map(str, args)]


def place(args):
    """Where a load generator runs."""
    os.sched_setaffinity(0, proxies.LOAD_CPU)
    if args.nice == "rt":
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rounds", type=int, default=3, help="of a window without and a window with reloads")
    ap.add_argument("--duration", type=float, default=9, help="seconds of a window")
    ap.add_argument("--rate", type=float, default=1000, help="requests a second")
    ap.add_argument("--nice", choices=["0", "rt"], default="0",
                    help="rt (for root on a shared machine): lowest real-time priority for all of it, which is a fraction of a core")
    proxies.add_arguments(ap)
    args = ap.parse_args()
    proxies.RUN.mkdir(parents=True, exist_ok=True)
    args.windward_config = template(args.windward_config, proxies.RUN / "reload.yaml.tmpl")
    windows, took = {"without": [], "with": []}, []
    try:
        up = proxies.upstream()
        proxy = proxies.make("windward", 18000, args).up()
        file = proxy.dir / "conf/windward.yaml"
        texts = [file.read_text(), without_last_backend(file.read_text())]
        if args.nice == "rt":
            renice([up.pid, *proxy.pids()], "rt")
        seconds = (args.duration + 1.5) * 2 * args.rounds
        # A stream of half a window, so that each window sees old and new ones, to be ended by themselves and not by us.
        streams = subprocess.Popen(load(proxy, "--workload", "sse", "--conns", STREAMS, "--rate", 0, "--events", int(args.duration * 25),
                                        "--delay-us", 20_000, "--warmup", 1, "--duration", seconds),
                                   stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=lambda: place(args))
        proxies.started.append(streams)
        for _ in range(args.rounds):
            for kind in windows:
                cmd = load(proxy, "--workload", "chat", "--conns", 64, "--rate", args.rate, "--warmup", 1, "--duration", args.duration)
                asking = subprocess.Popen(cmd, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=lambda: place(args))
                proxies.started.append(asking)
                if kind == "with":
                    time.sleep(1)
                    reloading = threading.Thread(target=reload_over, args=(file, texts, args.duration - 0.5, took))
                    reloading.start()
                    reloading.join()
                windows[kind].append(json.loads(asking.communicate(timeout=args.duration + 60)[0]))
        streamed = json.loads(streams.communicate(timeout=120)[0])
    finally:
        proxies.stop_all()
    print(f"| window | p50 µs | p99 | max | requests | errors |\n|{'---|' * 6}")
    for kind, runs in windows.items():
        for run in runs:
            lat = run["lat"]
            print(f"| {kind} reloads | {lat['p50']:.0f} | {lat['p99']:.0f} | {lat['max']:.0f} | {run['done']} | {run['errors']} |")
    took = sorted(1000 * t for t in took)
    print(f"\n{len(took)} reloads, each {statistics.median(took):.1f} ms (max {took[-1]:.1f}); "
          f"{STREAMS} streams: {streamed['done']} ended, {streamed['events']} events, {streamed['errors']} errors {streamed['err_sample']}")
    return any(run["errors"] for runs in windows.values() for run in runs) or bool(streamed["errors"])


if __name__ == "__main__":
    sys.exit(main())
