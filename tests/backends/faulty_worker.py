"""A Lava worker with a fault in it, and a look at what the parent has to clean up then."""

from __future__ import annotations

import os

from toolchain.backends import child

FAULTY_WORKER = """
import os, sys, time
sys.path.insert(0, {folder!r})
import worker

stock = worker.PyWindowSource.run_spk

def at_step_5(self):
    if self.time_step == 5:
        {fault}
    stock(self)

def built(self, proc_params):
    {build_fault}
    worker.PyLoihiProcessModel.__init__(self, proc_params)

worker.PyWindowSource.run_spk = at_step_5
worker.PyWindowSource.__init__ = built
{more}
worker.main(sys.argv[1:])
"""


class Reaped:
    """What the parent had to clean up: the group's leader, its shared memory, how many processes it had."""

    leader = 0
    segments: frozenset[str] = frozenset()
    size = 0

    def assert_nothing_left(self) -> None:
        assert self.leader, "the child was never started"
        assert child.group(self.leader) == []
        assert not [name for name in self.segments if os.path.exists(name)]
