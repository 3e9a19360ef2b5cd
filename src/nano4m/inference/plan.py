"""From options of ``nano4m generate`` to steps of generation, with all checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nano4m.config.generation import GenerateConfig, Sampling
from nano4m.errors import UserError, nearest
from nano4m.generation.guidance import ChainStep, Condition
from nano4m.inference.clips_of_run import parse_range
from nano4m.inference.loaded_run import LoadedRun, require_unconditional
from nano4m.inference.options import Options, condition, names_of


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The outputs of a call, and the steps that generate them.

    Attributes:
        chains: Chains of steps, each generated together; without --chain, one step each.
        keep: Name of an output -> first and last of its units that are inputs.
        config: Of sampling.
    """

    chains: list[list[ChainStep]]
    keep: dict[str, tuple[int, int]]
    config: GenerateConfig

    @property
    def targets(self) -> list[str]:
        """Names of the outputs."""
        return [step.target for chain in self.chains for step in chain]


def merge_settings(run: GenerateConfig, chosen: Mapping[str, Any]) -> GenerateConfig:
    """Return the settings of a run, changed by those of a command line.

    Priority: one modality on the command line, all on the command line, one in the run, all in the
    run.
    """
    modalities = {
        name: {setting: value for setting, value in own.items() if setting not in chosen}
        for name, own in run.modalities.items()
    }
    for name, own in chosen.get("modalities", {}).items():
        modalities[name] = modalities.get(name, {}) | own
    return GenerateConfig(**(run.model_dump() | dict(chosen) | {"modalities": modalities}))


def _known(option: str, name: str, run: LoadedRun) -> str:
    if name not in run.by_name:
        raise UserError(
            f"{option} {name}: {run.folder} has no {name!r}; {nearest(name, run.by_name)}"
        )
    return name


def find_targets(options: Options, run: LoadedRun) -> list[str]:
    """Return the names of the outputs.

    Raises:
        UserError: Neither or both of --out and --chain, a name twice, or one that the run lacks.
    """
    if bool(names_of(options.out)) == bool(names_of(options.chain)):
        raise UserError(
            "give what to make with either --out NAME,NAME (each from the inputs alone) or "
            f"--chain NAME,NAME (each also from those before it); choose from "
            f"{', '.join(run.by_name)}"
        )
    option = "--out" if names_of(options.out) else "--chain"
    names = names_of(options.out) or names_of(options.chain)
    for name in names:
        _known(option, name, run)
        if names.count(name) > 1:
            raise UserError(f"{option}: {name!r} stands there twice; make more samples with --n")
    return names


def find_keep(
    options: Options, targets: Sequence[str], run: LoadedRun
) -> dict[str, tuple[int, int]]:
    """Return the parts of outputs that are inputs, in units along the first axis of the layout.

    Raises:
        UserError: Not of the form MODALITY=FIRST:LAST, or of something that is no output.
    """
    found = {}
    for text in options.keep:
        name, _, part = text.partition("=")
        _known("--keep", name, run)
        if name not in targets:
            raise UserError(f"--keep {text}: {name!r} is not made; add it to --out or --chain")
        length = run.by_name[name].shape[0]
        found[name] = parse_range(f"--keep {text}", part, length)
        if found[name] == (0, length):
            raise UserError(f"--keep {text}: keeps all of {name!r}, nothing is left to make")
    return found


def find_conditions(
    options: Options, inputs: Sequence[str], targets: Sequence[str], run: LoadedRun
) -> list[tuple[str, float]]:
    """Return names and weights of --conditions.

    Raises:
        UserError: Not of the form MODALITY=WEIGHT, or of something that is no input.
    """
    found = []
    for text in options.conditions:
        name, weight = condition(text)
        _known("--conditions", name, run)
        if name not in inputs or name in targets:
            raise UserError(f"--conditions {text}: {name!r} is not given; {_inputs(inputs)}")
        found.append((name, weight))
    return found


def _inputs(inputs: Sequence[str]) -> str:
    return f"given: {', '.join(inputs) or 'nothing'}"


def _check_steps(
    settings: Sampling, target: str, kept: int, chosen: Mapping[str, Any], run: LoadedRun
) -> None:
    """Refuse more steps than tokens, if the command line sets them."""
    modality = run.by_name[target]
    targets = "steps" in chosen or "steps" in chosen.get("modalities", {}).get(target, {})
    room = modality.length - kept
    if targets and not modality.is_text and settings.steps > room:
        raise UserError(
            f"--steps {settings.steps}: {target!r} has {room} tokens to fill, and every step fills "
            f"one or more; give {room} or less, for it alone with --modalities "
            f"{target}.steps={room}"
        )


def make_plan(
    options: Options,
    chosen: Mapping[str, Any],
    inputs: Sequence[str],
    run: LoadedRun,
) -> Plan:
    """Return the plan of a call, after checks of its options against the run and the inputs.

    Args:
        options: Of the command.
        chosen: Sampling settings of the command line.
        inputs: Modalities of which the inputs have tokens.
        run: The run that generates.

    Raises:
        UserError: The message says what to write instead.
    """
    targets = find_targets(options, run)
    keep = find_keep(options, targets, run)
    for name in chosen.get("modalities", {}):
        _known("--modalities", name, run)
    for name in targets:
        if name in inputs and name not in keep:
            raise UserError(
                f"{name!r} is given and asked for; leave it out of one of them, or give a part of "
                f"it: --keep {name}=FIRST:LAST"
            )
        if name in keep and name not in inputs:
            raise UserError(f"--keep {name}: nothing is given of it; give its file with --in")
    conditions = find_conditions(options, inputs, targets, run)
    negative = (options.negative,) if options.negative else ()
    for name in negative:
        if _known("--negative", name, run) not in inputs or name in targets:
            raise UserError(f"--negative {name}: it is not given; {_inputs(inputs)}")
        if any(name == condition for condition, _ in conditions):
            raise UserError(f"--negative {name}: it is one of --conditions, too; choose one")
    config = merge_settings(run.config.generate, chosen)
    settings = {name: config.for_modality(name) for name in targets}
    is_chain = bool(names_of(options.chain))
    steps = []
    for position, name in enumerate(targets):
        modality = run.by_name[name]
        first, last = keep.get(name, (0, 0))
        kept = (last - first) * (modality.length // modality.shape[0])
        _check_steps(settings[name], name, kept, chosen, run)
        if negative and settings[name].guidance == 1 and not conditions:
            raise UserError(f"--negative {negative[0]}: add --guidance above 1, or it does nothing")
        own = None
        if conditions:
            finished = targets[:position] if is_chain else []
            own = tuple(
                Condition(sources=(n,), weight=w)
                for n, w in [*conditions, *((f, settings[name].guidance) for f in finished)]
            )
        steps.append(
            ChainStep(target=name, conditions=own, negative=negative, settings=settings[name])
        )
    _check_unconditional(steps, keep, inputs, is_chain, run)
    return Plan(
        chains=[steps] if is_chain else [[step] for step in steps], keep=keep, config=config
    )


def _check_unconditional(
    steps: Sequence[ChainStep],
    keep: Mapping[str, Any],
    inputs: Sequence[str],
    is_chain: bool,
    run: LoadedRun,
) -> None:
    """Refuse guidance, or outputs without inputs, of a model that was not trained for them."""
    shown = set(inputs) - set(keep)
    from_nothing, guided = [], []
    for position, step in enumerate(steps):
        if not shown and not (is_chain and position):
            from_nothing.append(step.target)
        weights = [c.weight for c in step.conditions or ()]
        if step.conditions is None and step.settings is not None:
            weights = [step.settings.guidance]
        if not step.negative and abs(sum(weights) - 1) > 1e-9:
            guided.append(step.target)
    if guided:
        require_unconditional(run, guided, "guidance")
    if from_nothing:
        require_unconditional(run, from_nothing, "making something from nothing")
