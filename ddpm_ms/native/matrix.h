// Products of plain float32 matrices, by oneDNN.

#pragma once

#include <cstdint>

#include "threads.h"

extern "C" int dnnl_threadpool_interop_sgemm(char transpose_a, char transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
                                             const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                                             int64_t ldc, void *threadpool);

namespace ddpm_ms {

// c (m, n) = a (m, k) b (k, n), or c + that. Rows lie lda, ldb and ldc numbers apart; 'T' means that a matrix is there transposed.
// `pool` is null where a thread multiplies alone. Returns oneDNN's status: threads that share work may not throw.
inline int Multiply(char transpose_a, char transpose_b, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                    int64_t ldb, bool add, float *c, int64_t ldc, ThreadPool *pool) {
  return dnnl_threadpool_interop_sgemm(transpose_a, transpose_b, m, n, k, 1.0f, a, lda, b, ldb, add ? 1.0f : 0.0f, c, ldc, pool);
}

}  // namespace ddpm_ms
