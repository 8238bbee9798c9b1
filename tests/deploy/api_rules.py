"""What a Kubernetes API server refuses although its schema accepts it, and what it accepts although it cannot work: names,
ports, selectors and references between the objects of one release. Each function returns complaints, as texts."""
import re

NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
# What Kubernetes appends to the name and puts into a label or a pod's name must fit, too: a StatefulSet's revision has 11
# characters, a pod of a Deployment 17.
LONGEST = {"Service": 63, "StatefulSet": 52, "Deployment": 46, "Job": 57, "Pod": 63}
SUFFIXES = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
# Fields of spec that an update may not change.
FIXED = {"StatefulSet": ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates"),
         "Deployment": ("selector",), "Job": ("selector", "template", "completions"), "Service": ("clusterIP",)}


def pod_template(document: dict):
    """(labels, spec) of the pods that it makes, or None."""
    if document["kind"] == "Pod":
        return document["metadata"].get("labels", {}), document["spec"]
    template = document.get("spec", {}).get("template")
    return (template["metadata"].get("labels", {}), template["spec"]) if template else None


def names(document: dict) -> list:
    kind, metadata = document["kind"], document["metadata"]
    name, found = metadata["name"], []
    pattern = SERVICE_NAME if kind == "Service" else NAME
    if not pattern.fullmatch(name) or len(name) > LONGEST.get(kind, 253):
        found.append(f"the name {name}")
    labels = [metadata.get("labels", {})] + ([pod_template(document)[0]] if pod_template(document) else [])
    for key, value in [item for some in labels for item in some.items()]:
        prefix, _, last = key.rpartition("/")
        if len(prefix) > 253 or len(last) > 63 or not LABEL_NAME.fullmatch(last):
            found.append(f"the label {key}")
        if not isinstance(value, str) or len(value) > 63 or not LABEL_VALUE.fullmatch(value):
            found.append(f"the value of the label {key}: {value}")
    for key, value in metadata.get("annotations", {}).items():
        if not isinstance(value, str):
            found.append(f"the annotation {key} is no text")
    return found


def quantity(text) -> float:
    number, suffix = re.fullmatch(r"([0-9.]+)(\w*)", str(text)).groups()
    return float(number) * SUFFIXES[suffix]


def container(some: dict, volumes: set) -> list:
    found, ports = [], [port for port in some.get("ports", [])]
    for port in ports:
        if len(port["name"]) > 15 or not PORT_NAME.fullmatch(port["name"]):
            found.append(f"the port name {port['name']}")
    for what, values in (("port name", [p["name"] for p in ports]), ("port", [p["containerPort"] for p in ports]),
                         ("variable", [e["name"] for e in some.get("env", [])]),
                         ("mount path", [m["mountPath"] for m in some.get("volumeMounts", [])])):
        found += [f"the {what} {value} twice" for value in sorted(set(values), key=str) if values.count(value) > 1]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        port = some.get(probe, {}).get("httpGet", some.get(probe, {}).get("grpc", {})).get("port")
        if isinstance(port, str) and port not in [p["name"] for p in ports]:
            found.append(f"{probe} asks the port {port}, which is not there")
        if isinstance(port, int) and port not in [p["containerPort"] for p in ports]:
            found.append(f"{probe} asks the port {port}, which is not there")
    found += [f"the volume {m['name']} is mounted and not there" for m in some.get("volumeMounts", []) if m["name"] not in volumes]
    resources = some.get("resources", {})
    for name, limit in resources.get("limits", {}).items():
        if quantity(resources.get("requests", {}).get(name, 0)) > quantity(limit):
            found.append(f"more {name} requested than the limit")
    return found


def pods(document: dict) -> list:
    if pod_template(document) is None:
        return []
    spec = pod_template(document)[1]
    volumes = [volume["name"] for volume in spec.get("volumes", [])]
    volumes += [claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])]
    everything = spec.get("initContainers", []) + spec["containers"]
    found = [f"the {what} {name} twice" for what, values in (("volume", volumes), ("container", [c["name"] for c in everything]))
             for name in sorted(set(values)) if values.count(name) > 1]
    ports = [p["containerPort"] for c in spec["containers"] for p in c.get("ports", [])]
    found += [f"two containers have the port {port}" for port in set(ports) if ports.count(port) > 1]
    return found + [f"{some['name']}: {text}" for some in everything for text in container(some, set(volumes))]


def selects(selector: dict, labels: dict) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def selectors(document: dict, everything: list) -> list:
    """A selector must find its own pods, and pods of no other object."""
    kind, spec = document["kind"], document.get("spec", {})
    if kind == "Service":
        selector = spec["selector"]
    elif kind in ("StatefulSet", "Deployment", "PodDisruptionBudget", "PodMonitor"):
        selector = spec["selector"]["matchLabels"]
    elif kind == "NetworkPolicy":
        selector = spec["podSelector"]["matchLabels"]
    else:
        return []
    owners = [other for other in everything if pod_template(other) and selects(selector, pod_template(other)[0])]
    if len(owners) != 1:
        return [f"selects the pods of {len(owners)} objects"]
    if kind in ("StatefulSet", "Deployment") and owners[0] is not document:
        return ["does not select its own pods"]
    known = {p[key] for c in pod_template(owners[0])[1]["containers"] for p in c.get("ports", []) for key in ("name", "containerPort")}
    wanted = []
    if kind == "Service":
        wanted = [port["targetPort"] for port in spec["ports"]]
    elif kind == "NetworkPolicy":
        wanted = [port["port"] for rule in spec["ingress"] for port in rule["ports"]]
    elif kind == "PodMonitor":
        wanted = [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]]
    return [f"the port {port} of the pods is not there" for port in wanted if port not in known]


def references(document: dict, everything: list) -> list:
    """Objects that are named and belong to the release must be in it."""
    by_kind = {}
    for other in everything:
        by_kind.setdefault(other["kind"], {})[other["metadata"]["name"]] = other
    found = []
    if pod_template(document):
        spec = pod_template(document)[1]
        for volume in spec.get("volumes", []):
            name = volume.get("configMap", {}).get("name")
            if name and name not in by_kind["ConfigMap"]:
                found.append(f"the ConfigMap {name} is not there")
    spec = document.get("spec", {})
    if document["kind"] == "StatefulSet":
        service = by_kind["Service"].get(spec["serviceName"])
        if service is None or service["spec"].get("clusterIP") != "None":
            found.append(f"the headless Service {spec['serviceName']} is not there")
    if "scaleTargetRef" in spec and spec["scaleTargetRef"]["name"] not in by_kind[spec["scaleTargetRef"]["kind"]]:
        found.append("scales what is not there")
    if document["kind"] == "ServiceMonitor":
        services = [s for s in by_kind["Service"].values() if selects(spec["selector"]["matchLabels"], s["metadata"]["labels"])]
        ports = {port["name"] for service in services for port in service["spec"]["ports"]}
        if len(services) != 1 or not {endpoint["port"] for endpoint in spec["endpoints"]} <= ports:
            found.append(f"monitors {len(services)} Services with the ports {sorted(ports)}")
    if document["kind"] == "GRPCRoute":
        for backend in (backend for rule in spec["rules"] for backend in rule["backendRefs"]):
            service = by_kind["Service"].get(backend["name"])
            if service is None or backend["port"] not in [port["port"] for port in service["spec"]["ports"]]:
                found.append(f"the backend {backend} is not there")
    return found


def complaints(everything: list) -> list:
    found = []
    keys = [(d["apiVersion"], d["kind"], d["metadata"]["name"]) for d in everything]
    found += [f"{key} twice" for key in set(keys) if keys.count(key) > 1]
    for document in everything:
        texts = names(document) + pods(document) + selectors(document, everything) + references(document, everything)
        found += [f"{document['kind']}/{document['metadata']['name']}: {text}" for text in texts]
    return found


def refused_updates(before: list, after: list) -> list:
    """What `helm upgrade` from one rendering to the other could not change in place."""
    old = {(d["kind"], d["metadata"]["name"]): d for d in before}
    return [f"{d['kind']}/{d['metadata']['name']}: spec.{field}" for d in after for field in FIXED.get(d["kind"], ())
            if (d["kind"], d["metadata"]["name"]) in old
            and d["spec"].get(field) != old[(d["kind"], d["metadata"]["name"])]["spec"].get(field)]
