// 3x3 convolutions by Winograd's minimal filtering.

#pragma once

#include <cstdint>

namespace ddpm_ms {

// y = x * w for x (images, in, height, width) with a border of zeros one pixel wide, w (out, in, 3, 3) and
// y (images, out, height, width): plain float32 arrays. Results depend neither on the number of threads nor, for one image, on
// the images beside it.
struct Winograd {
  int64_t images, in, out, height, width;

  // Whether this processor and this shape are ones for which it was measured to be faster than oneDNN; the number of images has
  // no say, so that an image comes out the same in every batch.
  bool Wins() const;
  // `bias` may be null.
  void Forward(const float *x, const float *w, const float *bias, float *y) const;
  void BackwardData(const float *w, const float *dy, float *dx) const;
  void BackwardWeights(const float *x, const float *dy, float *dw) const;
};

}  // namespace ddpm_ms
