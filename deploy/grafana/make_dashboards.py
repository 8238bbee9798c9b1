#!/usr/bin/env python3
"""Writes deploy/grafana/dashboards/*.json and the panel tables of docs/operations.md from panels.py."""
import json
import pathlib

import panels

HERE = pathlib.Path(__file__).resolve().parent
GUIDE = HERE.parents[1] / "docs/operations.md"
BEGIN, END = "<!-- panels: made by deploy/grafana/make_dashboards.py -->\n", "<!-- end of panels -->\n"

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SELECTOR = 'model_name=~"$model",instance=~"$instance"'
ROW_HEIGHT, PANEL_HEIGHT, TEXT_HEIGHT, COLUMNS = 1, 8, 3, 24


def query(expression: str) -> str:
    return expression.replace("@", SELECTOR)


def targets(panel: panels.Panel) -> list:
    result = []
    for letter, (legend, expression) in zip("ABCDEFGH", panel.queries):
        target = {"refId": letter, "datasource": SOURCE, "expr": query(expression), "legendFormat": legend}
        if panel.kind == "heatmap":
            target["format"] = "heatmap"
        if panel.kind in ("table", "stat"):
            target["instant"] = True
        if panel.kind == "table":
            target["format"] = "table"
        result.append(target)
    return result


def field_config(panel: panels.Panel) -> dict:
    defaults = {"unit": panel.unit}
    if panel.kind == "timeseries":
        defaults["min"] = 0
        defaults["custom"] = {"fillOpacity": 20 if panel.stacked else 5, "showPoints": "never", "lineWidth": 1,
                              "stacking": {"mode": "normal" if panel.stacked else "none"}}
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.limits:
        # The first colour has no lower bound.
        steps = [{"value": value if i else None, "color": colour} for i, (value, colour) in enumerate(panel.limits)]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        defaults.setdefault("custom", {})["thresholdsStyle"] = {"mode": "line"}
    return {"defaults": defaults, "overrides": []}


def options(panel: panels.Panel) -> dict:
    if panel.kind == "heatmap":
        return {"calculate": False, "yAxis": {"unit": panel.unit}, "color": {"scheme": "Oranges", "mode": "scheme"},
                "cellGap": 1, "tooltip": {"mode": "single"}}
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    if panel.kind == "table":
        return {"showHeader": True}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}


def variable(name: str, label: str, metric_query: str) -> dict:
    return {"type": "query", "name": name, "label": label, "datasource": SOURCE, "query": metric_query, "refresh": 2,
            "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}


def layout(dashboard: panels.Dashboard) -> list:
    """Grafana's panels: a text that says how to read the board, then rows of panels, left to right."""
    result = [{"type": "text", "title": "", "gridPos": {"x": 0, "y": 0, "w": COLUMNS, "h": TEXT_HEIGHT},
               "options": {"mode": "markdown", "content": dashboard.text}}]
    y = TEXT_HEIGHT
    for row in dashboard.rows:
        result.append({"type": "row", "title": row.title, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": ROW_HEIGHT}})
        y, x = y + ROW_HEIGHT, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                y, x = y + PANEL_HEIGHT, 0
            result.append({"type": panel.kind, "title": panel.title, "description": panel.text, "datasource": SOURCE,
                           "gridPos": {"x": x, "y": y, "w": panel.width, "h": PANEL_HEIGHT}, "targets": targets(panel),
                           "fieldConfig": field_config(panel), "options": options(panel)})
            x += panel.width
        y += PANEL_HEIGHT
    for number, panel in enumerate(result, start=1):
        panel["id"] = number
    return result


def grafana(dashboard: panels.Dashboard) -> dict:
    links = [{"type": "dashboards", "title": "spotd", "tags": ["spotd"], "asDropdown": True, "keepTime": True,
              "includeVars": True}]
    return {
        "uid": dashboard.uid, "title": dashboard.title, "tags": ["spotd"], "schemaVersion": 39, "version": 1,
        "editable": True, "graphTooltip": 1, "time": {"from": "now-3h", "to": "now"}, "refresh": "30s", "timezone": "browser",
        "links": links,
        "templating": {"list": [
            {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "current": {}},
            variable("model", "Model", "label_values(spotd_build_info, model_name)"),
            variable("instance", "Instance", 'label_values(spotd_build_info{model_name=~"$model"}, instance)')]},
        "panels": layout(dashboard)}


def guide_tables() -> str:
    lines = []
    for dashboard in panels.DASHBOARDS:
        lines += [f"### {dashboard.title}", "", dashboard.text, "", "| panel | what it shows | queries |", "|---|---|---|"]
        for row in dashboard.rows:
            for panel in row.panels:
                # Cells of a table: a bar would end them.
                queries = "<br>".join(f"`{expression}`".replace("|", "\\|") for _, expression in panel.queries)
                lines.append(f"| {panel.title} | {panel.text} | {queries} |")
        lines.append("")
    lines += ["In the queries, `@` stands for the chosen models and instances.", ""]
    if panels.NOT_SHOWN:
        lines += ["Metrics on no panel:", ""]
        lines += [f"- `{metric}`: {reason}" for metric, reason in sorted(panels.NOT_SHOWN.items())] + [""]
    return "\n".join(lines)


def main():
    folder = HERE / "dashboards"
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("*.json"):
        stale.unlink()
    for dashboard in panels.DASHBOARDS:
        path = folder / f"{dashboard.uid.removeprefix('spotd-')}.json"
        path.write_text(json.dumps(grafana(dashboard), indent=1) + "\n")
    guide = GUIDE.read_text()
    before, rest = guide.split(BEGIN)
    GUIDE.write_text(before + BEGIN + guide_tables() + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
