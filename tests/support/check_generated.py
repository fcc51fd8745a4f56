"""Exit 1 if edgesched/v1 is not what protos/ generates."""

from __future__ import annotations

import filecmp
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parents[2]


def main() -> int:
    protos = sorted(str(path) for path in ROOT.glob("protos/edgesched/v1/*.proto"))
    with tempfile.TemporaryDirectory() as temporary:
        outputs = [f"--{kind}_out={temporary}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"-I{ROOT / 'protos'}", *outputs, *protos]) != 0:
            return 1
        fresh = {path.name for path in Path(temporary, "edgesched/v1").iterdir()}
        _, stale, missing = filecmp.cmpfiles(
            Path(temporary, "edgesched/v1"), ROOT / "edgesched/v1", sorted(fresh), shallow=False
        )
    kept = {path.name for path in (ROOT / "edgesched/v1").glob("*_pb2*")}
    for name in sorted({*stale, *missing, *(kept - fresh)}):
        print(f"edgesched/v1/{name} is not what protos/ generates; run: make proto")
    return 1 if stale or missing or kept - fresh else 0


if __name__ == "__main__":
    sys.exit(main())
