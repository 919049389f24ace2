"""Requests and frames of HTTP/2 that are wrong, or only unusual: cases/http2."""

import socket

from .common import PATIENCE, Backend, Incoming, blocks, unescaped

HTTP2 = True
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TYPES = ["DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION"]
FLAGS = {"-": 0, "ACK": 1, "END_STREAM": 1, "END_HEADERS": 4, "PADDED": 8, "PRIORITY": 32}
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 7, 8
INDEXED = [200, 204, 206, 304, 400, 404, 500]


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def frame_of(text):
    kind, flags, stream, payload = (text.split(" ", 3) + [""])[:4]
    kind = TYPES.index(kind) if kind in TYPES else int(kind, 16)
    bits = 0
    for flag in flags.split("+"):
        bits |= FLAGS[flag] if flag in FLAGS else int(flag, 16)
    return frame(kind, bits, int(stream, 16 if stream.startswith("0x") else 10), unescaped(payload))


def cases():
    for file, lines in blocks("http2"):
        case = {"file": file, "steps": [], "stream": 1}
        for key, text in lines:
            if key in (">", "|"):
                case["steps"].append(frame_of(text) if key == ">" else unescaped(text))
            elif key == "wait":
                case["steps"].append(int(text))
            else:
                case[key] = int(text) if key == "stream" else text
        case["valid"] = case["want"] == "answered 200" and "forbidden" not in case
        yield case


def backend(_cases):
    return Backend()


def run(case, port, backend):
    """What is wrong, or None; and whether something of a bad case reached the backend."""
    backend.seen.clear()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        incoming = Incoming(connection)
        try:
            connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4, "big")))
            for step in case["steps"]:
                if isinstance(step, int):
                    end(incoming, step)
                else:
                    connection.sendall(step)
        except OSError:
            pass
        ended = end(incoming, case["stream"])
    # What a case begins with, to have it ended, is meant for nobody.
    through = not case["valid"] and any(b"/elsewhere" not in target for target, _ in backend.seen)
    if case["valid"]:
        return (None if ended == 200 else f"{ended}, not answered"), False
    refused = ended in ("reset", "gone", "closed") or isinstance(ended, int) and ended >= 400
    return (None if refused and not through else f"{ended}"), through


def end(incoming, stream):
    """How a stream, or all, ends: a status, `reset`, `gone`, `closed`, or `nothing`."""
    status = 0
    try:
        while True:
            header = incoming.exactly(9)
            if header is None:
                return "closed"
            payload = incoming.exactly(int.from_bytes(header[:3], "big"))
            if payload is None:
                return "closed"
            kind, flags, number = header[3], header[4], int.from_bytes(header[5:9], "big")
            if kind == GOAWAY and payload[4:8] != b"\0\0\0\0":
                return "gone"
            if number != stream:
                continue
            if kind == RST_STREAM:
                return "reset"
            if kind == HEADERS:
                status = status_of(payload)
            if kind in (DATA, HEADERS) and flags & 1:
                return status
    except TimeoutError:
        return "nothing"
    except OSError:
        return "closed"


def status_of(block):
    """The status, which is the first field of a response."""
    while block[0] & 0xE0 == 0x20:
        block = block[1:]
    if block[0] & 0x80:
        return INDEXED[(block[0] & 0x7F) - 8]
    text = block[2 : 2 + (block[1] & 0x7F)]
    if not block[1] & 0x80:
        return int(text)
    # RFC 7541, appendix B: digits from 0 to 2 have five bits, the others six.
    bits, status = "".join(f"{byte:08b}" for byte in text), 0
    while status < 100:
        length = 5 if int(bits[:5], 2) <= 2 else 6
        digit = int(bits[:length], 2)
        status = status * 10 + (digit if length == 5 else digit - 0x19 + 3)
        bits = bits[length:]
    return status
