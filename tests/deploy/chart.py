"""Renders the chart and checks manifests against schemas; shared by the tests and by tests/deploy/regenerate."""
import functools
import json
import os
import pathlib
import subprocess

import jsonschema
import kubernetes_validate
import kubernetes_validate.utils
import yaml

# It reads the same large files again for every object.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)

SOURCE = pathlib.Path(__file__).resolve().parents[2]
CHART = SOURCE / "helm/spotd"
VALUES = SOURCE / "tests/deploy/values"
GOLDEN = SOURCE / "tests/deploy/golden"
KUBERNETES_VERSIONS = ("1.27", "1.30", "1.33", "1.35", "1.37")
# The first version whose schema knows what a values file uses.
FIRST_VERSION = {"image-volume": "1.31", "envoy-distill": "1.30", "tls": "1.30", "gateway": "1.31"}


def cases() -> list:
    return sorted(VALUES.glob("*.yaml"))


def helm(*arguments: str, version: int = 4) -> subprocess.CompletedProcess:
    program = os.environ["DEPLOY_TEST_HELM" if version == 4 else "DEPLOY_TEST_HELM3"]
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)


def template(*arguments, release: str = "demo", namespace: str = "llm", version: int = 4) -> subprocess.CompletedProcess:
    return helm("template", release, CHART, "--namespace", namespace, *arguments, version=version)


@functools.cache
def rendered(case: pathlib.Path) -> str:
    result = template("--values", case)
    if result.returncode != 0:
        raise AssertionError(f"{case.name}: {result.stderr}")
    return result.stdout


def manifests(text: str) -> list:
    return [document for document in yaml.safe_load_all(text) if document]


def find(documents: list, kind: str, name: str = "demo-spotd") -> dict:
    found = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
    return found[0]


def validate(document: dict, version: str):
    """Against Kubernetes' own schema, or that of the custom resource; unknown fields are errors."""
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        jsonschema.validate(document, custom_schema(document["apiVersion"], document["kind"]))


@functools.cache
def custom_schema(api_version: str, kind: str) -> dict:
    if kind in HAND_WRITTEN:
        return HAND_WRITTEN[kind]
    # Imported late: these packages take seconds to load.
    if api_version == "monitoring.coreos.com/v1":
        import cloudcoil.models.prometheus_operator.v1 as module
    elif api_version == "keda.sh/v1alpha1":
        import cloudcoil.models.keda.v1alpha1 as module
    elif api_version == "cert-manager.io/v1":
        import cloudcoil.models.cert_manager.v1 as module
    else:
        raise AssertionError(f"no schema for {api_version} {kind}")
    # Go's place for the flag of a pattern, and Python's.
    text = json.dumps(getattr(module, kind).model_json_schema()).replace('"^(?i)', '"(?i)^')
    schema = json.loads(text)
    for part in (schema, *schema.get("$defs", {}).values()):
        if "properties" in part:
            part.setdefault("additionalProperties", False)
    return schema


def _closed(required, **properties) -> dict:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


_TEXT, _PORT = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 1, "maximum": 65535}
_BOUND = {"type": "integer", "minimum": 0, "maximum": 4294967295}
_TEXTS = {"type": "array", "items": _TEXT}
_PARENT = _closed(["name"], group=_TEXT, kind=_TEXT, namespace=_TEXT, name=_TEXT, sectionName=_TEXT, port=_PORT)
_METADATA = _closed(["name"], name=_TEXT, namespace=_TEXT, labels={"type": "object"}, annotations={"type": "object"})

# The parts of the Gateway API (v1) and of Envoy Gateway (v1alpha1) that the chart uses, after their references: no
# package carries these schemas.
HAND_WRITTEN = {
    "GRPCRoute": _closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "gateway.networking.k8s.io/v1"}, kind=_TEXT, metadata=_METADATA,
        spec=_closed(["parentRefs", "rules"], parentRefs={"type": "array", "items": _PARENT, "minItems": 1},
                     hostnames=_TEXTS,
                     rules={"type": "array", "items": _closed(
                         ["backendRefs"],
                         backendRefs={"type": "array", "items": _closed(["name", "port"], name=_TEXT, port=_PORT)})})),
    "BackendTrafficPolicy": _closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "gateway.envoyproxy.io/v1alpha1"}, kind=_TEXT, metadata=_METADATA,
        spec=_closed(
            ["targetRefs", "loadBalancer"],
            targetRefs={"type": "array", "items": _closed(["group", "kind", "name"], group=_TEXT, kind=_TEXT,
                                                          name=_TEXT)},
            loadBalancer=_closed(["type", "consistentHash"], type={"const": "ConsistentHash"},
                                 consistentHash=_closed(["type", "header"], type={"const": "Header"},
                                                        header=_closed(["name"], name=_TEXT))),
            circuitBreaker=_closed([], maxConnections=_BOUND, maxPendingRequests=_BOUND, maxParallelRequests=_BOUND,
                                   maxParallelRetries=_BOUND, maxRequestsPerConnection=_BOUND),
            timeout=_closed([], http=_closed([], requestTimeout=_TEXT)))),
}
