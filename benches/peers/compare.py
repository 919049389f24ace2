#!/usr/bin/env python3
"""Runs reverse proxies side by side on one machine and reports CPU per request, throughput, latency and memory.

  benches/peers/compare.py --proxies windward,nginx,haproxy-nodelay,envoy --workloads chat,chat-sat,sse,big

The proxy has CPU 0, load generator and mock upstream have CPU 1. Rounds are interleaved (A B C A B C), because the machine's speed
drifts. README.md says what the workloads are and what the figures are worth.
"""
import argparse
import collections
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

from proxies import BIN, LOAD_CPU, RUN, add_arguments, make, spawn, stop_all, upstream

# What it needs of a proxy, the load generator with its arguments, and the arguments for the slow gateways.
Workload = collections.namedtuple("Workload", "needs program args slow", defaults=("wb-load", "", None))
CHAT, SSE = "--workload chat --conns 64", "--workload sse --events 100"
WORKLOADS = {
    "chat": Workload("plain", args=f"{CHAT} --rate 5000", slow=f"{CHAT} --rate {{slow_rate}} --warmup 4"),
    "chat-sat": Workload("plain", args=f"{CHAT} --rate 0", slow="--workload chat --conns 16 --rate 0 --warmup 4"),
    "sse": Workload("plain", args=f"{SSE} --conns 32 --rate 0", slow=f"{SSE} --conns 8 --rate 0 --warmup 4"),
    "sse-unasked": Workload("plain", args="--workload sse-unasked --events 100 --conns 32 --rate 0"),
    "sse-paced": Workload("plain", args=f"{SSE} --conns 200 --rate 0 --delay-us 5000 --warmup 1.5",
                          slow=f"{SSE} --conns 4 --rate 0 --delay-us 5000 --warmup 4"),
    "mid": Workload("plain", args="--workload mid --conns 32 --rate 0"),
    "big": Workload("plain", args="--workload big --conns 8 --rate 0", slow="--workload big --conns 4 --rate 0"),
    "tls": Workload("tls", args=f"{CHAT} --rate 4000 --tls"),
    "tls-sat": Workload("tls", args=f"{CHAT} --rate 0 --tls"),
    "tls-sse": Workload("tls", args=f"{SSE} --conns 32 --rate 0 --tls"),
    "h2": Workload("h2", "wb-load-h2", "--workload chat --conns 2 --streams 100 --rate 4000"),
    "h2-sat": Workload("h2", "wb-load-h2", "--workload chat --conns 2 --streams 100 --rate 0"),
    "uptls": Workload("uptls", args=f"{CHAT} --rate 4000"),
    "uptls-sat": Workload("uptls", args=f"{CHAT} --rate 0"),
    "rss": Workload("plain", "hold", "", ""),
}
LARGEST_LOG = 300 << 20


def renice(pids, n):
    """`n`: a nice value, or `rt` for the lowest real-time priority (nice alone does not reach across autogroups)."""
    for p in pids:
        try:
            for t in map(int, os.listdir(f"/proc/{p}/task")):
                if n == "rt":
                    os.sched_setscheduler(t, os.SCHED_RR, os.sched_param(1))
                else:
                    os.sched_setscheduler(t, os.SCHED_OTHER, os.sched_param(0))
                    os.setpriority(os.PRIO_PROCESS, t, n)
            if n != "rt":
                pathlib.Path(f"/proc/{p}/autogroup").write_text(str(n))
        except OSError:
            pass


def measure(proxy, cmd, limit, args, up_pid):
    """One run of the load generator; what it printed, or `fail`."""
    pids = proxy.pids()
    # In an open loop latency matters, and the load is a fraction of a core; a closed loop leaves others their share.
    closed = "--hold" in cmd or "0" == cmd[cmd.index("--rate") + 1] and "--delay-us" not in cmd
    nice = args.nice_sat if closed else args.nice

    def before():
        os.sched_setaffinity(0, LOAD_CPU)
        if nice == "rt":
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        elif nice:
            os.setsid()
            pathlib.Path("/proc/self/autogroup").write_text(str(nice))

    counted = RUN / "perf.csv"
    if args.syscalls and pids:
        perf = 'sleep 1.6; perf stat -x, -e raw_syscalls:sys_enter -p "$0" -- sleep 1 2>"$1" & shift; "$@"; wait'
        cmd = ["sh", "-c", perf, ",".join(map(str, pids)), str(counted), *cmd]
    renice([*pids, up_pid], nice)
    try:
        r = subprocess.run(cmd, capture_output=True, text=True, timeout=limit, preexec_fn=before)
    except subprocess.TimeoutExpired:
        return {"fail": "timeout"}
    finally:
        renice([*pids, up_pid], 0)
    d = json.loads(r.stdout) if r.stdout.strip() else {"fail": r.stderr[-300:]}
    if args.syscalls and pids and d.get("rps"):
        for line in counted.read_text().splitlines():
            if "sys_enter" in line:
                calls = float(line.split(",")[0])
                d["syscalls_per_req"] = calls / d["rps"]
                if d.get("events"):
                    d["syscalls_per_event"] = calls / (d["events"] / d["secs"])
    return d


def load(proxy, name, args, up_pid):
    """One round of one workload at one proxy; nothing where it does not apply."""
    needs, program, options, slow = WORKLOADS[name]
    options = slow if proxy.slow else options
    if options is None or needs not in proxy.has:
        return None
    port = proxy.tport if needs in ("tls", "h2") else proxy.port
    base = ["--port", str(port), "--pids", ",".join(map(str, proxy.pids())), *(["--headers", proxy.headers] if proxy.headers else [])]
    if program == "hold":
        out = {"idle_rss_kb": sum(map(rss, proxy.pids()))}
        for n in args.holds_slow if proxy.slow else args.holds:
            out[f"hold{n}"] = measure(proxy, [f"{BIN}/wb-load", *base, "--workload", "sse", "--hold", str(n)], 120, args, up_pid)
            time.sleep(1)
        return out
    cmd = [f"{BIN}/{program}", *base, "--duration", str(args.duration), "--warmup", str(args.warmup)]
    return measure(proxy, cmd + options.format(slow_rate=args.slow_rate).split(), args.duration + 40, args, up_pid)


def rss(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


def arguments():
    numbers = lambda s: [int(x) for x in s.split(",")]
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--proxies", default="windward,nginx,haproxy-nodelay,envoy", help="names, and windward=PATH for another build of it")
    ap.add_argument("--workloads", default="chat,chat-sat,sse")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--duration", type=float, default=3, help="seconds measured in each run")
    ap.add_argument("--warmup", type=float, default=0.8)
    ap.add_argument("--slow-rate", type=float, default=50, help="requests a second for the slow gateways, open loop")
    ap.add_argument("--holds", type=numbers, default=[1000, 5000], help="open streams of the workload rss")
    ap.add_argument("--holds-slow", type=numbers, default=[1000])
    ap.add_argument("--nice", type=lambda x: x if x == "rt" else int(x), default=0,
                    help="nice value in open loops, or rt (for root on a shared machine): lowest real-time priority")
    ap.add_argument("--nice-sat", type=int, default=0, help="nice value in closed loops")
    ap.add_argument("--syscalls", action="store_true", help="count system calls with perf (slows the proxy: take CPU from another run)")
    ap.add_argument("--base", default="nginx", help="the proxy that ratios refer to")
    ap.add_argument("--out", help="a file for everything that was measured, as JSON")
    add_arguments(ap)
    return ap.parse_args()


def start(names, workloads, args):
    """Those that come up, by name and whether the upstream has TLS."""
    live, port = {}, 18000
    for n in names:
        for uptls in sorted({w.startswith("uptls") for w in workloads}):
            proxy = make(n, port, args, uptls)
            port += 200
            if uptls and "uptls" not in proxy.has:
                continue
            try:
                live[n, uptls] = proxy.up()
            except (OSError, RuntimeError) as e:
                print(f"# {n} did not start: {e}", file=sys.stderr)
    return live


def main():
    args = arguments()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    names, workloads = args.proxies.split(","), args.workloads.split(",")
    res = collections.defaultdict(list)
    try:
        up_pid = upstream().pid
        live = start(names, workloads, args)
        for r in range(args.rounds):
            for w, n in ((w, n) for w in workloads for n in names):
                proxy = live.get((n, w.startswith("uptls")))
                if not proxy or w == "rss" and r:
                    continue
                d = load(proxy, w, args, up_pid)
                if d is None:
                    continue
                d["round"], d["loadavg"] = r, os.getloadavg()[0]
                res[w, n].append(d)
                print(w, n, r, brief(d), file=sys.stderr, flush=True)
                if proxy.log.exists() and proxy.log.stat().st_size > LARGEST_LOG:
                    os.truncate(proxy.log, 0)
    finally:
        stop_all()
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps([{"workload": w, "proxy": n, "runs": v} for (w, n), v in res.items()], indent=1))
    for w in workloads:
        (memory_table if w == "rss" else table)(res, w, names, args.base)
    # A comparison with errors in it is none.
    return any(d.get("errors") or "fail" in d for v in res.values() for d in v)


def brief(d):
    if "fail" in d or "idle_rss_kb" in d:
        return d
    lat = d["lat"] or {}
    keys = ("rps", "cpu_us_per_req", "cpu_us_per_event", "cpu_frac", "errors", "syscalls_per_req", "syscalls_per_event")
    words = [f"{k}={d[k]}" for k in keys if d.get(k) is not None] + [f"{q}={lat.get(q)}" for q in ("p50", "p99")]
    return " ".join(words) + (f" {d['err_sample'][:120]!r}" if d["errors"] else "")


def spread(values):
    """Median, least and most of what is there."""
    x = [float(v) for v in values if v is not None]
    return (statistics.median(x), min(x), max(x)) if x else None


def shown(three):
    return "{:.2f} ({:.2f}..{:.2f})".format(*three) if three else "-"


def middle(values, digits=0):
    three = spread(values)
    return f"{three[0]:.{digits}f}" if three else "-"


def table(res, w, names, base):
    sse = "sse" in w
    unit = "event" if sse else "req"
    cpu = lambda d: d.get(f"cpu_us_per_{unit}")
    heads = ["proxy", f"CPU µs/{unit} (min..max)", f"x {base}", "req/s", "proxy CPU", "p50 µs", "p99", "p99.9"]
    heads += ["event delay p50/p99 µs"] * sse + ["errors"]
    print(f"\n### {w}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    of_base = {d["round"]: cpu(d) for d in res.get((w, base), [])}
    for n in names:
        runs = [d for d in res.get((w, n), []) if "fail" not in d]
        if not runs:
            continue
        ratios = spread(cpu(d) / of_base[d["round"]] for d in runs if cpu(d) and of_base.get(d["round"]))
        quantile = lambda of, q: middle((d[of] or {}).get(q) for d in runs)
        cells = [n, shown(spread(map(cpu, runs))), shown(ratios), middle(d["rps"] for d in runs),
                 middle((d["cpu_frac"] for d in runs), 2), *(quantile("lat", q) for q in ("p50", "p99", "p999"))]
        cells += [f"{quantile('ev_delay', 'p50')} / {quantile('ev_delay', 'p99')}"] * sse + [str(sum(d["errors"] for d in runs))]
        print(f"| {' | '.join(cells)} |")


def memory_table(res, w, names, _base):
    print("\n### rss (MiB)\n\n| proxy | idle | with streams open |\n|---|---|---|")
    for n in names:
        for d in res.get((w, n), []):
            held = [f"{k[4:]}: " + (f"{v['rss_kb'] / 1024:.1f} ({v['open']} open)" if "rss_kb" in v else str(v))
                    for k, v in d.items() if k.startswith("hold")]
            print(f"| {n} | {d['idle_rss_kb'] / 1024:.1f} | {', '.join(held)} |")


if __name__ == "__main__":
    sys.exit(main())
