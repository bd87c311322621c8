// 3x3 convolutions by Winograd's minimal filtering.

#pragma once

#include <cstdint>

namespace ddpm_ms {

// What is added to the result of a convolution; any of it may be missing, that is null.
struct Addend {
  const float *channels = nullptr;  // (channels)
  const float *images = nullptr;    // (images, channels), or
  const float *elements = nullptr;  // (images, channels, height, width)

  bool Any() const { return channels || images || elements; }
  // Of every pixel of channel `c` out of `count` of an image.
  float Constant(int64_t image, int64_t c, int64_t count) const {
    return (channels ? channels[c] : 0.0f) + (images ? images[image * count + c] : 0.0f);
  }
};

// y = x * w for x (images, in, height, width) with a border of zeros one pixel wide, w (out, in, 3, 3) and
// y (images, out, height, width): plain float32 arrays. Results depend neither on the number of threads nor, for one image, on
// the images beside it.
struct Winograd {
  int64_t images, in, out, height, width;

  // Whether this processor and this shape are ones for which it was measured to be faster than oneDNN; the number of images has
  // no say, so that an image comes out the same in every batch.
  bool Wins() const;
  void Forward(const float *x, const float *w, const Addend &addend, float *y) const;
  void BackwardData(const float *w, const float *dy, float *dx) const;
  void BackwardWeights(const float *x, const float *dy, float *dw) const;
};

}  // namespace ddpm_ms
