"""The stage types that noa brings: pure, and registered like anybody's."""

from noa.plugin.interfaces import StageType
from noa.stages.conditional import ConditionalStage
from noa.stages.loop import LoopStage
from noa.stages.parallel import ParallelStage
from noa.stages.sequential import SequentialStage

__all__ = ["BUILTIN_STAGE_TYPES", "ConditionalStage", "LoopStage", "ParallelStage", "SequentialStage"]

BUILTIN_STAGE_TYPES: tuple[type[StageType], ...] = (SequentialStage, ParallelStage, ConditionalStage, LoopStage)
"""What the built-in plugin gives for `noa_stage_types`."""
