"""The options have one order: that of `Options`, of the binding and of the operators' schemas."""

import pathlib
import pickle
import shutil
import subprocess
import sys

import pytest
import torch

import flashattn
from flashattn import _binding, flash_attn_interface
from flashattn._options import KINDS, TENSORS, Options, has_tensors, new_options

OPERATORS = ("forward", "forward_out", "backward", "probabilities", "with_kvcache")


def test_the_binding_and_the_package_agree():
    assert tuple(_binding.option_names().split()) == Options._fields == tuple(KINDS)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_operators_take_the_options_last_in_their_order(name):
    assert flash_attn_interface  # imports the operators
    schema = str(getattr(torch.ops.flashattn, name).default._schema)
    arguments = schema[schema.index("(") + 1 : schema.index(") -> ")].split(", ")
    types, names = zip(*(a.split() for a in arguments[-len(Options._fields) :]), strict=True)
    assert names == Options._fields
    assert types[:TENSORS] == ("Tensor?",) * TENSORS
    for field, of_schema, default in zip(names, types, Options(), strict=True):
        if field.startswith(("max_seqlen", "window")):
            assert of_schema.startswith("SymInt"), field
        elif default is not None:
            assert of_schema == type(default).__name__, field


def test_every_option_reaches_the_library_by_its_name():
    """A wrong value of each option is refused by the name of this option."""
    shape = torch.empty((1, 4, 2, 8))
    for field in Options._fields:
        given = Options()._replace(**{field: "wrong"})
        with pytest.raises(TypeError, match=f"^{field}: is "):
            _binding.forward(False, shape, shape, shape, shape, None, *given)


def test_an_option_too_few_is_told():
    q = torch.empty((1, 4, 2, 8))
    with pytest.raises(TypeError, match=f"^{Options._fields[-1]}: is .*; expected one more arg"):
        _binding.forward(False, q, q, q, q, None, *Options()[:-1])


def test_new_options_are_those_of_the_class():
    every = {name: object() for name in Options._fields}
    assert new_options(Options, **every) == Options(**every)
    assert type(new_options(Options)) is Options and new_options(Options) == Options()


@pytest.mark.parametrize("position", range(TENSORS))
def test_a_tensor_at_any_place_is_seen_and_not_compared(position):
    class Touchy:
        __hash__ = None

        def __eq__(self, other):
            raise AssertionError("compared")

    fields = {Options._fields[position]: Touchy()}
    assert has_tensors(Options(**fields))
    assert not has_tensors(Options(num_threads=1))


def test_a_package_of_another_build_says_so(tmp_path):
    package = pathlib.Path(flashattn.__file__).parent
    shutil.copytree(package, tmp_path / "flashattn", ignore=shutil.ignore_patterns("*.so*"))
    for library in package.glob("*.so*"):
        (tmp_path / "flashattn" / library.name).symlink_to(library)
    options = tmp_path / "flashattn" / "_options.py"
    text = options.read_text()
    changed = text.replace("    causal: bool = False\n", "").replace(
        "    num_threads: int = 0\n", "    num_threads: int = 0\n    causal: bool = False\n"
    )
    assert sorted(text) == sorted(changed) and text != changed
    options.write_text(changed)
    ended = subprocess.run(
        [sys.executable, "-c", "import flashattn"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "ImportError: flashattn: flashattn_ffi.so and the package's Python files are of" in (
        ended.stderr
    )
    assert "install flashattn anew" in ended.stderr


def test_the_public_functions_are_pickled():
    for name in flash_attn_interface.__all__:
        function = getattr(flash_attn_interface, name)
        assert pickle.loads(pickle.dumps(function)) is function
        by_public_path = f"cflashattn.flash_attn_interface\n{name}\n.".encode()
        assert pickle.loads(by_public_path) is function
