"""Real tokens a second of full optimizer steps: ours against the reference's engine, interleaved.

A step is masking (ours; the baseline's masks are drawn before), forward, backward, clipping and
update at d6-6w512 with the reference's modalities and masks. The rows:

    baseline            the reference: padded, shared table, all slots over all ids, float32
    baseline, onednn    the same with float32 products sent through oneDNN as ours are
    exact               ours with the reference's model and loss, float32, real tokens only
    bf16                ours with a table and a head a modality, bf16, AdamW
    bf16, own captions  the same with a vocabulary of captions as our BPE learns it
    bf16, muon          the same as bf16 with Muon

    python benchmarks/train_step.py --threads 2 --repeats 3
"""

import torch
from engines import DEFAULT_MODEL, EXACT_MODEL, BaselineEngine, Clips, OurEngine, Times, quick
from measure import Report, arguments, figures, interleave, ratio, reference_modalities, shown
from reference_baseline import Sizes, modality_means, padded, token_losses

from nano4m.compute.malloc import tune_malloc
from nano4m.compute.precision import float32_math, has_exact_onednn, measured_peak
from nano4m.model.fourm import FourM
from nano4m.training.accounting import Operations
from nano4m.training.loss import token_cross_entropy

CPU = torch.device("cpu")


def same_loss(baseline: BaselineEngine, ours: OurEngine) -> dict[str, float]:
    """Return the losses of both engines on the same real tokens and weights.

    The batch is one of ours, padded for the baseline, so it has no [PAD] token.
    """
    ours.take(baseline.model)
    batch = ours.calls[0]()[0]
    theirs = padded(batch, ours.model.modalities)
    with torch.no_grad():
        token_T = token_losses(baseline.model(theirs), theirs)
        means = modality_means(token_T, theirs, len(ours.model.modalities))
        sums = token_cross_entropy(ours.model, ours.model(batch), batch)
    counts = torch.bincount(batch.target_modality_BM.flatten(), minlength=len(sums))
    mine = sums / counts.clamp(min=1)
    return {
        "baseline": float(means.mean()),
        "ours": float(mine.mean()),
        "difference": float((mine.mean() - means.mean()).abs()),
        "largest_difference_of_a_modality": float((mine - means).abs().max()),
    }


@float32_math()
def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=16, help="samples a step (%(default)s)")
    parser.add_argument("--group", type=int, default=16, help="of our batches (%(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="of ours in a round (%(default)s)")
    parser.add_argument("--baseline-steps", type=int, default=1, help="of it (%(default)s)")
    parser.add_argument("--own-captions", type=int, default=512, help="ids (%(default)s)")
    options = parser.parse_args()
    tiny = options.quick
    report = Report("train_step", options)
    exact_matmul = has_exact_onednn()
    kept = tune_malloc()

    modalities = reference_modalities(4 if tiny else 1)
    own = reference_modalities(4 if tiny else 1, caption_vocab=options.own_captions)
    models = [quick(m) if tiny else m for m in (EXACT_MODEL, DEFAULT_MODEL)]
    longest = max(m.length for m in modalities)
    sizes = Sizes(longest=longest, dim=32, head=8, depth=(1, 1)) if tiny else Sizes()
    clips, own_clips = (
        Clips(
            modalities=m,
            rows=options.batch,
            seed=options.seed,
            totals=(4, 12) if tiny else (16, 256),
        )
        for m in (modalities, own)
    )
    with torch.device("meta"):
        operations = Operations.of(FourM(models[0], modalities))
    baseline = BaselineEngine(clips, sizes, operations, options.baseline_steps)
    calls = clips.ours(options.group, options.steps)
    exact = OurEngine(calls, modalities, models[0], torch.float32)
    loss = same_loss(baseline, exact)
    half = OurEngine(calls, modalities, models[1], torch.bfloat16)
    small = OurEngine(own_clips.ours(options.group, options.steps), own, models[1], torch.bfloat16)
    muon = half.with_optimizer("muon")

    def plain() -> Times:
        torch.set_float32_matmul_precision("highest")
        times = baseline.steps()
        torch.set_float32_matmul_precision("medium" if exact_matmul else "highest")
        return times

    peaks = {torch.float32: [0.0], torch.bfloat16: [0.0]}

    def peak() -> None:
        for dtype, seen in peaks.items():
            seen.append(measured_peak(dtype, CPU))

    found = interleave(
        {
            "baseline": plain,
            "baseline, onednn": baseline.steps,
            "exact": exact.steps,
            "bf16": half.steps,
            "bf16, own captions": small.steps,
            "bf16, muon": muon.steps,
            "peak": peak,
        },
        options.repeats,
    )
    found.pop("peak")
    highest = {dtype: max(seen) for dtype, seen in peaks.items()}
    speed = {name: [t.tokens / t.seconds for t in times] for name, times in found.items()}
    rows = [("tokens a second", "median (min-max)", "of baseline", "MFU", "of its time")]
    engines = {}
    for name, times in found.items():
        dtype = torch.bfloat16 if name.startswith("bf16") else torch.float32
        use = [t.operations / t.seconds / highest[dtype] for t in times]
        shares = times[-1].shares()
        engines[name] = {
            "tokens_per_second": figures(speed[name]),
            "times_baseline": ratio(speed[name], speed["baseline"]),
            "times_baseline_onednn": ratio(speed[name], speed["baseline, onednn"]),
            "mfu": figures(use),
            "shares": shares,
            "seconds_of_a_round": figures([t.seconds for t in times]),
            "tokens_of_a_round": times[0].tokens,
            "operations_of_a_round": times[0].operations,
            "last_loss": times[-1].losses[-1],
        }
        cells = " ".join(f"{part[0]}{share:.0%}" for part, share in shares.items())
        ratios = shown(engines[name]["times_baseline"])
        rows.append((name, shown(figures(speed[name]), ".4g"), ratios, shown(figures(use)), cells))
    report.finish(
        rows,
        engines=engines,
        same_loss=loss,
        peak_gflops={str(d).removeprefix("torch."): v / 1e9 for d, v in highest.items()},
        onednn=exact_matmul,
        keeps_freed_memory=kept,
        parameters={
            "baseline": sum(p.numel() for p in baseline.model.parameters()),
            "exact": exact.model.num_parameters,
            "bf16": half.model.num_parameters,
            "bf16, own captions": small.model.num_parameters,
        },
    )


if __name__ == "__main__":
    main()
