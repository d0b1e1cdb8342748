// How many threads there are to use.
#pragma once

namespace fa::cpu {

/// For a call that names no number: OpenMP's, but no more than the CPUs that this thread may run on
/// and, unless OMP_NUM_THREADS is set, than the CPU time that control groups allow; 1 inside a
/// parallel region and where threads are lost.
int default_threads();

/// Whether this process was forked from one that had threads: OpenMP's may have been among them.
/// They are not here, and a region that waits for them hangs.
bool threads_lost();

}  // namespace fa::cpu
