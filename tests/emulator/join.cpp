// Where threads meet: instructions of a warp or of a warp group, named barriers, the cluster's.
#include "emulator/block.hpp"

namespace emulator {

namespace {

template <size_t count>
void meet(Team<count>& team, void (*operation)(void* const*), void* mine, const char* parted,
          const char* what) {
  Thread& me = *current;
  me.operation = operation;
  me.operand = mine;
  if (++team.arrived < count) return me.wait(what);
  team.arrived = 0;
  void* operands[count];
  for (size_t i = 0; i < count; ++i) {
    if (team.lanes[i]->operation != operation) stop(parted);
    operands[i] = team.lanes[i]->operand;
  }
  operation(operands);
  for (Thread* lane : team.lanes) lane->state = State::ready;
}

void end_cluster_phase(Cluster& cluster) {
  int running = 0;
  for (const auto& block : cluster.blocks) running += block->running;
  if (running == 0 || cluster.at_barrier < running) return;
  cluster.at_barrier = 0;
  ++cluster.barrier_phase;
  for (Thread* thread : cluster.waiting) thread->state = State::ready;
  cluster.waiting.clear();
}

}  // namespace

void meet_warp(void (*operation)(void* const*), void* mine) {
  meet(current->block->warps[current->index.x / 32], operation, mine, "lanes of a warp have parted",
       "the other lanes of their warp");
}

void meet_group(void (*operation)(void* const*), void* mine) {
  const size_t group = current->index.x / 128;
  if (group >= current->block->groups.size()) stop("a warp group has no 128 threads");
  meet(current->block->groups[group], operation, mine, "lanes of a warp group have parted",
       "the other lanes of their warp group");
}

namespace joins {

void barrier(int name, int threads, bool wait) {
  Thread& me = *current;
  if (name < 0 || name > 15) stop("a block has the barriers 0 to 15");
  Barrier& barrier = me.block->barriers[name];
  if (threads == 0) threads = static_cast<int>(me.block->threads.size());
  const bool last = ++barrier.arrived == threads;
  if (barrier.arrived > threads) stop("too many threads at a barrier");
  if (last) {
    for (Thread* other : barrier.waiting) other->state = State::ready;
    barrier = {};
  } else if (wait) {
    barrier.waiting.push_back(&me);
    me.wait("a barrier");
  }
}

bool any(bool mine) {
  Block& block = *current->block;
  block.any_so_far = block.any_so_far || mine;
  if (block.barriers[0].arrived + 1 == static_cast<int>(block.threads.size())) {
    block.any_result = block.any_so_far;
    block.any_so_far = false;
  }
  barrier(0, 0, true);
  return block.any_result;
}

unsigned cluster_rank() { return current->block->rank; }

void cluster_arrive() {
  Thread& me = *current;
  Cluster& cluster = *me.block->cluster;
  if (me.at_cluster_barrier) stop("a thread arrives twice at its cluster's barrier");
  me.at_cluster_barrier = true;
  me.cluster_phase = cluster.barrier_phase;
  ++cluster.at_barrier;
  end_cluster_phase(cluster);
}

void cluster_wait() {
  Thread& me = *current;
  Cluster& cluster = *me.block->cluster;
  if (!me.at_cluster_barrier) stop("a thread waits at its cluster's barrier and has not arrived");
  if (cluster.barrier_phase == me.cluster_phase) {
    cluster.waiting.push_back(&me);
    me.wait("the cluster's barrier");
  }
  me.at_cluster_barrier = false;
}

void leave_cluster(Cluster& cluster) { end_cluster_phase(cluster); }

}  // namespace joins

}  // namespace emulator
