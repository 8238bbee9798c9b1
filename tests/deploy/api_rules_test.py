#!/usr/bin/env python3
"""The chart's objects against what an API server demands beyond schemas (api_rules.py), and upgrades from each case to changed
values. Run through tests/deploy/with_tools."""
import copy
import unittest

import api_rules
import chart

MINIMAL = chart.VALUES / "minimal.yaml"
# Upgrades that must go through in place.
CHANGES = ("image.tag=9.9.9", "replicas=5", "config.max_waiting=7", "commonLabels.team=a", "commonAnnotations.note=b",
           "podLabels.team=a", "podAnnotations.note=b", "resources.limits.memory=64Gi", "drainSeconds=77", "service.port=1234",
           "metricsPort=1235", "model.path=other.gguf", "networkPolicy.enabled=false", "priorityClassName=high",
           "podDisruptionBudget.enabled=false", "serviceAccount.name=other")


class ApiRulesTest(unittest.TestCase):
    def test_every_case(self):
        for case in chart.cases():
            with self.subTest(case.name):
                self.assertEqual(api_rules.complaints(chart.manifests(chart.rendered(case))), [])

    def test_the_longest_names(self):
        release, namespace = "r" + "9" * 52, "n" * 63
        for case in chart.cases():
            for more in ([], ["--set", f"fullnameOverride={'f' * 60}"]):
                with self.subTest(case.name, more=more):
                    result = chart.template("--values", case, *more, release=release, namespace=namespace)
                    self.assertEqual(result.returncode, 0, result.stderr)
                    self.assertEqual(api_rules.complaints(chart.manifests(result.stdout)), [])

    def test_a_release_whose_name_no_service_can_have(self):
        for release in ("9chat", "chat.v1"):
            result = chart.template("--values", MINIMAL, release=release)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("fullnameOverride", result.stderr)
            self.assertEqual(chart.template("--values", MINIMAL, "--set", "fullnameOverride=chat", release=release).returncode, 0)

    def test_upgrades_change_no_fixed_field(self):
        for case in chart.cases():
            with self.subTest(case.name):
                result = chart.template("--values", case, "--set", ",".join(CHANGES))
                self.assertEqual(result.returncode, 0, result.stderr)
                after = chart.manifests(result.stdout)
                self.assertEqual(api_rules.refused_updates(chart.manifests(chart.rendered(case)), after), [])
                self.assertEqual(api_rules.complaints(after), [])

    def test_what_cannot_be_changed_in_place(self):
        """docs/operations.md says so of these."""
        before = chart.manifests(chart.rendered(MINIMAL))
        for change in ("model.download.storage.size=1Gi", "model.source=pvc,model.pvc.claimName=c", "nameOverride=other"):
            values = f"{change},fullnameOverride=demo-spotd"
            after = chart.manifests(chart.template("--values", MINIMAL, "--set", values).stdout)
            self.assertTrue(api_rules.refused_updates(before, after), change)

    def test_the_rules_can_complain(self):
        def broken(kind, change):
            documents = copy.deepcopy(chart.manifests(chart.rendered(chart.VALUES / "pvc-gpu.yaml")))
            change(next(d for d in documents if d["kind"] == kind))
            return api_rules.complaints(documents)

        def pod(document):
            return document["spec"]["template"]["spec"]

        mistakes = {
            "name": ("Service", lambda d: d["metadata"].update(name="a.b")),
            "label": ("StatefulSet", lambda d: d["metadata"]["labels"].update(team="x" * 64)),
            "port name": ("StatefulSet", lambda d: pod(d)["containers"][0]["ports"][0].update(name="grpc-for-everyone")),
            "probe": ("StatefulSet", lambda d: pod(d)["containers"][0]["livenessProbe"]["grpc"].update(port=1)),
            "volume": ("StatefulSet", lambda d: pod(d)["volumes"].pop(0)),
            "variable": ("StatefulSet", lambda d: pod(d)["containers"][0].update(env=[{"name": "A"}, {"name": "A"}])),
            "request": ("StatefulSet", lambda d: pod(d)["containers"][0]["resources"]["requests"].update(memory="900Gi")),
            "budget": ("PodDisruptionBudget", lambda d: d["spec"]["selector"]["matchLabels"].update(app="other")),
            "target port": ("Service", lambda d: d["spec"]["ports"][0].update(targetPort="http")),
            "config": ("ConfigMap", lambda d: d["metadata"].update(name="other")),
            "headless": ("StatefulSet", lambda d: d["spec"].update(serviceName="demo-spotd")),
        }
        self.assertEqual(broken("Service", lambda d: None), [])
        for what, (kind, change) in mistakes.items():
            with self.subTest(what):
                self.assertTrue(broken(kind, change))


if __name__ == "__main__":
    unittest.main(verbosity=2)
