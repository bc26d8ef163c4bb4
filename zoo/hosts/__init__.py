"""Several processes that train one network together: who they are, how they talk, and what happens if one is lost.

JAX computes on the devices of all processes at once (`zoo.train.spread`). What is not arrays of a training step goes
over connections of our own: who takes part, whether all processes do the same, what process 0 has decided, and why a
process has ended. JAX has a service for that too. It ends a process without a word of ours as soon as it cannot reach
another one, so that it is used for the devices alone.

Process 0 leads: it decides, writes and prints. Without `start`, a process is alone, and nothing here has an effect.
"""

from zoo.hosts.place import AUTO, Place, find_place
from zoo.hosts.team import Abandoned, Message, Team, current, deserted, finish, leads, start

__all__ = [
    "AUTO",
    "Abandoned",
    "Message",
    "Place",
    "Team",
    "current",
    "deserted",
    "find_place",
    "finish",
    "leads",
    "start",
]
