"""The schedules: head-only, fine-tune (the default), full, gradual-unfreeze, discriminative; scratch and grow.

The last two are for random weights. `grow` is the gradual training of the classic course: a shallow cut of the network
learns first, and each stage that is added learns on top of frozen ones. `discriminative` takes a lower rate for each
stage further down (Howard and Ruder 2018, https://arxiv.org/abs/1801.06146, section 3.2), `gradual-unfreeze` one more
stage a phase (the same, section 3.3).
"""

from __future__ import annotations

from zoo.plugin import Architecture, Phase, Schedule, hookimpl

# A rate that falls to nothing: a constant one leaves the head wherever its last steps threw it (0.656 against 0.682 on
# five kinds of flowers, after five epochs).
HEAD = Phase(name="head", train="head", epochs=8, learning_rate=3e-3, rate="cosine")
PRETRAINED = 0.1
MANY_STAGES = 6


def fine_tune(architecture: Architecture) -> tuple[Phase, ...]:
    """Head on a frozen base, then the top third of the stages: gently, and at a higher rate where that is not enough.

    The top third is block5 of VGG, everything from block_13 up of MobileNetV2. A high rate is what pictures need that
    are unlike those of the pretraining; those that are like them it harms, and one gentle epoch is all they need, or
    none.
    """
    stages = max(1, len(architecture.stages) // 3)
    rate = PRETRAINED * architecture.learning_rate
    return (
        HEAD,
        Phase(name="gentle", train=f"last:{stages}", epochs=1, learning_rate=rate / 6, enough=0.05),
        Phase(
            name="top",
            train=f"last:{stages}",
            epochs=3,
            learning_rate=rate,
            rate="cosine",
            patience=1,
            enough=0.1,
        ),
    )


def full(architecture: Architecture) -> tuple[Phase, ...]:
    """Head on a frozen base, then everything at a low rate."""
    rate = PRETRAINED * architecture.learning_rate
    return (
        HEAD,
        Phase(name="all", train="all", epochs=5, learning_rate=rate, rate="cosine"),
    )


def gradual_unfreeze(architecture: Architecture) -> tuple[Phase, ...]:
    """Head, then one stage more a phase from the top to the stem, at a low rate."""
    rate = PRETRAINED * architecture.learning_rate
    stages = len(architecture.stages)
    epochs = 2 if stages <= MANY_STAGES else 1
    return (
        HEAD,
        *(
            Phase(name=f"top {count}", train=f"last:{count}", epochs=epochs, learning_rate=rate)
            for count in range(1, stages)
        ),
        Phase(name="all", train="all", epochs=epochs, learning_rate=rate),
    )


def discriminative(architecture: Architecture) -> tuple[Phase, ...]:
    """Head on a frozen base, then everything, each stage at a lower rate than the one above it."""
    rate = PRETRAINED * architecture.learning_rate
    # About a hundredth of the rate is left at the stem, however many stages there are.
    decay = 0.01 ** (1 / max(1, len(architecture.stages) - 1))
    return (
        HEAD,
        Phase(name="all", train="all", epochs=5, learning_rate=rate, rate="cosine", rate_decay=decay),
    )


def grow(architecture: Architecture) -> tuple[Phase, ...]:
    """The first stage with a head, then one stage more a phase on those before, frozen; at the end everything."""
    rate = architecture.learning_rate
    moving = {"batch_norm": "update", "batch_norm_momentum": 0.9, "patience": None}
    stages = len(architecture.stages)
    return (
        *(
            Phase(name=f"stage {depth}", train="last:1", depth=depth, epochs=4, learning_rate=rate, **moving)
            for depth in range(1, stages + 1)
        ),
        Phase(name="all", train="all", epochs=8, learning_rate=rate / 3, rate="cosine", **moving),
    )


def scratch(architecture: Architecture) -> tuple[Phase, ...]:
    """Every layer from random weights; BatchNorm's statistics move, fast enough for a small set."""
    return (
        Phase(
            name="scratch",
            train="all",
            epochs=16,
            learning_rate=architecture.learning_rate,
            rate="cosine",
            batch_norm="update",
            batch_norm_momentum=0.9,
            patience=None,
        ),
    )


@hookimpl
def zoo_schedules():
    return [
        Schedule(
            name="fine-tune",
            summary="the head on a frozen base, then the top stages, gently, and faster where the loss asks for it",
            phases=fine_tune,
        ),
        Schedule(
            name="head-only",
            summary="the head on a frozen base, nothing else",
            phases=(HEAD,),
        ),
        Schedule(name="full", summary="the head on a frozen base, then every layer at a low rate", phases=full),
        Schedule(
            name="gradual-unfreeze",
            summary="the head, then one stage more a phase from the top down, at a low rate",
            phases=gradual_unfreeze,
        ),
        Schedule(
            name="discriminative",
            summary="the head, then every layer, each stage at a lower rate than the one above",
            phases=discriminative,
        ),
        Schedule(
            name="grow",
            summary="random weights: one stage more a phase on frozen ones, at the end every layer",
            phases=grow,
        ),
        Schedule(
            name="scratch",
            summary="every layer from random weights, BatchNorm statistics included",
            phases=scratch,
        ),
    ]
