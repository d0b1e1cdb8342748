// Order between two ways to memory: threads' loads and stores (PTX's generic proxy), and bulk
// copies, tensor copies and wgmma (the async proxy). PTX ISA 9.7.13, membar/fence.
#pragma once

namespace fa::ptx {

/// Makes the thread's earlier stores to its block's shared memory visible to copies and wgmma that
/// come after. Each thread that stored calls it; then a barrier tells the thread that begins the
/// copy.
__device__ inline void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Copies that this thread begins after it come after what it has seen in global memory.
__device__ inline void fence_proxy_async_global() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

}  // namespace fa::ptx
