"""Runs a static aarch64 program for Linux in an emulator: `python emulate.py PROGRAM [dotprod]`. Needs qiling."""

import struct
import sys
from functools import cached_property
from typing import Any

from qiling import Qiling
from qiling.arch.arm64 import QlArchARM64
from qiling.const import QL_VERBOSE
from unicorn import UC_ARCH_ARM64, UC_MODE_ARM, Uc
from unicorn.arm64_const import UC_CPU_ARM64_A57, UC_CPU_ARM64_MAX

AT_HWCAP, QILINGS = 16, 0x078BFBFD  # what it says of every processor
FP_AND_ASIMD, ASIMDDP = 0b11, 1 << 20


def main(program: str, *features: str) -> None:
    dotprod = "dotprod" in features

    def processor(_: QlArchARM64) -> Uc:
        made = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
        made.ctl_set_cpu_model(UC_CPU_ARM64_MAX if dotprod else UC_CPU_ARM64_A57)
        return made

    def getaffinity(ql: Qiling, _pid: int, _size: int, mask: int, *_: Any) -> int:
        ql.mem.write(mask, (1).to_bytes(8, "little"))
        return 8

    chosen = cached_property(processor)
    chosen.__set_name__(QlArchARM64, "uc")
    QlArchARM64.uc = chosen
    ql = Qiling([program], "/", verbose=QL_VERBOSE.OFF)
    ql.os.set_syscall("sched_getaffinity", getaffinity)
    [told, *_] = ql.mem.search(struct.pack("<QQ", AT_HWCAP, QILINGS))
    ql.mem.write(told + 8, struct.pack("<Q", FP_AND_ASIMD | (ASIMDDP if dotprod else 0)))
    ql.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
