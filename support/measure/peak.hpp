// The machine's peaks: multiply-adds and memory reads per second with all threads at work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "fa/attention.hpp"

namespace fa::support {

struct FmaPeak {
  double flops = 0;  ///< float32 operations per second; a multiply-add is two
  int threads = 0;
  int lanes = 0;               ///< floats in a vector
  int per_cycle = 0;           ///< multiply-adds of a vector that a core is taken to do in a cycle
  std::string target;          ///< Highway's name of the instruction set
  double implied_ghz() const;  ///< the clock at which `per_cycle` gives `flops`
};

/// All threads at work for `seconds`. 12 independent chains of multiply-adds in each: with a
/// latency of 4 to 5 cycles and two units, 8 to 10 keep a core busy.
FmaPeak measure_fma_peak(int threads, double seconds = 0.2);

/// The instructions that multiply the numbers of a dtype on this CPU. cpu_target() names their
/// instruction set.
enum class Arithmetic : uint8_t {
  widened,  ///< float32 multiply-adds
  pairs,    ///< of bfloat16, in vectors
  tiles,    ///< of bfloat16, in AMX's tiles
};
Arithmetic arithmetic_of(DType dtype);
const char* to_text(Arithmetic arithmetic);

/// Operations per second of that arithmetic, which this CPU must have.
double measure_peak(Arithmetic arithmetic, int threads, double seconds = 0.2);

/// Bytes per second of one pass over `buffer`. The caller has written to all its pages: Linux maps
/// untouched ones to one page of zeros.
double measure_read_bandwidth(std::span<const std::byte> buffer, int threads);

}  // namespace fa::support
