"""`python -m scripts.artifact FOLDER`: what goes to Lambda, module by module, as it is and zipped."""

import io
import sys
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

METADATA = "(metadata)"
MOST_ZIPPED = 15_000_000  # bytes; what is shipped is also what a cold start has to fetch


@dataclass(frozen=True, slots=True)
class Artifact:
    """Bytes of each module, and of the whole. `has_bytecode`: for every line of Python in it."""

    plain: Counter[str] = field(default_factory=Counter)
    zipped: Counter[str] = field(default_factory=Counter)
    total: int = 0
    has_bytecode: bool = True


def look_at(folder: Path) -> Artifact:
    plain: Counter[str] = Counter()
    zipped: Counter[str] = Counter()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.relative_to(folder))
        for entry in archive.infolist():
            top = entry.filename.split("/", 1)[0]
            module = METADATA if top.endswith(".dist-info") else top
            plain[module] += entry.file_size
            zipped[module] += entry.compress_size
    compiled = {path.parent.parent / path.name.partition(".")[0] for path in files if path.suffix == ".pyc"}
    sources = {path.with_suffix("") for path in files if path.suffix == ".py"}
    return Artifact(plain, zipped, len(target.getvalue()), sources <= compiled)


def report(artifact: Artifact) -> str:
    rows = [(module, f"{artifact.plain[module]:,}", f"{size:,}") for module, size in artifact.zipped.most_common()]
    table = tabulate(rows, headers=("module", "bytes", "zipped"), colalign=("left", "right", "right"))
    bytecode = "with bytecode" if artifact.has_bytecode else "WITHOUT bytecode: each cold start compiles it anew"
    return f"{table}\n\n{artifact.total / 1e6:.1f} MB zipped, {artifact.plain.total() / 1e6:.1f} MB, {bytecode}"


def main(folder: str) -> int:
    artifact = look_at(Path(folder))
    print(report(artifact))
    if artifact.total > MOST_ZIPPED:
        print(f"That is more than {MOST_ZIPPED / 1e6:.0f} MB.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
