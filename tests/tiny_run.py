"""The options of a whole run of the farm that takes seconds."""

from nano4m.config.presets import FARM
from nano4m.modalities import MODALITIES

GRIDS = [name for name in FARM.tokenizers if MODALITIES[name].layout == "grid"]
FITTED = [name for name in FARM.tokenizers if MODALITIES[name].layout != "text"]
TINY = f"""
  --dataset.train 44 --dataset.val 22 --dataset.test 22 --dataset.picture-size 32
  --dataset.seconds 0.4
  --clips.window-seconds 0.4 --clips.picture-size 32 --clips.workers 0 --evaluate.workers 0
  {" ".join(f"--tokenizers.{name}.grid 4" for name in GRIDS)}
  {" ".join(f"--tokenizers.{name}.{option}" for name in FITTED
            for option in ("vocab 32", "width 8", "steps 2", "batch-size 8"))}
  --tokenizers.sound.griffin-lim 1 --masking.group-size 8
  --model.encoder-depth 1 --model.decoder-depth 1 --model.dim 16 --model.head-dim 8
  --train.batch-size 16 --train.steps 6 --train.warmup 1 --train.val-samples 16
  --train.val-every 3 --train.save-every 4 --generate.steps 2
  --broken-tokenizers accept --evaluate.clips 22 --evaluate.classifier-steps 1 --report.samples 2
""".split()  # fmt: skip
