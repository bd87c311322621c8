// A step of Muon (Keller Jordan, 2024; with the scale of arXiv 2502.16982) for the matrices of a network, with what comes before
// and after it: gradients * factor; weights * (1 - rate * decay); the step; the average of the weights.
//
// The step is the momentum, with its singular values brought near 1 by five Newton-Schulz iterations. These multiply a matrix by
// polynomials of its own Gram matrix, so they are done on that: the result is Q times the momentum, and Q and the Gram matrix are
// as wide as the shorter side only.

#include <atomic>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "loops.h"
#include "matrix.h"
#include "scratch.h"

namespace {

using ddpm_ms::Floats;
using ddpm_ms::Threads;

constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;  // of the polynomial a x + b x^3 + c x^5
constexpr int kIterations = 5;
constexpr int64_t kShared = 256;  // shorter sides from which on all threads share a matrix

struct Rates {
  float factor, rate, ema, momentum, decay;
};

// One matrix: rows x columns of the gradient, the weights, their momentum and their average.
struct Matrix {
  int64_t rows, columns;
  const float *gradient;
  float *weight, *momentum, *average;

  int64_t side() const { return std::min(rows, columns); }
  int64_t size() const { return rows * columns; }
  // Floats that `Orthogonal` works in: the direction, and four squares.
  int64_t work() const { return 2 * size() + 4 * side() * side(); }
};

// momentum += (1 - m) (gradient - momentum); direction = gradient + m (momentum - gradient), Nesterov's look ahead.
MULTI void Look(const Rates &r, const Matrix &m, int64_t begin, int64_t end, float *direction) {
  for (int64_t i = begin; i < end; ++i) {
    float gradient = m.gradient[i] * r.factor;
    m.momentum[i] += (gradient - m.momentum[i]) * (1.0f - r.momentum);
    direction[i] = gradient + (m.momentum[i] - gradient) * r.momentum;
  }
}

MULTI void Move(const Rates &r, const Matrix &m, float step, int64_t begin, int64_t end, const float *direction) {
  for (int64_t i = begin; i < end; ++i) {
    m.weight[i] = m.weight[i] * (1.0f - r.rate * r.decay) - step * direction[i];
    if (r.ema > 0) m.average[i] += (m.weight[i] - m.average[i]) * r.ema;
  }
}

// a I + b x + c x^2, where x^2 is what is there.
MULTI void Polynomial(int64_t n, const float *x, float *square) {
  for (int64_t i = 0; i < n * n; ++i) square[i] = kB * x[i] + kC * square[i];
  for (int64_t i = 0; i < n; ++i) square[i * (n + 1)] += kA;
}

// `body(begin, end)` over n elements: by one thread, or by all.
template <typename Body>
void Elements(int64_t n, bool shared, Body body) {
  if (!shared) return body(0, n);
  int64_t pieces = Threads().get_num_threads();
  Threads().parallel_for(static_cast<int>(pieces), [&](int k, int) { body(n * k / pieces, n * (k + 1) / pieces); });
}

// The step of one matrix; returns oneDNN's status.
int Step(const Rates &r, const Matrix &m, float *work) {
  int64_t n = m.side(), size = m.size(), square = n * n;
  bool shared = n >= kShared, wide = m.rows <= m.columns;
  auto *pool = shared ? &Threads() : nullptr;
  float *direction = work, *result = direction + size, *gram = result + size, *power = gram + square, *q = power + square;
  float *other = q + square;
  int failed = 0;
  auto multiply = [&](char ta, char tb, int64_t rows, int64_t columns, int64_t inner, const float *a, int64_t lda, const float *b,
                      int64_t ldb, float *c) {
    int status = ddpm_ms::Multiply(ta, tb, rows, columns, inner, a, lda, b, ldb, false, c, columns, pool);
    if (status != 0) failed = status;
  };
  auto times = [&](const float *a, const float *b, float *c) { multiply('N', 'N', n, n, n, a, n, b, n, c); };

  Elements(size, shared, [&](int64_t begin, int64_t end) { Look(r, m, begin, end, direction); });
  multiply(wide ? 'N' : 'T', wide ? 'T' : 'N', n, n, wide ? m.columns : m.rows, direction, m.columns, direction, m.columns, gram);
  float squares = 0;  // of all elements: the trace
  for (int64_t i = 0; i < n; ++i) squares += gram[i * (n + 1)];
  float norm = std::sqrt(squares) + 1e-7f;
  for (int64_t i = 0; i < square; ++i) gram[i] /= norm * norm;
  for (int k = 0; k < kIterations; ++k) {
    times(gram, gram, power);
    Polynomial(n, gram, power);
    if (k == 0) {
      std::swap(q, power);
    } else {
      times(power, q, other);
      std::swap(q, other);
    }
    if (k + 1 < kIterations) {  // all are polynomials of the same matrix, and commute
      const float *p = k == 0 ? q : power;
      times(p, gram, other);
      times(other, p, gram);
    }
  }
  if (wide) {
    multiply('N', 'N', n, m.columns, n, q, n, direction, m.columns, result);
  } else {
    multiply('N', 'N', m.rows, n, n, direction, m.columns, q, n, result);
  }
  float step = r.rate * 0.2f * std::sqrt(static_cast<float>(std::max(m.rows, m.columns))) / norm;
  Elements(size, shared, [&](int64_t begin, int64_t end) { Move(r, m, step, begin, end, result); });
  return failed;
}

}  // namespace

extern "C" {

// (factor of the gradients, learning rate, rate of the average, {momentum, weight decay}, then all gradients, all weights, all
// momenta, all averages) -> 0. A tensor is a matrix of its first axis and the rest. Writes where it reads, except the gradients;
// with a factor that is not finite, nothing.
int muon(int count, void **params, int *ndims, int64_t **shapes, const char **, void *, void *) {
  return ddpm_ms::Guarded([&] {
    *Floats(params[count - 1]) = 0;
    if (!std::isfinite(*Floats(params[0]))) return;
    constexpr int kFirst = 4;
    int tensors = (count - 1 - kFirst) / 4;
    const float *constants = Floats(params[3]);
    const Rates rates = {*Floats(params[0]), *Floats(params[1]), *Floats(params[2]), constants[0], constants[1]};
    std::vector<Matrix> alone, shared;
    for (int k = kFirst; k < kFirst + tensors; ++k) {
      int64_t rows = shapes[k][0], columns = 1;
      for (int d = 1; d < ndims[k]; ++d) columns *= shapes[k][d];
      auto of = [&](int kind) { return Floats(params[k + kind * tensors]); };
      const Matrix matrix = {rows, columns, of(0), of(1), of(2), of(3)};
      (matrix.side() < kShared ? alone : shared).push_back(matrix);
    }
    // The longest first, so that no thread is left with one at the end.
    std::stable_sort(alone.begin(), alone.end(), [](const Matrix &a, const Matrix &b) { return a.work() > b.work(); });
    int threads = Threads().get_num_threads();
    int64_t most = alone.empty() ? 0 : alone.front().work(), whole = threads * most;
    for (const Matrix &matrix : shared) whole = std::max(whole, matrix.work());
    float *work = Floats(ddpm_ms::Scratch(0, whole * sizeof(float)));
    std::atomic<int> failed{0};
    std::atomic<size_t> next{0};
    Threads().parallel_for(threads, [&](int thread, int) {
      for (size_t k = next++; k < alone.size(); k = next++) {
        int status = Step(rates, alone[k], work + thread * most);
        if (status != 0) failed = status;
      }
    });
    for (const Matrix &matrix : shared) {
      int status = Step(rates, matrix, work);
      if (status != 0) failed = status;
    }
    if (failed != 0) throw std::runtime_error("a matrix product failed in oneDNN, status " + std::to_string(failed));
  });
}

}  // extern "C"
