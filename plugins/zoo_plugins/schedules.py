"""The schedules: head-only, fine-tune (the default), full, and scratch for random weights."""

from __future__ import annotations

from zoo.plugin import Architecture, Phase, Schedule, hookimpl

HEAD_RATE = 3e-3
PRETRAINED = 0.1


def fine_tune(architecture: Architecture) -> tuple[Phase, ...]:
    """Head on a frozen base, then the top third of the stages at a low rate.

    For VGG that is block5; for MobileNetV2 everything from block_13 up.
    """
    stages = max(1, len(architecture.stages) // 3)
    rate = PRETRAINED * architecture.learning_rate
    return (
        Phase(name="head", train="head", epochs=2, learning_rate=HEAD_RATE),
        Phase(name="top", train=f"last:{stages}", epochs=3, learning_rate=rate, rate="cosine"),
    )


def full(architecture: Architecture) -> tuple[Phase, ...]:
    """Head on a frozen base, then everything at a low rate."""
    rate = PRETRAINED * architecture.learning_rate
    return (
        Phase(name="head", train="head", epochs=2, learning_rate=HEAD_RATE),
        Phase(name="all", train="all", epochs=5, learning_rate=rate, rate="cosine"),
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
            summary="the head on a frozen base, then the top stages at a low rate",
            phases=fine_tune,
        ),
        Schedule(
            name="head-only",
            summary="the head on a frozen base, nothing else",
            phases=(Phase(name="head", train="head", epochs=5, learning_rate=HEAD_RATE),),
        ),
        Schedule(name="full", summary="the head on a frozen base, then every layer at a low rate", phases=full),
        Schedule(
            name="scratch",
            summary="every layer from random weights, BatchNorm statistics included",
            phases=scratch,
        ),
    ]
