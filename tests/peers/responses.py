"""Backends that misbehave: cases/upstream."""

import re
import socket
import struct
import threading
import time

from .common import PATIENCE, Backend, Incoming, blocks, unescaped

HTTP2 = False
NEXT = b'{"next":"answer"}'
ASKS = {
    "call": b"POST /v1/chat/completions HTTP/1.1\r\nhost: w\r\nx-case: %s\r\ncontent-length: 13\r\n\r\n{\"model\":\"m\"}",
    "get": b"GET /v1/files HTTP/1.1\r\nhost: w\r\nx-case: %s\r\n\r\n",
    "head": b"HEAD /v1/files HTTP/1.1\r\nhost: w\r\nx-case: %s\r\n\r\n",
}


def cases():
    for file, lines in blocks("upstream"):
        case = {"file": file, "raw": b"", "later": b"", "gets": b"", "ask": "call", "end": "wait"}
        for key, text in lines:
            if key in ("|", "+"):
                case["raw" if key == "|" else "later"] += unescaped(text)
            elif key == "gets":
                case["gets"] = unescaped(text)
            else:
                case[key] = text
        case["valid"] = case["want"] not in ("502", "cut")
        yield case


def backend(all_cases):
    by_name = {case["name"].encode(): case for case in all_cases}
    go_on, gone_on = threading.Event(), threading.Event()

    def answer(connection, head):
        case = by_name.get(re.search(rb"\nx-case: *([^\r]*)", head, re.IGNORECASE).group(1))
        if case is None:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(NEXT) + NEXT)
            return True
        connection.sendall(case["raw"])
        if case["later"]:
            go_on.wait(PATIENCE)
            connection.sendall(case["later"])
            gone_on.set()
        if case["end"] == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return case["end"] == "wait"

    peer = Backend(answer)
    peer.go_on, peer.gone_on = go_on, gone_on
    return peer


def run(case, port, backend):
    """What is wrong, or None; and whether a broken answer was passed on as a whole one."""
    backend.seen.clear()
    backend.go_on.clear()
    backend.gone_on.clear()
    connection = socket.create_connection(("127.0.0.1", port))
    status, body, closes = ask(connection, case["ask"], case["name"].encode())
    backend.go_on.set()
    if case["later"] and backend.gone_on.wait(PATIENCE):
        # They are on their way, and have to be there before the next request.
        time.sleep(0.05)
    whole = status is not None and body is not None
    through = not case["valid"] and whole and status < 500
    wrong = None
    if case["valid"] and (str(status) != case["want"] or body != case["gets"]):
        wrong = f"{status} and {body and body[:40]}"
    elif through:
        wrong = f"{status} as if it were whole"
    if not whole or closes:
        connection.close()
        connection = socket.create_connection(("127.0.0.1", port))
    following = ask(connection, "call", b"next")
    connection.close()
    if following[:2] != (200, NEXT):
        wrong = wrong or f"the next exchange got {following[0]} and {following[1] and following[1][:40]}"
    elif len(backend.seen) > 2:
        wrong = wrong or "the request was sent again"
    return wrong, through


def is_before_another(head):
    """Whether a response follows on this one; what switches protocols is the last."""
    return re.match(rb"HTTP/1\.\d 1(?!01)\d\d", head) is not None


def ask(connection, how, name):
    """Status, body (None of one that was cut) and whether the connection ends."""
    connection.settimeout(PATIENCE)
    try:
        connection.sendall(ASKS[how] % name)
        incoming = Incoming(connection)
        while (message := incoming.message(how == "head")) is not None and is_before_another(message[0]):
            pass
    except (OSError, ValueError):
        return None, None, True
    if message is None:
        return None, None, True
    head, body = message
    if not re.match(rb"HTTP/1\.\d \d\d\d", head):
        # Passed on as it came, and a client takes it for whatever it likes.
        return 200, head, True
    closes = re.search(rb"\nconnection: *close", head.lower()) or not re.search(rb"\n(content-length|transfer-encoding):", head.lower())
    return int(head[9:12]), body, bool(closes)
