// Memory that the convenience calls keep for their next workspace.
#pragma once

#include <cstddef>

namespace fa::cpu {

/// A workspace on a cache line, taken from the pool or allocated. The destructor gives it back to
/// the pool. Throws Error (out_of_memory).
class Workspace {
 public:
  explicit Workspace(size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  void* data() const { return data_; }

 private:
  void* data_;
  size_t bytes_;
};

void release_workspaces();

}  // namespace fa::cpu
