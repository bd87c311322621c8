// Group norm of float32 images, its scale, shift and SiLU, and the gradient, without anything in between that goes through
// memory. A group of channels lies in one piece and usually fits into the second-level cache, so that going through it again is
// cheap: the backward pass computes the statistics anew, and nothing has to be kept for it.
//
// Sums are float64. Each group is one thread's alone, and sums over images are taken in their order: results depend neither on
// the number of threads nor on their scheduling.

#include <vector>

#include "loops.h"

namespace {

using ddpm_ms::Sigmoid;
using ddpm_ms::Sum;

// The inputs: x (images, channels, pixels), gamma and beta (channels), scale beside shift (images, 2 channels) or null.
struct Inputs {
  int64_t images, channels, pixels, groups;
  float eps;
  bool act;
  const float *x, *gamma, *beta, *scale;

  int64_t width() const { return channels / groups; }
  int64_t Channel(int64_t group) const { return group % groups * width(); }  // the first of a group; groups of all images
};

// What becomes of one channel of one image: x to unit * gain + offset, where unit is (x - mean) * inverse.
struct Line {
  Line(const Inputs &in, int64_t group, int64_t channel) {
    int64_t c = in.Channel(group) + channel, place = 2 * (group / in.groups) * in.channels + c;
    factor = in.scale ? 1.0f + in.scale[place] : 1.0f;
    gain = in.gamma[c] * factor;
    offset = in.beta[c] * factor + (in.scale ? in.scale[place + in.channels] : 0.0f);
  }
  float factor, gain, offset;
};

// Of the `n` numbers of a group.
INLINE void Measure(const float *x, int64_t n, float eps, float *mean, float *inverse) {
  float centre = static_cast<float>(Sum<double>(n, [&](int64_t i) { return x[i]; }) / n);
  double squares = Sum<double>(n, [&](int64_t i) {
    double d = x[i] - centre;
    return d * d;
  });
  *mean = centre;
  *inverse = static_cast<float>(1.0 / std::sqrt(squares / n + eps));
}

MULTI void Forward(const Inputs &in, int64_t group, float *y) {
  int64_t pixels = in.pixels, size = in.width() * pixels;
  const float *x = in.x + group * size;
  y += group * size;
  float mean, inverse;
  Measure(x, size, in.eps, &mean, &inverse);
  for (int64_t c = 0; c < in.width(); ++c, x += pixels, y += pixels) {
    const Line line(in, group, c);
    float gain = line.gain, offset = line.offset;
    if (in.act) {
      for (int64_t p = 0; p < pixels; ++p) {
        float z = (x[p] - mean) * inverse * gain + offset;
        y[p] = z * Sigmoid(z);
      }
    } else {
      for (int64_t p = 0; p < pixels; ++p) y[p] = (x[p] - mean) * inverse * gain + offset;
    }
  }
}

// dgain and doffset (images, channels) are the gradients of what `Line` makes of gamma, beta, scale and shift.
MULTI void Backward(const Inputs &in, int64_t group, const float *dy, float *dx, double *dgain, double *doffset) {
  int64_t pixels = in.pixels, width = in.width(), size = width * pixels;
  const float *x = in.x + group * size;
  dy += group * size, dx += group * size, dgain += group * width, doffset += group * width;
  float mean, inverse;
  Measure(x, size, in.eps, &mean, &inverse);
  double dunit_sum = 0, along_sum = 0;  // of the gradient of unit, and of its product with unit
  for (int64_t c = 0; c < width; ++c) {
    const Line line(in, group, c);
    const float *row = x + c * pixels, *given = dy + c * pixels;
    float *dz = dx + c * pixels, gain = line.gain, offset = line.offset;
    if (in.act) {
      for (int64_t p = 0; p < pixels; ++p) {
        float z = (row[p] - mean) * inverse * gain + offset, sigmoid = Sigmoid(z);
        dz[p] = given[p] * sigmoid * (1.0f + z * (1.0f - sigmoid));
      }
    } else {
      std::memcpy(dz, given, pixels * sizeof(float));
    }
    doffset[c] = Sum<double>(pixels, [&](int64_t p) { return dz[p]; });
    dgain[c] = Sum<double>(pixels, [&](int64_t p) { return dz[p] * ((row[p] - mean) * inverse); });
    dunit_sum += gain * doffset[c];
    along_sum += gain * dgain[c];
  }
  float dunit_mean = static_cast<float>(dunit_sum / size), along_mean = static_cast<float>(along_sum / size);
  for (int64_t c = 0; c < width; ++c) {
    const float *row = x + c * pixels, gain = Line(in, group, c).gain;
    float *out = dx + c * pixels;
    for (int64_t p = 0; p < pixels; ++p)
      out[p] = (out[p] * gain - dunit_mean - (row[p] - mean) * inverse * along_mean) * inverse;
  }
}

// x, gamma, beta, then scale beside shift if there are any, then {groups, eps, act} as float32.
Inputs Read(void **params, int64_t **shapes, bool scaled) {
  const float *config = ddpm_ms::Floats(params[scaled ? 4 : 3]);
  Inputs in{shapes[0][0], shapes[0][1], shapes[0][2] * shapes[0][3], static_cast<int64_t>(config[0]), config[1], config[2] != 0};
  in.x = ddpm_ms::Floats(params[0]), in.gamma = ddpm_ms::Floats(params[1]), in.beta = ddpm_ms::Floats(params[2]);
  in.scale = scaled ? ddpm_ms::Floats(params[3]) : nullptr;
  return in;
}

int RunForward(void **params, int64_t **shapes, bool scaled) {
  Inputs in = Read(params, shapes, scaled);
  float *y = ddpm_ms::Floats(params[scaled ? 5 : 4]);
  return ddpm_ms::Each(in.images * in.groups, [=](int64_t group) { Forward(in, group, y); });
}

int RunBackward(void **params, int64_t **shapes, bool scaled) {
  Inputs in = Read(params, shapes, scaled);
  void **rest = params + (scaled ? 5 : 4);
  float *dy = ddpm_ms::Floats(rest[0]), *dx = ddpm_ms::Floats(rest[1]), *dgamma = ddpm_ms::Floats(rest[2]),
        *dbeta = ddpm_ms::Floats(rest[3]);
  return ddpm_ms::Guarded([&] {
    std::vector<double> dgain(in.images * in.channels), doffset(dgain.size());
    ddpm_ms::Share(in.images * in.groups,
                   [&](int64_t group) { Backward(in, group, dy, dx, dgain.data(), doffset.data()); });
    for (int64_t c = 0; c < in.channels; ++c) {
      double of_gamma = 0, of_beta = 0;
      for (int64_t place = c; place < in.images * in.channels; place += in.channels) {
        int64_t of_scale = place / in.channels * in.channels + place;
        double factor = scaled ? 1.0 + in.scale[of_scale] : 1.0;
        of_gamma += factor * dgain[place];
        of_beta += factor * doffset[place];
        if (scaled) {
          float *dscale = ddpm_ms::Floats(rest[4]) + of_scale;
          dscale[0] = static_cast<float>(in.gamma[c] * dgain[place] + in.beta[c] * doffset[place]);
          dscale[in.channels] = static_cast<float>(doffset[place]);
        }
      }
      dgamma[c] = static_cast<float>(of_gamma);
      dbeta[c] = static_cast<float>(of_beta);
    }
  });
}

}  // namespace

extern "C" {

// (x, gamma, beta, config) -> y
int group_norm_forward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return RunForward(params, shapes, false);
}

// (x, gamma, beta, scale beside shift (B, 2 C), config) -> y
int group_norm_scaled_forward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return RunForward(params, shapes, true);
}

// (x, gamma, beta, config, dy) -> dx, dgamma, dbeta
int group_norm_backward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return RunBackward(params, shapes, false);
}

// (x, gamma, beta, scale beside shift, config, dy) -> dx, dgamma, dbeta, and the gradients of scale beside those of shift
int group_norm_scaled_backward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return RunBackward(params, shapes, true);
}

}  // extern "C"
