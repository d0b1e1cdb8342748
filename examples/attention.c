/* Causal attention with grouped query heads from C, forward and backward, checked against plain
 * loops. */
#include <fa/fa.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { S = 96, HQ = 4, HK = 2, D = 32 }; /* q [1, S, HQ, D], k and v [1, S, HK, D] */

static float q[S][HQ][D], k[S][HK][D], v[S][HK][D], out[S][HQ][D], lse[HQ][S];
static float dout[S][HQ][D], dq[S][HQ][D], dk[S][HK][D], dv[S][HK][D];

static void fill(float* x, size_t size) {
  for (size_t i = 0; i < size / sizeof *x; ++i) x[i] = (float)rand() / RAND_MAX - 0.5f;
}

/* Row i of head h by the formula; p[j] are its softmax probabilities. */
static void attention_row(int h, int i, double* p, double* row) {
  const int g = h / (HQ / HK); /* the key head */
  double sum = 0;
  for (int j = 0; j <= i; ++j) {
    double score = 0;
    for (int d = 0; d < D; ++d) score += (double)q[i][h][d] * k[j][g][d];
    sum += p[j] = exp(score / sqrt(D));
  }
  for (int d = 0; d < D; ++d) row[d] = 0;
  for (int j = 0; j <= i; ++j) {
    p[j] /= sum;
    for (int d = 0; d < D; ++d) row[d] += p[j] * v[j][g][d];
  }
}

/* Largest error of out, and of dv = P^T dout. */
static double largest_error(void) {
  static double expected_dv[S][HK][D], p[S], row[D];
  double worst = 0;
  for (int h = 0; h < HQ; ++h) {
    for (int i = 0; i < S; ++i) {
      attention_row(h, i, p, row);
      for (int d = 0; d < D; ++d) {
        worst = fmax(worst, fabs(row[d] - out[i][h][d]));
        for (int j = 0; j <= i; ++j) expected_dv[j][h / (HQ / HK)][d] += p[j] * dout[i][h][d];
      }
    }
  }
  for (int n = 0; n < S * HK * D; ++n) {
    worst = fmax(worst, fabs((&expected_dv[0][0][0])[n] - (&dv[0][0][0])[n]));
  }
  return worst;
}

int main(void) {
  const int64_t q_shape[] = {1, S, HQ, D}, k_shape[] = {1, S, HK, D}, lse_shape[] = {1, HQ, S};
#define TENSOR(memory, dims, extents) \
  &(fa_tensor){memory, {FA_CPU, 0}, dims, FA_FLOAT32, extents, NULL, 0}
  fa_options options = FA_OPTIONS_INIT;
  options.causal = 1;
  const fa_forward_args forward = {
      .size = sizeof forward,
      .q = TENSOR(q, 4, q_shape),
      .k = TENSOR(k, 4, k_shape),
      .v = TENSOR(v, 4, k_shape),
      .out = TENSOR(out, 4, q_shape),
      .lse = TENSOR(lse, 3, lse_shape),
  };
  const fa_backward_args backward = {
      .size = sizeof backward,
      .dout = TENSOR(dout, 4, q_shape),
      .q = forward.q,
      .k = forward.k,
      .v = forward.v,
      .out = forward.out,
      .lse = forward.lse,
      .dq = TENSOR(dq, 4, q_shape),
      .dk = TENSOR(dk, 4, k_shape),
      .dv = TENSOR(dv, 4, k_shape),
  };
  fill(&q[0][0][0], sizeof q);
  fill(&k[0][0][0], sizeof k);
  fill(&v[0][0][0], sizeof v);
  fill(&dout[0][0][0], sizeof dout);
  if (fa_forward(&forward, &options, NULL) != FA_OK ||
      fa_backward(&backward, &options, NULL) != FA_OK) {
    fprintf(stderr, "%s\n", fa_last_error());
    return 1;
  }
  const double error = largest_error();
  printf("fa %s, largest error of out and dv: %.1e\n", fa_version(), error);
  return error < 1e-5 ? 0 : 1;
}
