// A step of Adam for all tensors of a network in one call, with what comes before and after it: each element is read and written
// once. MindSpore would take eight operators per tensor, and for a small tensor each costs more than its arithmetic.
//
// Results are those of MindSpore's operators, bit for bit where they use AVX2: products and sums are rounded one by one except
// where its Adam fuses them, which is said by `Fused`, and sums are taken in its order.

#include <numeric>
#include <vector>

#include "loops.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

namespace {

using ddpm_ms::Floats;

constexpr int kLanes = 8;               // of MindSpore's loops
constexpr int64_t kPiece = 1 << 14;     // elements that are worth a thread

// a * b + c, rounded once. Only clang would call a function for it, which is too slow here.
INLINE float Fused(float a, float b, float c) {
#if defined(__clang__) && defined(__x86_64__)
  return a * b + c;
#else
  return __builtin_fmaf(a, b, c);
#endif
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(DDPM_MS_SANITIZE)
#define MULTI_FUSED __attribute__((target_clones("avx512f", "fma", "default")))
#else
#define MULTI_FUSED
#endif

int64_t Size(int dims, const int64_t *shape) {
  int64_t size = 1;
  for (int d = 0; d < dims; ++d) size *= shape[d];
  return size;
}

// `body(k, begin, end)` over all elements of tensors with these sizes, in one piece for each thread.
template <typename Body>
void ShareElements(const std::vector<int64_t> &sizes, Body body) {
  int64_t total = 0;
  for (int64_t size : sizes) total += size;
  auto &threads = ddpm_ms::Threads();
  int pieces = static_cast<int>(std::min<int64_t>(threads.get_num_threads(), total / kPiece + 1));
  threads.parallel_for(pieces, [&](int piece, int) {
    int64_t first = total * piece / pieces, last = total * (piece + 1) / pieces, place = 0;
    for (size_t k = 0; k < sizes.size(); place += sizes[k++]) {
      int64_t begin = std::max<int64_t>(first - place, 0), end = std::min(last - place, sizes[k]);
      if (begin < end) body(k, begin, end);
    }
  });
}

MULTI float SquareSumOfRow(const float *x, int64_t n) {
  float lanes[kLanes] = {}, sum = 0;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int k = 0; k < kLanes; ++k) lanes[k] += x[i + k] * x[i + k];
  for (float lane : lanes) sum += lane;
  for (; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

// What all elements have in common.
struct Rates {
  float factor, rate, share1, share2, eps, shrink, ema;
};

INLINE void Moments(const Rates &r, float gradient, float *moment1, float *moment2) {
  gradient *= r.factor;
  *moment1 = Fused(gradient - *moment1, r.share1, *moment1);
  *moment2 = Fused(Fused(gradient, gradient, -*moment2), r.share2, *moment2);
}

MULTI_FUSED void Step(const Rates &r, const float *__restrict gradient, float *__restrict weight, float *__restrict moment1,
                      float *__restrict moment2, float *__restrict average, int64_t n) {
  const Rates rates = r;
  for (int64_t i = 0; i < n; ++i) {
    Moments(rates, gradient[i], moment1 + i, moment2 + i);
    weight[i] = weight[i] * rates.shrink - rates.rate * moment1[i] / (rates.eps + std::sqrt(moment2[i]));
    if (rates.ema > 0) average[i] += (weight[i] - average[i]) * rates.ema;
  }
}

// The same for what is left over of a tensor when its elements are taken eight at a time: MindSpore divides it in float64.
void StepOfRest(const Rates &r, const float *gradient, float *weight, float *moment1, float *moment2, float *average, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    Moments(r, gradient[i], moment1 + i, moment2 + i);
    double root = std::sqrt(static_cast<double>(moment2[i])), along = r.rate * moment1[i];
    weight[i] = static_cast<float>(static_cast<double>(weight[i] * r.shrink) - along / (r.eps + root));
    if (r.ema > 0) average[i] += (weight[i] - average[i]) * r.ema;
  }
}

}  // namespace

extern "C" {

// (x, ...) -> the sum of all squares: of each row, then of the rows of each tensor, then of the tensors
int square_sum(int count, void **params, int *ndims, int64_t **shapes, const char **, void *, void *) {
  return ddpm_ms::Guarded([&] {
    int tensors = count - 1;
    std::vector<int64_t> sizes, columns, offsets;
    int64_t rows = 0;
    for (int k = 0; k < tensors; ++k) {
      int64_t size = Size(ndims[k], shapes[k]), high = ndims[k] ? shapes[k][0] : 1;
      sizes.push_back(size);
      columns.push_back(size / high);
      offsets.push_back(rows);
      rows += high;
    }
    offsets.push_back(rows);
    std::vector<float> sums(rows);
    ShareElements(sizes, [&](size_t k, int64_t begin, int64_t end) {
      int64_t width = columns[k];
      for (int64_t row = (begin + width - 1) / width; row * width < end; ++row)
        sums[offsets[k] + row] = SquareSumOfRow(Floats(params[k]) + row * width, width);
    });
    float total = 0;
    for (int k = 0; k < tensors; ++k)
      total += static_cast<float>(std::accumulate(sums.data() + offsets[k], sums.data() + offsets[k + 1], 0.0));
    *Floats(params[tensors]) = total;
  });
}

// (factor of the gradients, learning rate, rate of the average, {beta1, beta2, eps, weight decay}, beta1_power, beta2_power, then
// all gradients, all weights, all first moments, all second moments, all averages) -> 0. Writes where it reads, except the
// gradients; with a factor that is not finite, nothing.
int adam(int count, void **params, int *ndims, int64_t **shapes, const char **, void *, void *) {
  return ddpm_ms::Guarded([&] {
    *Floats(params[count - 1]) = 0;
    if (!std::isfinite(*Floats(params[0]))) return;
    constexpr int kFirst = 6;
    int tensors = (count - 1 - kFirst) / 5;
    const float *constants = Floats(params[3]);
    float rate = *Floats(params[1]), *power1 = Floats(params[4]), *power2 = Floats(params[5]);
    *power1 *= constants[0];
    *power2 *= constants[1];
    const Rates rates = {*Floats(params[0]), rate * std::sqrt(1.0f - *power2) / (1.0f - *power1), 1.0f - constants[0],
                         1.0f - constants[1], constants[2], 1.0f - rate * constants[3], *Floats(params[2])};
    std::vector<int64_t> sizes;
    for (int k = kFirst; k < kFirst + tensors; ++k) sizes.push_back(Size(ndims[k], shapes[k]));
    ShareElements(sizes, [&](size_t k, int64_t begin, int64_t end) {
      auto part = [&](auto step, int64_t from, int64_t to) {
        if (from >= to) return;
        auto of = [&](int kind) { return Floats(params[kFirst + kind * tensors + k]) + from; };
        step(rates, of(0), of(1), of(2), of(3), of(4), to - from);
      };
      int64_t whole = sizes[k] - sizes[k] % kLanes;
      part(Step, begin, std::min(end, whole));
      part(StepOfRest, std::max(begin, whole), end);
    });
  });
}

}  // extern "C"
