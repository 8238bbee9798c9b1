"""Reads a descriptor set with nothing but protoc: it prints the set as text, and that is easy to parse."""
import pathlib
import re
import subprocess

TOKEN = re.compile(r'\s*(?:(?P<name>\w+)(?P<open>\s*\{|:)|(?P<close>\}))')
STRING = re.compile(r'\s*"((?:[^"\\]|\\.)*)"')
WORD = re.compile(r'\s*(\S+)')
ESCAPE = re.compile(rb'\\([0-7]{1,3}|x[0-9a-fA-F]{1,2}|.)')
SIMPLE = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def unescape(text: str) -> str:
    def one(match):
        escape = match.group(1)
        if escape[:1].isdigit():
            return bytes([int(escape, 8)])
        if len(escape) > 1:
            return bytes([int(escape[1:], 16)])
        return SIMPLE.get(escape, escape)
    return ESCAPE.sub(one, text.encode()).decode()


def parse_text(text: str) -> dict:
    """Protobuf text format as protoc prints it: {name: [values]}, where a message is a dict again."""
    root, stack, position = {}, [], 0
    current = root
    while (match := TOKEN.match(text, position)) is not None:
        position = match.end()
        if match.group("close"):
            current = stack.pop()
            continue
        name = match.group("name")
        if match.group("open") != ":":
            child = {}
            current.setdefault(name, []).append(child)
            stack.append(current)
            current = child
        elif (string := STRING.match(text, position)) is not None:
            position = string.end()
            current.setdefault(name, []).append(unescape(string.group(1)))
        else:
            word = WORD.match(text, position)
            position = word.end()
            value = word.group(1)
            current.setdefault(name, []).append(int(value) if re.fullmatch(r"-?\d+", value) else value)
    if text[position:].strip() or stack:
        raise ValueError(f"cannot parse at {text[position:position + 40]!r}")
    return root


def load(protoset: pathlib.Path) -> list:
    """The files of a descriptor set, as dicts of FileDescriptorProto."""
    result = subprocess.run(["protoc", "--decode=google.protobuf.FileDescriptorSet", "google/protobuf/descriptor.proto"],
                            input=pathlib.Path(protoset).read_bytes(), capture_output=True, check=True)
    return parse_text(result.stdout.decode())["file"]


def compile_protos(sources: dict, directory: pathlib.Path) -> list:
    """The files that protoc makes of {name: text}; for tests."""
    for name, text in sources.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    out = directory / "set"
    subprocess.run(["protoc", f"-I{directory}", "--include_source_info", f"--descriptor_set_out={out}", *sources], check=True)
    return load(out)


def only(message: dict, name: str, default=""):
    """The value of a field that is not repeated."""
    return message.get(name, [default])[0]
