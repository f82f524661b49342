"""Random schedules with processes, a Redis and clients, and an oracle that says what each client may and must be shown.

A schedule that fails is printed with its seed. To repeat it, or to run more of them:

    ONEPORT_SEED=17 tests/run python test_layer_schedules.Oneport
    ONEPORT_SEED=100 ONEPORT_SCHEDULES=50 tests/run python test_layer_schedules.Oneport
"""

import os
import unittest

from kit.layer_schedule import World, make

STEPS = 40


def schedules(layer_format, *seeds):
    """Gives a class a test for each seed, or for those that the environment asks for."""
    if "ONEPORT_SEED" in os.environ or "ONEPORT_SCHEDULES" in os.environ:
        first = int(os.environ.get("ONEPORT_SEED", 1))
        seeds = range(first, first + int(os.environ.get("ONEPORT_SCHEDULES", 1)))

    def test_of(seed):
        return lambda self: self.check(layer_format, seed)

    def add(case):
        for seed in seeds:
            setattr(case, f"test_clients_are_shown_what_they_must_be_shown_by_schedule_{seed}", test_of(seed))
        return case

    return add


class Schedule(unittest.TestCase):
    def check(self, layer_format, seed):
        processes, kept = 2 + seed % 2, seed % 3 == 0
        steps = make(seed, STEPS, processes)
        with World(layer_format, processes, kept=kept) as world:
            faults = world.run(steps)
            told = "\n".join([*faults, f"seed {seed}, {processes} processes, kept={kept}: {steps}"])
            self.assertTrue(not faults, f"expected no difference, found\n{told}")


@schedules("oneport", 1, 2, 3, 5)
class Oneport(Schedule):
    pass


@schedules("channels_redis.pubsub", 6, 7)
class Pubsub(Schedule):
    pass


@schedules("channels_redis.core", 9, 10)
class Core(Schedule):
    pass


if __name__ == "__main__":
    unittest.main()
