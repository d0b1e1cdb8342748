# What makes a fault harder to use against whoever runs the program; not under the sanitizers, which
# find faults themselves. fa_harden(TARGET...): for all code but the CPU kernels, whose inner loops it
# would cost time.
include(CheckCXXCompilerFlag)
include(CheckLinkerFlag)

set(fa_hardening "")
if(NOT (FA_SANITIZE OR FA_THREAD_SANITIZE OR FA_FUZZ))
  # Overwritten stacks are noticed; jumps land on marked instructions only (x86-64, 64-bit Arm). The
  # marks of x86-64 (IBT, SHSTK) are emitted, not enforced: a loader asks the file's note for them, which
  # the linker gives where all objects have it, and glibc's crti.o has none on Debian 12.
  foreach(flag -fstack-protector-strong -fcf-protection -mbranch-protection=standard)
    string(MAKE_C_IDENTIFIER FA_HAS${flag} known)
    check_cxx_compiler_flag(${flag} ${known})
    if(${known})
      list(APPEND fa_hardening ${flag})
    endif()
  endforeach()
  # Copies that overrun what they copy to are noticed; glibc needs an optimizing compiler for it.
  list(APPEND fa_hardening
    $<$<NOT:$<CONFIG:Debug>>:-U_FORTIFY_SOURCE> $<$<NOT:$<CONFIG:Debug>>:-D_FORTIFY_SOURCE=2>)
  # Addresses of functions are looked up at the start and read only from then on.
  foreach(flag relro now)
    check_linker_flag(CXX -Wl,-z,${flag} FA_HAS_Z_${flag})
    if(FA_HAS_Z_${flag})
      add_link_options(LINKER:-z,${flag})
    endif()
  endforeach()
endif()
function(fa_harden)
  foreach(target IN LISTS ARGN)
    target_compile_options(${target} PRIVATE ${fa_hardening})
  endforeach()
endfunction()
