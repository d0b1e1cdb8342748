// How many threads a call uses by default.
#pragma once

namespace fa::cpu {

/// Threads of a call that names no number: OpenMP's number, but no more than the CPUs that this
/// thread may run on and, unless OMP_NUM_THREADS is set, than the CPU quota of its control groups.
/// 1 inside a parallel region and where threads are lost.
int default_threads();

/// Whether this process was forked from one that had threads. OpenMP's may have been among them;
/// the child does not have those, and a parallel region that waits for them hangs.
bool threads_lost();

}  // namespace fa::cpu
