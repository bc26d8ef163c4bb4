"""Defines the options that several commands share, and makes configuration objects from their values.

An option that only one command has is defined in the file of that command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.group_by_option import group_by_option
from zoo.cli.reading_options import READING_OPTIONS, format_reading, reading_values
from zoo.cli.values import (
    WholeNumber,
    parse_bytes,
    parse_export_formats,
    parse_hidden,
    parse_loggers,
    parse_numbers,
    parse_pool,
    parse_precision,
    parse_size,
    refuse_nan,
)
from zoo.cli.values import parse_provider_names as parse_provider_names
from zoo.export.format_variant import FormatVariant
from zoo.export.variants import VARIANTS, AcceptanceLimits, Variant, VariantRequest

if TYPE_CHECKING:
    from zoo.config import FinetuneConfig


def _folder(default: str) -> dict[str, Any]:
    return {"type": click.Path(file_okay=False, path_type=Path), "default": default, "show_default": True}


resize_option = click.option(
    "--resize",
    help="How pictures are resized: squash, crop, crop:FRACTION (default fraction 0.875) or pad (default: what the "
    "weights prefer, else squash).",
)

size_option = click.option(
    "--size",
    callback=parse_size,
    metavar="SIDE|HxW",
    help="Picture size in pixels (default: chosen to suit the data and the weights).",
)

pool_option = click.option(
    "--pool",
    callback=parse_pool,
    metavar="POOL",
    help="Pooling of the feature map: avg, max, flatten, l2norm, roi or roi:GRID (default: the architecture's).",
)

reduce_option = click.option(
    "--reduce", type=WholeNumber(1), metavar="N", help="Put a 1x1 convolution to N channels before the pooling."
)

precision_option = click.option(
    "--precision",
    "wanted_precision",
    callback=parse_precision,
    metavar="P",
    help="Answer only where at least this fraction of the answers is right, such as 0.99. Less sure answers become "
    '"unknown"; none asks for none.',
)
hidden_option = click.option(
    "--hidden", callback=parse_hidden, metavar="N[,N...]", help="Units of the head's hidden layers, or 'none'."
)

exported_option = click.option("--exported", **_folder("exported"), help="Folder of exports.")

runs_option = click.option("--runs", **_folder("runs"), help="Folder of runs.")

allow_chance_option = click.option(
    "--allow-chance/--no-allow-chance",
    default=False,
    help="Also export a network that has learned nothing, which does no better than chance.",
)

log_option = click.option(
    "--log",
    "loggers",
    callback=parse_loggers,
    multiple=True,
    metavar="NAME[,NAME...]",
    help="Also log the run with these loggers, such as tensorboard or mlflow; `zoo list loggers` shows all.",
)

name_option = click.option("--name", help="Name of the export (default: ARCH-DATA).")

replace_option = click.option(
    "--replace/--no-replace",
    default=False,
    help="Also replace an export of other pictures, or another file, that has the same name.",
)


def make_variant_options(variants: Sequence[Variant]) -> tuple[Callable, ...]:
    """Make the command-line options that request variants, and the options that set limits for them.

    Args:
        variants: The variants that the options can request.

    Returns:
        One decorator per option, as `click.option` returns it.
    """
    return (
        *(
            click.option(f"--{variant.name}/--no-{variant.name}", default=False, help=variant.help)
            for variant in variants
        ),
        click.option(
            "--as",
            "export_as",
            callback=parse_export_formats,
            multiple=True,
            metavar="NAME[,NAME...]",
            help="Export in these formats, such as litert, litert-int8 or openvino; `zoo list formats` shows all.",
        ),
        click.option(
            "--max-drop",
            type=click.FloatRange(0, 100),
            callback=refuse_nan,
            default=1.0,
            show_default=True,
            metavar="POINTS",
            help="Largest loss of accuracy that these files may have, in percentage points.",
        ),
        *(
            click.option(
                f"--{variant.name}-any-speed/--no-{variant.name}-any-speed",
                default=False,
                help=f"Also accept an {variant.name} file that is not faster on this machine.",
            )
            for variant in variants
            if variant.must_be_faster
        ),
    )


# `--as onnx` asks for the float32 file.
ONNX = "onnx"
VARIANT_OPTIONS = make_variant_options(VARIANTS)

# A parameter with this prefix overrides a field of `zoo.plugin.Phase` in all phases. The rest of its name is the field.
OVERRIDE = "override_"


def phase_option(option: str, setting: str, **attributes: Any) -> Callable:
    """Make a command-line option that overrides a field of `zoo.plugin.Phase` in all phases.

    Args:
        option: The name of the option, such as "--clip-norm".
        setting: The field that the option overrides.
        attributes: Further arguments of `click.option`.
    """
    return click.option(option, f"{OVERRIDE}{setting}", **attributes)


DATA_HELP = "Pictures: a folder, a CSV file, an .npz file, or 'digits', which come with zoo."


# `zoo sweep` uses them. `zoo.workflow.judging.Judging` says what they mean.
JUDGING_OPTIONS = (
    click.option("--hold-out", type=WholeNumber(0, 100), hidden=True, help="Train at most so many folds."),
    click.option("--judge-only", is_flag=True, hidden=True, help="Stop before the training on all pictures."),
)


def judging_options(command: Callable) -> Callable:
    """Give a command the options that say how far a run is judged by held-out pictures."""
    for option in reversed(JUDGING_OPTIONS):
        command = option(command)
    return command


# The options that decide how a network is trained.
levels_option = click.option(
    "--levels",
    type=WholeNumber(8, 16),
    default=16,
    show_default=True,
    metavar="BITS",
    help="Bits that the gray levels of 16-bit pictures use, such as 12 for many cameras and X-rays.",
)
TRAINING_OPTIONS = (
    click.argument("architecture", metavar="ARCH[.TAG]"),
    click.option("--data", default="digits", show_default=True, help=DATA_HELP),
    *READING_OPTIONS,
    click.option(
        "--weights",
        default="auto",
        show_default=True,
        help="What training starts from: auto (pretrained if available), none (random), a tag, or the path of a file.",
    ),
    size_option,
    resize_option,
    levels_option,
    click.option(
        "--schedule",
        help="Name of a schedule (see `zoo list schedules`), or a TOML file of phases "
        "(default: the architecture's; scratch for random weights).",
    ),
    click.option(
        "--augment",
        default="none",
        show_default=True,
        metavar="POLICY[:K=V,...]",
        help="How training pictures are varied; see `zoo list augmentations` and `zoo augment preview`.",
    ),
    click.option(
        "--epochs",
        callback=parse_numbers(int, 0, 10**6),
        metavar="N[,N...]",
        help="Epochs: one number per phase, or a single one for the longest phase (the others are scaled).",
    ),
    click.option(
        "--batch-size", type=WholeNumber(1, 4096), default=32, show_default=True, help="Pictures per training step."
    ),
    click.option(
        "--learning-rate",
        callback=parse_numbers(float, 1e-12, 100),
        metavar="R[,R...]",
        help="Learning rates: one per phase, or a single one for the fastest phase (the others are scaled).",
    ),
    phase_option(
        "--optimizer",
        "optimizer",
        type=click.Choice(["adam", "adamw", "sgd", "rmsprop"]),
        help="Optimizer of all phases (default: the schedule's).",
    ),
    phase_option(
        "--rate",
        "lr_schedule",
        type=click.Choice(["constant", "cosine", "one-cycle"]),
        help="How the learning rate changes during each phase (default: the schedule's).",
    ),
    phase_option(
        "--clip-norm",
        "clip_norm",
        type=click.FloatRange(0),
        metavar="NORM",
        help="Clip gradients to this norm; 0 never clips (default: the schedule's).",
    ),
    phase_option(
        "--ema",
        "ema",
        type=click.FloatRange(0, 1, max_open=True),
        metavar="MOMENTUM",
        help="Keep an exponential moving average of the weights, such as 0.99, and evaluate that; 0 keeps none "
        "(default: the schedule's).",
    ),
    pool_option,
    hidden_option,
    click.option(
        "--dropout",
        type=click.FloatRange(0, 1, max_open=True),
        help="Fraction of the pooled features that training drops at random.",
    ),
    click.option("--l1", "weight_l1", type=click.FloatRange(0), help="L1 penalty on the head's kernels."),
    click.option("--l2", "weight_l2", type=click.FloatRange(0), help="L2 penalty on the head's kernels."),
    reduce_option,
    click.option(
        "--label-smoothing",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.0,
        show_default=True,
        help="Fraction of each target that is spread evenly over all classes.",
    ),
    click.option(
        "--balance/--no-balance",
        default=False,
        help="Give every class the same weight in the loss, however many pictures it has.",
    ),
    phase_option(
        "--patience",
        "patience",
        type=WholeNumber(0),
        metavar="N",
        help="End a phase after N epochs without a better validation loss; 0 never ends it early "
        "(default: the schedule's).",
    ),
    click.option(
        "--keep",
        type=click.Choice(["best", "last"]),
        default="best",
        show_default=True,
        help="Keep the weights of the epoch with the lowest validation loss, or of the last epoch.",
    ),
    click.option(
        "--compute",
        "precision",
        type=click.Choice(["float32", "bfloat16"]),
        default="float32",
        show_default=True,
        help="Number format that training computes in. Weights and the exported file are float32 in any case.",
    ),
    phase_option(
        "--views",
        "views",
        type=WholeNumber(1, 1000),
        metavar="K",
        help="Compute K augmented copies of each picture in advance (default: a new one in every epoch).",
    ),
    click.option(
        "--cache-size",
        callback=parse_bytes,
        metavar="BYTES",
        help="Disk space for the outputs of frozen layers, such as 500MB or 8GB; 0 runs all layers in every step "
        "(default: 4 GB or half of the free space, and no cache if it saves little).",
    ),
    click.option(
        "--val-split",
        type=click.FloatRange(0, 0.8, min_open=True),
        help="Fraction of the pictures for validation (default 0.15; 0.10 of train/ if test/ is given). The schedules "
        "auto and exact-head have no validation part.",
    ),
    group_by_option,
    click.option(
        "--cv",
        "folds",
        type=WholeNumber(2, 100),
        metavar="K",
        help="Report the accuracy of a cross-validation with K folds too, and train on all pictures that are not test "
        "pictures.",
    ),
    click.option(
        "--seed",
        type=WholeNumber(0, 2**31 - 1),
        default=0,
        show_default=True,
        help="Decides everything that is random: the same seed gives the same network.",
    ),
)


def training_options(command: Callable) -> Callable:
    """Give a command the argument ARCH and all options that decide how a network is trained."""
    for option in reversed(TRAINING_OPTIONS):
        command = option(command)
    return command


def variant_options(command: Callable) -> Callable:
    """Give a command the options that request variants (smaller files)."""
    for option in reversed(VARIANT_OPTIONS):
        command = option(command)
    return command


def variant_names(variants: Sequence[Variant] = VARIANTS) -> str:
    """Return the names of the options that request variants, such as "--int8 or --fp16"."""
    return " or ".join(f"--{variant.name}" for variant in variants)


def variant_requests(values: dict[str, Any], variants: Sequence[Variant] = VARIANTS) -> tuple[VariantRequest, ...]:
    """Return the variants and the formats of plugins that a command's options ask for, with their limits.

    Args:
        values: Maps the name of each of the command's options to its value. This function removes the options for
            variants from the dictionary.
        variants: The variants that the options can request.

    Raises:
        click.UsageError: A limit is given, but the variant that it limits is not requested.
    """
    names = values.pop("export_as")
    chosen = [variant for variant in variants if values.pop(variant.name) or variant.name in names]
    known = {ONNX, *(variant.name for variant in variants)}
    chosen += [FormatVariant(name) for name in names if name not in known]
    if typed_again("max_drop", values["max_drop"]) and not chosen:
        raise click.UsageError(f"--max-drop goes with {variant_names(variants)}, or with --as.")
    max_drop = values.pop("max_drop") / 100
    any_speed = {variant: values.pop(f"{variant.name}_any_speed") for variant in variants if variant.must_be_faster}
    for variant, given in any_speed.items():
        if given and variant not in chosen:
            raise click.UsageError(f"--{variant.name}-any-speed goes with --{variant.name}.")
    return tuple(
        VariantRequest(variant, AcceptanceLimits(max_drop, any_speed.get(variant, False))) for variant in chosen
    )


def training_values(values: dict[str, Any], **others: Any) -> FinetuneConfig:
    """Make a `FinetuneConfig` from the values of the options in `TRAINING_OPTIONS`.

    Args:
        values: Maps the name of each option to its value.
        others: Further fields of `FinetuneConfig`, by name.
    """
    from zoo.config import FinetuneConfig

    values = {**values, **others}
    for name in ("hold_out", "judge_only"):
        # They say how a command works, not what comes out.
        values.pop(name, None)
    pool = values.pop("pool") or {}
    head = {key: values.pop(key) for key in ("hidden", "dropout", "weight_l1", "weight_l2", "reduce")}
    overrides = {key.removeprefix(OVERRIDE): values.pop(key) for key in list(values) if key.startswith(OVERRIDE)}
    return FinetuneConfig(
        reading=reading_values(values),
        learning_rates=values.pop("learning_rate"),
        keep_best=values.pop("keep") == "best",
        head=pool | {key: value for key, value in head.items() if value is not None},
        overrides={key: value for key, value in overrides.items() if value is not None},
        **values,
    )


def typed_again(name: str, value: Any) -> list[str]:
    """Return an option of the current command and its value as command-line words.

    zoo uses these words in commands that it prints for the user.

    Args:
        name: The name of the option's parameter, such as "learning_rate".
        value: The parsed value of the option.

    Returns:
        The words, such as ["--learning-rate", "0.001,0.0001"]. The list is empty if the user did not type the option,
        and the file of --config does not have it either.
    """
    context = click.get_current_context()
    sources = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.DEFAULT_MAP)
    if context.get_parameter_source(name) not in sources:
        return []
    (parameter,) = [parameter for parameter in context.command.params if parameter.name == name]
    option = parameter.opts[0]
    if isinstance(value, bool):
        return [option] if value or not parameter.secondary_opts else [parameter.secondary_opts[0]]
    if name == "wanted_precision":
        return [option, str(value or "none")]
    words = format_reading(option, value)
    if words is not None:
        return words
    if isinstance(value, dict):
        value = f"{value['pool']}:{value['grid']}" if "grid" in value else value["pool"]
    elif isinstance(value, tuple):
        value = ("x" if name == "size" else ",").join(map(str, value)) or "none"
    return [option, str(value)]
