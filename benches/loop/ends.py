"""The ends of the loop: who asks, the feed of the grids, and what switches faults."""
import asyncio
import datetime
import http.server
import json
import os
import pathlib
import re
import socket
import time
import urllib.parse
import urllib.request

from .scenario import seconds
from .stretch import LABELS


class Feed(http.server.ThreadingHTTPServer):
    """Electricity Maps' call for the latest value: that of the grid's hour by the run's clock, labelled with the hour, as there. While it
    stands still it says the same again, with the same label."""

    daemon_threads = True

    def __init__(self, stretch, moment):
        self.stretch, self.moment = stretch, moment
        self.zones = {region["grid_zone"]: place for place, region in enumerate(stretch.regions)}
        super().__init__(("127.0.0.1", 0), Answers)


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        zone = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query).get("zone", [""])[0]
        place, stretch, at = self.server.zones.get(zone), self.server.stretch, self.server.moment()
        if place is None:
            return self.send_error(404)
        since = stretch.stale_since(at)
        at = at if since is None else since
        label = (stretch.start() + datetime.timedelta(hours=stretch.hour_of(at))).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = json.dumps({"zone": zone, "carbonIntensity": stretch.intensity(place, at), "datetime": label, "updatedAt": label,
                           "emissionFactorType": "lifecycle", "isEstimated": False}).encode()
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
        at, kind, resident, prompt, output = ask
        name, per_output = kind["name"], seconds(kind["per_output_token"])
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
        budget = seconds(kind["first_token"]) + prompt * seconds(kind.get("per_prompt_token", "0s"))
        return {
            "at": at, "late": begun - self.start - at / self.factor, "answered": answered, "first": spans[0], "region": one and one.who,
            "shed": one is not None and one.status == 429 and one.who is None,
            "late_first_token": answered and spans[0] > budget, "late_end": answered and spans[1] > budget + per_output * output,
        }


async def faults(stretch, ports, start):
    """Switches what the scenario's events say, by way of a region that is not theirs. In the end everybody is well again."""
    patch = {"slow": lambda value: {"slow": value}, "down": lambda value: {"up": not value}, "replicas": lambda value: {"replicas": value},
             "error_rate": lambda value: {"error_rate": value}}
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
