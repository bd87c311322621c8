// What the loops over float32 tensors share: the choice of vector width, e^x, sums, and the division among threads.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "threads.h"

// Loops run along the pixels, which lie next to each other, so that the compiler turns them into vector instructions; `MULTI`
// lets the processor choose among its widths when the library is loaded.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(DDPM_MS_SANITIZE)
#define MULTI __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define MULTI
#endif
#define INLINE static inline __attribute__((always_inline))

namespace ddpm_ms {

// The larger and the smaller of two numbers; `b` where there is no telling, because one is NaN. The standard library's answer
// with a reference, which compilers do not make vector instructions of.
INLINE float Max(float a, float b) { return a > b ? a : b; }
INLINE float Min(float a, float b) { return a < b ? a : b; }

// e^x to about 2 units in the last place, without branches (Cephes' polynomial).
INLINE float Exp(float x) {
  x = Min(88.0f, Max(-87.0f, x));
  float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounded to a whole number
  float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return p * scale;
}

INLINE float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }

// Sum of `n` terms in sixteen strands of type `Number`, which the compiler may keep in one or two vectors.
template <typename Number = float, typename Term>
INLINE Number Sum(int64_t n, Term term) {
  Number strands[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int k = 0; k < 16; ++k) strands[k] += term(i + k);
  Number rest = 0;
  for (; i < n; ++i) rest += term(i);
#pragma GCC unroll 4
  for (int half = 8; half > 0; half /= 2)
    for (int k = 0; k < half; ++k) strands[k] += strands[k + half];
  return rest + strands[0];
}

// The largest of `n` numbers, or some number if one of them is NaN.
INLINE float Largest(const float *x, int64_t n) {
  float strands[16], rest = x[0];
  for (float &strand : strands) strand = rest;
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
#pragma GCC unroll 1  // or it becomes sixteen single comparisons
    for (int k = 0; k < 16; ++k) strands[k] = Max(strands[k], x[i + k]);
  }
  for (; i < n; ++i) rest = Max(rest, x[i]);
#pragma GCC unroll 4
  for (int half = 8; half > 0; half /= 2)
    for (int k = 0; k < half; ++k) strands[k] = Max(strands[k], strands[k + half]);
  return Max(rest, strands[0]);
}

// `body(i)` for i in 0 .. n - 1, in as many pieces as there are threads.
template <typename Body>
void Share(int64_t n, Body body) {
  auto &threads = Threads();
  int pieces = static_cast<int>(std::min<int64_t>(n, threads.get_num_threads()));
  threads.parallel_for(pieces, [&](int piece, int) {
    for (int64_t i = n * piece / pieces; i < n * (piece + 1) / pieces; ++i) body(i);
  });
}

// The same as a whole operator.
template <typename Body>
int Each(int64_t n, Body body) {
  return Guarded([&] { Share(n, body); });
}

inline float *Floats(void *data) { return static_cast<float *>(data); }

}  // namespace ddpm_ms
