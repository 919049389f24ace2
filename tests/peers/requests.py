"""Requests of HTTP/1.1 that are wrong, or only unusual: cases/framing."""

import socket
import time

from .common import PATIENCE, Backend, Incoming, blocks, unescaped

FIN_WITHIN = 2.0
HTTP2 = False


def cases():
    for file, lines in blocks("framing"):
        case = {"file": file, "sees": [], "raw": b""}
        for key, text in lines:
            if key == "|":
                case["raw"] += unescaped(text)
            elif key == "sees":
                case["sees"].append(unescaped(text))
            else:
                case[key] = text
        case["valid"] = set(case["want"].split()) <= {"ok", "close"}
        yield case


def backend(_cases):
    return Backend()


def run(case, port, backend):
    """What is wrong, or None; and whether the backend saw more than it was to."""
    backend.seen.clear()
    wrong = None
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection.sendall(case["raw"])
        except OSError:
            pass
        incoming = Incoming(connection)
        for want in case["want"].split():
            wrong = response(connection, incoming, want)
            if wrong:
                break
    deadline = time.monotonic() + (PATIENCE if wrong is None else 0.1)
    while len(backend.seen) < len(case["sees"]) and time.monotonic() < deadline:
        time.sleep(0.002)
    seen = [body for _, body in backend.seen]
    through = len(seen) > len(case["sees"]) or seen != case["sees"][: len(seen)]
    if wrong is None and seen != case["sees"]:
        wrong = f"the backend saw {seen[:3]}"
    return wrong, through


def response(connection, incoming, want):
    """Reads a response and, where it is to be the last, the end; says what is wrong."""
    try:
        if want == "close":
            return "bytes after the end" if incoming.bytes or incoming.more() else None
        while (message := incoming.message()) is not None and message[0][9:12] == b"100":
            pass
        if message is None or message[1] is None:
            return "no response"
        status = int(message[0][9:12])
    except (OSError, ValueError) as error:
        return type(error).__name__
    if (status == 200) != (want == "ok"):
        return f"{status}, not {want}"
    if want.isdigit():
        connection.settimeout(FIN_WITHIN)
        try:
            while incoming.more():
                pass
        except TimeoutError:
            return "stays open"
        except OSError:
            return "reset"
    return None
