"""Defines the built-in schedules.

- `auto` (the default) solves the head, and then trains the top third of the stages if held-out pictures say that this
  helps.
- `exact-head` only solves the head.
- `head-only` trains only the head, by gradient descent on a frozen backbone.
- `fine-tune` trains the head, then the top third of the stages.
- `full` trains the head, then every layer.
- `gradual-unfreeze` trains the head, then unfreezes one more stage in every phase (Howard and Ruder 2018,
  https://arxiv.org/abs/1801.06146, section 3.3).
- `discriminative` trains the head, then every layer. Each stage has a lower learning rate than the stage above it (the
  same paper, section 3.2).
- `scratch` trains every layer from random weights.
- `grow` is the gradual training of the classic course, from random weights. Its first phase trains only the first stage
  of the network, with a head. Each later phase adds the next stage, and trains this stage while the stages below are
  frozen. A last phase trains every layer.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from zoo.plugin import Architecture, Phase, Schedule, hookimpl

# The learning rate falls along a cosine, because with a constant rate the last steps still move the head a lot. On five
# kinds of flowers, the accuracy after five epochs was 0.656 with a constant rate and 0.682 with a cosine.
HEAD = Phase(name="head", train="head", epochs=8, min_steps=100, learning_rate=3e-3, lr_schedule="cosine")
# Pretrained layers train at this fraction of the architecture's learning rate, which is meant for random weights.
PRETRAINED = 0.1
# Solved by logistic regression; epochs and rate are not used.
EXACT_HEAD = dataclasses.replace(HEAD, optimizer="exact", augment=False)
# Networks with more stages get one epoch per stage instead of two in `gradual-unfreeze`.
MANY_STAGES = 6


def auto(architecture: Architecture) -> tuple[Phase, ...]:
    """Return the two phases of `auto`: "head", which is solved, and "top", which has to earn its place.

    "top" trains the head and the top third of the stages at 3 % of the architecture's rate, and keeps an average of the
    weights. For MobileNetV2 the rate is 9e-5. On 425 flowers, the loss of held-out pictures fell by 0.047 at this rate,
    by 0.030 at 5e-5 and by 0.022 at 3e-5. The accuracy rose by three points at each of them.
    """
    stages = max(1, len(architecture.stages) // 3)
    return (
        EXACT_HEAD,
        Phase(
            name="top",
            train=f"last:{stages}",
            epochs=4,
            min_steps=60,
            learning_rate=0.3 * PRETRAINED * architecture.learning_rate,
            ema=0.96,
            patience=None,
        ),
    )


def fine_tune(architecture: Architecture) -> tuple[Phase, ...]:
    """Return the three phases of `fine-tune`: "head", "gentle" and "top".

    "head" trains the head on a frozen backbone. "gentle" and "top" train the head and the top third of the stages,
    "gentle" at a sixth of the learning rate of "top". The top third of VGG is block5. The top third of MobileNetV2
    starts at block_13.

    If the user's pictures differ much from the pictures of the pretraining, the network needs a high learning rate. If
    the user's pictures are similar, a high learning rate makes the network worse. One epoch at a low rate, or none, is
    then enough. A low validation loss suggests similar pictures. "gentle" and "top" are therefore skipped if the loss
    is already low.
    """
    stages = max(1, len(architecture.stages) // 3)
    rate = PRETRAINED * architecture.learning_rate
    return (
        HEAD,
        Phase(name="gentle", train=f"last:{stages}", epochs=1, learning_rate=rate / 6, skip_below_loss=0.05),
        Phase(
            name="top",
            train=f"last:{stages}",
            epochs=3,
            learning_rate=rate,
            lr_schedule="cosine",
            patience=1,
            skip_below_loss=0.1,
        ),
    )


def full(architecture: Architecture) -> tuple[Phase, ...]:
    """Return two phases: one trains the head on a frozen backbone, the other every layer at a low learning rate."""
    rate = PRETRAINED * architecture.learning_rate
    return (
        HEAD,
        Phase(name="all", train="all", epochs=5, learning_rate=rate, lr_schedule="cosine"),
    )


def gradual_unfreeze(architecture: Architecture) -> tuple[Phase, ...]:
    """Return a phase that trains the head, and then phases that each unfreeze one more stage, from the top to the stem.

    After the first phase, the learning rate is a tenth (`PRETRAINED`) of the architecture's learning rate.
    """
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
    """Return a phase that trains the head on a frozen backbone, and a phase that trains all layers.

    In the second phase, each stage has a lower learning rate than the stage above it.
    """
    rate = PRETRAINED * architecture.learning_rate
    # The stem trains at a hundredth of the learning rate, whatever the number of stages.
    decay = 0.01 ** (1 / max(1, len(architecture.stages) - 1))
    return (
        HEAD,
        Phase(name="all", train="all", epochs=5, learning_rate=rate, lr_schedule="cosine", layer_decay=decay),
    )


def grow(architecture: Architecture) -> tuple[Phase, ...]:
    """Return one phase per stage of the network, and a final phase that trains all layers.

    In the first phase, the network consists of its first stage and a head. Each of the next phases adds one stage. Such
    a phase trains only the new stage and the head, while the stages below are frozen.
    """
    rate = architecture.learning_rate
    moving: dict[str, Any] = {"batch_norm": "update", "batch_norm_momentum": 0.9, "patience": None}
    stages = len(architecture.stages)
    return (
        *(
            Phase(name=f"stage {depth}", train="last:1", depth=depth, epochs=4, learning_rate=rate, **moving)
            for depth in range(1, stages + 1)
        ),
        Phase(name="all", train="all", epochs=8, learning_rate=rate / 3, lr_schedule="cosine", **moving),
    )


def scratch(architecture: Architecture) -> tuple[Phase, ...]:
    """Return a single phase that trains every layer, for a network with random weights.

    The phase updates BatchNorm's statistics with a momentum of 0.9, so that they adapt fast enough on a small dataset.
    """
    return (
        Phase(
            name="scratch",
            train="all",
            epochs=16,
            learning_rate=architecture.learning_rate,
            lr_schedule="cosine",
            batch_norm="update",
            batch_norm_momentum=0.9,
            patience=None,
        ),
    )


@hookimpl
def zoo_schedules():
    return [
        Schedule(
            name="auto",
            summary="the head, solved exactly; then the top stages if held-out pictures say that this helps",
            phases=auto,
            by_evidence=True,
        ),
        Schedule(
            name="exact-head",
            summary="only the head, solved by logistic regression on a frozen backbone",
            phases=(EXACT_HEAD,),
            by_evidence=True,
        ),
        Schedule(
            name="fine-tune",
            summary="the head on a frozen backbone, then the top stages: gently, then faster if the loss is still high",
            phases=fine_tune,
        ),
        Schedule(
            name="head-only",
            summary="only the head, on a frozen backbone",
            phases=(HEAD,),
        ),
        Schedule(
            name="full", summary="the head on a frozen backbone, then every layer at a low learning rate", phases=full
        ),
        Schedule(
            name="gradual-unfreeze",
            summary="the head, then one more stage per phase from the top down, at a low learning rate",
            phases=gradual_unfreeze,
        ),
        Schedule(
            name="discriminative",
            summary="the head, then every layer, each stage at a lower learning rate than the one above",
            phases=discriminative,
        ),
        Schedule(
            name="grow",
            summary="from random weights: one more stage per phase on top of frozen ones, then every layer",
            phases=grow,
        ),
        Schedule(
            name="scratch",
            summary="from random weights: every layer, with BatchNorm statistics updated",
            phases=scratch,
        ),
    ]
