#!/usr/bin/env python3
"""Writes helm/spotd/values.schema.json. What `config` takes is read from docs/configuration.md, which spotd writes.

    helm/make_schema.py [OUTPUT]
"""
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
REFERENCE = HERE.parent / "docs/configuration.md"

# Options of spotd that the chart sets by values of their own, or that make no sense in a file.
OWNED = {"model", "selector", "listen", "http_listen", "drain_timeout", "tls_cert", "tls_key", "tls_client_ca",
         "auth_tokens", "config", "check_config", "print_config_reference", "help", "version"}

NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
NAME_OR_EMPTY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"
# Services are the strictest: no dots, and a letter first.
OWN_NAME = r"^([a-z]([-a-z0-9]*[a-z0-9])?)?$"
KEY_OR_EMPTY = r"^[-._a-zA-Z0-9]*$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
SECONDS = r"^[0-9]+(ms|s|m|h)$"
RELATIVE = r"^[A-Za-z0-9_][-A-Za-z0-9_]*([./]+[-A-Za-z0-9_]+)*$"


def closed(properties: dict, required=()) -> dict:
    """An object without any other key."""
    result = {"type": "object", "additionalProperties": False, "properties": properties}
    return result | ({"required": list(required)} if required else {})


def text(pattern: str = "", **more) -> dict:
    return {"type": "string"} | ({"pattern": pattern} if pattern else {}) | more


def one_of(*values) -> dict:
    return {"enum": list(values)}


def whole(minimum: int = 0, maximum: int = None) -> dict:
    return {"type": "integer", "minimum": minimum} | ({} if maximum is None else {"maximum": maximum})


BOOLEAN = {"type": "boolean"}
FREE = {"type": "object"}  # a part of a Kubernetes object, or labels: Kubernetes checks it
FREE_LIST = {"type": "array", "items": FREE}
WORDS = {"type": "object", "additionalProperties": {"type": "string"}}
# Not those that the chart's selectors are made of.
LABELS = {"type": "object", "propertyNames": {"allOf": [{"pattern": r"^([-a-z0-9.]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"},
                                                        {"not": {"pattern": r"^(app\.kubernetes\.io|helm\.sh)/"}}]},
          "additionalProperties": text(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")}
PORT = whole(1, 65535)
PULL_POLICY = one_of("Always", "IfNotPresent", "Never")
SECRET_KEY = closed({"name": text(NAME_OR_EMPTY), "key": text(KEY_OR_EMPTY)})
QUANTITIES = {"type": "object", "additionalProperties": {"anyOf": [text(QUANTITY), {"type": "number"}]}}
RESOURCES = closed({"requests": QUANTITIES, "limits": QUANTITIES, "claims": FREE_LIST})
PROBE = closed({"periodSeconds": whole(1), "timeoutSeconds": whole(1), "failureThreshold": whole(1),
                "initialDelaySeconds": whole()})


def option_schema(takes: str) -> dict:
    """What docs/configuration.md says that an option takes."""
    kind, _, bounds = takes.partition(", ")
    low, _, high = bounds.removeprefix("at least ").partition(" to ")
    if kind == "switch":
        return BOOLEAN
    if kind in ("path", "text"):
        return text()
    if kind == "integer":
        return whole(int(low), int(high) if high else None)
    if kind == "number":
        return {"type": "number", "minimum": float(low)} | ({"maximum": float(high)} if high else {})
    if kind == "size":
        return {"anyOf": [whole(), text(r"^[0-9]+([KMGT]i?)?B?$")]}
    if kind == "duration":
        return text(SECONDS)
    choices = takes.split(", ")
    if len(choices) < 2:
        raise SystemExit(f"make_schema: no schema for {takes!r}")
    as_yaml = {"true": True, "false": False}
    return one_of(*(int(choice) if choice.isdigit() else as_yaml.get(choice, choice) for choice in choices))


def spotd_options() -> dict:
    """{option: what it takes}, from the page that spotd writes of itself."""
    rows = re.findall(r"(?m)^\| `(\w+)` \| ([^|]+) \| ", REFERENCE.read_text())
    return {name: takes.strip() for name, takes in rows}


def values_schema() -> dict:
    config = {name: option_schema(takes) for name, takes in sorted(spotd_options().items()) if name not in OWNED}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the spotd chart"} | closed({
        # What helm itself puts into a subchart's values.
        "global": FREE,
        "nameOverride": text(OWN_NAME), "fullnameOverride": text(OWN_NAME),
        "commonLabels": LABELS, "commonAnnotations": WORDS,
        "replicas": whole(),
        "image": closed({"repository": text(minLength=1), "tag": text(r"^[-.\w]*$"),
                         "digest": text(r"^(sha256:[0-9a-f]{64})?$"), "pullPolicy": PULL_POLICY,
                         "pullSecrets": {"type": "array", "items": text(NAME)}}),
        "model": model_schema(),
        "config": closed(config),
        "gpu": closed({"enabled": BOOLEAN, "resourceName": text(r"^[-.a-z0-9]+/[-.\w]+$"),
                       "runtimeClassName": text(NAME_OR_EMPTY), "tolerations": FREE_LIST}),
        "resources": RESOURCES, "resourceClaims": FREE_LIST,
        "drainSeconds": whole(1, 3600),
        "probes": closed({"startup": PROBE, "readiness": PROBE, "liveness": PROBE}),
        "tls": tls_schema(),
        "auth": closed({"tokensSecret": SECRET_KEY, "testTokenSecret": SECRET_KEY}),
        "service": closed({"type": one_of("ClusterIP", "NodePort", "LoadBalancer"), "port": PORT, "annotations": WORDS,
                           "sessionAffinity": one_of("ClientIP", "None"),
                           "sessionAffinitySeconds": whole(1, 86400)}),
        "metricsPort": PORT,
        "serviceAccount": closed({"create": BOOLEAN, "name": text(NAME_OR_EMPTY), "annotations": WORDS}),
        "podDisruptionBudget": closed({"enabled": BOOLEAN, "maxUnavailable": {
            "anyOf": [whole(1), text(r"^[0-9]+%$")]}}),
        "autoscaling": autoscaling_schema(),
        "monitoring": monitoring_schema(),
        "networkPolicy": closed({"enabled": BOOLEAN, "grpcFrom": FREE_LIST, "metricsFrom": FREE_LIST,
                                 "extraEgress": FREE_LIST}),
        "routing": routing_schema(),
        "distill": closed({
            "enabled": BOOLEAN, "corpusClaim": text(NAME_OR_EMPTY), "outputClaim": text(NAME_OR_EMPTY),
            "outputPath": text(RELATIVE), "backoffLimit": whole(), "resources": RESOURCES,
            "flags": {"type": "object", "propertyNames": {"pattern": "^[a-z_]+$"},
                      "additionalProperties": {"anyOf": [{"type": "number"}, BOOLEAN, text(r"^[-./\w]+$")]}}}),
        "podAnnotations": WORDS, "podLabels": LABELS,
        "priorityClassName": text(NAME_OR_EMPTY),
        "nodeSelector": WORDS, "affinity": FREE, "tolerations": FREE_LIST, "topologySpreadConstraints": FREE_LIST,
        "podSecurityContext": FREE, "securityContext": FREE,
        "extraEnv": FREE_LIST, "extraEnvFrom": FREE_LIST, "extraVolumes": FREE_LIST, "extraVolumeMounts": FREE_LIST,
        "extraContainers": FREE_LIST, "extraObjects": FREE_LIST,
    })


def model_schema() -> dict:
    file = closed({"url": text(r"^https?://[^\s'\"\\]+$"), "path": text(RELATIVE), "sha256": text("^[0-9a-f]{64}$")},
                  ["url", "path", "sha256"])
    return closed({
        "source": one_of("pvc", "download", "image"),
        "path": {"anyOf": [text(RELATIVE), text("^$")]},
        "selectorPath": {"anyOf": [text(RELATIVE), text(r"^/[-./\w]+$"), text("^$")]},
        "pvc": closed({"claimName": text(NAME_OR_EMPTY)}),
        "download": closed({
            "files": {"type": "array", "items": file}, "tokenSecret": SECRET_KEY,
            "storage": closed({"size": text(QUANTITY), "storageClassName": text(NAME_OR_EMPTY)}),
            "resources": RESOURCES}),
        "image": closed({"reference": text(), "pullPolicy": PULL_POLICY})})


def tls_schema() -> dict:
    return closed({
        "enabled": BOOLEAN, "secretName": text(NAME_OR_EMPTY), "caKey": text(KEY_OR_EMPTY),
        "clientCaKey": text(KEY_OR_EMPTY), "clientSecretName": text(NAME_OR_EMPTY),
        "certManager": closed({
            "enabled": BOOLEAN,
            "issuerRef": closed({"kind": one_of("Issuer", "ClusterIssuer"), "name": text(NAME_OR_EMPTY),
                                 "group": text(NAME)}),
            "dnsNames": {"type": "array", "items": text()}, "duration": text(SECONDS), "renewBefore": text(SECONDS)})})


def autoscaling_schema() -> dict:
    return closed({
        "mode": one_of("none", "hpa", "keda"), "minReplicas": whole(1), "maxReplicas": whole(1),
        "waitingRequests": whole(1), "kvUsage": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "scaleDownStabilizationSeconds": whole(0, 3600), "scaleDownPeriodSeconds": whole(1, 1800),
        "keda": closed({"prometheusAddress": text("^https?://"), "pollingInterval": whole(1),
                        "authenticationRef": text(NAME_OR_EMPTY)})})


def monitoring_schema() -> dict:
    return closed({
        "monitor": one_of("None", "ServiceMonitor", "PodMonitor"), "interval": text(SECONDS),
        "scrapeTimeout": text(SECONDS), "labels": LABELS, "relabelings": FREE_LIST, "metricRelabelings": FREE_LIST,
        "annotations": BOOLEAN,
        "rules": closed({"enabled": BOOLEAN, "runbookUrl": text(minLength=1)}),
        "dashboards": closed({"enabled": BOOLEAN, "labels": LABELS, "annotations": WORDS})})


def routing_schema() -> dict:
    return closed({
        "header": text(r"^[a-z0-9][-a-z0-9]*$"),
        "gateway": closed({"enabled": BOOLEAN, "parentRefs": FREE_LIST, "annotations": WORDS,
                           "hostnames": {"type": "array", "items": text()}, "envoyGatewayPolicy": BOOLEAN}),
        "envoy": closed({"enabled": BOOLEAN, "replicas": whole(1), "image": text(minLength=1),
                         "pullPolicy": PULL_POLICY, "port": PORT, "resources": RESOURCES,
                         "service": closed({"type": one_of("ClusterIP", "NodePort", "LoadBalancer"),
                                            "annotations": WORDS})})})


def main():
    if len(sys.argv) > 2:
        raise SystemExit(__doc__)
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) == 2 else HERE / "spotd/values.schema.json"
    output.write_text(json.dumps(values_schema(), indent=2) + "\n")


if __name__ == "__main__":
    main()
