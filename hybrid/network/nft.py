"""libnftables, by its documented C interface: JSON in, one transaction each.

The library does the quoting and talks to the kernel; starting the program `nft` would take as long as the rest.
"""

from __future__ import annotations

import ctypes
import json
from functools import cache
from typing import Any

from hybrid.errors import HostError, ToolError

_OUTPUT_JSON = 1 << 4


def run(commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Do all of it or nothing, and return what was listed. ToolError in the library's words when it fails."""
    lib, context = _library()
    text = json.dumps({"nftables": commands}).encode()
    code = lib.nft_run_cmd_from_buffer(context, text)
    out, err = lib.nft_ctx_get_output_buffer(context), lib.nft_ctx_get_error_buffer(context)
    if code != 0:
        words = (err or b"").decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise ToolError(
            f"the firewall rules are refused: {words[0].removeprefix('internal:0:0-0: Error: ')}",
            returncode=code,
            stderr="\n".join(words),
            mend="the kernel needs nftables with NAT (nf_tables, nft_nat, nft_masq, nft_fib_inet)",
        )
    found = json.loads(out)["nftables"] if out else []
    return [each for each in found if "metainfo" not in each]


def has(what: str, **where: str) -> bool:
    """Whether a chain, table, … is there."""
    try:
        return bool(run([{"list": {what: where}}]))
    except ToolError:
        return False


@cache
def _library() -> tuple[ctypes.CDLL, int]:
    try:
        lib = ctypes.CDLL("libnftables.so.1")
    except OSError:
        raise HostError(
            "libnftables is not installed, and networks need it",
            mend="apt-get install libnftables1, or `network_mode: none`",
        ) from None
    pointer = ctypes.c_void_p
    lib.nft_ctx_new.restype, lib.nft_ctx_new.argtypes = pointer, [ctypes.c_uint32]
    lib.nft_run_cmd_from_buffer.argtypes = [pointer, ctypes.c_char_p]
    lib.nft_ctx_output_set_flags.argtypes = [pointer, ctypes.c_uint]
    for name in ("output", "error"):
        getattr(lib, f"nft_ctx_buffer_{name}").argtypes = [pointer]
        get = getattr(lib, f"nft_ctx_get_{name}_buffer")
        get.restype, get.argtypes = ctypes.c_char_p, [pointer]
    context = lib.nft_ctx_new(0)
    lib.nft_ctx_buffer_output(context)
    lib.nft_ctx_buffer_error(context)
    lib.nft_ctx_output_set_flags(context, _OUTPUT_JSON)
    return lib, context
