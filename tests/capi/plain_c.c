/* fa.h in plain C11: it compiles without a warning, its tensor is DLPack's, and a call works. */
#include <dlpack/dlpack.h>
#include <fa/fa.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAME_FIELD(ours, theirs)                                                  \
  _Static_assert(offsetof(fa_tensor, ours) == offsetof(DLTensor, theirs), #ours); \
  _Static_assert(sizeof(((fa_tensor*)0)->ours) == sizeof(((DLTensor*)0)->theirs), #ours)

_Static_assert(sizeof(fa_tensor) == sizeof(DLTensor), "size");
SAME_FIELD(data, data);
SAME_FIELD(device.type, device.device_type);
SAME_FIELD(device.id, device.device_id);
SAME_FIELD(ndim, ndim);
SAME_FIELD(dtype.code, dtype.code);
SAME_FIELD(dtype.bits, dtype.bits);
SAME_FIELD(dtype.lanes, dtype.lanes);
SAME_FIELD(shape, shape);
SAME_FIELD(strides, strides);
SAME_FIELD(byte_offset, byte_offset);
_Static_assert(FA_CPU == kDLCPU, "device type");

static int failures = 0;

static void expect(int right, const char* what) {
  if (!right) {
    fprintf(stderr, "wrong: %s (last error: %s)\n", what, fa_last_error());
    ++failures;
  }
}

enum { S = 3, D = 8 }; /* one sequence, one head */

static fa_tensor tensor(void* data, int32_t ndim, const int64_t* shape) {
  const fa_dtype dtype = FA_FLOAT32;
  const fa_tensor result = {data, {FA_CPU, 0}, ndim, dtype, shape, NULL, 0};
  return result;
}

/* q = 0: every key that is seen weighs the same, so that row i of out is the mean of v's rows up
 * to i, and lse the logarithm of how many they are. */
static void test_mean(void) {
  const int64_t shape[] = {1, S, 1, D}, lse_shape[] = {1, 1, S};
  float q[S * D] = {0}, k[S * D], v[S * D], out[S * D], lse[S];
  for (int i = 0; i < S * D; ++i) k[i] = v[i] = (float)(i - i % D) / D;
  fa_tensor tq = tensor(q, 4, shape), tk = tensor(k, 4, shape), tv = tensor(v, 4, shape);
  fa_tensor tout = tensor(out, 4, shape), tlse = tensor(lse, 3, lse_shape);
  const fa_forward_args args = {sizeof args, &tq, &tk, &tv, &tout, &tlse};
  fa_options options = FA_OPTIONS_INIT;
  options.causal = 1;

  fa_plan* plan = NULL;
  size_t bytes = 0;
  const char* text = NULL;
  expect(fa_plan_forward(&args, &options, &plan) == FA_OK, "fa_plan_forward");
  expect(fa_plan_workspace_bytes(plan, &bytes) == FA_OK, "fa_plan_workspace_bytes");
  expect(fa_plan_text(plan, &text) == FA_OK && strchr(text, ':') != NULL, "fa_plan_text");
  expect(fa_plan_prepare(plan) == FA_OK, "fa_plan_prepare");
  void* workspace = aligned_alloc(64, bytes / 64 * 64 + 64);
  expect(fa_plan_run_forward(plan, &args, &options, workspace, bytes, NULL) == FA_OK, "run");
  free(workspace);
  fa_plan_destroy(plan);
  for (int i = 0; i < S; ++i) {
    expect(fabsf(out[i * D] - (float)i / 2) < 1e-6f, "mean of the rows before");
    expect(fabsf(lse[i] - logf((float)(i + 1))) < 1e-6f, "logarithm of their number");
  }
}

int main(void) {
  test_mean();
  expect(fa_forward(NULL, NULL, NULL) == FA_INVALID_ARGUMENT, "null arguments");
  expect(strcmp(fa_last_error(), "args: is a null pointer") == 0, "message of null arguments");
  expect(fa_abi_version() == FA_ABI_VERSION, "ABI version");
  expect(fa_release_memory() == FA_OK, "fa_release_memory");
  return failures == 0 ? 0 : 1;
}
