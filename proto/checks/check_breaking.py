#!/usr/bin/env python3
"""Fails when the API no longer serves clients built against the stored baseline.

    check_breaking.py PROTOSET BASELINE             exit code 1 and one line a break
    check_breaking.py PROTOSET BASELINE --update    takes the API as it is for the new baseline

The baseline is the API's surface as text, one fact a line: what exists, with number, type, label and oneof of each
field. Everything may be added; a fact that is gone or different is a break. A removed field is a break too, reserved or
not: it goes with a new package (spotd.v2), never from spotd.v1.
"""
import pathlib
import sys

from descriptors import load, only

PACKAGE = "spotd."


def type_of(field: dict) -> str:
    named = only(field, "type_name")
    return named.lstrip(".") if named else only(field, "type").removeprefix("TYPE_").lower()


def label_of(field: dict) -> str:
    if only(field, "label") == "LABEL_REPEATED":
        return "repeated"
    return "optional" if only(field, "proto3_optional", "false") == "true" else "single"


def oneof_of(field: dict, message: dict) -> str:
    if "oneof_index" not in field or label_of(field) == "optional":
        return ""
    return " in oneof " + only(message["oneof_decl"][only(field, "oneof_index")], "name")


def message_facts(message: dict, name: str):
    yield f"message {name}"
    for field in message.get("field", []):
        yield (f"field {name}.{only(field, 'name')} = {only(field, 'number')}: {label_of(field)} {type_of(field)}"
               f"{oneof_of(field, message)}")
    for reserved in message.get("reserved_range", []):
        yield f"reserved {name} {only(reserved, 'start')} to {only(reserved, 'end') - 1}"
    for child in message.get("nested_type", []):
        yield from message_facts(child, f"{name}.{only(child, 'name')}")
    for enum in message.get("enum_type", []):
        yield from enum_facts(enum, f"{name}.{only(enum, 'name')}")


def enum_facts(enum: dict, name: str):
    yield f"enum {name}"
    for value in enum["value"]:
        yield f"value {name}.{only(value, 'name')} = {only(value, 'number', 0)}"


def service_facts(service: dict, name: str):
    yield f"service {name}"
    for method in service.get("method", []):
        sides = []
        for side in ("client_streaming", "server_streaming"):
            sides.append("stream " if only(method, side, "false") == "true" else "")
        yield (f"rpc {name}.{only(method, 'name')}({sides[0]}{only(method, 'input_type').lstrip('.')}) returns "
               f"({sides[1]}{only(method, 'output_type').lstrip('.')})")


def facts(files: list) -> list:
    """Every fact about the packages of spotd, sorted."""
    found = []
    for file in files:
        package = only(file, "package")
        if not package.startswith(PACKAGE):
            continue
        for message in file.get("message_type", []):
            name = f"{package}.{only(message, 'name')}"
            found += [f"file of {name}: {only(file, 'name')}", *message_facts(message, name)]
        for enum in file.get("enum_type", []):
            found += enum_facts(enum, f"{package}.{only(enum, 'name')}")
        for service in file.get("service", []):
            found += service_facts(service, f"{package}.{only(service, 'name')}")
    return sorted(found)


def breaks(baseline: list, current: list) -> list:
    """A line for each fact of the baseline that no longer holds, with what stands there now."""
    now = {}
    for fact in current:
        now.setdefault(subject(fact), []).append(fact)
    known = set(current)
    return [f"{fact}   now: {'; '.join(now.get(subject(fact), ['nothing']))}" for fact in baseline if fact not in known]


def subject(fact: str) -> str:
    """What a fact is about: "field spotd.v1.Session.name"."""
    for end in (" = ", "(", ": "):
        if end in fact:
            return fact.split(end)[0]
    return fact


def main(arguments: list) -> int:
    protoset, baseline = pathlib.Path(arguments[0]), pathlib.Path(arguments[1])
    current = facts(load(protoset))
    if "--update" in arguments:
        baseline.write_text("\n".join(current) + "\n")
        return 0
    found = breaks(baseline.read_text().splitlines(), current)
    print("\n".join(found) if found else f"{len(current)} facts; everything of the baseline holds")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
