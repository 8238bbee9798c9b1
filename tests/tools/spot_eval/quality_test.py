#!/usr/bin/env python3
"""Tests the arithmetic between spot-eval's results and docs/quality.md (tools/spot_eval/quality_tables.py)."""
import argparse
import importlib.machinery
import importlib.util
import json
import math
import pathlib
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools/spot_eval"))
import quality_tables as tables  # noqa: E402


def row(policy, keys, density, kl, **more):
    return {"policy": policy, "keys": keys, "context": 8192, "documents": 4, "density": density, "bytes": density + 0.05, "kl": kl,
            "kl_ci95": kl / 5, "top1": 0.95, "nll_delta": 0.002, "nll_delta_ci95": 0.001, "believed_mass": 0.9, **more}


def quality_command():
    """tools/spot_eval/quality as a module."""
    loader = importlib.machinery.SourceFileLoader("quality", str(ROOT / "tools/spot_eval/quality"))
    quality = importlib.util.module_from_spec(importlib.util.spec_from_loader("quality", loader))
    loader.exec_module(quality)
    return quality


def report(*rows):
    return {"schema": "spot-eval/1", "selector_dim": 64, "rows": list(rows)}


class QualityTest(unittest.TestCase):
    def setUp(self):
        self.ppl = report(row("distilled@0.7", "int4", 0.12, 0.012), row("distilled@0.8", "int4", 0.18, 0.006),
                          row("quest@0.10", "", 0.10, 0.04), row("quest@0.20", "", 0.20, 0.01), row("window", "", 0.05, 0.3))

    def test_interpolates_in_the_logarithm(self):
        points = [{"x": 0.1, "y": 0.04}, {"x": 0.2, "y": 0.01}]
        self.assertAlmostEqual(tables.interpolate(points, "x", "y", 0.15), 0.02)
        self.assertAlmostEqual(tables.interpolate(points, "x", "y", 0.15, log_y=False), 0.025)
        self.assertIsNone(tables.interpolate(points, "x", "y", 0.21))

    def test_equal_kl(self):
        quest = tables.curve(self.ppl, "quest", 8192)
        self.assertAlmostEqual(tables.at_equal_kl(quest, "density", 0.02), 0.15)
        self.assertIsNone(tables.at_equal_kl(quest, "density", 0.005))

    def test_where_everything_is_read(self):
        rows = [row("quest@0.10", "", 0.1, 0.02), row("quest@0.20", "", 0.2, 0.0)]
        self.assertAlmostEqual(tables.at_equal_kl(rows, "density", 0.0), 0.2)
        self.assertIsNone(tables.at_equal_kl(rows[:1], "density", 0.0))
        keys = report(*(row("topk@0.10", k, 0.1, 0.0) for k in ("bf16", "int4")))
        self.assertEqual(tables.difference_of_kl(keys, "topk@0.10", 8192, "int4"), (0.0, None))

    def test_intervals_of_few_documents_are_wide(self):
        def keys(name, kls):
            return row("topk@0.10", name, 0.1, sum(kls) / len(kls), per_document={"kl": kls})
        two = report(keys("bf16", [0.01, 0.03]), keys("int4", [0.012, 0.034]))
        share, half = tables.difference_of_kl(two, "topk@0.10", 8192, "int4")
        self.assertAlmostEqual(share, 0.15)
        # The standard error of the differences 0.002 and 0.004 is 0.001.
        self.assertAlmostEqual(half, 12.706 * 0.001 / 0.02)
        for degrees, quantile in ((1, 12.706), (5, 2.571), (9, 2.262), (23, 2.069), (68, 1.995)):
            self.assertAlmostEqual(tables.student_t975(degrees), quantile, delta=0.003 * quantile)

    def test_floors_judge_the_default_and_the_best_within_the_density(self):
        text = tables.floors_table("smollm2-135m", {"ppl": self.ppl})
        self.assertIn("| distilled@0.8 | density | <= 0.15 | 0.180 | **not met** |", text)
        self.assertIn("| distilled@0.7 | density | <= 0.15 | 0.120 | met |", text)
        # Quest's KL at density 0.18: e^(log .04 + .8 (log .01 - log .04)).
        quest = math.exp(math.log(0.04) + 0.8 * math.log(0.25))
        self.assertIn(f"| {0.006 / quest:.2f} | **not met** |", text)
        self.assertIn("up to +0.30%", text)

    def test_floors_of_retrieval_calibration_and_keys(self):
        def answers(dense, difference):
            return {"task": "single", "policy": "distilled@0.8", "context": 8192, "dense_score": dense, "difference": difference,
                    "difference_ci95": 0.1}
        def mass(context, keys, covered, error):
            return row("distilled@0.8", keys, 0.18, 0.006) | {"context": context, "mass": covered, "oracle_share": 0.99, "layer_oracle_share": 0.996,
                                                              "reliability": {"calibration_error": error}}
        tasks = {"ppl": self.ppl, "needle": report(answers(0.9, -0.2), answers(0.3, -0.2)),
                 "mass": report(mass(1024, "int4", 0.97, 0.01), mass(8192, "int4", 0.94, 0.03)),
                 "keys": report(*(row("distilled@0.8", k, 0.18, kl) for k, kl in (("bf16", 0.01), ("int4", 0.0102), ("fp4", 0.011)))),
                 "mass-keys": report(mass(8192, "bf16", 0.94, 0), mass(8192, "int4", 0.938, 0), mass(8192, "fp4", 0.93, 0))}
        text = tables.floors_table("smollm2", tasks)
        self.assertEqual(text.count("single at 8192"), 1)  # not where dense is below a half
        self.assertRegex(text, r"single at 8192.*\*\*not met")
        self.assertRegex(text, r"calibration error at 1024 .* 1.0 points \| met")
        self.assertRegex(text, r"calibration error at 8192 .* 3.0 points \| \*\*not met")
        self.assertRegex(text, r"KL with int4 .*\+2.0% \| met")
        self.assertRegex(text, r"KL with fp4 .*\+10.0% \| \*\*not met")
        self.assertRegex(text, r"mass with int4 .*-0.20 points \| met")
        self.assertRegex(text, r"mass with fp4 .*-1.00 points \| \*\*not met")

    def test_twilight_is_compared_at_equal_kl(self):
        emulated = report(row("twilight@0.9", "", 0.2, 0.02))
        text = tables.twilight_table(emulated, self.ppl)
        # Quest reads 0.20 of the bytes at KL 0.02; the selector does not get that bad here.
        self.assertIn("0.200 (1.25x)", text)
        self.assertIn("outside the range", text)

    def test_keys(self):
        keys = report(row("topk@0.10", "bf16", 0.1, 0.02), row("topk@0.10", "int4", 0.1, 0.021), row("topk@0.10", "fp4", 0.1, 0.019))
        text = tables.keys_table(keys, None, [])
        self.assertIn("| KL, topk@0.10 | 0.0200 | 0.0210 (+5.0%) | 0.0190 (-5.0%) |", text)
        self.assertIn("| bytes of a key | 128 | 36 (3.56x smaller) | 36 (3.56x smaller) |", text)

    def test_keys_are_paired_by_document(self):
        def judged(keys, *kls):
            return row("distilled@0.8", keys, 0.1, sum(kls) / len(kls)) | {"per_document": {"kl": list(kls)}}
        keys = report(judged("bf16", 0.01, 0.03, 0.02), judged("int4", 0.011, 0.031, 0.021), judged("fp4", 0.01, 0.04, 0.02))
        share, half = tables.difference_of_kl(keys, "distilled@0.8", 8192, "int4")
        self.assertAlmostEqual(share, 0.05)
        self.assertAlmostEqual(half, 0)  # the same difference in every document
        self.assertGreater(tables.difference_of_kl(keys, "distilled@0.8", 8192, "fp4")[1], 0.1)
        needle = {"rows": [{"task": "single", "context": 8192, "keys": k, "score": s, "dense_score": 0.8}
                           for k, s in (("bf16", 0.8), ("int4", 0.75), ("fp4", 0.7))]}
        text = tables.keys_table(keys, None, [needle])
        self.assertIn("| single at 8192, distilled@0.8 (dense 0.80) | 0.80 | 0.75 | 0.70 |", text)

    def test_many_contexts_judge_where_there_are_some(self):
        judged = report(row("distilled@0.8", "int4", 0.14, 0.005, documents=64))
        text = tables.floors_table("smollm2", {"ppl": self.ppl, "floor": judged})
        self.assertIn("| contexts judged |  | 64 |", text)
        self.assertIn("| distilled@0.8 | density | <= 0.15 | 0.140 | met |", text)

    def test_what_was_not_run_is_taken_from_what_holds_the_same_rows(self):
        def judged(keys, kl):
            return row("distilled@0.8", keys, 0.14, kl) | {"mass": 0.93, "oracle_share": 0.98, "layer_oracle_share": 0.99,
                                                           "reliability": {"calibration_error": 0.01}}
        tasks = {"floor": report(row("distilled@0.8", "int4", 0.14, 0.005, documents=64)),
                 "mass-keys": report(judged("int4", 0.0102), judged("bf16", 0.01), judged("fp4", 0.0101))}
        text = tables.floors_table("smollm2", tasks)
        self.assertIn("| KL to dense | <= 0.008 | 0.0050", text)
        self.assertIn("| share of the oracle's mass (one choice a layer) | >= 0.995 | 0.9900 | **not met** |", text)
        self.assertIn("choosing as freely as the policy |  | 0.9800 |  |", text)
        self.assertRegex(text, r"KL with int4 .*\+2.0% \| met")
        self.assertEqual(tables.with_stand_ins({"floor": 1, "ppl": 2})["ppl"], 2)
        self.assertEqual(tables.with_stand_ins({"floor": 1, "mass": 3})["ppl"], 1)
        self.assertEqual(tables.with_stand_ins({"mass": 3})["ppl"], 3)

    def test_retrieval_stands_out_where_it_differs(self):
        def answers(task, dense, difference, width):
            return {"task": task, "policy": "window", "keys": "", "context": 8192, "prompts": 9, "dense_score": dense, "density": 0.1,
                    "score": dense + difference, "difference": difference, "difference_ci95": width, "same_reply": 0.5}
        text = tables.retrieval_table([report(answers("qa", 0.9, -0.1, 0.2), answers("track", 0.8, -0.3, 0.1), answers("single", 0.3, -0.3, 0))])
        self.assertIn("| qa | 8192 | 9 | 0.90 | 0.80 (-0.10 ± 0.20) |", text)
        self.assertIn("| track | 8192 | 9 | 0.80 | **0.50 (-0.30 ± 0.10)** |", text)
        self.assertIn("| single | 8192 | 9 | 0.30 (not judged) | 0.00 (-0.30 ± 0.00) |", text)

    def test_documents_of_a_package_are_joined(self):
        with tempfile.TemporaryDirectory() as folder:
            texts = pathlib.Path(folder, "texts")
            texts.mkdir()
            for name, text in (("a--1", "one"), ("a--2", "two"), ("a--3", "rest"), ("b--1", "other one")):
                (texts / f"{name}.txt").write_text(text)
            target = pathlib.Path(quality_command().joined(texts, pathlib.Path(folder, "joined"), 7))
            self.assertEqual({p.name: p.read_text() for p in target.iterdir()}, {"a-00.txt": "one\ntwo\n", "b-00.txt": "other one\n"})

    def test_a_selector_without_its_budgets(self):
        quality = quality_command()
        header = json.dumps({"__metadata__": {"heads": "4", "budget_p_total": "0.9,0.8"},
                             "x": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}).encode()
        with tempfile.TemporaryDirectory() as folder:
            given, copy = pathlib.Path(folder, "given"), pathlib.Path(folder, "copy")
            given.write_bytes(len(header).to_bytes(8, "little") + header + b"abc")
            self.assertTrue(quality.without_budgets(given, copy))
            data = copy.read_bytes()
            length = int.from_bytes(data[:8], "little")
            self.assertEqual(length % 8, 0)
            self.assertEqual(json.loads(data[8:8 + length])["__metadata__"], {"heads": "4"})
            self.assertEqual(data[8 + length:], b"abc")
            self.assertFalse(quality.without_budgets(copy, given))

    def test_every_evaluation_is_found_again_under_its_own_name(self):
        options = argparse.Namespace(prompts=1, context="8192", mass_context=None, policies="", text="t", documents=0, tail=8,
                                     floor_policies="")
        evaluations = quality_command().commands(options)
        with tempfile.TemporaryDirectory() as folder:
            for task in evaluations:
                (pathlib.Path(folder) / f"some-model-{task}.json").write_text(json.dumps({"task": task}))
            found = tables.load(pathlib.Path(folder))
        self.assertEqual(found, {"some-model": {task: {"task": task} for task in evaluations}})

    def test_writes_between_the_marks_only(self):
        with tempfile.TemporaryDirectory() as folder:
            page = pathlib.Path(folder, "quality.md")
            page.write_text("before\n<!-- smollm2:floors -->\nold\n<!-- end -->\nafter\n<!-- other:floors -->\nkept\n<!-- end -->\n")
            tables.write({"smollm2": {"ppl": self.ppl}}, page)
            text = page.read_text()
            self.assertNotIn("old", text)
            self.assertIn("kept", text)
            self.assertTrue(text.startswith("before\n<!-- smollm2:floors -->\n| policy |"))
            tables.write({"smollm2": {"ppl": self.ppl}}, page)
            self.assertEqual(page.read_text(), text)


if __name__ == "__main__":
    unittest.main()
