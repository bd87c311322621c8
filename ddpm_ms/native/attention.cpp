// Softmax attention and linear attention of float32 tensors, forward and backward, one head of one image after another, so that
// what lies between the projections and the result never leaves the caches.

#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "loops.h"
#include "matrix.h"

namespace {

using ddpm_ms::Exp;
using ddpm_ms::Floats;
using ddpm_ms::Largest;
using ddpm_ms::Max;
using ddpm_ms::Multiply;
using ddpm_ms::Share;
using ddpm_ms::Sum;

constexpr int kWide = 256;  // pixels whose queries linear attention looks at together
constexpr int64_t kQueries = 64;  // the same for softmax attention
constexpr int64_t kLanes = 16;

// e^x for x <= 0, at least 1e-28: beside a sum of 1 or more that is nothing, but to divide e^-87 by such a sum makes a number too
// small to have all its digits, which takes processors a hundred times as long.
INLINE float Weight(float x) { return Exp(Max(-64.0f, x)); }

int64_t Padded(int64_t columns) { return (columns + kLanes - 1) / kLanes * kLanes; }

// Softmax of `scale` times each row, in place. Rows lie Padded(columns) apart; what is behind the columns is lost.
MULTI void SoftmaxAlong(float *x, int64_t rows, int64_t columns, float scale) {
  int64_t width = Padded(columns);
  for (int64_t r = 0; r < rows; ++r)  // long before they are read, or reading would wait for what writes less than a vector
    for (int64_t i = columns; i < width; ++i) x[r * width + i] = -INFINITY;
  for (int64_t r = 0; r < rows; ++r, x += width) {
    float top = Largest(x, width);
    for (int64_t i = 0; i < width; i += kLanes)
      for (int k = 0; k < kLanes; ++k) x[i + k] = Weight(scale * (x[i + k] - top));
    float inverse = 1.0f / Sum(width, [&](int64_t i) { return x[i]; });
    for (int64_t i = 0; i < width; i += kLanes)
      for (int k = 0; k < kLanes; ++k) x[i + k] *= inverse;
  }
}

// From the gradient of its results, in `dy` and in place, that of scale times each row.
MULTI void SoftmaxAlongBackward(const float *y, int64_t rows, int64_t columns, float scale, float *dy) {
  int64_t width = Padded(columns);
  for (int64_t r = 0; r < rows; ++r, y += width, dy += width) {
    float along = Sum(columns, [&](int64_t i) { return y[i] * dy[i]; });
    for (int64_t i = 0; i < columns; ++i) dy[i] = scale * y[i] * (dy[i] - along);
  }
}

// Softmax down the first `columns` columns, in place. Rows lie kWide apart.
MULTI void SoftmaxDown(float *x, int64_t rows, int columns) {
  float top[kWide], sum[kWide] = {};
  for (int p = 0; p < columns; ++p) top[p] = x[p];
  for (int64_t r = 1; r < rows; ++r)
    for (int p = 0; p < columns; ++p) top[p] = Max(top[p], x[r * kWide + p]);
  for (int64_t r = 0; r < rows; ++r)
    for (int p = 0; p < columns; ++p) sum[p] += x[r * kWide + p] = Weight(x[r * kWide + p] - top[p]);
  for (int p = 0; p < columns; ++p) sum[p] = 1.0f / sum[p];
  for (int64_t r = 0; r < rows; ++r)
    for (int p = 0; p < columns; ++p) x[r * kWide + p] *= sum[p];
}

// From the gradient of its results, in `dy` and in place, whose rows lie `stride` apart, that of x.
MULTI void SoftmaxDownBackward(const float *y, int64_t stride, int64_t rows, int columns, float *dy) {
  float along[kWide] = {};
  for (int64_t r = 0; r < rows; ++r)
    for (int p = 0; p < columns; ++p) along[p] += y[r * kWide + p] * dy[r * stride + p];
  for (int64_t r = 0; r < rows; ++r)
    for (int p = 0; p < columns; ++p) dy[r * stride + p] = y[r * kWide + p] * (dy[r * stride + p] - along[p]);
}

// dy = y * (dy - along) for each row of dy; rows of y lie `stride` apart.
MULTI void ScaleRows(const float *y, int64_t stride, const float *along, int64_t rows, int64_t columns, float *dy) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < columns; ++i) dy[r * columns + i] = y[r * stride + i] * (dy[r * columns + i] - along[r]);
}

MULTI float Dot(const float *a, const float *b, int64_t n) {
  return Sum(n, [&](int64_t i) { return a[i] * b[i]; });
}

// Room for `size` numbers, valid until this thread asks again.
float *Room(int64_t size) {
  thread_local std::vector<float> room;
  if (static_cast<int64_t>(room.size()) < size) room.resize(size);
  return room.data();
}

// One head of one image: matrices of (dim, pixels), and learned keys and values, of which there may be none.
template <typename Number>
struct Head {
  Number *q, *k, *v, *memory_k, *memory_v;
};

// What both kinds of operators share. After the inputs of their own come learned keys and values (2, heads, `memories` times dim)
// if there are any, {heads, scale}, and the others.
struct Task {
  // `projected`: channels of queries, keys and values together; `own`: number of the inputs of their own.
  Task(int64_t projected, int own, bool remembers, void **params, int64_t **shapes) {
    const float *config = Floats(params[own + remembers]);
    heads = static_cast<int64_t>(config[0]);
    scale = config[1];
    images = shapes[0][0];
    dim = projected / 3 / heads;
    pixels = shapes[0][2] * shapes[0][3];
    if (remembers) {
      memory = Floats(params[own]);
      memories = shapes[own][2] * shapes[own][3] / dim;
    }
    rest = params + own + remembers + 1;
  }

  int64_t Matrix() const { return dim * pixels; }
  int64_t Learned() const { return dim * memories; }
  int64_t Keys() const { return pixels + memories; }

  // The head `item` of all heads of all images; `learned` is what is learned for its image.
  template <typename Number>
  Head<Number> Of(int64_t item, Number *all, Number *learned) const {
    int64_t image = item / heads, head = item % heads, gap = heads * Matrix();
    Number *q = all + image * 3 * gap + head * Matrix(), *memory_k = learned + head * Learned();
    return {q, q + gap, q + 2 * gap, memory_k, memory_k + heads * Learned()};
  }

  // Run `body(item)`, which returns oneDNN's status, for all heads of all images, in `parts` parts each.
  template <typename Body>
  int Run(int64_t parts, Body body) const {
    return ddpm_ms::Guarded([&] { Items(parts, body); });
  }
  template <typename Body>
  void Items(int64_t parts, Body body) const {
    std::atomic<int> status{0};
    Share(images * heads * parts, [&](int64_t item) {
      if (int failed = body(item)) status = failed;
    });
    if (status != 0) throw std::runtime_error("oneDNN: status " + std::to_string(status));
  }

  // The gradients of all of these by `body(item, dy, out)`. Those of what is learned are summed over the images in a fixed order.
  template <typename Body>
  int Gradients(Body body) const {
    return ddpm_ms::Guarded([&] {
      const float *dy = Floats(rest[0]);
      float *dqkv = Floats(rest[1]);
      int64_t size = 2 * heads * Learned();
      std::vector<float> learned(images * size);
      Items(1, [&](int64_t item) {
        return body(item, dy + item * Matrix(), Of(item, dqkv, learned.data() + item / heads * size));
      });
      if (memories == 0) return;
      float *dmemory = Floats(rest[2]);
      for (int64_t i = 0; i < size; ++i) {
        double sum = 0;
        for (int64_t image = 0; image < images; ++image) sum += learned[image * size + i];
        dmemory[i] = static_cast<float>(sum);
      }
    });
  }

  int64_t images, heads, dim, pixels, memories = 0;
  float scale;
  const float *memory = nullptr;
  void **rest;
};

// Linear attention of projected images, x (images, channels, pixels) and weight (3 heads dim, channels): with P the softmax of the
// keys along the pixels and the memory, and Q that of the queries along the features, the context is C = scale P V^T (dim, dim) and
// the result C^T Q. Memory is (dim, memories); without it the values are divided by the number of pixels. Images are projected here,
// twice in training, because the projections of many images are much more memory than their results.
struct Linear : Task {
  Linear(bool remembers, void **params, int64_t **shapes)
      : Task(shapes[1][0], 2, remembers, params, shapes), channels(shapes[0][1]), x(Floats(params[0])), weight(Floats(params[1])) {}

  // What is needed of one head of one image, in `Room`: P with rows `width` apart, V, C; and the block of Q at hand.
  struct Parts {
    int64_t image, head, width;
    const float *memory_k, *memory_v;
    float *p, *v, *c, *q, *more;
  };

  float Scale() const { return memories ? scale : scale / static_cast<float>(pixels); }

  // Queries (0), keys (1) or values (2) of `n` pixels from `begin`.
  int Project(const Parts &of, int kind, int64_t begin, int64_t n, float *y, int64_t stride) const {
    const float *rows = weight + (kind * heads + of.head) * dim * channels;
    return Multiply('N', 'N', dim, n, channels, rows, channels, x + of.image * channels * pixels + begin, pixels, false, y, stride,
                    nullptr);
  }

  // All but Q; `more` has room for `extra` numbers.
  int Prepare(int64_t item, int64_t extra, Parts *of) const {
    of->image = item / heads, of->head = item % heads, of->width = Padded(Keys());
    of->memory_k = memory + of->head * Learned(), of->memory_v = of->memory_k + heads * Learned();
    of->p = Room(dim * (of->width + pixels + dim + kWide) + extra);
    of->v = of->p + dim * of->width, of->c = of->v + Matrix(), of->q = of->c + dim * dim, of->more = of->q + dim * kWide;
    int status = Project(*of, 1, 0, pixels, of->p, of->width) | Project(*of, 2, 0, pixels, of->v, pixels);
    if (memories)
      for (int64_t r = 0; r < dim; ++r)
        std::memcpy(of->p + r * of->width + pixels, of->memory_k + r * memories, memories * sizeof(float));
    SoftmaxAlong(of->p, dim, Keys(), 1.0f);
    status |= Multiply('N', 'T', dim, dim, pixels, of->p, of->width, of->v, pixels, false, of->c, dim, nullptr);
    if (memories)
      status |= Multiply('N', 'T', dim, dim, memories, of->p + pixels, of->width, of->memory_v, memories, true, of->c, dim, nullptr);
    for (int64_t i = 0; i < dim * dim; ++i) of->c[i] *= Scale();
    return status;
  }

  int Queries(const Parts &of, int64_t begin, int n) const {
    int status = Project(of, 0, begin, n, of.q, kWide);
    SoftmaxDown(of.q, dim, n);
    return status;
  }

  int Forward() const {
    float *y = Floats(rest[0]);
    return Run(1, [=](int64_t item) {
      Parts of;
      int status = Prepare(item, 0, &of);
      for (int64_t begin = 0; begin < pixels; begin += kWide) {
        int n = static_cast<int>(std::min<int64_t>(kWide, pixels - begin));
        status |= Queries(of, begin, n);
        status |= Multiply('T', 'N', dim, n, dim, of.c, dim, of.q, kWide, false, y + item * Matrix() + begin, pixels, nullptr);
      }
      return status;
    });
  }

  int Backward() const {
    return Gradients([=](int64_t item, const float *dy, const Head<float> &out) {
      Parts of;
      int status = Prepare(item, dim * (dim + 1), &of);
      float *dc = of.more, *along = dc + dim * dim;
      for (int64_t begin = 0; begin < pixels; begin += kWide) {
        int n = static_cast<int>(std::min<int64_t>(kWide, pixels - begin));
        status |= Queries(of, begin, n);
        status |= Multiply('N', 'T', dim, dim, n, of.q, kWide, dy + begin, pixels, begin > 0, dc, dim, nullptr);
        status |= Multiply('N', 'N', dim, n, dim, of.c, dim, dy + begin, pixels, false, out.q + begin, pixels, nullptr);
        SoftmaxDownBackward(of.q, pixels, dim, n, out.q + begin);
      }
      for (int64_t r = 0; r < dim; ++r) along[r] = Dot(dc + r * dim, of.c + r * dim, dim);  // the sum over P times its gradient
      for (int64_t i = 0; i < dim * dim; ++i) dc[i] *= Scale();
      status |= KeysAndValues(dc, of.p, of.width, of.v, along, pixels, out.k, out.v);
      if (memories) status |= KeysAndValues(dc, of.p + pixels, of.width, of.memory_v, along, memories, out.memory_k, out.memory_v);
      return status;
    });
  }

  // Gradients of `n` keys and values, from that of C.
  int KeysAndValues(const float *dc, const float *p, int64_t width, const float *v, const float *along, int64_t n, float *dk,
                    float *dv) const {
    int status = Multiply('T', 'N', dim, n, dim, dc, dim, p, width, false, dv, n, nullptr);
    status |= Multiply('N', 'N', dim, n, dim, dc, dim, v, n, false, dk, n, nullptr);
    ScaleRows(p, width, along, dim, n, dk);
    return status;
  }

  int64_t channels;
  const float *x, *weight;
};

// Softmax attention of qkv (images, 3, heads, dim, pixels): S = softmax(scale Q^T [K, memory]) along keys, and the result
// [V, memory] S^T, for some queries after others. Memory is (memories, dim).
struct Softmax : Task {
  Softmax(bool remembers, void **params, int64_t **shapes)
      : Task(shapes[0][1], 1, remembers, params, shapes), qkv(Floats(params[0])) {}

  Head<const float> In(int64_t item) const { return Of(item, qkv, memory); }

  // products (n, Keys()), with rows Padded(Keys()) apart: of n columns of `a` from `begin` with columns of `b` and rows of
  // `learned`.
  int Products(const float *a, int64_t begin, int64_t n, const float *b, const float *learned, float *products) const {
    int64_t width = Padded(Keys());
    int status = Multiply('T', 'N', n, pixels, dim, a + begin, pixels, b, pixels, false, products, width, nullptr);
    if (memories)
      status |= Multiply('T', 'T', n, memories, dim, a + begin, pixels, learned, dim, false, products + pixels, width, nullptr);
    return status;
  }

  // y (dim, n) from column `begin` = [a, learned^T] (dim, Keys()) s^T.
  int Mix(const float *a, const float *learned, const float *s, int64_t begin, int64_t n, float *y) const {
    int64_t width = Padded(Keys());
    int status = Multiply('N', 'T', dim, n, pixels, a, pixels, s, width, false, y + begin, pixels, nullptr);
    if (memories) status |= Multiply('T', 'T', dim, n, memories, learned, dim, s + pixels, width, true, y + begin, pixels, nullptr);
    return status;
  }

  // Add to [y, learned^T] (dim, Keys()), or begin with, n columns of `a` from `begin` times s.
  int Collect(const float *a, int64_t begin, int64_t n, const float *s, float *y, float *learned) const {
    int64_t width = Padded(Keys());
    int status = Multiply('N', 'N', dim, pixels, n, a + begin, pixels, s, width, begin > 0, y, pixels, nullptr);
    if (memories)
      status |= Multiply('T', 'T', memories, dim, n, s + pixels, width, a + begin, pixels, begin > 0, learned, dim, nullptr);
    return status;
  }

  int Forward() const {
    float *y = Floats(rest[0]);
    int64_t parts = (pixels + kQueries - 1) / kQueries;
    return Run(parts, [=](int64_t place) {
      int64_t item = place / parts, begin = place % parts * kQueries, n = std::min(kQueries, pixels - begin);
      Head<const float> in = In(item);
      float *s = Room(n * Padded(Keys()));
      int status = Products(in.q, begin, n, in.k, in.memory_k, s);
      SoftmaxAlong(s, n, Keys(), scale);
      return status | Mix(in.v, in.memory_v, s, begin, n, y + item * Matrix());
    });
  }

  int Backward() const {
    return Gradients([=](int64_t item, const float *dy, const Head<float> &out) {
      Head<const float> in = In(item);
      float *s = Room(2 * kQueries * Padded(Keys())), *ds = s + kQueries * Padded(Keys());
      int status = 0;
      for (int64_t begin = 0; begin < pixels; begin += kQueries) {
        int64_t n = std::min(kQueries, pixels - begin);
        status |= Products(in.q, begin, n, in.k, in.memory_k, s);
        SoftmaxAlong(s, n, Keys(), scale);
        status |= Products(dy, begin, n, in.v, in.memory_v, ds);
        status |= Collect(dy, begin, n, s, out.v, out.memory_v);
        SoftmaxAlongBackward(s, n, Keys(), scale, ds);
        status |= Mix(in.k, in.memory_k, ds, begin, n, out.q);
        status |= Collect(in.q, begin, n, ds, out.k, out.memory_k);
      }
      return status;
    });
  }

  const float *qkv;
};

}  // namespace

// MindSpore keeps what it knows of a custom operator under the function's name, so every signature has a name of its own.

extern "C" {

// (x (B, C, H, W), weight (3 heads dim, C, 1, 1), {heads, scale}) -> y (B, heads dim, H, W)
int linear_attention_forward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return Linear(false, params, shapes).Forward();
}

// (x, weight, {heads, scale}, dy) -> gradients of the projections (B, 3 heads dim, H, W)
int linear_attention_backward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return Linear(false, params, shapes).Backward();
}

// (x, weight, memory (2, heads, dim, M), {heads, scale}) -> y
int linear_attention_memory_forward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return Linear(true, params, shapes).Forward();
}

// (x, weight, memory, {heads, scale}, dy) -> gradients of the projections, dmemory
int linear_attention_memory_backward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return Linear(true, params, shapes).Backward();
}

// (qkv (B, 3 heads dim, H, W), {heads, scale}) -> y (B, heads dim, H, W)
int attention_forward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return Softmax(false, params, shapes).Forward();
}

// (qkv, {heads, scale}, dy) -> dqkv
int attention_backward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return Softmax(false, params, shapes).Backward();
}

// (qkv, memory (2, heads, M, dim), {heads, scale}) -> y
int attention_memory_forward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return Softmax(true, params, shapes).Forward();
}

// (qkv, memory, {heads, scale}, dy) -> dqkv, dmemory
int attention_memory_backward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return Softmax(true, params, shapes).Backward();
}

}  // extern "C"
