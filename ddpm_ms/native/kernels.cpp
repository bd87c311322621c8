// Normalisation with activation, upsampling and pools of float32 tensors, forward and backward, each in one pass over
// memory where MindSpore would take ten.

#include <vector>

#include "loops.h"

namespace {

using ddpm_ms::Each;
using ddpm_ms::Floats;
using ddpm_ms::Max;
using ddpm_ms::Sigmoid;
using ddpm_ms::Sum;

constexpr int kBlock = 64;  // pixels whose channels are looked at together: small enough for the first-level cache

// One image: x / |x|_2 over the channels, times gain, plus shift, and SiLU if asked; then `plus`, if there is any. x, plus and y
// (channels, pixels).
MULTI void NormForward(const float *x, const float *gain, const float *shift, bool act, const float *plus, int64_t channels,
                       int64_t pixels, float *y) {
  for (int64_t begin = 0; begin < pixels; begin += kBlock) {
    int n = static_cast<int>(std::min<int64_t>(kBlock, pixels - begin));
    float inverse[kBlock] = {};
    for (int64_t c = 0; c < channels; ++c) {
      const float *row = x + c * pixels + begin;
      for (int p = 0; p < n; ++p) inverse[p] += row[p] * row[p];
    }
    for (int p = 0; p < n; ++p) inverse[p] = 1.0f / std::sqrt(Max(1e-24f, inverse[p]));
    for (int64_t c = 0; c < channels; ++c) {
      const float *row = x + c * pixels + begin;
      float *out = y + c * pixels + begin;
      float g = gain[c], s = shift[c];
      if (act) {
        for (int p = 0; p < n; ++p) {
          float z = row[p] * inverse[p] * g + s;
          out[p] = z * Sigmoid(z);
        }
      } else {
        for (int p = 0; p < n; ++p) out[p] = row[p] * inverse[p] * g + s;
      }
      if (plus) {
        const float *more = plus + c * pixels + begin;
        for (int p = 0; p < n; ++p) out[p] += more[p];
      }
    }
  }
}

MULTI void NormBackward(const float *x, const float *gain, const float *shift, bool act, const float *dy, int64_t channels,
                        int64_t pixels, float *dx, float *dgain, float *dshift) {
  for (int64_t c = 0; c < channels; ++c) dgain[c] = dshift[c] = 0;
  for (int64_t begin = 0; begin < pixels; begin += kBlock) {
    int n = static_cast<int>(std::min<int64_t>(kBlock, pixels - begin));
    float inverse[kBlock] = {}, along[kBlock] = {}, unit[kBlock], dz[kBlock];
    for (int64_t c = 0; c < channels; ++c) {
      const float *row = x + c * pixels + begin;
      for (int p = 0; p < n; ++p) inverse[p] += row[p] * row[p];
    }
    for (int p = 0; p < n; ++p) inverse[p] = 1.0f / std::sqrt(Max(1e-24f, inverse[p]));
    for (int64_t c = 0; c < channels; ++c) {
      const float *row = x + c * pixels + begin, *given = dy + c * pixels + begin;
      float *out = dx + c * pixels + begin;
      float g = gain[c], s = shift[c];
      for (int p = 0; p < n; ++p) unit[p] = row[p] * inverse[p];
      if (act) {
        for (int p = 0; p < n; ++p) {
          float z = unit[p] * g + s, sigmoid = Sigmoid(z);
          dz[p] = given[p] * sigmoid * (1.0f + z * (1.0f - sigmoid));
        }
      } else {
        for (int p = 0; p < n; ++p) dz[p] = given[p];
      }
      for (int p = 0; p < n; ++p) {
        out[p] = dz[p] * g;
        along[p] += unit[p] * out[p];
      }
      dshift[c] += Sum(n, [&](int p) { return dz[p]; });
      dgain[c] += Sum(n, [&](int p) { return dz[p] * unit[p]; });
    }
    for (int64_t c = 0; c < channels; ++c) {
      const float *row = x + c * pixels + begin;
      float *out = dx + c * pixels + begin;
      for (int p = 0; p < n; ++p) out[p] = (out[p] - row[p] * inverse[p] * along[p]) * inverse[p];
    }
  }
}

// The inputs of a norm over channels: x, gains of all images, then scale beside shift of each or what is added, if there are any,
// then {act}.
struct Norm {
  Norm(void **params, int64_t **shapes, bool scaled, bool added = false)
      : images(shapes[0][0]), channels(shapes[0][1]), pixels(shapes[0][2] * shapes[0][3]), size(channels * pixels),
        root(std::sqrt(static_cast<float>(channels))), x(Floats(params[0])), gain(Floats(params[1])),
        scale(scaled ? Floats(params[2]) : nullptr), plus(added ? Floats(params[2]) : nullptr),
        act(*static_cast<int32_t *>(params[scaled || added ? 3 : 2]) != 0), rest(params + (scaled || added ? 4 : 3)) {}

  // What the channels of an image are multiplied by, then what is added to them. It is valid until this thread asks again.
  const float *Lines(int64_t image) const {
    thread_local std::vector<float> lines;
    lines.resize(2 * channels);
    for (int64_t c = 0; c < channels; ++c) {
      int64_t place = 2 * image * channels + c;
      lines[c] = gain[c] * root * (scale ? scale[place] + 1.0f : 1.0f);
      lines[channels + c] = scale ? scale[place + channels] : 0.0f;
    }
    return lines.data();
  }

  int Forward() const {
    float *y = Floats(rest[0]);
    return Each(images, [=](int64_t b) {
      const float *lines = Lines(b);
      NormForward(x + b * size, lines, lines + channels, act, plus ? plus + b * size : nullptr, channels, pixels, y + b * size);
    });
  }

  int Backward() const {
    const float *dy = Floats(rest[0]);
    float *dx = Floats(rest[1]), *dgain = Floats(rest[2]);
    return ddpm_ms::Guarded([&] {
      std::vector<float> of_lines(scale ? 0 : 2 * images * channels);
      float *dlines = scale ? Floats(rest[3]) : of_lines.data();
      ddpm_ms::Share(images, [=](int64_t b) {
        const float *lines = Lines(b);
        float *dline = dlines + 2 * b * channels;
        NormBackward(x + b * size, lines, lines + channels, act, dy + b * size, channels, pixels, dx + b * size, dline,
                     dline + channels);
      });
      for (int64_t c = 0; c < channels; ++c) {
        double sum = 0;
        for (int64_t place = c; place < 2 * images * channels; place += 2 * channels) {
          sum += dlines[place] * (scale ? scale[place] + 1.0f : 1.0f);
          dlines[place] *= gain[c] * root;
        }
        dgain[c] = static_cast<float>(sum) * root;
      }
    });
  }

  int64_t images, channels, pixels, size;
  float root;
  const float *x, *gain, *scale, *plus;
  bool act;
  void **rest;
};

void Upsample(const float *x, int64_t height, int64_t width, float *y) {
  for (int64_t h = 0; h < height; ++h, x += width) {
    float *row = y + 4 * h * width;
    for (int64_t w = 0; w < width; ++w) row[2 * w] = row[2 * w + 1] = x[w];
    std::memcpy(row + 2 * width, row, 2 * width * sizeof(float));
  }
}

void UpsampleBackward(const float *dy, int64_t height, int64_t width, float *dx) {
  for (int64_t h = 0; h < height; ++h, dx += width) {
    const float *upper = dy + 4 * h * width, *lower = upper + 2 * width;
    for (int64_t w = 0; w < width; ++w) dx[w] = (upper[2 * w] + upper[2 * w + 1]) + (lower[2 * w] + lower[2 * w + 1]);
  }
}

// Pools over 3x3 pixels of one (height, width) plane. `row` has room for width + 2: what three rows of pixels have in common,
// between two values that change nothing. `padded` keeps the size at stride 1; without it nothing is added. Means are of two
// columns or more, and do not count the padding.
template <typename Join>
INLINE void Pool(const float *x, int64_t height, int64_t width, int64_t stride, bool padded, float nothing, bool mean, Join join,
                 float *row, float *y) {
  int64_t pad = padded, rows = (height + 2 * pad - 3) / stride + 1, columns = (width + 2 * pad - 3) / stride + 1;
  row[0] = row[width + 1] = nothing;
  const float *first = row + 1 - pad;
  for (int64_t r = 0; r < rows; ++r, y += columns) {
    int64_t top = std::max<int64_t>(r * stride - pad, 0), bottom = std::min<int64_t>(r * stride - pad + 3, height);
    std::memcpy(row + 1, x + top * width, width * sizeof(float));
    for (int64_t k = top + 1; k < bottom; ++k)
      for (int64_t c = 0; c < width; ++c) row[c + 1] = join(row[c + 1], x[k * width + c]);
    if (stride == 1) {
      for (int64_t c = 0; c < columns; ++c) y[c] = join(join(first[c], first[c + 1]), first[c + 2]);
    } else {
      for (int64_t c = 0; c < columns; ++c) y[c] = join(join(first[2 * c], first[2 * c + 1]), first[2 * c + 2]);
    }
    if (!mean) continue;
    float pixels = static_cast<float>(bottom - top), inner = 1.0f / (3 * pixels);
    for (int64_t c = 0; c < columns; ++c) y[c] *= inner;
    y[0] *= 1.5f;  // two columns of pixels lie there
    y[columns - 1] *= 1.5f;
  }
}

MULTI void MeanPool(const float *x, int64_t height, int64_t width, float *row, float *y) {
  Pool(x, height, width, 1, true, 0, true, [](float a, float b) { return a + b; }, row, y);
}

MULTI void MaxPool(const float *x, int64_t height, int64_t width, float *row, float *y) {
  Pool(x, height, width, 1, true, -INFINITY, false, [](float a, float b) { return Max(a, b); }, row, y);
}

MULTI void HalvingPool(const float *x, int64_t height, int64_t width, float *row, float *y) {
  Pool(x, height, width, 2, false, -INFINITY, false, [](float a, float b) { return Max(a, b); }, row, y);
}

}  // namespace

extern "C" {

// Called once from Python.
void set_number_of_threads(int threads) { ddpm_ms::NumberOfThreads() = threads; }

// (x (B, C, H, W), gain (C), {act}) -> y
int norm_forward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return Norm(params, shapes, false).Forward();
}

// (x, gain, plus (B, C, H, W), {act}) -> y
int norm_plus_forward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return Norm(params, shapes, false, true).Forward();
}

// (x, gain, scale beside shift (B, 2 C), {act}) -> y
int norm_scaled_forward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return Norm(params, shapes, true).Forward();
}

// (x, gain, {act}, dy) -> dx, dgain
int norm_backward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return Norm(params, shapes, false).Backward();
}

// (x, gain, scale beside shift, {act}, dy) -> dx, dgain, and the gradients of scale beside those of shift
int norm_scaled_backward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return Norm(params, shapes, true).Backward();
}

// x (B, C, H, W) -> (B, C, 2H, 2W)
int upsample_forward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  int64_t height = shapes[0][2], width = shapes[0][3], size = height * width;
  return Each(shapes[0][0] * shapes[0][1], [=](int64_t i) {
    Upsample(Floats(params[0]) + i * size, height, width, Floats(params[1]) + 4 * i * size);
  });
}

// dy (B, C, 2H, 2W) -> dx (B, C, H, W)
int upsample_backward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  int64_t height = shapes[0][2] / 2, width = shapes[0][3] / 2, size = height * width;
  return Each(shapes[0][0] * shapes[0][1], [=](int64_t i) {
    UpsampleBackward(Floats(params[0]) + 4 * i * size, height, width, Floats(params[1]) + i * size);
  });
}

// (x (B, C, H, W), {0 mean, 1 maximum, 2 maximum at stride 2 without padding}) -> y
int pool(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  int64_t height = shapes[0][2], width = shapes[0][3];
  int32_t kind = *static_cast<int32_t *>(params[1]);
  int64_t size = kind == 2 ? ((height - 3) / 2 + 1) * ((width - 3) / 2 + 1) : height * width;
  auto one = kind == 0 ? MeanPool : kind == 1 ? MaxPool : HalvingPool;
  return Each(shapes[0][0] * shapes[0][1], [=](int64_t i) {
    thread_local std::vector<float> row;
    row.resize(width + 2);
    one(Floats(params[0]) + i * height * width, height, width, row.data(), Floats(params[2]) + i * size);
  });
}

}  // extern "C"
