#!/usr/bin/env python3
"""Fetches freely licensed long text from Debian's documentation packages and writes it as plain text files.

    tools/spot_distill/fetch_corpus.py OUT_DIR

About 58 MB (15 million tokens) in OUT_DIR/train, and one document in twenty, chosen by a hash of its name, in
OUT_DIR/held-out for judging: the Linux kernel's documentation, Perl's, Python's, the Debian reference and the Debian
handbook, and the sources of Python's standard library. Needs apt-get and dpkg-deb. The file list is sorted and each
document keeps its package's path in its name, so a corpus of the same package versions is the same byte for byte.
"""
import gzip
import html.parser
import pathlib
import subprocess
import sys
import tempfile
import zlib

MIN_BYTES = 2000  # shorter documents have no long distances to teach
HELD_OUT_ONE_IN = 20

# package -> ((path inside the package, suffixes), ...)
SOURCES = {
    "linux-doc-6.1": (("usr/share/doc/linux-doc-6.1/Documentation", (".rst.gz", ".txt.gz")),),
    "perl-doc": (("usr/share/perl", (".pod",)),),
    "python3.11-doc": (("usr/share/doc/python3.11/html/_sources", (".rst.txt",)),),
    "debian-reference-en": (("usr/share/debian-reference", (".en.html",)),),
    "debian-handbook": (("usr/share/doc/debian-handbook/html/en-US", (".html",)),),
    "libpython3.11-stdlib": (("usr/lib/python3.11", (".py",)),),
    "libpython3.11-minimal": (("usr/lib/python3.11", (".py",)),),
}


class TextOfHtml(html.parser.HTMLParser):
    """The visible text, one line per block element."""

    BLOCKS = {"p", "div", "li", "h1", "h2", "h3", "h4", "pre", "tr", "dt", "dd", "br"}

    def __init__(self):
        super().__init__()
        self.parts = []
        self.hidden = 0

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in ("script", "style", "head")
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style", "head")

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)

    def text(self):
        lines = [line.rstrip() for line in "".join(self.parts).splitlines()]
        return "\n".join(line for line, before in zip(lines, [""] + lines) if line or before) + "\n"


def read(path: pathlib.Path) -> str:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = data.decode("utf-8", errors="ignore").replace("\0", "")
    if ".html" in path.suffixes:
        parser = TextOfHtml()
        parser.feed(text)
        text = parser.text()
    return text


def unpack(package: str, root: pathlib.Path) -> pathlib.Path:
    subprocess.run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package], cwd=root, check=True,
                   stdout=subprocess.DEVNULL)
    target = root / package
    archive = next(root.glob(f"{package}_*.deb"))
    subprocess.run(["dpkg-deb", "-x", archive, target], check=True)
    return target


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    out = pathlib.Path(sys.argv[1])
    for part in ("train", "held-out"):
        (out / part).mkdir(parents=True, exist_ok=True)
    documents = size = 0
    with tempfile.TemporaryDirectory() as scratch:
        for package, places in SOURCES.items():
            target = unpack(package, pathlib.Path(scratch))
            for place, suffixes in places:
                for path in sorted(p for p in (target / place).rglob("*") if p.is_file() and p.name.endswith(suffixes)):
                    text = read(path)
                    if len(text.encode()) < MIN_BYTES:
                        continue
                    name = f"{package}--{path.relative_to(target / place).as_posix().replace('/', '__')}.txt"
                    part = "train" if zlib.crc32(name.encode()) % HELD_OUT_ONE_IN else "held-out"
                    (out / part / name).write_text(text, encoding="utf-8")
                    documents += 1
                    size += len(text.encode())
    print(f"{documents} documents, {size / 1e6:.1f} MB in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
