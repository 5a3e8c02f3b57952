"""Capacity: from what one replica was measured to do, to the replicas and the memory for so many users a day."""

from ebbtide.capacity.errors import CapacityError
from ebbtide.capacity.measured import Machine, Measured, MeasuredMemory, notes_of, read_measured, read_memory
from ebbtide.capacity.plan import Demand, Line, Memory, Plan, Replica, plan

__all__ = [
    "CapacityError",
    "Demand",
    "Line",
    "Machine",
    "Measured",
    "MeasuredMemory",
    "Memory",
    "Plan",
    "Replica",
    "notes_of",
    "plan",
    "read_measured",
    "read_memory",
]
