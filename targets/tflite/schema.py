"""The part of the TensorFlow Lite file format that we write: op codes, op versions, option tables, element types.

Numbers are those of the public schema (tensorflow/lite/schema/schema.fbs, version 3, identifier TFL3); field numbers are vtable slots.
A test compares every number here with the schema that ships in ai_edge_litert. Versions are the lowest at which the runtime has
the form that our lowerings write.
"""

from __future__ import annotations

from dataclasses import dataclass, field

IDENTIFIER = b"TFL3"
FORMAT_VERSION = 3
LARGEST_OLD_CODE = 127  # op codes up to here also stand in the field that old readers look at

TENSOR_TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int8": 9}


@dataclass(frozen=True, slots=True)
class OptionField:
    """One field of an option table: its slot, scalar kind (or `ints` for a vector), and the default that is left out of the file."""

    slot: int
    kind: str
    default: float = 0


@dataclass(frozen=True, slots=True)
class OptionTable:
    """An option table: its number in the union and its fields."""

    union: int
    fields: dict[str, OptionField] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OperatorForm:
    """A built-in operator: its code, its option table (`""`: none), the version written."""

    code: int
    options: str = ""
    version: int = 1


OPTIONS = {
    "AbsOptions": OptionTable(78),
    "AddOptions": OptionTable(11),
    "BatchMatMulOptions": OptionTable(101, {"adj_x": OptionField(0, "bool"), "adj_y": OptionField(1, "bool")}),
    "BroadcastToOptions": OptionTable(104),
    "CastOptions": OptionTable(37, {"in_data_type": OptionField(0, "int8"), "out_data_type": OptionField(1, "int8")}),
    "ConcatenationOptions": OptionTable(10, {"axis": OptionField(0, "int32")}),
    "CosOptions": OptionTable(84),
    "DequantizeOptions": OptionTable(38),
    "DivOptions": OptionTable(29),
    "DynamicUpdateSliceOptions": OptionTable(117),
    "EqualOptions": OptionTable(53),
    "ExpOptions": OptionTable(33),
    "FullyConnectedOptions": OptionTable(8, {"keep_num_dims": OptionField(2, "bool")}),
    "GatherOptions": OptionTable(23, {"axis": OptionField(0, "int32")}),
    "GeluOptions": OptionTable(116, {"approximate": OptionField(0, "bool")}),
    "LessEqualOptions": OptionTable(46),
    "LessOptions": OptionTable(41),
    "LogicalAndOptions": OptionTable(62),
    "LogicalNotOptions": OptionTable(63),
    "LogicalOrOptions": OptionTable(60),
    "MaximumMinimumOptions": OptionTable(39),
    "MulOptions": OptionTable(21),
    "NegOptions": OptionTable(42),
    "OneHotOptions": OptionTable(61, {"axis": OptionField(0, "int32")}),
    "PackOptions": OptionTable(59, {"values_count": OptionField(0, "int32"), "axis": OptionField(1, "int32")}),
    "PadOptions": OptionTable(22),
    "PowOptions": OptionTable(56),
    "ReducerOptions": OptionTable(27, {"keep_dims": OptionField(0, "bool")}),
    "ReshapeOptions": OptionTable(17, {"new_shape": OptionField(0, "ints")}),
    "SelectV2Options": OptionTable(98),
    "SliceOptions": OptionTable(48),
    "SoftmaxOptions": OptionTable(9, {"beta": OptionField(0, "float32")}),
    "SplitOptions": OptionTable(35, {"num_splits": OptionField(0, "int32")}),
    "SplitVOptions": OptionTable(79, {"num_splits": OptionField(0, "int32")}),
    "SubOptions": OptionTable(28),
    "TopKV2Options": OptionTable(34),
    "TransposeOptions": OptionTable(26),
}

OPERATORS = {
    "ABS": OperatorForm(101, "AbsOptions"),
    "ADD": OperatorForm(0, "AddOptions"),
    "BATCH_MATMUL": OperatorForm(126, "BatchMatMulOptions"),
    "BROADCAST_TO": OperatorForm(130, "BroadcastToOptions", 2),
    "CAST": OperatorForm(53, "CastOptions"),
    "CONCATENATION": OperatorForm(2, "ConcatenationOptions"),
    "COS": OperatorForm(108, "CosOptions"),
    "DEQUANTIZE": OperatorForm(6, "DequantizeOptions", 3),
    "DIV": OperatorForm(42, "DivOptions"),
    "DYNAMIC_UPDATE_SLICE": OperatorForm(151, "DynamicUpdateSliceOptions"),
    "EMBEDDING_LOOKUP": OperatorForm(7),
    "EQUAL": OperatorForm(71, "EqualOptions"),
    "EXP": OperatorForm(47, "ExpOptions"),
    "FULLY_CONNECTED": OperatorForm(9, "FullyConnectedOptions", 5),
    "GATHER": OperatorForm(36, "GatherOptions"),
    "GELU": OperatorForm(150, "GeluOptions"),
    "LESS": OperatorForm(58, "LessOptions"),
    "LESS_EQUAL": OperatorForm(63, "LessEqualOptions"),
    "LOG": OperatorForm(73),
    "LOGICAL_AND": OperatorForm(86, "LogicalAndOptions"),
    "LOGICAL_NOT": OperatorForm(87, "LogicalNotOptions"),
    "LOGICAL_OR": OperatorForm(84, "LogicalOrOptions"),
    "LOGISTIC": OperatorForm(14),
    "MAXIMUM": OperatorForm(55, "MaximumMinimumOptions"),
    "MEAN": OperatorForm(40, "ReducerOptions"),
    "MINIMUM": OperatorForm(57, "MaximumMinimumOptions"),
    "MUL": OperatorForm(18, "MulOptions"),
    "NEG": OperatorForm(59, "NegOptions"),
    "ONE_HOT": OperatorForm(85, "OneHotOptions"),
    "PACK": OperatorForm(83, "PackOptions"),
    "PAD": OperatorForm(34, "PadOptions"),
    "POW": OperatorForm(78, "PowOptions"),
    "REDUCE_MAX": OperatorForm(82, "ReducerOptions"),
    "RELU": OperatorForm(19),
    "RESHAPE": OperatorForm(22, "ReshapeOptions"),
    "RSQRT": OperatorForm(76),
    "SELECT_V2": OperatorForm(123, "SelectV2Options"),
    "SIN": OperatorForm(66),
    "SLICE": OperatorForm(65, "SliceOptions"),
    "SOFTMAX": OperatorForm(25, "SoftmaxOptions"),
    "SPLIT": OperatorForm(49, "SplitOptions"),
    "SPLIT_V": OperatorForm(102, "SplitVOptions"),
    "SQRT": OperatorForm(75),
    "SUB": OperatorForm(41, "SubOptions"),
    "SUM": OperatorForm(74, "ReducerOptions"),
    "TANH": OperatorForm(28),
    "TOPK_V2": OperatorForm(48, "TopKV2Options"),
    "TRANSPOSE": OperatorForm(39, "TransposeOptions"),
}
