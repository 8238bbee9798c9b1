#!/usr/bin/env python3
"""Writes tests/deploy/golden: what the chart makes of each file in tests/deploy/values. Called by tests/deploy/regenerate."""
import chart

for stale in chart.GOLDEN.glob("*.yaml"):
    stale.unlink()
for case in chart.cases():
    (chart.GOLDEN / case.name).write_text(chart.rendered(case))
