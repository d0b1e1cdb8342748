"""The CPU's peers beside PyTorch's own attention, each an import that may be missing: onnxruntime's
two operators, ggml's flash attention and zentorch's. All forward only."""

import ctypes
import functools
import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from cells import Cell
from contenders import Attend, Contender, Lack, first_lack, no_packing, no_softcap, no_window
from torch import Tensor

Call = Callable[[], Tensor]
NEEDS = {  # by peer: the package whose version counts, and the modules that it imports
    "ort-gqa": ("onnxruntime", ("onnxruntime", "onnx")),
    "ort-mha": ("onnxruntime", ("onnxruntime", "onnx")),
    "ggml": ("llama-cpp-py-sync", ("llama_cpp_py_sync",)),
    "zentorch": ("zentorch", ("zentorch",)),
}


def why_missing(peer: str) -> str | None:
    """What to say of a peer that cannot be had; None where it can."""
    package, modules = NEEDS[peer]
    lacking = [name for name in modules if importlib.util.find_spec(name) is None]
    if lacking:
        return f"needs {' and '.join(lacking)}, not installed here (package {package})"
    try:  # zentorch is built for one version of PyTorch, ggml for one of the C library
        _LOADS.get(peer, lambda: None)()
    except (ImportError, OSError, AttributeError) as error:
        return f"{package} does not load: {str(error).partition(chr(10))[0]}"
    return None


def cpu_peer(peer: str) -> Contender:
    bind, lacks = _PEERS[peer]
    lack = first_lack(_forward_only, no_packing, *lacks)
    return Contender(peer, NEEDS[peer][0], bind, heads_first=True, lies_heads_first=True, lack=lack)


class Prepared:
    """A call of a runtime that wants to be told beforehand where its tensors lie: told at their
    first call, which is not timed, except for the copy that its own layout or dtype may need."""

    def __init__(self, prepare: Callable[[Tensor, Tensor, Tensor], Call]) -> None:
        self._prepare = prepare
        self._calls: dict[tuple[int, ...], Call] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        key = (q.data_ptr(), k.data_ptr(), v.data_ptr())
        if key not in self._calls:
            self._calls[key] = self._prepare(q, k, v)
        return self._calls[key]()


def _forward_only(cell: Cell) -> str | None:
    return "has no backward" if cell.needs_gradients else None


def _float32_only(cell: Cell) -> str | None:
    return None if cell.dtype == "float32" else f"measured in float32, not in {cell.dtype}"


# onnxruntime


def _always_causal(cell: Cell) -> str | None:
    return None if cell.causal or cell.seqlen_q == 1 else "is always causal"


def _no_groups(cell: Cell) -> str | None:
    return None if cell.heads_q == cell.heads_k else "has as many heads of k as of q"


def _session(
    operator: str, inputs: list[str], shapes: dict[str, Sequence[int]], **attributes: int
) -> Any:
    """Of a model of one node. Of `shapes`, what is no input is an output, in the node's order; an
    input named "" is not given."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    def described(name: str) -> Any:
        integer = name in ("seqlens_k", "total_sequence_length")
        kind = TensorProto.INT32 if integer else TensorProto.FLOAT
        return helper.make_tensor_value_info(name, kind, shapes[name])

    outputs = [name for name in shapes if name not in inputs]
    node = helper.make_node(operator, inputs, outputs, domain="com.microsoft", **attributes)
    given = [described(name) for name in inputs if name]
    graph = helper.make_graph([node], operator, given, [described(name) for name in outputs])
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=8)
    onnx.checker.check_model(model)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    # Its threads spin while a call lasts, but not into the next contender's.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


def _run(session: Any, inputs: dict[str, Tensor], outputs: dict[str, Tensor], out: Tensor) -> Call:
    """A call that reads and writes these tensors' own memory."""
    import numpy as np

    binding = session.io_binding()
    element = {torch.float32: np.float32, torch.int32: np.int32}
    for bind, tensors in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
        for name, t in tensors.items():
            assert t.is_contiguous()
            bind(name, "cpu", 0, element[t.dtype], tuple(t.shape), t.data_ptr())

    def call(_keep: tuple[Any, ...] = (inputs, outputs)) -> Tensor:
        session.run_with_iobinding(binding)
        return out

    return call


def _rows(t: Tensor) -> Tensor:
    """[batch, heads, seqlen, head_dim] as [batch, seqlen, heads * head_dim]."""
    return t.transpose(1, 2).flatten(2).contiguous()


def _new_out(cell: Cell) -> tuple[Tensor, Tensor]:
    """[batch, seqlen, heads * head_dim]; the same memory as [batch, heads, seqlen, head_dim]."""
    rows = torch.empty(cell.batch, cell.seqlen_q, cell.heads_q * cell.head_dim)
    return rows, rows.unflatten(2, (cell.heads_q, cell.head_dim)).transpose(1, 2)


def _shapes_of_rows(cell: Cell, **heads: int) -> dict[str, Sequence[int]]:
    """[batch, seqlen, heads * head_dim]"""
    lengths = {"key": cell.seqlen_k, "value": cell.seqlen_k}
    return {
        name: (cell.batch, lengths.get(name, cell.seqlen_q), count * cell.head_dim)
        for name, count in heads.items()
    }


def _bind_mha(cell: Cell) -> Attend:
    """Of one query it is fastest with keys and values by heads, of many with rows."""
    by_heads = cell.seqlen_q == 1
    shapes = _shapes_of_rows(
        cell, query=cell.heads_q, key=cell.heads_k, value=cell.heads_k, out=cell.heads_q
    )
    if by_heads:
        cache = (cell.batch, cell.heads_k, cell.seqlen_k, cell.head_dim)
        shapes |= {"key": cache, "value": cache}
    session = _session(
        "MultiHeadAttention",
        ["query", "key", "value"],
        shapes,
        num_heads=cell.heads_q,
        unidirectional=int(cell.causal),
    )

    def prepare(q: Tensor, k: Tensor, v: Tensor) -> Call:
        rows, out = _new_out(cell)
        if not by_heads:
            k, v = _rows(k), _rows(v)
        return _run(session, {"query": _rows(q), "key": k, "value": v}, {"out": rows}, out)

    return Prepared(prepare)


def _bind_gqa(cell: Cell) -> Attend:
    """One query reads a cache, as this operator is made for: the last key is the new one, and
    past and present are the same memory. More of them are a prompt without a past."""
    decodes = cell.seqlen_q == 1
    cache = (cell.batch, cell.heads_k, cell.seqlen_k, cell.head_dim)
    past = ["past_key", "past_value"] if decodes else ["", ""]
    shapes = _shapes_of_rows(
        replace(cell, seqlen_k=cell.seqlen_q),  # new keys: one, or all
        query=cell.heads_q,
        key=cell.heads_k,
        value=cell.heads_k,
        out=cell.heads_q,
    )
    shapes |= {name: cache for name in past if name}
    shapes |= {"seqlens_k": (cell.batch,), "total_sequence_length": (1,)}
    shapes |= {"present_key": cache, "present_value": cache}
    session = _session(
        "GroupQueryAttention",
        ["query", "key", "value", *past, "seqlens_k", "total_sequence_length"],
        shapes,
        num_heads=cell.heads_q,
        kv_num_heads=cell.heads_k,
    )

    def prepare(q: Tensor, k: Tensor, v: Tensor) -> Call:
        rows, out = _new_out(cell)
        new = slice(cell.seqlen_k - cell.seqlen_q, None)
        given = {"query": _rows(q), "key": _rows(k[:, :, new]), "value": _rows(v[:, :, new])}
        if decodes:
            given |= {"past_key": k, "past_value": v}
        given["seqlens_k"] = torch.full((cell.batch,), cell.seqlen_k - 1, dtype=torch.int32)
        given["total_sequence_length"] = torch.tensor([cell.seqlen_k], dtype=torch.int32)
        keys, values = (k, v) if decodes else (torch.empty_like(k), torch.empty_like(v))
        written = {"out": rows, "present_key": keys, "present_value": values}
        return _run(session, given, written, out)

    return Prepared(prepare)


# ggml

GGML_TYPES = {"float32": 0, "float16": 1, "bfloat16": 30}  # of keys and values; queries are float32


@functools.cache
def _ggml_libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """libggml-base and libggml-cpu. OpenMP's library is the process's, which torch has loaded."""
    spec = importlib.util.find_spec("llama_cpp_py_sync")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    base = ctypes.CDLL(str(folder / "libggml-base.so.0"), mode=ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(str(folder / "libggml-cpu.so.0"))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    for function, result, arguments in (
        (base.ggml_init, pointer, (_GgmlMemory,)),
        (base.ggml_new_tensor_4d, pointer, (pointer, ctypes.c_int, *[number] * 4)),
        (base.ggml_flash_attn_ext, pointer, (*[pointer] * 5, *[ctypes.c_float] * 3)),
        (base.ggml_flash_attn_ext_set_prec, None, (pointer, ctypes.c_int)),
        (base.ggml_new_graph, pointer, (pointer,)),
        (base.ggml_build_forward_expand, None, (pointer, pointer)),
        (base.ggml_backend_cpu_buffer_from_ptr, pointer, (pointer, ctypes.c_size_t)),
        (base.ggml_backend_tensor_alloc, ctypes.c_int, (pointer, pointer, pointer)),
        (base.ggml_backend_graph_compute, ctypes.c_int, (pointer, pointer)),
        (cpu.ggml_backend_cpu_init, pointer, ()),
        (cpu.ggml_backend_cpu_set_n_threads, None, (pointer, ctypes.c_int)),
    ):
        function.restype, function.argtypes = result, arguments
    return base, cpu


class _GgmlMemory(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("memory", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


@functools.cache
def _ggml_backend(threads: int) -> int:
    _, cpu = _ggml_libraries()
    backend = cpu.ggml_backend_cpu_init()
    cpu.ggml_backend_cpu_set_n_threads(backend, threads)
    return backend


def _bind_ggml(cell: Cell) -> Attend:
    base, _ = _ggml_libraries()
    backend = _ggml_backend(torch.get_num_threads())

    def prepare(q: Tensor, k: Tensor, v: Tensor) -> Call:
        kept = []
        context = base.ggml_init(_GgmlMemory(1 << 20, None, True))

        def place(tensor: int, t: Tensor) -> int:
            assert t.is_contiguous()
            kept.append(t)
            buffer = base.ggml_backend_cpu_buffer_from_ptr(t.data_ptr(), t.nbytes)
            if base.ggml_backend_tensor_alloc(buffer, tensor, t.data_ptr()) != 0:
                raise MemoryError("ggml takes no tensor there")
            return tensor

        def of(t: Tensor, kind: str) -> int:
            new = base.ggml_new_tensor_4d(context, GGML_TYPES[kind], *reversed(t.shape))
            return place(new, t)

        mask = None
        if cell.causal:
            hidden = torch.full((cell.seqlen_q, cell.seqlen_k), -torch.inf).triu(1)
            mask = of(hidden.half()[None, None], "float16")
        queries = of(q.float(), "float32")
        keys, values = of(k, cell.dtype), of(v, cell.dtype)
        scale = 1 / math.sqrt(cell.head_dim)
        node = base.ggml_flash_attn_ext(
            context, queries, keys, values, mask, scale, 0, cell.softcap
        )
        base.ggml_flash_attn_ext_set_prec(node, 10)  # GGML_PREC_F32
        out = torch.empty(cell.batch, cell.seqlen_q, cell.heads_q, cell.head_dim)
        place(node, out)
        graph = base.ggml_new_graph(context)
        base.ggml_build_forward_expand(graph, node)
        result = out.transpose(1, 2)

        def call(_keep: list[Tensor] = kept) -> Tensor:
            if base.ggml_backend_graph_compute(backend, graph) != 0:
                raise RuntimeError("ggml_backend_graph_compute failed")
            return result

        return call

    return Prepared(prepare)


# zentorch


def _load_zentorch() -> None:
    importlib.import_module("zentorch")


def _bind_zentorch(cell: Cell) -> Attend:
    attend = torch.ops.zentorch.zentorch_sdpa

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, 0.0, cell.causal)[0]

    return call


_LOADS: dict[str, Callable[[], Any]] = {"ggml": _ggml_libraries, "zentorch": _load_zentorch}
_PEERS: dict[str, tuple[Callable[[Cell], Attend], tuple[Lack, ...]]] = {
    "ort-gqa": (_bind_gqa, (_float32_only, _always_causal, no_window, no_softcap)),
    "ort-mha": (_bind_mha, (_float32_only, _no_groups, no_window, no_softcap)),
    "ggml": (_bind_ggml, (no_window,)),
    "zentorch": (_bind_zentorch, (no_window, no_softcap)),
}
