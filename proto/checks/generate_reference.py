#!/usr/bin/env python3
"""Writes docs/api-reference.md from the comments of the proto files.

    generate_reference.py PROTOSET              prints the page
    generate_reference.py PROTOSET --check PAGE exit code 1 when PAGE is not current

Every service, method, message, field, enum and value of spotd must have a comment: one without is an error.
"""
import pathlib
import re
import sys

from check_breaking import PACKAGE, label_of, oneof_of, type_of
from descriptors import load, only

MESSAGE, ENUM, SERVICE = 4, 5, 6                # fields of FileDescriptorProto
FIELD, NESTED, NESTED_ENUM = 2, 3, 4            # of DescriptorProto
VALUE, METHOD = 2, 2                            # of EnumDescriptorProto, ServiceDescriptorProto

HEAD = """# API reference: spotd.v1

Written from the comments of `proto/spotd/v1` by `proto/checks/generate_reference.py`; a test fails when it is not current.
How to call it is in [clients.md](clients.md), conventions are in [proto/README.md](../proto/README.md), errors in
[errors.md](errors.md).
"""


class Page:
    def __init__(self):
        self.lines, self.missing = [HEAD], []

    def comment(self, comments: dict, path: tuple, what: str) -> str:
        text = comments.get(path, "").strip()
        if not text:
            self.missing.append(what)
        return text

    def add(self, *lines: str):
        self.lines += lines


def comments_of(file: dict) -> dict:
    """{path of a declaration: its leading comment}."""
    found = {}
    for location in file.get("source_code_info", [{}])[0].get("location", []):
        if "leading_comments" in location:
            found[tuple(location.get("path", []))] = only(location, "leading_comments")
    return found


def anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def link(type_name: str) -> str:
    if not type_name.startswith(PACKAGE):
        return f"`{type_name}`"
    short = type_name.split(".", 2)[2]
    return f"[{short}](#{anchor(short)})"


def one_line(comment: str) -> str:
    return re.sub(r"\s+", " ", comment).replace("|", "\\|")


def paragraphs(comment: str) -> str:
    return "\n".join(line.strip() for line in comment.splitlines())


def add_service(page: Page, service: dict, comments: dict, path: tuple):
    name = only(service, "name")
    page.add(f"## {name}\n", paragraphs(page.comment(comments, path, name)), "")
    for index, method in enumerate(service.get("method", [])):
        sides = []
        for side, message in (("client_streaming", "input_type"), ("server_streaming", "output_type")):
            stream = "stream of " if only(method, side, "false") == "true" else ""
            sides.append(stream + link(only(method, message).lstrip(".")))
        text = page.comment(comments, (*path, METHOD, index), f"{name}.{only(method, 'name')}")
        page.add(f"**{only(method, 'name')}**: {sides[0]} to {sides[1]}\n", paragraphs(text), "")


def is_map_entry(message: dict) -> bool:
    return only(only(message, "options", {}), "map_entry", "false") == "true"


def map_types(message: dict) -> dict:
    """{type name: "map<key, value>"} of the entries that protoc makes of map fields."""
    found = {}
    for child in filter(is_map_entry, message.get("nested_type", [])):
        key, value = (type_of(field) for field in child["field"])
        found[only(child, "name")] = f"`map<{key}, {value}>`"
    return found


def add_message(page: Page, message: dict, comments: dict, path: tuple, prefix: str = ""):
    name = prefix + only(message, "name")
    page.add(f"### {name}\n", paragraphs(page.comment(comments, path, name)), "")
    maps = map_types(message)
    fields = list(enumerate(message.get("field", [])))
    if fields:
        page.add("| field | type | meaning |", "|---|---|---|")
    for index, field in fields:
        text = one_line(page.comment(comments, (*path, FIELD, index), f"{name}.{only(field, 'name')}"))
        label = label_of(field)
        kind = link(type_of(field)) if "type_name" in field else f"`{type_of(field)}`"
        kind = kind if label == "single" else f"{label} {kind}"
        kind = maps.get(only(field, "type_name").rsplit(".", 1)[-1], kind)
        page.add(f"| `{only(field, 'name')}` = {only(field, 'number')} | {kind}{oneof_of(field, message)} | {text} |")
    page.add("")
    for index, child in enumerate(message.get("nested_type", [])):
        if is_map_entry(child):
            continue
        add_message(page, child, comments, (*path, NESTED, index), name + ".")
    for index, enum in enumerate(message.get("enum_type", [])):
        add_enum(page, enum, comments, (*path, NESTED_ENUM, index), name + ".")


def add_enum(page: Page, enum: dict, comments: dict, path: tuple, prefix: str = ""):
    name = prefix + only(enum, "name")
    page.add(f"### {name}\n", paragraphs(page.comment(comments, path, name)), "", "| value | meaning |", "|---|---|")
    for index, value in enumerate(enum["value"]):
        text = one_line(page.comment(comments, (*path, VALUE, index), f"{name}.{only(value, 'name')}"))
        page.add(f"| `{only(value, 'name')}` = {only(value, 'number', 0)} | {text} |")
    page.add("")


def reference(files: list) -> tuple:
    """(the page, names of declarations without a comment)."""
    page = Page()
    ours = [file for file in files if only(file, "package").startswith(PACKAGE)]
    ours.sort(key=lambda file: ("service" not in file, only(file, "name")))
    for file in ours:
        for index, service in enumerate(file.get("service", [])):
            add_service(page, service, comments_of(file), (SERVICE, index))
    for file in ours:
        page.add(f"## Messages of {only(file, 'name')}\n")
        comments = comments_of(file)
        for index, message in enumerate(file.get("message_type", [])):
            add_message(page, message, comments, (MESSAGE, index))
        for index, enum in enumerate(file.get("enum_type", [])):
            add_enum(page, enum, comments, (ENUM, index))
    return "\n".join(page.lines).rstrip() + "\n", page.missing


def main(arguments: list) -> int:
    text, missing = reference(load(pathlib.Path(arguments[0])))
    if missing:
        print("without a comment:", ", ".join(missing))
        return 1
    if "--check" not in arguments:
        sys.stdout.write(text)
        return 0
    page = pathlib.Path(arguments[2])
    if page.exists() and page.read_text() == text:
        print(f"{page} is current")
        return 0
    print(f"{page} is not current; run: {pathlib.Path(__file__).name} {arguments[0]} > {page}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
