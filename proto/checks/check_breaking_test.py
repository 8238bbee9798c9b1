#!/usr/bin/env python3
"""Each kind of break is found, and what is no break is let through."""
import pathlib
import tempfile
import unittest

from check_breaking import breaks, facts
from descriptors import compile_protos, unescape

BASE = """syntax = "proto3";
package spotd.v1;
message Thing {
  reserved 9;
  string name = 1;
  optional int32 count = 2;
  repeated float values = 3;
  oneof content {
    string text = 4;
    bytes data = 5;
  }
  Part part = 6;
  message Part { int32 size = 1; }
}
enum Kind {
  KIND_UNSPECIFIED = 0;
  KIND_GOOD = 1;
}
message Request {}
service Things {
  rpc Get(Request) returns (Thing);
  rpc Watch(Request) returns (stream Thing);
}
"""

BREAKS = {
    "a field's number": ("string name = 1;", "string name = 7;"),
    "a field's name": ("string name = 1;", "string title = 1;"),
    "a field's type": ("string name = 1;", "bytes name = 1;"),
    "a field's message type": ("Part part = 6;", "Request part = 6;"),
    "a field removed": ("string name = 1;", ""),
    "a field removed and reserved": ("reserved 9;\n  string name = 1;", "reserved 1, 9;"),
    "optional to plain": ("optional int32 count", "int32 count"),
    "plain to optional": ("string name = 1;", "optional string name = 1;"),
    "single to repeated": ("string name = 1;", "repeated string name = 1;"),
    "repeated to single": ("repeated float values", "float values"),
    "out of a oneof": ("    bytes data = 5;\n  }", "  }\n  bytes data = 5;"),
    "into a oneof": ("string name = 1;\n", "oneof other { string name = 1; }\n"),
    "a oneof's name": ("oneof content", "oneof body"),
    "a reserved number freed": ("reserved 9;", ""),
    "a nested message's field": ("int32 size = 1;", "int64 size = 1;"),
    "an enum value's number": ("KIND_GOOD = 1;", "KIND_GOOD = 2;"),
    "an enum value removed": ("KIND_GOOD = 1;", ""),
    "an enum removed": ("enum Kind {\n  KIND_UNSPECIFIED = 0;\n  KIND_GOOD = 1;\n}", ""),
    "a method removed": ("rpc Get(Request) returns (Thing);", ""),
    "a method's request": ("rpc Get(Request)", "rpc Get(Thing)"),
    "a method's reply": ("Get(Request) returns (Thing)", "Get(Request) returns (Request)"),
    "a stream of requests": ("rpc Get(Request)", "rpc Get(stream Request)"),
    "a stream of replies ended": ("returns (stream Thing)", "returns (Thing)"),
    "a service's name": ("service Things", "service Stuff"),
    "the package": ("package spotd.v1;", "package spotd.v2;"),
}

ADDITIONS = {
    "a field": ("string name = 1;", "string name = 1;\n  string more = 10;"),
    "a member of a oneof": ("bytes data = 5;", "bytes data = 5;\n    int32 id = 11;"),
    "a reserved number": ("reserved 9;", "reserved 9, 12;"),
    "an enum value": ("KIND_GOOD = 1;", "KIND_GOOD = 1;\n  KIND_BAD = 2;"),
    "a method": ("rpc Get(Request)", "rpc Put(Request) returns (Thing);\n  rpc Get(Request)"),
    "a message": ("message Request {}", "message Request {}\nmessage Reply {}"),
    "a comment": ("string name = 1;", "// The name.\n  string name = 1;"),
    "deprecation": ("string name = 1;", "string name = 1 [deprecated = true];"),
}


class BreakingTest(unittest.TestCase):
    def facts_of(self, text, name="spotd/v1/things.proto"):
        with tempfile.TemporaryDirectory() as directory:
            return facts(compile_protos({name: text}, pathlib.Path(directory)))

    def test_nothing_changed(self):
        self.assertEqual(breaks(self.facts_of(BASE), self.facts_of(BASE)), [])

    def test_every_kind_of_break_is_found(self):
        base = self.facts_of(BASE)
        for what, (old, new) in BREAKS.items():
            with self.subTest(what):
                self.assertIn(old, BASE)
                self.assertTrue(breaks(base, self.facts_of(BASE.replace(old, new))))

    def test_a_move_to_another_file_is_found(self):
        self.assertTrue(breaks(self.facts_of(BASE), self.facts_of(BASE, "spotd/v1/other.proto")))

    def test_additions_are_no_breaks(self):
        base = self.facts_of(BASE)
        for what, (old, new) in ADDITIONS.items():
            with self.subTest(what):
                self.assertIn(old, BASE)
                self.assertEqual(breaks(base, self.facts_of(BASE.replace(old, new))), [])

    def test_a_break_says_what_stands_there_now(self):
        found = breaks(self.facts_of(BASE), self.facts_of(BASE.replace("string name = 1;", "bytes name = 1;")))
        self.assertEqual(found, ["field spotd.v1.Thing.name = 1: single string   "
                                 "now: field spotd.v1.Thing.name = 1: single bytes"])

    def test_unescape(self):
        self.assertEqual(unescape(r"a\n\"\303\251\\n\x41"), 'a\n"\u00e9\\nA')


if __name__ == "__main__":
    unittest.main(verbosity=2)
