// The passes on the CPU, over all sequences, heads and threads.
#pragma once

#include "plan/cpu/plan.hpp"
#include "problem/problem.hpp"

namespace fa::cpu {

/// Run a planned, validated call. The workspace has plan.workspace_bytes, on a cache line.
void forward(const CpuPlan& plan, const Call& call, void* workspace);
void backward(const CpuPlan& plan, const Call& call, void* workspace);
void merge(const MergeCall& call);

}  // namespace fa::cpu
