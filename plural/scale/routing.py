"""Which replica a request goes to: where its key is known, unless another one has much less to do.

Two by lot are enough to find one with little to do (Mitzenmacher, "The Power of Two Choices in Randomized Load
Balancing", 2001), as Ray Serve does it; by how many requests a known one may be ahead of them is one number, as the
`imbalanced_threshold` of Ray's prefix-aware router is. Knows nothing of Ray, so that the simulation of a fleet
(benchmarks/fleet.py) asks the same code.
"""

from __future__ import annotations

import math
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Generic, TypeVar

R = TypeVar("R", bound=Hashable)
# Of the last so many requests for each replica, so many make a key a hot one: an eighth of what one replica does.
_WINDOW, _HOT = 32, 4


class Homes(Generic[R]):
    """Where the requests of each key went before. `R` is what a replica is called by.

    A key is a specialist, or the beginning of a prompt (`affinity_key`). It gets its first home where less is to do of
    two by lot, and one more when its homes are ahead by more than `slack` requests; by twice as many if few ask for it,
    because a copy that is hardly used is not worth its memory. So a key that is asked often, or whose requests take
    long, comes to be on many replicas, and a cold one stays on one. The `kept` keys that were used last are remembered.
    """

    def __init__(self, slack: int, kept: int, dice: random.Random | None = None) -> None:
        self._slack, self._kept = slack, kept
        self._dice = dice or random.Random()
        self._homes: OrderedDict[Hashable, set[R]] = OrderedDict()
        self._lately: deque[Hashable] = deque()
        self._asked: Counter[Hashable] = Counter()

    def choose(
        self,
        key: Hashable | None,
        replicas: Sequence[R],
        ongoing: Callable[[R], float],
        seen: Collection[R] = (),
    ) -> R | None:
        """One of `replicas`; None if there are none. `ongoing` says how many requests are under way at one, and
        infinity if it takes no more: who is full is chosen only if the others that were looked at are, too.

        `seen` are homes of which others told. With no `key` only the work counts. What is chosen is a home at once,
        before it answers: who comes with the same key in the same moment shall find it.
        """
        if not replicas:
            return None
        free = min(self._dice.sample(replicas, min(2, len(replicas))), key=ongoing)
        if key is None:
            return free
        homes = self._homes.pop(key, set()).union(seen).intersection(replicas)
        home = min(homes, key=ongoing, default=free)
        slack = self._slack if self._asked[key] >= _HOT else 2 * self._slack
        chosen = home if ongoing(home) <= ongoing(free) + slack else free
        if not math.isinf(ongoing(chosen)):
            homes.add(chosen)
            self._count(key, len(replicas))
        if homes:
            self._homes[key] = homes
        if len(self._homes) > self._kept:
            self._homes.popitem(last=False)
        return chosen

    def _count(self, key: Hashable, replicas: int) -> None:
        self._lately.append(key)
        self._asked[key] += 1
        while len(self._lately) > _WINDOW * replicas:
            gone = self._lately.popleft()
            self._asked[gone] -= 1
            if not self._asked[gone]:
                del self._asked[gone]
