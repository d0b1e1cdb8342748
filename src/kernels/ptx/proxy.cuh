// Order between two ways to shared memory: threads' loads and stores (PTX's generic proxy), and
// bulk copies, tensor copies and wgmma (the async proxy). PTX ISA 9.7.13, membar/fence.
#pragma once

namespace fa::ptx {

/// What the thread has stored to its block's shared memory before is seen by copies and wgmma that
/// come after. Each thread that stored calls it, and then a barrier tells whoever begins the copy.
__device__ inline void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace fa::ptx
