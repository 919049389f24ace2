#!/usr/bin/env python3
"""Sends the corpora of tests/cases through Windward, nginx and HAProxy, and counts what each does as the cases say.

    cargo build --release && tests/framing_peers.py target/release/windward [--details] [requests|responses|frames]

Three of them: requests of HTTP/1.1 (framing), answers of backends (upstream), and frames of HTTP/2 (http2). Proxies that are not
installed are left out. A request that is to be refused is handled when the last response is an error (any of 4xx and 5xx, since
others choose other codes), the connection ends within two seconds of it, and no more reached the backend than was to; one that is
to pass, when exactly the bodies named reached it. An answer that is to be refused is handled when the client gets an error, or sees
that it is cut, and the next exchange is a good one. Frames that are wrong are handled when the stream or the connection is ended or
answered with an error, and nothing reached the backend. `through` counts what passed although it should not: a request that a
backend got to see, an answer that a client takes for whole. Where a rule is a policy of Windward's, others are free to do otherwise;
and much that an RFC calls invalid they may repair before they pass it on, which is counted here all the same.
Everything runs on loopback, on free ports, and ends with the script.
"""

import sys

from peers import frames, requests, responses
from peers.common import proxies, running

CORPORA = {"requests": requests, "responses": responses, "frames": frames}
KINDS = ["bad, by RFC", "bad, by policy", "valid"]


def kind_of(case):
    if case["valid"]:
        return "valid"
    return "bad, by RFC" if "RFC" in case["rule"] and "policy" not in case["rule"] else "bad, by policy"


def table_of(corpus, binary, details):
    """What each proxy does with the cases of a corpus."""
    cases, table = list(corpus.cases()), {}
    for name, program, command in proxies(binary):
        backend, row = corpus.backend(cases), table.setdefault(name, {})
        with running(name, program, command, backend, corpus.HTTP2) as port:
            for case in cases:
                wrong, through = corpus.run(case, port, backend)
                for key in (case["file"], kind_of(case)):
                    good, count = row.get(key, (0, 0))
                    row[key] = (good + (wrong is None), count + 1)
                if not case["valid"]:
                    key = f"{kind_of(case)}, through"
                    row[key] = row.get(key, 0) + through
                if wrong:
                    details.append(f"{name:9} {case['name']:50} {'through ' if through else '':8}{wrong}")
    return cases, table


def main():
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    binary = next((argument for argument in arguments if argument not in CORPORA), "target/release/windward")
    for title, corpus in CORPORA.items():
        if any(argument in CORPORA for argument in arguments) and title not in arguments:
            continue
        details = []
        cases, table = table_of(corpus, binary, details)
        print(f"{title:24}" + "".join(f"{name:>14}" for name in table))
        for key in [*sorted({case["file"] for case in cases}), *KINDS]:
            if any(key in row for row in table.values()):
                print(f"{key:24}" + "".join(f"{f'{row[key][0]} of {row[key][1]}':>14}" for row in table.values()))
        for key in (f"{kind}, through" for kind in KINDS[:2]):
            if any(key in row for row in table.values()):
                print(f"{key:24}" + "".join(f"{row[key]:>14}" for row in table.values()))
        print("\n".join(["", *details, ""] if "--details" in sys.argv else [""]), flush=True)


if __name__ == "__main__":
    main()
