"""install_as_flash_attn, each case in a process of its own."""

import subprocess
import sys
import textwrap


def run(program, folder=None):
    path = f"import sys; sys.path.insert(0, {str(folder)!r})\n" if folder else ""
    result = subprocess.run(
        [sys.executable, "-c", path + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_a_program_for_flash_attn_runs_unchanged():
    run("""
        import importlib.metadata, importlib.util
        import flashattn
        assert importlib.util.find_spec("flash_attn") is None
        assert flashattn.install_as_flash_attn()
        assert flashattn.install_as_flash_attn()
        import torch
        import flash_attn
        from flash_attn import flash_attn_func, flash_attn_varlen_qkvpacked_func
        from flash_attn.bert_padding import index_first_axis, pad_input, unpad_input
        from flash_attn.flash_attn_interface import _flash_attn_forward, _get_block_size_n
        from flash_attn.layers.rotary import apply_rotary_emb
        import flash_attn.flash_attn_interface as interface
        assert flash_attn.__version__ == "2.8.3" and not interface.USE_TRITON_ROCM
        assert importlib.util.find_spec("flash_attn") is not None
        assert importlib.metadata.version("flash_attn") == "2.8.3"
        assert importlib.metadata.version("flash-attn") == "2.8.3"
        assert importlib.metadata.version("Flash.Attn") == "2.8.3"
        assert "flash_attn_func" in dir(flashattn)
        assert importlib.metadata.packages_distributions()["flash_attn"] == ["flash-attn"]
        assert importlib.metadata.version("flashattn") == flashattn.__version__
        q = torch.randn(1, 3, 2, 8)
        assert torch.equal(flash_attn_func(q, q, q), flashattn.flash_attn_func(q, q, q))
        try:
            import flash_attn.cute
        except ModuleNotFoundError:
            pass
        else:
            raise AssertionError("there is no FlashAttention-4 here")
    """)


def test_one_openmp_in_the_process():
    run("""
        import flashattn, numpy, torch
        q = torch.randn(1, 300, 8, 64)
        flashattn.flash_attn_func(q, q, q)
        with open("/proc/self/maps") as maps:
            runtimes = {line.split()[-1] for line in maps if "libgomp" in line}
        assert len(runtimes) == 1, runtimes
        threads = torch.get_num_threads()
        flashattn.attention(*[q.numpy()] * 3)
        assert torch.get_num_threads() == threads
    """)


def test_transformers_find_the_version():
    run("""
        import flashattn
        flashattn.install_as_flash_attn()
        from transformers.utils import import_utils
        found = import_utils._is_package_available("flash_attn", return_version=True)
        assert found == (True, "2.8.3")
    """)


def test_a_real_flash_attn_stays(tmp_path):
    package = tmp_path / "flash_attn"
    package.mkdir()
    (package / "__init__.py").write_text("real = True\n")
    (package / "cute.py").write_text("four = True\n")
    program = """
        import sys
        import flashattn
        assert not flashattn.install_as_flash_attn()
        import flash_attn
        assert flash_attn.real
        assert flashattn.install_as_flash_attn(force=True)
        import flash_attn
        assert flash_attn.__version__ == "2.8.3"
        from flash_attn.cute import four
        from flash_attn.flash_attn_interface import flash_attn_func
        assert flash_attn_func is flashattn.flash_attn_func
    """
    run(program, tmp_path)


def test_flash_attention_4_in_use_stays_in_reach(tmp_path):
    part = tmp_path / "flash_attn" / "cute"
    part.mkdir(parents=True)
    (part / "__init__.py").write_text("four = True\n")
    run(
        """
        import flash_attn.cute
        import flashattn
        assert flashattn.install_as_flash_attn()
        import flash_attn.cute
        assert flash_attn.cute.four
        """,
        tmp_path,
    )


def test_flash_attention_4_alone_is_no_flash_attn(tmp_path):
    part = tmp_path / "flash_attn" / "cute"
    part.mkdir(parents=True)
    (part / "__init__.py").write_text("four = True\n")
    run(
        """
        import flashattn
        assert flashattn.install_as_flash_attn()
        from flash_attn import flash_attn_func
        from flash_attn.cute import four
        """,
        tmp_path,
    )
