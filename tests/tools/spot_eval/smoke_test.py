#!/usr/bin/env python3
"""Runs every command of spot-eval on a tiny random model with a selector distilled on the spot.

Checks what a user relies on: exit codes, the JSON's fields, figures within their ranges, the same seed giving the same
file, and errors that name the flag. The model's answers are nonsense; nothing here judges them.
"""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
BIN = pathlib.Path(os.environ["SPOTD_BIN"])
POLICIES = "distilled@0.8,topk@0.5,quest@0.5,twilight@0.9,oracle@0.5,window"


class SmokeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.dir = pathlib.Path(cls.folder.name)
        # The random model of the golden tests, told that it may see more than 128 tokens.
        shutil.copytree(ROOT / "tests/data/models/qwen3", cls.dir / "model")
        config = json.loads((cls.dir / "model/config.json").read_text())
        config["max_position_embeddings"] = 2048
        (cls.dir / "model/config.json").write_text(json.dumps(config))
        (cls.dir / "text").mkdir()
        for i in range(3):
            lines = [f"Line {n} of document {i}: {(n * 7919 + i * 104729) % 99991} things happened." for n in range(400)]
            (cls.dir / f"text/{i}.txt").write_text("\n".join(lines))
        cls.program("spot-distill", "--model", cls.dir / "model", "--corpus", cls.dir / "text", "--length", "256",
                    "--tokens", "2048", "--heads", "2", "--dim", "32", "--backend", "cpu", "--out", cls.dir / "selector.safetensors")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @staticmethod
    def program(name, *args, ok=True):
        run = subprocess.run([BIN / name, *map(str, args)], capture_output=True, text=True, check=False)
        assert (run.returncode == 0) == ok, f"{name} exits with {run.returncode}: {run.stderr}"
        return run.stdout if ok else run.stderr

    def evaluate(self, command, *args, out="out.json"):
        self.program("spot-eval", command, "--model", self.dir / "model", "--selector", self.dir / "selector.safetensors",
                     "--backend", "cpu", "--out", self.dir / out, "--policies", POLICIES, *args)
        report = json.loads((self.dir / out).read_text())
        self.assertEqual(report["schema"], "spot-eval/1")
        self.assertEqual(report["task"], command)
        self.assertTrue(report["model"]["fingerprint"])
        return report

    def test_windows(self):
        args = ("--text", self.dir / "text", "--context", "512", "--tail", "4", "--documents", "2")
        once = self.evaluate("ppl", *args)
        cut = self.evaluate("ppl", *args, "--windows")
        self.assertEqual(once["documents"], ["0.txt", "1.txt"])
        self.assertGreater(len(cut["documents"]), 4)
        self.assertIn("0.txt+1", cut["documents"])
        self.assertEqual(len(set(cut["documents"])), len(cut["documents"]))

    def test_ppl(self):
        report = self.evaluate("ppl", "--text", self.dir / "text", "--context", "1024,512", "--tail", "4", "--documents", "2",
                               "--selector_keys", "bf16,int4,fp4")
        rows = {(r["policy"], r["keys"], r["context"]): r for r in report["rows"]}
        # Two policies read selector keys, of three kinds; four do not; at two lengths.
        self.assertEqual(len(rows), 2 * (2 * 3 + 4))
        for (policy, _, context), row in rows.items():
            self.assertEqual(row["documents"], 2)
            self.assertGreaterEqual(row["kl"], 0)
            self.assertLessEqual(row["density"], 1)
            self.assertEqual(len(row["per_document"]["kl"]), 2)
            self.assertNotIn("mass", row)
            if context == 512 and policy != "window":
                self.assertEqual(row["density"], 1)  # the floor of 512 tokens
                self.assertLess(row["kl"], 1e-5)
        window = rows[("window", "", 1024)]
        self.assertAlmostEqual(window["density"], 512 / 1024, delta=0.03)  # its floor

    def test_mass(self):
        report = self.evaluate("mass", "--text", self.dir / "text", "--context", "1024", "--tail", "3", "--documents", "1")
        for row in report["rows"]:
            self.assertEqual(len(row["layers"]["mass"]), 2)
            self.assertLessEqual(row["oracle_share"], 1 + 1e-6)
            for layer, heads in zip(row["layers"]["mass"], row["layers"]["head_mass"]):
                self.assertAlmostEqual(sum(heads) / len(heads), layer, places=4)
            self.assertAlmostEqual(sum(row["layers"]["density"]) / 2, row["density"], places=3)
            self.assertAlmostEqual(sum(row["layers"]["believed"]) / 2, row["believed_mass"], places=3)
            self.assertLessEqual(row["reliability"]["calibration_error"], 1)
            self.assertAlmostEqual(sum(b["share"] for b in row["reliability"]["bins"]), 1, places=4)
        by_policy = {r["policy"]: r for r in report["rows"]}
        self.assertAlmostEqual(by_policy["oracle@0.5"]["oracle_share"], 1, places=3)
        self.assertLess(by_policy["window"]["mass"], by_policy["oracle@0.5"]["mass"])
        # What chooses once for the layer has one ceiling; Quest's, for each KV head, is higher than that.
        self.assertEqual(by_policy["oracle@0.5"]["layer_oracle_share"], by_policy["oracle@0.5"]["oracle_share"])
        self.assertLess(by_policy["quest@0.5"]["layer_oracle_mass"], by_policy["quest@0.5"]["oracle_mass"])

    def test_retrieval(self):
        for command, args, tasks in (("needle", ("--depths", "0,1"), {"single", "multi-key", "multi-value"}),
                                     ("track", (), {"track"}), ("qa", ("--text", self.dir / "text"), {"qa"})):
            common = (*args, "--context", "900", "--prompts", "2", "--max_new_tokens", "3")
            report = self.evaluate(command, *common)
            self.assertEqual({r["task"] for r in report["rows"]}, tasks)
            for row in report["rows"]:
                self.assertLessEqual(row["score"], 1)
                self.assertAlmostEqual(row["difference"], row["score"] - row["dense_score"], places=5)
                if row["task"] in ("single", "multi-key", "qa") and "depth" not in row:
                    self.assertEqual(len(row["fact_recall_layers"]), 2)
                    self.assertTrue(all(0 <= recall <= 1 for recall in row["fact_recall_layers"]))
            if command == "needle":
                single = {r["policy"]: r for r in report["rows"] if r["task"] == "single" and "depth" not in r}
                # The window reads the needle where it stands among the sinks or the recent tokens; the oracle's half reads more.
                self.assertGreater(sum(single["window"]["fact_recall_layers"]), 0)
                self.assertEqual({r.get("depth") for r in report["rows"]}, {None, 0, 1})
            again = self.evaluate(command, *common, out="again.json")
            self.assertEqual(report, again)

    def test_errors(self):
        def error(*args):
            return self.program("spot-eval", *args, ok=False)
        model = ("--model", self.dir / "model", "--backend", "cpu", "--context", "1024")
        self.assertIn("no command 'pplx'", error("pplx", *model))
        self.assertIn("--text is required", error("ppl", *model))
        self.assertIn("needs --selector", error("ppl", *model, "--text", self.dir / "text", "--policies", "distilled@0.8"))
        self.assertIn("no such file", error("ppl", *model, "--text", self.dir / "missing"))
        self.assertIn("no file has 2048 tokens", error("ppl", *model[:-1], "2048", "--text", self.dir / "model/config.json"))
        self.assertIn("--selector_keys", error("ppl", *model, "--text", self.dir / "text", "--selector_keys", "int3"))
        self.assertIn("hold no prompt", error("needle", *model[:-1], "64"))
        self.assertIn("--tasks", error("qa", *model, "--tasks", "single"))
        self.assertIn("cannot write", error("track", *model, "--prompts", "1", "--max_new_tokens", "1", "--policies", "window",
                                            "--out", self.dir / "no/such/folder.json"))

    def test_help_lists_the_flags(self):
        for program, flag in ("spot-eval", "--policies"), ("spot-distill", "--corpus"):
            run = subprocess.run([BIN / program, "--help"], capture_output=True, text=True, check=False)
            self.assertIn(flag + " (", run.stdout)

    def test_errors_before_the_work(self):
        def error(*args):
            return self.program("spot-eval", *args, ok=False)
        model = ("--model", self.dir / "model", "--backend", "cpu", "--context", "512", "--tail", "4", "--policies", "window")
        # Before the text is looked for, which is not there.
        self.assertIn("cannot write", error("ppl", *model, "--text", "missing", "--out", self.dir))
        self.assertIn("--threads is 100000", error("ppl", *model, "--text", "missing", "--threads", "100000"))
        self.assertIn("number is 300", error("ppl", *model, "--text", "missing", "--policies", ",".join(["window"] * 300)))
        self.assertIn("no such file", error("ppl", *model, "--text", "missing", "--out", self.dir / "unmade.json"))
        self.assertFalse((self.dir / "unmade.json").exists())
        for command in "ppl", "needle":
            self.assertIn("no tokenizer", error(command, "--model", "synthetic:tiny", "--backend", "cpu", "--context", "512",
                                                "--policies", "window", "--text", self.dir / "text"))

    def test_text_that_cannot_be_used(self):
        def refused(command, path):
            return self.program("spot-eval", command, "--model", self.dir / "model", "--backend", "cpu", "--context", "512",
                                "--policies", "window", "--text", path, ok=False)
        latin = self.dir / "latin.txt"
        latin.write_bytes(b"caf\xe9 in the morning\n" * 200)
        for message in refused("ppl", latin), refused("qa", latin):
            self.assertIn("latin.txt", message)
            self.assertIn("UTF-8", message)
        # A line that is longer than the context leaves nothing to hide a fact in.
        lines = self.dir / "lines.txt"
        lines.write_text("and so on " * 3000)
        self.assertIn("too long to fill 512 tokens", refused("qa", lines))


if __name__ == "__main__":
    unittest.main()
