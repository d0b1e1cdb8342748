"""install_as_flash_attn: programs written for flash_attn find this package under its name."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import re
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

VERSION = "2.8.3"  # the release of flash_attn whose functions these are
_SUBMODULES = ("flash_attn_interface", "bert_padding", "layers", "layers.rotary")


def install_as_flash_attn(force: bool = False) -> bool:
    """Makes `import flash_attn` and importlib.metadata answer with this package, as version 2.8.3.

    Call it before anything asks for flash_attn; libraries remember what they found. A flash_attn
    that is installed stays as it is, unless `force` is set; its part `flash_attn.cute`
    (FlashAttention-4) can be imported either way.

    Returns:
        Whether `import flash_attn` now means this package.
    """
    present = sys.modules.get("flash_attn")
    if getattr(present, "__flashattn__", False):
        return True
    found = _installed()
    if found is not None and found.origin is not None and not force:
        return False
    module = types.ModuleType("flash_attn", "flashattn under the name of flash_attn")
    locations = [] if found is None else list(found.submodule_search_locations or [])
    spec = importlib.machinery.ModuleSpec("flash_attn", _Loader(), is_package=True)
    spec.submodule_search_locations = locations
    attributes: dict[str, Any] = dict(
        __flashattn__=True,
        __version__=VERSION,
        __spec__=spec,
        __path__=locations,
        __package__="flash_attn",
    )
    interface = importlib.import_module("flashattn.flash_attn_interface")
    attributes.update((name, getattr(interface, name)) for name in interface.__all__)
    for name in _SUBMODULES:
        submodule = importlib.import_module(f"flashattn.{name}")
        sys.modules[f"flash_attn.{name}"] = submodule
        attributes.setdefault(name.partition(".")[0], submodule)
    for name, submodule in list(sys.modules.items()):  # flash_attn.cute, if it is imported
        if name.startswith("flash_attn.") and name.count(".") == 1:
            attributes.setdefault(name.partition(".")[2], submodule)
    vars(module).update(attributes)
    sys.modules["flash_attn"] = module
    sys.meta_path.insert(0, _Metadata())
    return True


def _installed() -> importlib.machinery.ModuleSpec | None:
    """The installed flash_attn's spec. Without an origin it is FlashAttention-4's part alone."""
    try:
        return importlib.util.find_spec("flash_attn")
    except ValueError:  # another program put a module without a spec there
        return importlib.machinery.ModuleSpec("flash_attn", None, origin="sys.modules")


class _Loader(importlib.abc.Loader):
    """Loads a module that already is in sys.modules."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return sys.modules["flash_attn"]

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _Distribution(importlib.metadata.Distribution):
    """Metadata of flash-attn, without a file."""

    _files: ClassVar = {
        "METADATA": f"Metadata-Version: 2.1\nName: flash-attn\nVersion: {VERSION}\n",
        "top_level.txt": "flash_attn\n",
    }

    def read_text(self, filename: str) -> str | None:
        return self._files.get(filename)

    def locate_file(self, path: Any) -> Any:
        return Path(__file__).parent / path


class _Metadata:
    """A finder of sys.meta_path that finds the distribution and never a module."""

    def find_spec(self, *_: Any) -> None:
        return None

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context
    ) -> Iterable[importlib.metadata.Distribution]:
        name = context.name
        if name is None or re.sub(r"[-_.]+", "-", name).lower() == "flash-attn":
            yield _Distribution()
