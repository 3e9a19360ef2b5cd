"""Which share of the target tokens of a preset trains each condition of generation and probes.

python benchmarks/mask_shares.py farm --samples 20000
python benchmarks/mask_shares.py farm --masking '{"any_to_any": 1, "end_weights": {}}' --json
"""

import argparse
import json

from pydantic import ValidationError

from nano4m.config.masking import MaskingConfig
from nano4m.config.presets import PRESETS, preset
from nano4m.masking.check import check_masking
from nano4m.masking.conditions import KINDS, condition_shares
from nano4m.pipeline.info import layouts
from nano4m.tokens.batch import TokenSequence


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--progress", type=float, default=0.0, help="of training, 0 to 1")
    parser.add_argument("--masking", type=json.loads, default={}, help="changed settings, JSON")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = preset(options.preset)
    sequence = TokenSequence(layouts(config))
    try:
        masking = MaskingConfig(**(config.masks.model_dump() | options.masking))
    except ValidationError as error:
        parser.error(str(error))
    check_masking(masking, sequence)
    shares = condition_shares(masking, sequence, options.samples, options.seed, options.progress)
    if options.json:
        print(json.dumps({str(c): share for c, share in shares.items()}, indent=1))
        return
    for kind, meaning in KINDS.items():
        print(f"\n{kind}: {meaning}")
        for condition, share in shares.items():
            if condition.kind == kind:
                arrow = f" -> {condition.target}" if condition.target else ""
                print(f"  {condition.source + arrow:<28}{share:7.2%}")


if __name__ == "__main__":
    main()
