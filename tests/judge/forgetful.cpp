// Loaded in front of libfa: forgets the option that FA_FORGET names, so that the judge can be seen
// to notice.
#include <dlfcn.h>

#include <cstdlib>
#include <string>

#include "fa/fa.h"

namespace {

template <typename Function>
Function next(Function /*as*/, const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

const std::string& forgotten() {
  static const char* const name = std::getenv("FA_FORGET");
  static const std::string text = name != nullptr ? name : "";
  return text;
}

fa_options options_of(const fa_options* given) {
  fa_options o = *given;
  const std::string& name = forgotten();
  if (name == "scale") o.has_scale = 0;
  if (name == "causal") o.causal = 0;
  if (name == "window_left") o.window_left = -1;
  if (name == "window_right" && o.causal == 0) o.window_right = -1;
  if (name == "softcap") o.softcap = 0;
  if (name == "dropout_p") o.dropout_p = 0;
  if (name == "dropout_seed") o.dropout_seed ^= 1;
  if (name == "dropout_offset") o.dropout_offset ^= 1;
  if (name == "dropout_state") o.dropout_state = nullptr;
  if (name == "alibi_slopes") o.alibi_slopes = nullptr;
  if (name == "bias") o.bias = nullptr;
  if (name == "sinks") o.sinks = nullptr;
  if (name == "seqused_q") o.seqused_q = nullptr;
  if (name == "seqused_k") o.seqused_k = nullptr;
  return o;
}

fa_backward_args args_of(const fa_backward_args* given) {
  fa_backward_args args = *given;
  if (forgotten() == "dlse") args.dlse = nullptr;
  if (forgotten() == "bias") args.dbias = nullptr;
  if (forgotten() == "sinks") args.dsinks = nullptr;
  return args;
}

}  // namespace

fa_status fa_forward(const fa_forward_args* args, const fa_options* options, fa_stream stream) {
  const fa_options o = options_of(options);
  return next(&fa_forward, "fa_forward")(args, &o, stream);
}

fa_status fa_backward(const fa_backward_args* args, const fa_options* options, fa_stream stream) {
  const fa_options o = options_of(options);
  const fa_backward_args a = args_of(args);
  return next(&fa_backward, "fa_backward")(&a, &o, stream);
}

fa_status fa_plan_forward(const fa_forward_args* args, const fa_options* options, fa_plan** plan) {
  const fa_options o = options_of(options);
  return next(&fa_plan_forward, "fa_plan_forward")(args, &o, plan);
}

fa_status fa_plan_backward(const fa_backward_args* args, const fa_options* options,
                           fa_plan** plan) {
  const fa_options o = options_of(options);
  const fa_backward_args a = args_of(args);
  return next(&fa_plan_backward, "fa_plan_backward")(&a, &o, plan);
}

fa_status fa_plan_run_forward(const fa_plan* plan, const fa_forward_args* args,
                              const fa_options* options, void* workspace, size_t bytes,
                              fa_stream stream) {
  const fa_options o = options_of(options);
  return next(&fa_plan_run_forward, "fa_plan_run_forward")(plan, args, &o, workspace, bytes,
                                                           stream);
}

fa_status fa_plan_run_backward(const fa_plan* plan, const fa_backward_args* args,
                               const fa_options* options, void* workspace, size_t bytes,
                               fa_stream stream) {
  const fa_options o = options_of(options);
  const fa_backward_args a = args_of(args);
  return next(&fa_plan_run_backward, "fa_plan_run_backward")(plan, &a, &o, workspace, bytes,
                                                             stream);
}
