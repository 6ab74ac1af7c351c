"""What the nano models learn when: shares of kinds of chats, by how the training began and how far it is.

Mixture                       shares of kinds of chats
mixture(progress, start)      those that are learnt at one moment
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mixture:
    """Shares of chats: ``compared`` among all, ``recall`` among the others, ``drills`` among the rest of them,
    ``tasks`` among drills, ``crossed`` among chains, ``numbered`` among those, ``hints`` among their steps,
    ``benchmarks`` among plain chains, and ``cued`` among what is left."""

    recall: float
    drills: float
    tasks: float
    crossed: float
    numbered: float
    hints: float = 0.0
    benchmarks: float = 0.15
    cued: float = 0.0
    compared: float = 0.0


# What is learnt until which share of the training is done, by start.
CHAINS = Mixture(recall=0.015, drills=0.15, tasks=0.3, crossed=0.4, numbered=0.05, hints=0.01, benchmarks=0.2,
                 cued=0.45)  # fmt: skip
TASKS_FIRST = Mixture(recall=0.05, drills=0.1, tasks=0.8, crossed=0.7, numbered=0.4, hints=0.03)
MIXTURES = {
    "scratch": (
        (0.2, Mixture(recall=0.1, drills=0.75, tasks=0.2, crossed=0.4, numbered=0.8)),
        (0.35, Mixture(recall=0.2, drills=0.45, tasks=0.7, crossed=0.6, numbered=0.7, hints=0.1)),
        (0.65, TASKS_FIRST),
        (1.0, CHAINS),
    ),
    "grown": (
        (0.15, Mixture(recall=0.3, drills=0.2, tasks=0.8, crossed=0.8, numbered=0.7, hints=0.1)),
        (0.5, TASKS_FIRST),
        (0.75, Mixture(recall=0.02, drills=0.04, tasks=0.7, crossed=0.5, numbered=0.1, hints=0.02)),
        (1.0, CHAINS),
    ),
    "divided": (
        (0.2, Mixture(recall=0.1, drills=0.5, tasks=0.4, crossed=0.5, numbered=0.8, hints=0.1)),
        (0.6, TASKS_FIRST),
        (1.0, CHAINS),
    ),
    "trained": ((1.0, CHAINS),),
}


def mixture(progress: float, start: str) -> Mixture:
    """What is learnt when ``progress`` (0 to 1) of the training is done: plain questions about things first, since all
    else rests on them, then tasks, then whole chains. A ``grown`` model knows the plain ones already, one whose heads
    were ``divided`` has to find back to them, a ``trained`` one has learnt all."""
    return next(mix for end, mix in MIXTURES[start] if progress < end)
