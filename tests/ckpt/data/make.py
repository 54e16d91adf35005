"""Writes python.safetensors with the safetensors package (0.7): the file our writer must equal byte for byte."""
import struct, sys
from safetensors import serialize

def raw(kind, values):
    return struct.pack("<%d%s" % (len(values), kind), *values)

tensors = {
    "layers.0.norm.weight": {"dtype": "float32", "shape": [3], "data": raw("f", [1.0, -2.5, 0.125])},
    "embed.word.weight": {"dtype": "bfloat16", "shape": [2, 2], "data": raw("H", [0x3F80, 0xBF80, 0x4049, 0x0001])},
    "a.half": {"dtype": "float16", "shape": [1, 2], "data": raw("H", [0x3C00, 0x7C00])},
    "steps": {"dtype": "int64", "shape": [], "data": raw("q", [1 << 40])},
    "wide": {"dtype": "float64", "shape": [2], "data": raw("d", [3.5, -1e300])},
    "ids": {"dtype": "int32", "shape": [2], "data": raw("i", [-1, 7])},
    "bytes": {"dtype": "uint8", "shape": [5], "data": bytes(range(5))},
    "empty": {"dtype": "float32", "shape": [0, 4], "data": b""},
}
with open(sys.argv[1], "wb") as f:
    f.write(serialize(tensors, {"format": "pt"}))
