"""A container engine of one's own for a test: podman with its storage in one directory, and the Docker API for Compose."""
import os
import pathlib
import shutil
import subprocess
import time

MIRROR = "http://deb.debian.org"
HOST_CA = "/etc/ssl/certs/ca-certificates.crt"
# As in Debian's official image, whose place the base takes.
SOURCES = f"""Types: deb
URIs: {MIRROR}/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: {MIRROR}/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
# Equal limits, which podman 4.3 asks for in its Docker API; cgroupfs and runc need no systemd.
CONFIGURATION = """[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
"""


class Engine:
    """Podman below `work`. Everything in it goes with close()."""

    def __init__(self, work: pathlib.Path):
        self._work = work
        (work / "containers.conf").write_text(CONFIGURATION)
        self._environment = os.environ | {"CONTAINERS_CONF": str(work / "containers.conf")}
        self._podman = ["podman", "--root", str(work / "storage"), "--runroot", str(work / "run")]
        self._service = None

    def __call__(self, *arguments, check=True, **options) -> subprocess.CompletedProcess:
        """podman ARGUMENTS; the output is text."""
        result = subprocess.run([*self._podman, *map(str, arguments)], env=self._environment, text=True, check=False,
                                **({"capture_output": True} | options))
        if check and result.returncode != 0:
            raise SystemExit(f"podman {arguments[0]} failed: {result.stdout or ''}{result.stderr or ''}")
        return result

    def make_base(self, name: str):
        """A minimal Debian 12 of today, under the name that a Dockerfile starts from."""
        if self("image", "exists", name, check=False).returncode == 0:
            return
        root = self._work / "debian"
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["debootstrap", "--variant=minbase", "bookworm", root, f"{MIRROR}/debian"], check=True,
                       stdout=subprocess.DEVNULL)
        (root / "etc/apt/sources.list").unlink()
        (root / "etc/apt/sources.list.d/debian.sources").write_text(SOURCES)
        shutil.rmtree(root / "var/cache/apt/archives")
        shutil.rmtree(root / "var/lib/apt/lists")
        archive = self._work / "debian.tar"
        subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
        self("import", archive, f"docker.io/library/{name}")
        archive.unlink()
        shutil.rmtree(root)

    def build(self, dockerfile: pathlib.Path, context: pathlib.Path, name: str, arguments: dict):
        """podman build. Where the host trusts authorities of its own, so does pip in the build, and only there."""
        flags = ["--pull=never", "--layers", "--format=docker", "--network=host", f"--file={dockerfile}", f"--tag={name}"]
        flags += [f"--build-arg={key}={value}" for key, value in arguments.items()]
        if os.path.exists(HOST_CA):
            (self._work / "pip.conf").write_text("[global]\ncert = /host-ca.crt\n")
            flags += [f"--volume={HOST_CA}:/host-ca.crt:ro", f"--volume={self._work}/pip.conf:/etc/pip.conf:ro"]
        self("build", *flags, context, capture_output=False)

    def docker_host(self) -> str:
        """Starts the Docker API once; returns the address for DOCKER_HOST."""
        socket = self._work / "podman.sock"
        if self._service is None:
            self._service = subprocess.Popen([*self._podman, "system", "service", "--time=0", f"unix://{socket}"],
                                             env=self._environment)
            for _ in range(100):
                if socket.exists():
                    break
                time.sleep(0.1)
        return f"unix://{socket}"

    def close(self):
        if self._service is not None:
            self._service.terminate()
            self._service.wait()
        self("rm", "--all", "--force", "--time=0", check=False)

    def remove(self):
        """All images, too."""
        self("system", "reset", "--force", check=False)
