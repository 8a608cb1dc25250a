"""The constants of a frozen TensorFlow graph, without TensorFlow.

`MESSAGES` declares the fields that are read, as in graph, node_def, attr_value, tensor and tensor_shape of TensorFlow's
`core/framework/*.proto`; protobuf skips the others. On the wire, a map is a repeated pair of key and value.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from threeshnet.errors import DataError

FIELD = descriptor_pb2.FieldDescriptorProto
MESSAGES: dict[str, dict[str, tuple[int, Any, bool]]] = {  # name: number, type, repeated
    "Graph": {"node": (1, "Node", True)},
    "Node": {"name": (1, FIELD.TYPE_STRING, False), "op": (2, FIELD.TYPE_STRING, False), "attr": (5, "Entry", True)},
    "Entry": {"key": (1, FIELD.TYPE_STRING, False), "value": (2, "Value", False)},
    "Value": {"tensor": (8, "Tensor", False)},
    "Tensor": {
        "dtype": (1, FIELD.TYPE_INT32, False),
        "shape": (2, "Shape", False),
        "content": (4, FIELD.TYPE_BYTES, False),
        "float_val": (5, FIELD.TYPE_FLOAT, True),
        "int_val": (7, FIELD.TYPE_INT32, True),
    },
    "Shape": {"dim": (2, "Dim", True)},
    "Dim": {"size": (1, FIELD.TYPE_INT64, False)},
}
DTYPES = {1: "<f4", 3: "<i4"}  # of `types.proto`: DT_FLOAT and DT_INT32


def constants(file: Path) -> dict[str, np.ndarray]:
    """The float32 and int32 constants of a frozen graph by the names of their nodes; those of other types are left out.

    Raises DataError for a file that is no graph, and for a constant whose values do not fill its shape.
    """
    try:
        graph = _graph_message().FromString(file.read_bytes())
    except DecodeError as error:
        raise DataError(
            f"{file}: no frozen TensorFlow graph ({error}); expected a frozen_inference_graph.pb"
        ) from error
    found = {}
    for node in graph.node:
        tensors = [entry.value.tensor for entry in node.attr if entry.key == "value"] if node.op == "Const" else []
        for tensor in tensors:
            if tensor.dtype in DTYPES:
                found[node.name] = _array(tensor, f"{file}: constant {node.name!r}")
    if not found:
        raise DataError(f"{file}: a graph of {len(graph.node)} nodes without constants; expected a frozen graph")
    return found


def _array(tensor: Any, subject: str) -> np.ndarray:
    """The values as bytes, or as a list whose last value stands for all that follow."""
    shape = [dim.size for dim in tensor.shape.dim]
    kind = DTYPES[tensor.dtype]
    try:
        listed = tensor.float_val if kind == "<f4" else tensor.int_val
        values = np.frombuffer(tensor.content, kind) if tensor.content else np.array(listed, kind)
        return np.pad(values, (0, int(np.prod(shape)) - len(values)), mode="edge").reshape(shape)
    except ValueError as error:
        raise DataError(f"{subject} does not fill its shape {shape}: the file is damaged ({error})") from error


@cache
def _graph_message() -> Any:
    """The class of the message "Graph", built at run time: no generated code is needed."""
    file = descriptor_pb2.FileDescriptorProto(name="frozen_graph.proto", package="frozen_graph", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            label = FIELD.LABEL_REPEATED if repeated else FIELD.LABEL_OPTIONAL
            declared = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                declared.type, declared.type_name = FIELD.TYPE_MESSAGE, f".frozen_graph.{kind}"
            else:
                declared.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("frozen_graph.Graph"))
