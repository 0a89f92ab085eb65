#!/usr/bin/env python3
"""Generate plugin/api from protos/, or with --check report whether it is current."""

from __future__ import annotations

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"


def generate(target: Path) -> list[Path]:
    """Write the generated modules below `target`; returns their relative paths."""
    sources = sorted(PROTOS.rglob("*.proto"))
    options = [f"--{kind}_out={target}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={PROTOS}",
            *options,
            *map(str, sources),
        ],
        check=True,
    )
    return sorted(path.relative_to(target) for path in target.rglob("*_pb2*.py*"))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
        if "--check" in sys.argv[1:]:
            committed = sorted(
                p.relative_to(ROOT) for p in (ROOT / "plugin/api").glob("*_pb2*.py*")
            )
            same = {
                p
                for p in committed
                if p in fresh and filecmp.cmp(ROOT / p, Path(folder) / p, shallow=False)
            }
            stale = sorted({*fresh, *committed} - same)
            if stale:
                print("not what protos/ generates:", *stale, "— run `make generate`", sep="\n  ")
                return 1
            print(f"{len(fresh)} generated files are fresh")
            return 0
        for path in fresh:
            (ROOT / path).write_bytes((Path(folder) / path).read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
