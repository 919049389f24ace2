#!/usr/bin/env python3
"""What a message between replicas costs, by UDP as they send it and by HTTP: CPU of one replica for each message.

    cargo build --release
    benches/exchange.py [--binary target/release/windward] [--replicas 4] [--seconds 10]

Replicas of `windward serve` on 127.0.0.1 tell each other what they have in flight every 20 ms and what they have learned every 500 ms
(src/peers); nobody sends them requests. Their CPU, less that of the same replicas without `peers`, over the messages is what one costs to
make, seal, send, receive and open. Beside it the admin listener answers as many small requests over connections that stay open, which is
the least that receiving one by HTTP would cost; sending it would come on top. Ends by itself; a median of rounds, with the range.
"""
import argparse
import os
import pathlib
import socket
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
FAST_MS, SLOW_MS = 20, 500
# Start-up takes processor time of its own.
SETTLE_S = 3


def free(kind):
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def configuration(port, admin, own, others):
    peers = f"""peers:
  listen: 127.0.0.1:{own}
  others: [{", ".join(f"127.0.0.1:{other}" for other in others)}]
  secret: a-secret-of-this-bench
  fast: {FAST_MS}ms
  slow: {SLOW_MS}ms
""" if others else ""
    backends = "\n".join(f"  - {{ name: b{n}, url: 'http://127.0.0.1:9/v1', grid_zone: DE, models: [m] }}" for n in range(8))
    return f"""workers: 1
listeners: [{{ address: 127.0.0.1:{port} }}]
admin: {{ address: 127.0.0.1:{admin} }}
log: {{ access: "/dev/null" }}
{peers}backends:
{backends}
routes: [{{ name: all, backends: [b0, b1, b2, b3, b4, b5, b6, b7], policy: p }}]
policies: [{{ name: p, objective: least_carbon }}]
"""


def start(args, folder, count, told):
    """So many replicas, which tell each other or do not; their processes and admin ports."""
    peers = [free(socket.SOCK_DGRAM) for _ in range(count)]
    admins, running = [], []
    for nth in range(count):
        admins.append(free(socket.SOCK_STREAM))
        text = configuration(free(socket.SOCK_STREAM), admins[-1], peers[nth], [p for p in peers if p != peers[nth]] if told else [])
        path = pathlib.Path(folder) / f"{nth}.yaml"
        path.write_text(text)
        running.append(subprocess.Popen([args.binary, "serve", "-c", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    for admin, process in zip(admins, running):
        wait_for(admin, process)
    time.sleep(SETTLE_S)
    return running, admins


def wait_for(port, process):
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
    raise SystemExit("exchange.py: windward serve did not start")


def cpu(process):
    """Seconds of processor that it has taken, by the scheduler's own count in nanoseconds."""
    tasks = pathlib.Path(f"/proc/{process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def spent(running, seconds, meanwhile=None):
    before = [cpu(one) for one in running]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if meanwhile:
            meanwhile()
        time.sleep(FAST_MS / 1e3)
    return statistics.mean(cpu(one) - then for one, then in zip(running, before))


def stop(running):
    for one in running:
        one.terminate()
    for one in running:
        one.wait(20)


def asker(admins, each):
    """Sends each replica `each` requests, over connections that stay open, and reads the answers."""
    lines = [socket.create_connection(("127.0.0.1", admin), 5) for admin in admins for _ in range(each)]
    asked = [0]

    def ask():
        for line in lines:
            line.sendall(b"GET /healthz HTTP/1.1\r\nhost: bench\r\n\r\n")
        for line in lines:
            if not line.recv(4096).startswith(b"HTTP/1.1 200"):
                raise SystemExit("exchange.py: the admin listener did not answer")
        asked[0] += each
    return ask, asked


def one_round(args, folder):
    quiet, admins = start(args, folder, args.replicas, told=False)
    try:
        idle = spent(quiet, args.seconds)
        ask, asked = asker(admins, args.replicas - 1)
        http = (spent(quiet, args.seconds, ask) - idle) / asked[0]
    finally:
        stop(quiet)
    telling, _ = start(args, folder, args.replicas, told=True)
    try:
        # One turn sends each message to all others, and as many come in.
        messages = args.seconds * (1e3 / FAST_MS + 1e3 / SLOW_MS) * (args.replicas - 1)
        udp = (spent(telling, args.seconds) - idle) / messages
    finally:
        stop(telling)
    return udp * 1e6, http * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/windward"))
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rounds = [one_round(args, folder) for _ in range(args.rounds)]
    for name, costs in zip(("UDP, sent and received", "HTTP, only received and answered"), zip(*rounds)):
        print(f"{name}: {statistics.median(costs):.0f} us a message ({min(costs):.0f}..{max(costs):.0f})")


if __name__ == "__main__":
    main()
