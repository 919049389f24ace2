"""Files of examples/scenarios, as far as they are written: mappings and lists by indentation, short ones in braces and brackets."""
import json
import os
import pathlib
import re

SPAN = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")
SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
TOKEN = re.compile(r'\s*([{}\[\],:]|"[^"]*"|[^{}\[\],:\s](?:[^{}\[\],:]|:(?! ))*)')
# Only these are put together key by key where one file extends another; any other key is replaced.
MERGED = ("traffic", "noise")


def seconds(text):
    match = SPAN.fullmatch(text)
    assert match, f"{text} is no span"
    return float(match[1]) * SECONDS[match[2]]


def scalar(text):
    text = text.strip()
    variable = re.fullmatch(r"\$\{(\w+):-(.*)\}", text)
    if variable:
        return os.environ.get(variable[1], variable[2])
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text.strip('"')


def flow(text):
    """What stands on one line."""
    if not text.startswith(("{", "[")):
        return scalar(text)
    tokens = TOKEN.findall(text)
    assert "".join(tokens).replace(" ", "") == text.replace(" ", ""), text

    def value(place):
        word = tokens[place]
        if word == "{":
            found, place = {}, place + 1
            while tokens[place] != "}":
                key = tokens[place].strip()
                assert tokens[place + 1] == ":", text
                found[key], place = value(place + 2)
                place += tokens[place] == ","
            return found, place + 1
        if word == "[":
            found, place = [], place + 1
            while tokens[place] != "]":
                one, place = value(place)
                found.append(one)
                place += tokens[place] == ","
            return found, place + 1
        return scalar(word), place + 1

    return value(0)[0]


def block(lines, indent):
    """The mapping or the list that begins with the first of the lines; takes its lines away."""
    found = None
    while lines and lines[0][0] == indent:
        _, text = lines.pop(0)
        if text.startswith("- "):
            found = [] if found is None else found
            rest = text[2:].strip()
            if rest.startswith("{") or not re.match(r"[\w-]+:( |$)", rest):
                found.append(flow(rest))
            else:
                lines.insert(0, (indent + 2, rest))
                found.append(block(lines, indent + 2))
            continue
        key, _, rest = text.partition(":")
        found = {} if found is None else found
        assert isinstance(found, dict), text
        if rest.strip():
            found[key] = flow(rest.strip())
        else:
            found[key] = block(lines, lines[0][0]) if lines and lines[0][0] > indent else None
    assert not lines or lines[0][0] < indent, lines[:1]
    return found


def parse(text):
    lines = []
    for line in text.splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).rstrip()
        if line:
            lines.append((len(line) - len(line.lstrip()), line.strip()))
    return block(lines, 0) if lines else {}


def load(path):
    """A scenario with what it extends."""
    path = pathlib.Path(path)
    own = parse(path.read_text())
    base = own.pop("extends", None)
    whole = load(path.parent / base) if base else {}
    for key, value in own.items():
        whole[key] = whole.get(key, {}) | value if key in MERGED else value
    return whole


def merge(under, over):
    """`over` on top of `under`, mapping by mapping."""
    both = dict(under)
    for key, value in over.items():
        both[key] = merge(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


if __name__ == "__main__":
    import sys

    print(json.dumps(load(sys.argv[1]), indent=1))
