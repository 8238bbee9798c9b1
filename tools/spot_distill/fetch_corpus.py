#!/usr/bin/env python3
"""Fetches freely licensed long text from Debian's documentation packages and writes it as plain text files.

    tools/spot_distill/fetch_corpus.py OUT_DIR

About 69 MB (20 million tokens) in OUT_DIR/train, and one document in twenty, chosen by a hash of its name, in
OUT_DIR/held-out for judging: the Linux kernel's documentation, Perl's, Python's, the Debian reference and the Debian
handbook, and the sources of Python's standard library. Needs apt-get and dpkg-deb. The file list is sorted and each
document keeps its package's path in its name, so a corpus of the same package versions is the same byte for byte.

OUT_DIR/judging has text of packages that give nothing to train on (Git's and PostgreSQL's documentation): for judging too,
where the held-out documents are too few.

Each training document also gives a conversation, OUT_DIR/train/*.chat.txt: a passage of it with facts inserted,
questions about them, a chain of variables to follow or a line to repeat, and the answers, with ChatML's markers.
"""
import gzip
import html.parser
import pathlib
import random as random_numbers
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
JUDGING = {
    "git-doc": (("usr/share/doc/git-doc", (".txt",)),),
    "postgresql-doc-15": (("usr/share/doc/postgresql-doc-15/html", (".html",)),),
}

PASSAGE_BYTES = 2600  # about 800 tokens: passage and answers fit a training sequence
NAMES = ("Avery", "Blake", "Casey", "Devon", "Ellis", "Finley", "Harper", "Jordan", "Kendall", "Logan", "Morgan", "Parker")
THINGS = ("the harbour gate", "the blue cabinet", "the archive room", "the night train", "the north tower", "the test rig",
          "the seed vault", "the spare server", "the old bakery", "the river ferry", "the glass house", "the print shop")
PHRASES = (("The access code of {thing} is {number}.", "What is the access code of {thing}?", "The access code of {thing} is {number}."),
           ("{name} keeps {number} crates in {thing}.", "How many crates does {name} keep in {thing}?", "{number}"),
           ("Note for later: the number to remember for {thing} is {number}.",
            "Which number is to be remembered for {thing}?", "It is {number}."),
           ("According to {name}, the ticket for {thing} has the number {number}.",
            "Which ticket number does {name} give for {thing}?", "{name} gives {number}."))


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


def fact_task(random: random_numbers.Random) -> tuple[list[str], str, str]:
    """Lines to insert, a question and its answer."""
    facts = []
    for thing in random.sample(THINGS, 3):
        words = {"thing": thing, "name": random.choice(NAMES), "number": random.randrange(1000, 1000000)}
        facts.append([part.format(**words) for part in random.choice(PHRASES)])
    asked = random.sample(facts, random.choice((1, 2, 3)))
    return ([fact[0] for fact in facts], " ".join(fact[1] for fact in asked), " ".join(fact[2] for fact in asked))


def track_task(random: random_numbers.Random) -> tuple[list[str], str, str]:
    names = [f"X{n}" for n in random.sample(range(10, 99), 6)]
    first, second = random.sample(range(10000, 99999), 2)
    lines = [f"VAR {names[0]} = {first}", f"VAR {names[1]} = {second}"]
    lines += [f"VAR {names[i]} = VAR {names[i - 2]}" for i in range(2, 6)]
    return lines, f"Which variables have the value {first}?", f"{names[0]}, {names[2]}, {names[4]}"


def chat_of(text: str, seed: int) -> str | None:
    """A conversation about a passage of `text`; None where it has too few lines."""
    random = random_numbers.Random(seed)
    start = text.find("\n", random.randrange(max(1, len(text) - PASSAGE_BYTES))) + 1
    lines = text[start : start + PASSAGE_BYTES].splitlines()
    if len(lines) < 12:
        return None
    kind = seed % 3
    if kind == 2:
        long_lines = [line.strip() for line in lines if len(line.split()) >= 7 and lines.count(line) == 1]
        if not long_lines:
            return None
        line = random.choice(long_lines)
        inserted, question, answer = [], f'Repeat the line that begins with "{" ".join(line.split()[:3])}".', line
    else:
        inserted, question, answer = (fact_task, track_task)[kind](random)
    for line, place in zip(inserted, sorted(random.sample(range(1, len(lines)), len(inserted)))):
        lines.insert(place, line)
    ask_first = question + "\n\n" if random.random() < 0.3 else ""
    passage = "\n".join(lines)
    return (f"<|im_start|>user\n{ask_first}{passage}\n\n{question}<|im_end|>\n"
            f"<|im_start|>assistant\n{answer}<|im_end|>\n")


def write_chats(train: pathlib.Path) -> int:
    written = 0
    for path in sorted(p for p in train.glob("*.txt") if not p.name.endswith(".chat.txt")):
        seed = zlib.crc32(path.name.encode())
        chat = chat_of(path.read_text(encoding="utf-8"), seed)
        if chat is not None:
            path.with_name(path.name.removesuffix(".txt") + ".chat.txt").write_text(chat, encoding="utf-8")
            written += 1
    return written


def part_of(package: str, name: str) -> str:
    if package in JUDGING:
        return "judging"
    return "train" if zlib.crc32(name.encode()) % HELD_OUT_ONE_IN else "held-out"


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    out = pathlib.Path(sys.argv[1])
    for part in ("train", "held-out", "judging"):
        (out / part).mkdir(parents=True, exist_ok=True)
    documents = size = 0
    with tempfile.TemporaryDirectory() as scratch:
        for package, places in (SOURCES | JUDGING).items():
            target = unpack(package, pathlib.Path(scratch))
            for place, suffixes in places:
                for path in sorted(p for p in (target / place).rglob("*") if p.is_file() and p.name.endswith(suffixes)):
                    text = read(path)
                    if len(text.encode()) < MIN_BYTES:
                        continue
                    name = f"{package}--{path.relative_to(target / place).as_posix().replace('/', '__')}.txt"
                    (out / part_of(package, name) / name).write_text(text, encoding="utf-8")
                    documents += 1
                    size += len(text.encode())
    documents += write_chats(out / "train")
    print(f"{documents} documents, {size / 1e6:.1f} MB in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
