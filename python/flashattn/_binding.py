"""The compiled functions, in the order of their arguments.

Tensors are anything that speaks DLPack, or None. Kernels run on torch's current stream.

    forward(bits, q, k, v, out, lse, *options)
    check_forward(bits, q, k, v, out, lse, *options)
    prepare(bits, q, k, v, out, lse, *options)      compiles and loads; runs nothing
    backward(bits, dout, q, k, v, out, lse, dq, dk, dv, dlse, dbias, dsinks, *options)
    check_backward(bits, dout, q, k, v, out, lse, dq, dk, dv, dlse, dbias, dsinks, *options)
    merge(bits, out_a, lse_a, out_b, lse_b, out, lse)
    dropout_keep(keep, seed, offset, dropout_p)     keep: uint8 [batch, heads, seqlen_q, seqlen_k]
    info() -> "version instruction-set"
    option_names() -> the names of `options` in their order, with spaces between them

check_* raise the errors of the call and run nothing. Their tensors may be without memory: each is
then a tvm_ffi.Shape of DLPack's type code, the bits and the extents.

`options` is a `flashattn._options.Options`. With `bits`, uint16 tensors hold the bits of bfloat16.
"""

import pathlib

import tvm_ffi

from ._options import Options

tvm_ffi.register_error("NotImplementedError", NotImplementedError)

_module = tvm_ffi.load_module(str(pathlib.Path(__file__).with_name("flashattn_ffi.so")))
forward = _module.get_function("forward")
check_forward = _module.get_function("check_forward")
prepare = _module.get_function("prepare")
backward = _module.get_function("backward")
check_backward = _module.get_function("check_backward")
merge = _module.get_function("merge")
dropout_keep = _module.get_function("dropout_keep")
info = _module.get_function("info")
option_names = _module.get_function("option_names")


def need_same_options(of_library: tuple[str, ...], of_package: tuple[str, ...]) -> None:
    """ImportError where the two would read each other's options by wrong names."""
    if of_library != of_package:
        raise ImportError(
            "flashattn: flashattn_ffi.so and the package's Python files are of different builds;"
            " install flashattn anew (options of the library:"
            f" {', '.join(of_library)}; of the package: {', '.join(of_package)})"
        )


need_same_options(tuple(option_names().split()), Options._fields)
