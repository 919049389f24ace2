#!/usr/bin/env python3
"""User-space instructions per request, counted by callgrind: a steady figure on a machine without hardware counters.

  benches/peers/instr.py --proxies windward,nginx,haproxy --workload chat

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
WORKLOADS = {"chat": ["--workload", "chat"], "tls": ["--workload", "chat", "--tls"], "uptls": ["--workload", "chat"],
             "sse": ["--workload", "sse", "--events", str(EVENTS)], "sse-unasked": ["--workload", "sse-unasked", "--events", str(EVENTS)],
             "big": ["--workload", "big"]}


def run(name, seconds, args, port):
    """Instructions and requests of one run."""
    proxy = proxies.make(name, port, args, args.workload == "uptls")
    proxy.settle = 4
    for f in proxy.dir.glob("cg.*"):
        f.unlink()
    spawn = proxies.spawn

    def counting(cmd, *rest):
        # A forking master would hide its worker from the count.
        more = ["-g", "master_process off;"] if cmd[0] == "nginx" else []
        return spawn(["valgrind", "--tool=callgrind", f"--callgrind-out-file={proxy.dir}/cg.%p", "--trace-children=no", *cmd, *more], *rest)
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
    counts = [re.search(r"^(?:totals|summary): (\d+)", f.read_text(), re.M) for f in proxy.dir.glob("cg.*")]
    return sum(int(m.group(1)) for m in counts if m), load["total"]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--proxies", default="windward,nginx,haproxy")
    ap.add_argument("--workload", default="chat", choices=WORKLOADS)
    proxies.add_arguments(ap)
    args = ap.parse_args()
    try:
        proxies.upstream()
        port = 27000
        for n in args.proxies.split(","):
            (i1, n1), (i2, n2) = run(n, 1, args, port), run(n, 4, args, port + 200)
            port += 400
            per = (i2 - i1) / max(1, n2 - n1)
            event = f", {per / (EVENTS + 1):.0f} per event" if args.workload.startswith("sse") else ""
            print(f"{n}: {per:.0f} user instructions per request{event}  ({n1}, {n2} requests)", flush=True)
    finally:
        proxies.stop_all()


if __name__ == "__main__":
    main()
