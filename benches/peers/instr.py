#!/usr/bin/env python3
"""User-space instructions per request, counted by callgrind: a steady figure on a machine without hardware counters.

  benches/peers/instr.py --proxies windward,nginx,haproxy --workload chat

With `--cache` also how often a 32 KiB instruction cache and a 32 KiB data cache miss, as callgrind simulates them: code that is fetched
from the second level for each request takes time that no count of instructions shows.

Two runs of different length for each proxy; the slope (I2 - I1) / (N2 - N1) takes the start-up out. The kernel's work is not in it:
read it together with `compare.py --syscalls`.
"""
import argparse
import json
import os
import re
import signal
import subprocess
import time

import proxies

EVENTS = 100
CACHES = ["--cache-sim=yes", "--I1=32768,8,64", "--D1=32768,8,64", "--LL=1048576,16,64"]
WORKLOADS = {"chat": ["--workload", "chat"], "tls": ["--workload", "chat", "--tls"], "uptls": ["--workload", "chat"],
             "sse": ["--workload", "sse", "--events", str(EVENTS)], "sse-unasked": ["--workload", "sse-unasked", "--events", str(EVENTS)],
             "big": ["--workload", "big"]}


def run(name, seconds, args, port):
    """Requests of one run, and what was counted: instructions, and with `--cache` misses of code and of data."""
    proxy = proxies.make(name, port, args, args.workload == "uptls")
    # Its start takes longer as well where caches are simulated.
    proxy.settle = 14 if args.cache else 4
    for f in proxy.dir.glob("cg.*"):
        f.unlink()
    spawn = proxies.spawn

    def counting(cmd, *rest):
        # A forking master would hide its worker from the count.
        more = ["-g", "master_process off;"] if cmd[0] == "nginx" else []
        return spawn(["valgrind", "--tool=callgrind", *(CACHES if args.cache else []), f"--callgrind-out-file={proxy.dir}/cg.%p", "--trace-children=no", *cmd, *more], *rest)
    proxies.spawn = counting
    try:
        proxy.up()
    finally:
        proxies.spawn = spawn
    at = proxy.tport if args.workload == "tls" else proxy.port
    r = subprocess.run([f"{proxies.BIN}/wb-load", "--port", str(at), "--rate", "0", "--conns", "8", "--warmup", "0.2",
                        "--duration", str(seconds), *WORKLOADS[args.workload]], capture_output=True, text=True, check=True)
    load = json.loads(r.stdout)
    if load["errors"]:
        raise SystemExit(f"{name}: {load['errors']} errors: {load['err_sample']}")
    time.sleep(0.5)
    # HAProxy writes its count only when it ends of its own accord.
    os.killpg(proxy.p.pid, signal.SIGUSR1 if name.startswith("haproxy") else signal.SIGTERM)
    try:
        proxy.p.wait(20)
    except subprocess.TimeoutExpired:
        proxies.stop(proxy.p)
    found = [re.search(r"^(?:totals|summary): ([\d ]+)", f.read_text(), re.M) for f in proxy.dir.glob("cg.*")]
    # Ir, and with caches: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw.
    rows = [[int(n) for n in m.group(1).split()] for m in found if m]
    counted = [(row[0], row[3], row[4] + row[5]) if len(row) > 5 else (row[0], 0, 0) for row in rows]
    return load["total"], [sum(column) for column in zip(*counted)]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--proxies", default="windward,nginx,haproxy")
    ap.add_argument("--workload", default="chat", choices=WORKLOADS)
    ap.add_argument("--cache", action="store_true", help="count misses of the first caches as well (a third as fast)")
    proxies.add_arguments(ap)
    args = ap.parse_args()
    try:
        proxies.upstream()
        port = 27000
        for n in args.proxies.split(","):
            first, second = (3, 9) if args.cache else (1, 4)
            (n1, short), (n2, long) = run(n, first, args, port), run(n, second, args, port + 200)
            port += 400
            per, code, data = [(b - a) / max(1, n2 - n1) for a, b in zip(short, long)]
            event = f", {per / (EVENTS + 1):.0f} per event" if args.workload.startswith("sse") else ""
            misses = f", {code:.0f} misses of code and {data:.0f} of data" if args.cache else ""
            print(f"{n}: {per:.0f} user instructions per request{event}{misses}  ({n1}, {n2} requests)", flush=True)
    finally:
        proxies.stop_all()


if __name__ == "__main__":
    main()
