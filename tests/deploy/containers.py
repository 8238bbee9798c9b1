#!/usr/bin/env python3
"""Builds deploy/images/Dockerfile with a real engine (podman), runs the image, and the compose file with real Compose.

    tests/deploy/with_tools tests/deploy/containers.py [--cuda] [--work DIR]

As root, after deploy/install-packages containers. Takes as long as a build does. Images come from no registry: Debian's is made
by debootstrap, Prometheus' from Debian's package, and Grafana's cannot be had, so that service does not run here.
"""
import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

import dockerfile
from engine import Engine

SOURCE = pathlib.Path(__file__).resolve().parents[2]
DOCKERFILE = SOURCE / "deploy/images/Dockerfile"
SELECTORS = "/usr/local/share/spotd/models/*/selector.safetensors"
RESTRICTED = ["--read-only", "--cap-drop=all", "--security-opt=no-new-privileges"]


def check(condition: bool, what: str):
    if not condition:
        raise SystemExit(f"containers: FAILED: {what}")
    print(f"ok: {what}", flush=True)


def get(url: str) -> str:
    return urllib.request.urlopen(url, timeout=10).read().decode()


def wait_for(condition, seconds: float = 60):
    """Whether `condition` became true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return True
        except OSError:
            pass
        time.sleep(0.3)
    return False


def look_inside(engine: Engine, image: str, cuda: bool):
    def run(*command):
        return engine("run", "--rm", *RESTRICTED, "--entrypoint", command[0], image, *command[1:], check=False)

    user = engine("image", "inspect", "--format", "{{.Config.User}}", image).stdout.strip()
    check(user == "65532:65532" and "uid=65532" in run("id").stdout, f"it runs as {user}")
    check(run("sh", "-c", "command -v cc g++ cmake pip3").returncode != 0, "it holds no compiler")
    for tool in ("spotd", "spotctl", "spot-distill", "spot-eval", "spot-bench"):
        result = run(tool, "--help")
        check(tool in result.stdout + result.stderr and "error while loading" not in result.stderr, f"{tool} starts")
    check(run("sh", "-c", "ldd /usr/local/bin/* | grep 'not found'").returncode == 1, "every library of the programs is there")
    readable = run("sh", "-c", f"for file in {SELECTORS}; do test -r $file && echo $file; done").stdout.split()
    check(len(readable) == len(list((SOURCE / "models").iterdir())), "its user can read the selectors, unpacked")
    check("libgrpc++1.51" in run("cat", "/usr/local/share/spotd/packages").stdout, "it says which packages it holds")
    if cuda:
        check("libcublasLt.so.13" in run("/sbin/ldconfig", "-p").stdout, "cuBLASLt is where the loader looks")
    size = int(engine("image", "inspect", "--format", "{{.Size}}", image).stdout)
    base = int(engine("image", "inspect", "--format", "{{.Size}}", base_name()).stdout)
    print(f"size: {size / 1e6:.0f} MB, {base / 1e6:.0f} of them Debian's")


def serve(engine: Engine, image: str):
    """The image with every restriction that the chart has: health check, one token, metrics, drain."""
    engine("run", "--detach", "--name=served", *RESTRICTED, "--publish=127.0.0.1:59464:9464",
           f"--volume={SOURCE / 'tests/data/models/qwen3'}:/model:ro", image, "--model=/model", "--kv_memory=64MiB", "--threads=1")
    healthy = wait_for(lambda: engine("healthcheck", "run", "served", check=False).returncode == 0)
    check(healthy, "the health check says it serves")
    answer = engine("exec", "served", "spotctl", "complete", "--text", "one", "--max-tokens", "1", "--json", check=False)
    check(re.search(r'"generated_tokens":\s*1\b', answer.stdout) is not None, "one token over gRPC")
    check("spotd_generation_tokens_total" in get("http://127.0.0.1:59464/metrics"), "/metrics answers on the published port")
    print(f"backend: {re.search(r'backend.:.([^,]*)', engine('logs', 'served').stdout + engine('logs', 'served').stderr).group(1)}")
    guide = (SOURCE / "docs/operations.md").read_text()
    commands = re.findall(r"(?m)^    kubectl -n llm exec \S+ -c spotd -- (.*)$", guide)
    check(len(commands) >= 4, "docs/operations.md has commands for the inside of a pod")
    for command in commands:
        result = engine("exec", "served", *shlex.split(command), check=False)
        check(result.returncode == 0, f"{command} {result.stderr if result.returncode else ''}")
    engine("stop", "--time=40", "served")
    check(engine("inspect", "--format", "{{.State.ExitCode}}", "served").stdout.strip() == "0", "SIGTERM drains and exits with 0")
    engine("rm", "served")


def compose(engine: Engine):
    """compose.yaml by Docker Compose: spotd, and a Prometheus that scrapes it by its name and has the rules."""
    engine.build(SOURCE / "tests/deploy/prometheus.Dockerfile", SOURCE / "tests/deploy", "docker.io/prom/prometheus:v2.53.4", {})
    environment = os.environ | {"DOCKER_HOST": engine.docker_host(), "SPOTD_MODEL_DIR": str(SOURCE / "tests/data/models"),
                                "SPOTD_MODEL_FILE": "qwen3", "SPOTD_KV_MEMORY": "64MiB"}
    program = [pathlib.Path(sys.executable).parent / "docker-compose", "--file", SOURCE / "deploy/compose/compose.yaml"]

    def run(*arguments):
        return subprocess.run([*program, *arguments], env=environment, capture_output=True, text=True, check=False)

    def scraped():
        targets = json.loads(get("http://127.0.0.1:9090/api/v1/targets"))["data"]["activeTargets"]
        return [target["health"] for target in targets] == ["up"]

    try:
        result = run("up", "--detach", "--no-build", "--no-deps", "--pull=never", "spotd", "prometheus")
        check(result.returncode == 0, f"docker-compose up {result.stderr[-500:] if result.returncode else ''}")
        check(wait_for(scraped), "Prometheus scrapes spotd by its name")
        check('"SpotdDown"' in get("http://127.0.0.1:9090/api/v1/rules"), "Prometheus has the rules")
    finally:
        result = run("down", "--volumes", "--timeout=45")
    check(result.returncode == 0, "docker-compose down")


def snapshot(engine: Engine):
    """What SNAPSHOT makes of apt's sources. The snapshots themselves are not asked for."""
    script = SOURCE / "deploy/images/debian-snapshot"
    command = "/debian-snapshot 20251101T000000Z && apt-get update --print-uris"
    output = engine("run", "--rm", f"--volume={script}:/debian-snapshot:ro", base_name(), "bash", "-c", command).stdout
    asked = set(re.findall(r"'(http\S*?)/dists/\S+'", output))
    archives = {f"http://snapshot.debian.org/archive/{name}/20251101T000000Z" for name in ("debian", "debian-security")}
    check(asked == archives, "with SNAPSHOT, apt asks for nothing but that snapshot")


def base_name() -> str:
    return next(step.rest for step in dockerfile.parse(DOCKERFILE.read_text()) if step.word == "ARG").partition("=")[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", action="store_true", help="the image with the CUDA backend, and no compose file")
    parser.add_argument("--work", type=pathlib.Path, help="keep images here; default: a temporary directory, removed")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or not all(map(shutil.which, ("podman", "runc", "debootstrap"))):
        raise SystemExit("containers needs root and: deploy/install-packages containers")
    work = arguments.work or pathlib.Path(tempfile.mkdtemp(prefix="spotd_containers_"))
    work.mkdir(parents=True, exist_ok=True)
    engine = Engine(work)
    try:
        begin = time.monotonic()
        engine.make_base(base_name())
        snapshot(engine)
        image = "spotd:0.1.0" + ("-cuda" if arguments.cuda else "")
        engine.build(DOCKERFILE, SOURCE, image, {"CUDA": "ON" if arguments.cuda else "OFF"})
        print(f"built in {time.monotonic() - begin:.0f} s")
        look_inside(engine, image, arguments.cuda)
        serve(engine, image)
        if not arguments.cuda:
            compose(engine)
    finally:
        engine.close()
        if arguments.work is None:
            engine.remove()
            shutil.rmtree(work)
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
