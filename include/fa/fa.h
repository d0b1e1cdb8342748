/* FlashAttention.cpp: exact attention, forward and backward, from C and everything that calls C.
 *
 * The C ABI of fa/attention.hpp: the same functions, options, errors and numbers.
 *
 * Shapes, throughout (B batch, S sequence length, H heads, D head_dim, T tokens of all sequences):
 *   query   q   [B, Sq, Hq, D]    or packed [Tq, Hq, D]  with cu_seqlens_q
 *   key     k   [B, Sk, Hk, D]    or packed [Tk, Hk, D]  with cu_seqlens_k
 *   value   v   [B, Sk, Hk, Dv]   or packed [Tk, Hk, Dv]
 *   output  out [B, Sq, Hq, Dv]   or packed [Tq, Hq, Dv]
 *   lse         [B, Hq, Sq]       or packed [Hq, Tq]     float32, natural logarithm
 * Query head h reads key head h / (Hq / Hk). D and Dv are multiples of 8 from 8 to 512,
 * independent of each other; D = 576 with Dv = 512 is allowed as well. q, k, v, out and their
 * gradients share one dtype: float32, float16 or bfloat16. Sums, LSE and statistics are float32.
 *
 * Null: an optional tensor that is not given is a null pointer; a required one that is null is
 * FA_INVALID_ARGUMENT, and the message names it. Null options are FA_OPTIONS_INIT. A stream is
 * null for the CPU.
 *
 * Memory: an output needs memory of its own. It may share none with an input or another output, nor
 * may its elements with each other. That is checked to the byte, whatever the strides. (Should two
 * tensors lie between each other's rows by strides so unlike that thousands of steps do not decide
 * it, the call is refused.)
 *
 * Versions: every struct that the caller fills begins with its own size. A library newer than the
 * caller's header gives the fields that the caller lacks their defaults; an older one refuses
 * what it does not know, unless those bytes are 0, the default of every later field.
 *
 * Threads: all functions may be called by many threads at once.
 */
#ifndef FA_FA_H_
#define FA_FA_H_

#include <stddef.h>
#include <stdint.h>

#ifndef FA_API
#if defined(__GNUC__)
#define FA_API __attribute__((visibility("default")))
#else
#define FA_API
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when a function or struct of this header changes in a way that old callers notice. */
#define FA_ABI_VERSION 1

typedef enum fa_status {
  FA_OK = 0,
  FA_INVALID_ARGUMENT = 1, /* a shape, stride, length or value that is not allowed */
  FA_WRONG_TYPE = 2,       /* a dtype that is not allowed */
  FA_UNSUPPORTED = 3,      /* valid, but not offered (on this device) */
  FA_OUT_OF_MEMORY = 4,
  FA_INTERNAL = 5
} fa_status;

/* Where a tensor lives; the numbers are DLPack's. */
typedef struct fa_device {
  int32_t type;
  int32_t id;
} fa_device;
#define FA_CPU 1
#define FA_CUDA 2

/* Element type; code, bits and lanes are DLPack's. The macros initialize one. */
typedef struct fa_dtype {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
} fa_dtype;
/* clang-format off */
#define FA_FLOAT32 {2, 32, 1}
#define FA_FLOAT16 {2, 16, 1}
#define FA_BFLOAT16 {4, 16, 1}
#define FA_INT32 {0, 32, 1}
#define FA_INT64 {0, 64, 1}
/* clang-format on */

/* A non-owning view, laid out as DLPack's DLTensor: a pointer to one may be cast to the other.
 * Strides count elements; null strides mean contiguous (row major). Any strides are taken as long
 * as the last dimension's is 1 (or its extent is at most 1). */
typedef struct fa_tensor {
  void* data;
  fa_device device;
  int32_t ndim;
  fa_dtype dtype;
  const int64_t* shape;
  const int64_t* strides;
  uint64_t byte_offset;
} fa_tensor;

/* What is computed. Begin with `fa_options options = FA_OPTIONS_INIT;`, which is
 * softmax(q k^T / sqrt(D)) v, every query sees every key.
 *
 * Score of query i and key j (numbered within their own sequence, Sq and Sk after seqused):
 *   s = scale * <q_i, k_j>;  s = softcap * tanh(s / softcap);  s -= slope * |i + Sk - Sq - j|;
 *   s += bias_ij;  s = -inf where masked. */
typedef struct fa_options {
  size_t size;       /* sizeof(fa_options) */
  int32_t has_scale; /* 0: the scale is 1 / sqrt(D); else it is `scale` */
  int32_t causal;    /* not 0: query i sees key j only if j <= i + Sk - Sq */
  double scale;      /* factor of the scores: any finite number */
  /* Query i sees key j only if -window_left <= j - (i + Sk - Sq) <= window_right. A negative side
   * is unbounded. causal sets the right side to 0. */
  int64_t window_left;
  int64_t window_right;
  double softcap; /* scores are capped to (-softcap, softcap); 0 is off */
  /* Probability with which an element of P is dropped, 0 <= p < 1; what is kept is divided by
   * 1 - p. The same (seed, offset) drops the same elements in forward and backward. */
  double dropout_p;
  uint64_t dropout_seed;
  uint64_t dropout_offset;
  const fa_tensor* dropout_state; /* int64 [2] = (seed, offset), instead of the two above */
  const fa_tensor* alibi_slopes;  /* float32 [Hq] or [B, Hq] */
  const fa_tensor* bias;  /* q's dtype or float32, [B or 1, Hq or 1, Sq or 1, Sk]; not packed */
  const fa_tensor* sinks; /* q's dtype or float32, [Hq]: logits in the denominator only */
  /* int32 [B + 1], from 0, never falling, at most T: where packed sequences begin. With it,
   * max_seqlen_* is needed: no sequence may be longer. */
  const fa_tensor* cu_seqlens_q;
  const fa_tensor* cu_seqlens_k;
  int64_t max_seqlen_q;
  int64_t max_seqlen_k;
  /* int32 [B]: how many rows or keys of each sequence count; what lies beyond is never read. */
  const fa_tensor* seqused_q;
  const fa_tensor* seqused_k;
  int32_t deterministic;   /* same bits run to run (always so on the CPU) */
  int32_t batch_invariant; /* same bits whatever stands beside a sequence (always so on the CPU) */
  int32_t num_threads;     /* CPU threads, at most 4096; 0 is the default (docs/api.md) */
  int32_t family;          /* CUDA kernels: 0 as planned, 1 sm80, 2 sm90; any on the CPU */
  /* int32 [B, N]: k and v are [pages, page_size, Hk, D], and key j of sequence b is row
   * j % page_size of page page_table[b, j / page_size]. A sequence has N * page_size keys, of which
   * seqused_k says how many count; numbers of pages behind those are not read. Forward only, and
   * not with cu_seqlens_k. On a GPU numbers of no page are taken for the nearest one. */
  const fa_tensor* page_table;
} fa_options;
/* clang-format off */
#define FA_OPTIONS_INIT \
  {sizeof(fa_options), 0, 0, 0, -1, -1, 0, 0, 0, 0, \
   NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, NULL, NULL, 0, 0, 0, 0, NULL}
/* clang-format on */

/* The tensors of a forward pass. lse is optional. Set size to sizeof(fa_forward_args). */
typedef struct fa_forward_args {
  size_t size;
  const fa_tensor* q;
  const fa_tensor* k;
  const fa_tensor* v;
  const fa_tensor* out; /* written */
  const fa_tensor* lse; /* written */
} fa_forward_args;

/* The tensors of a backward pass; out and lse are those of the forward pass. The last three are
 * optional. Set size to sizeof(fa_backward_args). */
typedef struct fa_backward_args {
  size_t size;
  const fa_tensor* dout; /* the gradient of the loss by out: its shape and dtype */
  const fa_tensor* q;
  const fa_tensor* k;
  const fa_tensor* v;
  const fa_tensor* out;
  const fa_tensor* lse;
  const fa_tensor* dq; /* written: shapes and dtype of q, k, v */
  const fa_tensor* dk;
  const fa_tensor* dv;
  const fa_tensor* dlse;   /* the gradient of the loss by lse: float32, its shape */
  const fa_tensor* dbias;  /* written: float32 or bias's dtype, bias's shape */
  const fa_tensor* dsinks; /* written: float32 or sinks's dtype, [Hq] */
} fa_backward_args;

/* A device's queue; null for the CPU. */
typedef void* fa_stream;

/* All functions that return a status: FA_OK, or what went wrong. Then fa_last_error() says more,
 * and when it was an argument, no output has been written. */

/* The message of this thread's latest failed call ("" before the first one), good until the next:
 * it names the argument, its value and what is allowed. */
FA_API const char* fa_last_error(void);

/* out = softmax(scores) v and lse = log(sum(exp(scores))). A row that sees no key has out = 0 and
 * lse = -inf (or its sink). */
FA_API fa_status fa_forward(const fa_forward_args* args, const fa_options* options,
                            fa_stream stream);

/* The gradients by q, k and v, and those by bias, sinks and through lse where their tensors are
 * given. Every output is overwritten. */
FA_API fa_status fa_backward(const fa_backward_args* args, const fa_options* options,
                             fa_stream stream);

/* Joins two attentions of the same queries over disjoint keys (ring attention, cascades, splits):
 *   lse = log(exp(lse_a) + exp(lse_b)),  out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b.
 * Shapes as out and lse above. out may be the very tensor out_a or out_b, and lse lse_a or
 * lse_b. A sink goes to one part only, or counts twice. A row with lse -inf or +inf is absent. */
FA_API fa_status fa_merge(const fa_tensor* out_a, const fa_tensor* lse_a, const fa_tensor* out_b,
                          const fa_tensor* lse_b, const fa_tensor* out, const fa_tensor* lse,
                          fa_stream stream);

/* How a problem will be run: decided once from shapes, dtypes and options, run often on any
 * tensors of these, by many threads at once. */
typedef struct fa_plan fa_plan;

/* Plans a pass into *plan, which is null after an error. The tensors give shapes, strides, dtypes
 * and device; the data pointers of everything but lengths may be null. */
FA_API fa_status fa_plan_forward(const fa_forward_args* args, const fa_options* options,
                                 fa_plan** plan);
FA_API fa_status fa_plan_backward(const fa_backward_args* args, const fa_options* options,
                                  fa_plan** plan);

/* Frees a plan; null is allowed. */
FA_API void fa_plan_destroy(fa_plan* plan);

/* Bytes that a run needs beside the tensors. The workspace must be 64-byte aligned; its content
 * does not matter. */
FA_API fa_status fa_plan_workspace_bytes(const fa_plan* plan, size_t* bytes);

/* The plan in words, one `name: value` a line; good until the plan is destroyed. */
FA_API fa_status fa_plan_text(const fa_plan* plan, const char** text);

/* Compiles and loads what a run will need, so that the first one is fast and may be captured. On
 * the CPU there is nothing to do. */
FA_API fa_status fa_plan_prepare(const fa_plan* plan);

/* Runs without allocating. Dropout's seed and offset, and the contents of all tensors, may differ
 * from call to call; shapes, dtypes and the other options may not, and on CUDA devices no tensor's
 * rows may be aligned to fewer bytes than planned (to 16 where pointers were null, also a bias's).
 * `bytes` is the workspace's size, at least what the plan says. */
FA_API fa_status fa_plan_run_forward(const fa_plan* plan, const fa_forward_args* args,
                                     const fa_options* options, void* workspace, size_t bytes,
                                     fa_stream stream);
FA_API fa_status fa_plan_run_backward(const fa_plan* plan, const fa_backward_args* args,
                                      const fa_options* options, void* workspace, size_t bytes,
                                      fa_stream stream);

/* Frees the memory that fa_forward and fa_backward keep for their next workspace. */
FA_API fa_status fa_release_memory(void);

/* The instruction set of the CPU kernels ("avx3_bf16", "avx3", "avx2", ...), and all that this CPU
 * can run, best first, separated by spaces; both good forever. The environment variable
 * FA_CPU_TARGET names another one to be used instead; it is read once, and a name that cannot be
 * had is FA_INVALID_ARGUMENT from every call that computes. */
FA_API fa_status fa_cpu_target(const char** target);
FA_API fa_status fa_cpu_targets(const char** targets);

/* What the library finds of CUDA, one `name: value` a line; good until this thread's next call of
 * this function. */
FA_API fa_status fa_cuda_info(const char** text);

/* Compiles a preset of kernels ahead ("llm", "llm-backward") for architectures separated by commas
 * ("sm_80,sm_90a") into one file, for programs that run with FA_BUNDLE=path. threads: 0 is one for
 * each core, and no number may be negative. kernels and bytes, how many there are and the file's
 * size, and progress may be null; progress is called by one thread at a time. After an error
 * nothing has been written. */
typedef void (*fa_progress)(int64_t done, int64_t total, void* data);
FA_API fa_status fa_compile_bundle(const char* path, const char* preset, const char* archs,
                                   int32_t threads, int64_t* kernels, int64_t* bytes,
                                   fa_progress progress, void* progress_data);

/* "major.minor.patch" of the library that runs, and its FA_ABI_VERSION. */
FA_API const char* fa_version(void);
FA_API int32_t fa_abi_version(void);

#ifdef __cplusplus
}
#endif

#endif /* FA_FA_H_ */
