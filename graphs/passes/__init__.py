"""Graph rewrites, one a file. `clean` and the `optimise...` are the orders the converter runs them in."""

from kexport.graphs.passes.base import Pass, Result, refresh_types, run_passes
from kexport.graphs.passes.bound_rows import BoundRows
from kexport.graphs.passes.classify_masks import ClassifyMasks
from kexport.graphs.passes.dead_code import RemoveDeadCode
from kexport.graphs.passes.decide_conditions import DecideConditions
from kexport.graphs.passes.drop_repeated_heads import DropRepeatedHeads
from kexport.graphs.passes.drop_shared_permutation import DropSharedPermutation
from kexport.graphs.passes.end_rows import EndRows
from kexport.graphs.passes.fold_constants import FoldConstants
from kexport.graphs.passes.last_position import LastPositionLogits
from kexport.graphs.passes.masks_from_bias import MasksFromBias
from kexport.graphs.passes.masks_from_positions import MasksFromPositions
from kexport.graphs.passes.merge_equal import MergeEqualNodes
from kexport.graphs.passes.pack_products import PackProducts
from kexport.graphs.passes.pack_qkv import PackQueryKeyValue
from kexport.graphs.passes.recognise_experts import RecogniseExperts
from kexport.graphs.passes.recognise_linear import RecogniseLinear
from kexport.graphs.passes.rows_without_keys import ZeroRowsWithoutKeys
from kexport.graphs.passes.simplify_layout import SimplifyLayout
from kexport.graphs.passes.tables_from_positions import TablesFromPositions


def clean() -> list[Pass]:
    """What every captured graph goes through: the same for all targets."""
    return [
        FoldConstants(),
        MergeEqualNodes(),
        MasksFromBias(),
        ClassifyMasks(),
        DecideConditions(),
        TablesFromPositions(),
        MasksFromPositions(),
        DropSharedPermutation(),
        RemoveDeadCode(),
        SimplifyLayout(),
        RecogniseLinear(),
        SimplifyLayout(),
        MergeEqualNodes(),
        RecogniseExperts(),
        RemoveDeadCode(),
    ]


def optimise() -> list[Pass]:
    """What makes a decoder fast on every target."""
    return [LastPositionLogits(), PackQueryKeyValue(), SimplifyLayout(), RemoveDeadCode()]


def optimise_encoder() -> list[Pass]:
    """The same for what runs once in front of a decoder."""
    return [DropRepeatedHeads(), RemoveDeadCode(), SimplifyLayout()]


def optimise_forward() -> list[Pass]:
    """The same for a graph over whole rows, of which every position counts."""
    return [
        DropRepeatedHeads(),
        RemoveDeadCode(),
        PackQueryKeyValue(uncached=True),
        ZeroRowsWithoutKeys(),
        MergeEqualNodes(),
        SimplifyLayout(),
        RemoveDeadCode(),
    ]


__all__ = [
    "BoundRows", "ClassifyMasks", "DecideConditions", "DropRepeatedHeads", "DropSharedPermutation", "EndRows", "FoldConstants", "LastPositionLogits",
    "MasksFromBias",
    "MasksFromPositions", "MergeEqualNodes", "PackProducts", "PackQueryKeyValue", "Pass", "RecogniseExperts", "RecogniseLinear", "RemoveDeadCode", "Result",
    "SimplifyLayout", "TablesFromPositions", "ZeroRowsWithoutKeys", "clean", "optimise", "optimise_encoder", "optimise_forward", "refresh_types", "run_passes",
]  # fmt: skip
