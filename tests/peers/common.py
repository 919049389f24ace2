"""Cases, connections, and the proxies that they are sent through."""

import contextlib
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time

CASES = pathlib.Path(__file__).parent.parent / "cases"
PATIENCE = 5.0


def field(name, value):
    """A field as HPACK has it, neither compressed nor remembered."""
    return b"\0" + number(len(name)) + name + number(len(value)) + value


def number(value):
    """RFC 7541, 5.1, after a prefix of seven bits."""
    if value < 127:
        return bytes([value])
    out, rest = bytearray([127]), value - 127
    while rest >= 128:
        out.append(rest % 128 | 128)
        rest //= 128
    return bytes([*out, rest])


def head(method, path):
    pairs = [(b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", b"windward.test")]
    return b"".join(field(*pair) for pair in pairs)


HEADS = {"GET": head(b"GET", b"/v1/files"), "POST": head(b"POST", b"/v1/chat/completions")}


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
        elif text[at + 1] == "{":
            end = text.index("}", at)
            name, is_field, value = text[at + 2 : end].partition("=")
            out += field(unescaped(name), unescaped(value)) if is_field else HEADS[name]
            at = end + 1
        else:
            out += simple[text[at + 1]]
            at += 2
    return bytes(out)


def blocks(folder):
    """The lines of each case of a folder, as key and text, and the name of its file."""
    for path in sorted((CASES / folder).glob("*.txt")):
        for block in path.read_text().split("\n\n"):
            lines = [line.partition(" ")[::2] for line in block.splitlines() if line and not line.startswith("#")]
            if any(key == "name" for key, _ in lines):
                yield path.stem, lines


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
        return self.exactly(self.bytes.index(mark) + len(mark))

    def exactly(self, count):
        while len(self.bytes) < count:
            if not self.more():
                return None
        taken, self.bytes = self.bytes[:count], self.bytes[count:]
        return taken

    def message(self, bodyless=False):
        """Head and body; the body is None when the connection ends within it, and all is when it does so before."""
        head = self.until(b"\r\n\r\n")
        if head is None:
            return None
        fields = head.lower()
        if bodyless or fields[9:12] in (b"204", b"304") or fields[9:10] == b"1":
            return head, b""
        if re.search(rb"\ntransfer-encoding:[^\r]*chunked", fields):
            return head, self.chunks()
        length = re.search(rb"\ncontent-length: *(\d+)", fields)
        if length:
            return head, self.exactly(int(length.group(1)))
        if not fields.startswith(b"http/"):
            return head, b""
        # All up to the end, which cannot be told from a cut.
        with contextlib.suppress(OSError):
            while self.more():
                pass
            return head, self.exactly(len(self.bytes))
        return head, None

    def chunks(self):
        body = b""
        while True:
            line = self.until(b"\r\n")
            if line is None:
                return None
            size = int(line.split(b";")[0], 16)
            if size == 0:
                while (line := self.until(b"\r\n")) not in (b"\r\n", None):
                    pass
                return None if line is None else body
            chunk = self.exactly(size + 2)
            if chunk is None:
                return None
            body += chunk[:-2]


class Backend:
    """Answers everything with `{}` and remembers what came whole: target and body of each request."""

    def __init__(self, answer=None):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.seen = []
        self.answer = answer or self.usual
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        incoming = Incoming(connection)
        try:
            while (message := incoming.message()) is not None and message[1] is not None:
                self.seen.append((message[0].split(b" ")[1], message[1]))
                if not self.answer(connection, message[0]):
                    break
        except (OSError, ValueError):
            pass
        connection.close()

    @staticmethod
    def usual(connection, head):
        body = b"" if head.startswith(b"HEAD ") else b"{}"
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n" + body)
        return True


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def windward(binary, folder, port, backend, _http2):
    config = folder / "windward.yaml"
    config.write_text(
        f"listeners: [{{ address: 127.0.0.1:{port} }}]\nworkers: 1\nlog: {{ access: {folder}/access.jsonl }}\nlimits: {{ body: 1MiB }}\n"
        f"policies:\n  - name: standard\nbackends:\n  - {{ name: a, url: http://127.0.0.1:{backend}/v1, region: aws/eu-north-1 }}\n"
        "routes:\n  - { name: all, match: { path: /v1 }, backends: [a] }\n"
    )
    return [binary, "serve", "--config", str(config)]


def nginx(binary, folder, port, backend, http2):
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\nevents {{ worker_connections 512; }}\n"
        f"http {{ access_log off; client_max_body_size 1m; large_client_header_buffers 8 64k; proxy_read_timeout 2s;\n"
        f"  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        f"  upstream a {{ server 127.0.0.1:{backend} max_fails=0; keepalive 8; }}\n"
        f"  server {{ listen 127.0.0.1:{port}{' http2' if http2 else ''}; location / {{ proxy_pass http://a; proxy_http_version 1.1; proxy_set_header Connection ''; }} }} }}\n"
    )
    return [binary, "-c", str(config), "-e", f"{folder}/error.log"]


def haproxy(binary, folder, port, backend, http2):
    config = folder / "haproxy.cfg"
    config.write_text(
        "global\n  maxconn 200\n  tune.bufsize 131072\n  tune.http.maxhdr 200\n"
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 10s\n  timeout server 2s\n  timeout http-request 10s\n"
        f"frontend f\n  bind 127.0.0.1:{port}{' proto h2' if http2 else ''}\n  default_backend b\nbackend b\n  server s 127.0.0.1:{backend}\n"
    )
    return [binary, "-db", "-q", "-f", str(config)]


def proxies(binary):
    """Name, program and configuration of each proxy that is installed."""
    there = [("windward", binary, windward)]
    for name, command in (("nginx", nginx), ("haproxy", haproxy)):
        found = shutil.which(name, path="/usr/sbin:/usr/bin")
        if found:
            there.append((name, found, command))
    return there


@contextlib.contextmanager
def running(name, binary, command, backend, http2=False):
    """The port of a proxy before that backend, which ends with the block."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        arguments = command(binary, pathlib.Path(folder), port, backend.port, http2)
        child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # Of what it says the beginning is kept, and the pipe is never full.
        said = []
        threading.Thread(target=lambda: said.extend(line for line in child.stderr if len(said) < 50), daemon=True).start()
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            else:
                raise SystemExit(f"{name} does not listen: {b''.join(said).decode()}")
            yield port
        finally:
            child.terminate()
            child.wait(20)
