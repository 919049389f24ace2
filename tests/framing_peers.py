#!/usr/bin/env python3
"""Sends the cases of tests/cases/framing through Windward, nginx and HAProxy, and counts what each does as the cases say.

    cargo build --release && tests/framing_peers.py target/release/windward

Proxies that are not installed are left out. A case that is to be refused is handled when the last response is an error (any of 4xx
and 5xx, since others choose other codes), the connection ends within two seconds of it, and no more reached the backend than was
to; a case that is to pass, when exactly the bodies named reached it. `through` counts what a backend got to see although it should
not. Where a rule is a policy of Windward's, others are free to do otherwise; and much that an RFC calls invalid they may repair
before they pass it on, which is counted here all the same.
Everything runs on loopback, on free ports, and ends with the script.
"""

import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

CASES = pathlib.Path(__file__).parent / "cases" / "framing"
PATIENCE = 5.0
FIN_WITHIN = 2.0


def unescaped(text):
    out, at = bytearray(), 0
    simple = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}
    while at < len(text):
        if text[at] != "\\":
            out.append(ord(text[at]))
            at += 1
        elif text[at + 1] == "x":
            out.append(int(text[at + 2 : at + 4], 16))
            at += 4
        elif text[at + 1] == "<":
            star, end = text.index("*", at), text.index(">", at)
            out += unescaped(text[star + 1 : end]) * int(text[at + 2 : star])
            at = end + 1
        else:
            out += simple[text[at + 1]]
            at += 2
    return bytes(out)


def cases():
    for path in sorted(CASES.glob("*.txt")):
        for block in path.read_text().split("\n\n"):
            case = {"file": path.stem, "sees": [], "raw": b""}
            for line in block.splitlines():
                key, _, rest = line.partition(" ")
                if key == "|":
                    case["raw"] += unescaped(rest)
                elif key == "sees":
                    case["sees"].append(unescaped(rest))
                elif key in ("name", "rule", "want"):
                    case[key] = rest
            if "name" in case:
                yield case


class Incoming:
    """Bytes of a connection, read message by message."""

    def __init__(self, connection):
        self.connection, self.bytes = connection, b""

    def more(self):
        read = self.connection.recv(65536)
        self.bytes += read
        return bool(read)

    def until(self, mark):
        while mark not in self.bytes:
            if not self.more():
                return None
        end = self.bytes.index(mark) + len(mark)
        taken, self.bytes = self.bytes[:end], self.bytes[end:]
        return taken

    def exactly(self, count):
        while len(self.bytes) < count:
            if not self.more():
                return None
        taken, self.bytes = self.bytes[:count], self.bytes[count:]
        return taken

    def message(self):
        """Head and body, or None when the connection ends before."""
        head = self.until(b"\r\n\r\n")
        if head is None:
            return None
        fields = head.lower()
        if re.search(rb"\ntransfer-encoding:[^\r]*chunked", fields):
            body = b""
            while True:
                line = self.until(b"\r\n")
                if line is None:
                    return None
                size = int(line.split(b";")[0], 16)
                if size == 0:
                    while (line := self.until(b"\r\n")) not in (b"\r\n", None):
                        pass
                    return None if line is None else (head, body)
                chunk = self.exactly(size + 2)
                if chunk is None:
                    return None
                body += chunk[:-2]
        length = re.search(rb"\ncontent-length: *(\d+)", fields)
        body = self.exactly(int(length.group(1))) if length else b""
        return None if body is None else (head, body)


class Backend:
    """Answers everything with `{}` and remembers the bodies that came whole."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.seen = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        incoming = Incoming(connection)
        try:
            while (message := incoming.message()) is not None:
                self.seen.append(message[1])
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
        except (OSError, ValueError):
            pass
        connection.close()


def run(case, port, backend):
    """What is wrong, or None; and whether the backend saw more than it was to."""
    backend.seen.clear()
    wanted = case["want"].split()
    wrong = None
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection.sendall(case["raw"])
        except OSError:
            pass
        incoming = Incoming(connection)
        for want in wanted:
            try:
                if want == "close":
                    wrong = "bytes after the end" if incoming.bytes or incoming.more() else None
                    continue
                while (message := incoming.message()) is not None and message[0][9:12] == b"100":
                    pass
            except (OSError, ValueError) as error:
                wrong = f"{type(error).__name__}"
                break
            if message is None:
                wrong = "no response"
                break
            status = int(message[0][9:12])
            if (status == 200) != (want == "ok"):
                wrong = f"{status}, not {want}"
                break
            if want.isdigit():
                begun = time.monotonic()
                connection.settimeout(FIN_WITHIN)
                try:
                    while incoming.more():
                        pass
                except TimeoutError:
                    wrong = "stays open"
                except OSError:
                    wrong = "reset"
                assert time.monotonic() - begun < 2 * FIN_WITHIN + 1
    deadline = time.monotonic() + (PATIENCE if wrong is None else 0.1)
    while len(backend.seen) < len(case["sees"]) and time.monotonic() < deadline:
        time.sleep(0.002)
    through = len(backend.seen) > len(case["sees"]) or backend.seen != case["sees"][: len(backend.seen)]
    if wrong is None and backend.seen != case["sees"]:
        wrong = f"the backend saw {backend.seen[:3]}"
    return wrong, through


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def windward(binary, folder, port, backend):
    config = folder / "windward.yaml"
    config.write_text(
        f"listeners: [{{ address: 127.0.0.1:{port} }}]\nworkers: 1\nlog: {{ access: {folder}/access.jsonl }}\nlimits: {{ body: 1MiB }}\n"
        f"policies:\n  - name: standard\nbackends:\n  - {{ name: a, url: http://127.0.0.1:{backend}/v1, region: aws/eu-north-1 }}\n"
        "routes:\n  - { name: all, match: { path: /v1 }, backends: [a] }\n"
    )
    return [binary, "serve", "--config", str(config)]


def nginx(binary, folder, port, backend):
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\nevents {{ worker_connections 512; }}\n"
        f"http {{ access_log off; client_max_body_size 1m; large_client_header_buffers 8 64k;\n"
        f"  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        f"  upstream a {{ server 127.0.0.1:{backend}; keepalive 8; }}\n"
        f"  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://a; proxy_http_version 1.1; proxy_set_header Connection ''; }} }} }}\n"
    )
    return [binary, "-c", str(config), "-e", f"{folder}/error.log"]


def haproxy(binary, folder, port, backend):
    config = folder / "haproxy.cfg"
    config.write_text(
        "global\n  maxconn 200\n  tune.bufsize 131072\n  tune.http.maxhdr 200\n"
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 10s\n  timeout server 10s\n  timeout http-request 10s\n"
        f"frontend f\n  bind 127.0.0.1:{port}\n  default_backend b\nbackend b\n  server s 127.0.0.1:{backend}\n"
    )
    return [binary, "-db", "-q", "-f", str(config)]


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else "target/release/windward"
    proxies = [("windward", binary, windward), ("nginx", shutil.which("nginx", path="/usr/sbin:/usr/bin"), nginx)]
    proxies.append(("haproxy", shutil.which("haproxy", path="/usr/sbin:/usr/bin"), haproxy))
    all_cases = list(cases())
    table, details = {}, []
    for name, binary, command in proxies:
        if binary is None:
            continue
        backend, port = Backend(), free_port()
        with tempfile.TemporaryDirectory() as folder:
            child = subprocess.Popen(
                command(binary, pathlib.Path(folder), port, backend.port), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            try:
                for _ in range(200):
                    try:
                        socket.create_connection(("127.0.0.1", port)).close()
                        break
                    except OSError:
                        time.sleep(0.05)
                else:
                    raise SystemExit(f"{name} does not listen: {child.stderr.read1().decode()}")
                for case in all_cases:
                    wrong, through = run(case, port, backend)
                    row = table.setdefault(name, {})
                    valid = set(case["want"].split()) <= {"ok", "close"}
                    kind = "valid" if valid else "bad, by policy" if "policy" in case["rule"] else "bad, by RFC"
                    for key in (case["file"], kind):
                        good, count = row.get(key, (0, 0))
                        row[key] = (good + (wrong is None), count + 1)
                    if not valid:
                        row[f"{kind}, through"] = row.get(f"{kind}, through", 0) + through
                    if wrong:
                        details.append(f"{name:9} {case['name']:42} {'through' if through else '':8}{wrong}")
            finally:
                child.terminate()
                child.wait(10)
    files = sorted({case["file"] for case in all_cases})
    print(f"{'':24}" + "".join(f"{name:>14}" for name in table))
    for key in [*files, "bad, by RFC", "bad, by policy", "valid"]:
        cells = "".join(f"{f'{row[key][0]} of {row[key][1]}':>14}" for row in table.values())
        print(f"{key:24}{cells}")
    for key in ["bad, by RFC, through", "bad, by policy, through"]:
        print(f"{key:24}" + "".join(f"{row[key]:>14}" for row in table.values()))
    if "--details" in sys.argv:
        print("\n".join(["", *details]))


if __name__ == "__main__":
    main()
