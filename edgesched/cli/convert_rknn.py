"""Convert an ONNX graph to .rknn; run by path under an interpreter that has rknn-toolkit2, and needs nothing else.

`python convert_rknn.py MODEL.onnx OUT.rknn rk3588 '[0, 0, 0]' '[255, 255, 255]' [DATASET.txt]`
"""

from __future__ import annotations

import json
import sys

# A rule of toolkit 2.5.0 that writes into read-only arrays and so fails on many graphs.
BROKEN_RULES = ["fuse_pad_into_avgpool"]


def main(onnx: str, target: str, soc: str, mean: str, std: str, dataset: str = "") -> int:
    """Returns: the exit code."""
    from rknn.api import RKNN

    rknn = RKNN(verbose=False)
    rknn.config(
        mean_values=[json.loads(mean)],
        std_values=[json.loads(std)],
        target_platform=soc,
        disable_rules=BROKEN_RULES,
    )
    try:
        if rknn.load_onnx(model=onnx) != 0:
            return 1
        if rknn.build(do_quantization=bool(dataset), dataset=dataset or None) != 0:
            return 1
        return 0 if rknn.export_rknn(target) == 0 else 1
    finally:
        rknn.release()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
