#!/usr/bin/env python3
"""The dashboards: made from deploy/grafana/panels.py as they stand, in Grafana's own model, and in docs/operations.md. Their
queries are run in monitoring_test.py. Run through tests/deploy/with_tools."""
import json
import pathlib
import re
import sys
import unittest

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "deploy/grafana"))
import make_dashboards  # noqa: E402
import panels  # noqa: E402

FILES = SOURCE / "deploy/grafana/dashboards"
GUIDE = SOURCE / "docs/operations.md"


def lost(ours, theirs, path="") -> list:
    """What of `ours` is not in `theirs`, as Grafana's model of the same version writes it again."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [text for key, value in ours.items() for text in lost(value, theirs.get(key), f"{path}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [text for i, (a, b) in enumerate(zip(ours, theirs)) for text in lost(a, b, f"{path}[{i}]")]
    return [] if ours == theirs or (ours in ({}, [], None) and theirs in ({}, [], None)) else [f"{path}: {ours!r} became {theirs!r}"]


def through_grafana(board: dict) -> dict:
    return json.loads(JSONEncoder().encode(Dashboard.from_json(json.loads(json.dumps(board)))))


class DashboardsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        register_default_plugins()
        cls.boards = {path.name: json.loads(path.read_text()) for path in FILES.glob("*.json")}

    def test_they_are_those_of_panels_py(self):
        made = {f"{d.uid.removeprefix('spotd-')}.json": make_dashboards.grafana(d) for d in panels.DASHBOARDS}
        self.assertEqual(made, self.boards, "run tests/deploy/regenerate")

    def test_the_guide_has_each_panel_and_its_queries(self):
        guide = GUIDE.read_text()
        self.assertIn(make_dashboards.BEGIN + make_dashboards.guide_tables() + make_dashboards.END, guide,
                      "run tests/deploy/regenerate")
        for board in self.boards.values():
            for panel in board["panels"]:
                if panel["type"] not in ("row", "text"):
                    self.assertIn(f"| {panel['title']} | {panel['description']} |", guide)

    def test_grafana_knows_every_field(self):
        for name, board in self.boards.items():
            with self.subTest(name):
                self.assertEqual(lost(board, through_grafana(board)), [])

    def test_grafanas_model_can_lose_a_field(self):
        board = json.loads(json.dumps(self.boards["overview.json"]))
        panel = next(p for p in board["panels"] if p["type"] == "timeseries")
        panel["gridPosition"] = panel["options"]["legend"]["displayedMode"] = 1
        self.assertEqual(len(lost(board, through_grafana(board))), 2)

    def test_panels_do_not_overlap(self):
        for name, board in self.boards.items():
            taken = set()
            for panel in board["panels"]:
                place = panel["gridPos"]
                self.assertLessEqual(place["x"] + place["w"], 24)
                cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
                self.assertFalse(taken & cells, f"{name}: {panel.get('title')}")
                taken |= cells
            ids = [panel["id"] for panel in board["panels"]]
            self.assertEqual(len(ids), len(set(ids)))

    def test_every_panel_asks_the_chosen_prometheus_for_the_chosen_instances(self):
        for name, board in self.boards.items():
            for panel in board["panels"]:
                for target in panel.get("targets", []):
                    with self.subTest(name, panel=panel["title"]):
                        self.assertEqual(panel["datasource"]["uid"], "${datasource}")
                        self.assertRegex(target["expr"], re.escape('=~"$model"') + "|" + re.escape('=~"$instance"'))


if __name__ == "__main__":
    unittest.main(verbosity=2)
