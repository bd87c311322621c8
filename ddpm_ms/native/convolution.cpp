// 2-D convolution, forward and backward, through the oneDNN library that MindSpore has already loaded.
//
// MindSpore hands oneDNN tensors of fixed plain layout, for which it only has slow kernels. Here oneDNN chooses the layout
// ("any") and the tensors are reordered around the call, which is several times faster in sum. Primitives are made once
// for each shape and kept. The few C functions of oneDNN 3 that are used are declared below, so that no header has to be
// installed; their C interface is stable within a major version.

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "loops.h"
#include "matrix.h"
#include "scratch.h"
#include "winograd.h"

extern "C" {
typedef struct dnnl_engine *dnnl_engine_t;
typedef struct dnnl_stream *dnnl_stream_t;
typedef struct dnnl_memory *dnnl_memory_t;
typedef struct dnnl_memory_desc *dnnl_memory_desc_t;
typedef const struct dnnl_memory_desc *const_dnnl_memory_desc_t;
typedef struct dnnl_primitive *dnnl_primitive_t;
typedef struct dnnl_primitive_desc *dnnl_primitive_desc_t;
typedef struct dnnl_primitive_attr *dnnl_primitive_attr_t;
typedef struct dnnl_post_ops *dnnl_post_ops_t;
typedef struct {
  int arg;
  dnnl_memory_t memory;
} dnnl_exec_arg_t;
typedef int64_t dnnl_dims_t[12];

int dnnl_engine_create(dnnl_engine_t *, int kind, size_t index);
int dnnl_threadpool_interop_stream_create(dnnl_stream_t *, dnnl_engine_t, void *threadpool);
int dnnl_stream_wait(dnnl_stream_t);
int dnnl_memory_desc_create_with_tag(dnnl_memory_desc_t *, int ndims, const dnnl_dims_t, int type, int tag);
int dnnl_memory_desc_equal(const_dnnl_memory_desc_t, const_dnnl_memory_desc_t);
size_t dnnl_memory_desc_get_size(const_dnnl_memory_desc_t);
int dnnl_memory_create(dnnl_memory_t *, const_dnnl_memory_desc_t, dnnl_engine_t, void *handle);
int dnnl_memory_set_data_handle(dnnl_memory_t, void *handle);
int dnnl_reorder_primitive_desc_create(dnnl_primitive_desc_t *, const_dnnl_memory_desc_t, dnnl_engine_t,
                                       const_dnnl_memory_desc_t, dnnl_engine_t, const void *attr);
int dnnl_convolution_forward_primitive_desc_create(dnnl_primitive_desc_t *, dnnl_engine_t, int prop, int alg,
                                                   const_dnnl_memory_desc_t src, const_dnnl_memory_desc_t weights,
                                                   const_dnnl_memory_desc_t bias, const_dnnl_memory_desc_t dst,
                                                   const dnnl_dims_t strides, const dnnl_dims_t dilates,
                                                   const dnnl_dims_t pad_l, const dnnl_dims_t pad_r, const void *attr);
int dnnl_convolution_backward_data_primitive_desc_create(dnnl_primitive_desc_t *, dnnl_engine_t, int alg,
                                                         const_dnnl_memory_desc_t diff_src,
                                                         const_dnnl_memory_desc_t weights,
                                                         const_dnnl_memory_desc_t diff_dst, const dnnl_dims_t strides,
                                                         const dnnl_dims_t dilates, const dnnl_dims_t pad_l,
                                                         const dnnl_dims_t pad_r, dnnl_primitive_desc_t hint,
                                                         const void *attr);
int dnnl_convolution_backward_weights_primitive_desc_create(
    dnnl_primitive_desc_t *, dnnl_engine_t, int alg, const_dnnl_memory_desc_t src,
    const_dnnl_memory_desc_t diff_weights, const_dnnl_memory_desc_t diff_bias, const_dnnl_memory_desc_t diff_dst,
    const dnnl_dims_t strides, const dnnl_dims_t dilates, const dnnl_dims_t pad_l, const dnnl_dims_t pad_r,
    dnnl_primitive_desc_t hint, const void *attr);
int dnnl_primitive_attr_create(dnnl_primitive_attr_t *);
int dnnl_primitive_attr_set_post_ops(dnnl_primitive_attr_t, const struct dnnl_post_ops *);
int dnnl_post_ops_create(dnnl_post_ops_t *);
int dnnl_post_ops_append_eltwise(dnnl_post_ops_t, int alg, float alpha, float beta);
const_dnnl_memory_desc_t dnnl_primitive_desc_query_md(dnnl_primitive_desc_t, int what, int index);
int dnnl_primitive_create(dnnl_primitive_t *, dnnl_primitive_desc_t);
int dnnl_primitive_execute(dnnl_primitive_t, dnnl_stream_t, int count, const dnnl_exec_arg_t *);
}

namespace {

using ddpm_ms::Addend;
using ddpm_ms::Floats;
using ddpm_ms::Scratch;
using ddpm_ms::Share;
using ddpm_ms::Sum;
using ddpm_ms::Threads;
using ddpm_ms::Winograd;

// Values of oneDNN's enumerations.
constexpr int kCpu = 1, kF32 = 3, kTagAny = 1, kTagA = 2, kTagAbcd = 5, kForwardTraining = 64, kDirect = 1;
constexpr int kForwardInference = 96, kRelu = 32;
constexpr int kSrcMd = 129, kDiffSrcMd = 130, kWeightsMd = 131, kDiffWeightsMd = 132, kDstMd = 133, kDiffDstMd = 134;
constexpr int kSrc = 1, kDst = 17, kWeights = 33, kBias = 41, kDiffSrc = 129, kDiffDst = 145, kDiffWeights = 161,
              kDiffBias = 169;

void check(int status, const char *what) {
  if (status != 0) throw std::runtime_error(std::string(what) + " failed in oneDNN, status " + std::to_string(status));
}

struct Library {
  dnnl_primitive_attr_t relu = nullptr;
  dnnl_engine_t engine = nullptr;
  dnnl_stream_t stream = nullptr;
};

Library &Shared() {
  static Library *library = [] {
    auto *made = new Library;
    check(dnnl_engine_create(&made->engine, kCpu, 0), "engine");
    dnnl_post_ops_t relu;
    check(dnnl_post_ops_create(&relu), "post-operations");
    check(dnnl_post_ops_append_eltwise(relu, kRelu, 0, 0), "rectifier");
    check(dnnl_primitive_attr_create(&made->relu), "attributes");
    check(dnnl_primitive_attr_set_post_ops(made->relu, relu), "post-operations");
    check(dnnl_threadpool_interop_stream_create(&made->stream, made->engine, &Threads()), "stream");
    return made;
  }();
  return *library;
}

// N, C, H, W, O, KH, KW, stride, rows and columns of padding before, after, bias?, inference with a rectifier?
using Key = std::vector<int64_t>;

// One tensor of a convolution: the caller's plain array, and the same data in the layout that the primitive wants.
class Operand {
 public:
  Operand(const_dnnl_memory_desc_t plain, const_dnnl_memory_desc_t wanted, bool output) : output_(output) {
    auto &lib = Shared();
    check(dnnl_memory_create(&plain_, plain, lib.engine, nullptr), "memory");
    if (dnnl_memory_desc_equal(plain, wanted)) return;
    bytes_ = dnnl_memory_desc_get_size(wanted);
    check(dnnl_memory_create(&wanted_, wanted, lib.engine, nullptr), "memory");
    dnnl_primitive_desc_t desc;
    check(dnnl_reorder_primitive_desc_create(&desc, output ? wanted : plain, lib.engine, output ? plain : wanted,
                                             lib.engine, nullptr), "reorder");
    check(dnnl_primitive_create(&reorder_, desc), "reorder");
  }

  dnnl_memory_t memory() const { return wanted_ ? wanted_ : plain_; }
  void Bind(const void *data, size_t place) {
    check(dnnl_memory_set_data_handle(plain_, const_cast<void *>(data)), "handle");
    if (wanted_) check(dnnl_memory_set_data_handle(wanted_, Scratch(place, bytes_)), "handle");
  }
  void Before() const { if (!output_) Reorder(plain_, wanted_); }
  void After() const { if (output_) Reorder(wanted_, plain_); }

 private:
  void Reorder(dnnl_memory_t from, dnnl_memory_t to) const {
    if (!reorder_) return;
    dnnl_exec_arg_t args[] = {{kSrc, from}, {kDst, to}};
    check(dnnl_primitive_execute(reorder_, Shared().stream, 2, args), "reorder");
  }

  bool output_;
  dnnl_memory_t plain_ = nullptr, wanted_ = nullptr;
  size_t bytes_ = 0;
  dnnl_primitive_t reorder_ = nullptr;
};

// Memory descriptors of one tensor: plain as the caller has it, and in any layout, so that oneDNN chooses.
struct Descriptors {
  explicit Descriptors(const dnnl_dims_t dims) {
    check(dnnl_memory_desc_create_with_tag(&plain, 4, dims, kF32, kTagAbcd), "descriptor");
    check(dnnl_memory_desc_create_with_tag(&any, 4, dims, kF32, kTagAny), "descriptor");
  }
  dnnl_memory_desc_t plain, any;
};

// One convolution's tensors.
struct Shapes {
  explicit Shapes(const Key &k)
      : has_bias(k[12] != 0), rectified(k[13] != 0), x(Dims{k[0], k[1], k[2], k[3]}.d),
        w(Dims{k[4], k[1], k[5], k[6]}.d),
        y(Dims{k[0], k[4], (k[2] + k[8] + k[10] - k[5]) / k[7] + 1, (k[3] + k[9] + k[11] - k[6]) / k[7] + 1}.d) {
    check(dnnl_memory_desc_create_with_tag(&bias, 1, Dims{k[4]}.d, kF32, kTagA), "descriptor");
    for (int i = 0; i < 2; ++i) {
      strides[i] = k[7];
      before[i] = k[8 + i];
      after[i] = k[10 + i];
    }
  }

  dnnl_primitive_desc_t Forward() const {
    dnnl_primitive_desc_t desc;
    check(dnnl_convolution_forward_primitive_desc_create(&desc, Shared().engine,
                                                         rectified ? kForwardInference : kForwardTraining, kDirect,
                                                         x.any, w.any, has_bias ? bias : nullptr, y.any, strides,
                                                         dilates, before, after, rectified ? Shared().relu : nullptr),
          "forward");
    return desc;
  }

  bool has_bias, rectified;
  Descriptors x, w, y;
  dnnl_memory_desc_t bias;
  dnnl_dims_t strides = {}, before = {}, after = {}, dilates = {};

 private:
  struct Dims {
    dnnl_dims_t d;
  };
};

const_dnnl_memory_desc_t Query(dnnl_primitive_desc_t desc, int what) {
  return dnnl_primitive_desc_query_md(desc, what, 0);
}

// A primitive with its operands, by oneDNN's argument number.
class Convolution {
 public:
  Convolution(dnnl_primitive_desc_t desc, std::vector<std::pair<int, std::unique_ptr<Operand>>> operands)
      : operands_(std::move(operands)) {
    check(dnnl_primitive_create(&primitive_, desc), "primitive");
  }

  // `data` in the order of the operands.
  void Run(const std::vector<const void *> &data) {
    std::vector<dnnl_exec_arg_t> args;
    for (size_t i = 0; i < operands_.size(); ++i) {
      operands_[i].second->Bind(data[i], i);
      operands_[i].second->Before();
      args.push_back({operands_[i].first, operands_[i].second->memory()});
    }
    check(dnnl_primitive_execute(primitive_, Shared().stream, static_cast<int>(args.size()), args.data()), "convolution");
    for (auto &operand : operands_) operand.second->After();
    check(dnnl_stream_wait(Shared().stream), "wait");
  }

 private:
  dnnl_primitive_t primitive_ = nullptr;
  std::vector<std::pair<int, std::unique_ptr<Operand>>> operands_;
};

using Operands = std::vector<std::pair<int, std::unique_ptr<Operand>>>;

void Add(Operands *operands, int arg, const_dnnl_memory_desc_t plain, const_dnnl_memory_desc_t wanted, bool output) {
  operands->emplace_back(arg, std::unique_ptr<Operand>(new Operand(plain, wanted, output)));
}

Convolution *MakeForward(const Key &key) {
  Shapes s(key);
  auto desc = s.Forward();
  Operands operands;
  Add(&operands, kSrc, s.x.plain, Query(desc, kSrcMd), false);
  Add(&operands, kWeights, s.w.plain, Query(desc, kWeightsMd), false);
  if (s.has_bias) Add(&operands, kBias, s.bias, s.bias, false);
  Add(&operands, kDst, s.y.plain, Query(desc, kDstMd), true);
  return new Convolution(desc, std::move(operands));
}

Convolution *MakeBackwardData(const Key &key) {
  Shapes s(key);
  dnnl_primitive_desc_t desc;
  check(dnnl_convolution_backward_data_primitive_desc_create(&desc, Shared().engine, kDirect, s.x.any, s.w.any,
                                                             s.y.any, s.strides, s.dilates, s.before, s.after,
                                                             s.Forward(), nullptr),
        "backward data");
  Operands operands;
  Add(&operands, kDiffDst, s.y.plain, Query(desc, kDiffDstMd), false);
  Add(&operands, kWeights, s.w.plain, Query(desc, kWeightsMd), false);
  Add(&operands, kDiffSrc, s.x.plain, Query(desc, kDiffSrcMd), true);
  return new Convolution(desc, std::move(operands));
}

Convolution *MakeBackwardWeights(const Key &key) {
  Shapes s(key);
  dnnl_primitive_desc_t desc;
  check(dnnl_convolution_backward_weights_primitive_desc_create(
            &desc, Shared().engine, kDirect, s.x.any, s.w.any, s.has_bias ? s.bias : nullptr, s.y.any, s.strides,
            s.dilates, s.before, s.after, s.Forward(), nullptr), "backward weights");
  Operands operands;
  Add(&operands, kSrc, s.x.plain, Query(desc, kSrcMd), false);
  Add(&operands, kDiffDst, s.y.plain, Query(desc, kDiffDstMd), false);
  Add(&operands, kDiffWeights, s.w.plain, Query(desc, kDiffWeightsMd), true);
  if (s.has_bias) Add(&operands, kDiffBias, s.bias, s.bias, true);
  return new Convolution(desc, std::move(operands));
}

using Maker = Convolution *(*)(const Key &);

// The cached convolution of one kind and shape. The caller holds the library's mutex.
Convolution *Cached(std::map<Key, std::unique_ptr<Convolution>> *cache, const Key &key, Maker make) {
  auto &entry = (*cache)[key];
  if (!entry) entry.reset(make(key));
  return entry.get();
}

// x, weight and {stride, pad before, after} as MindSpore passes them.
Key MakeKey(int64_t **shapes, void *config, bool has_bias) {
  const auto *c = static_cast<const int32_t *>(config);
  return {shapes[0][0], shapes[0][1], shapes[0][2], shapes[0][3], shapes[1][0], shapes[1][2], shapes[1][3],
          c[0],         c[1],         c[1],         c[2],         c[2],         has_bias,     false};
}

// The gradient of a bias: sums over the pixels of each channel.
void BiasGradient(const float *dy, int64_t images, int64_t channels, int64_t pixels, float *dbias) {
  Share(channels, [&](int64_t o) {
    dbias[o] = 0;
    for (int64_t b = 0; b < images; ++b) {
      const float *row = dy + (b * channels + o) * pixels;
      dbias[o] += Sum(pixels, [&](int64_t p) { return row[p]; });
    }
  });
}

Winograd AsWinograd(const Key &k) { return {k[0], k[1], k[4], k[2], k[3]}; }

// Whether this is a convolution that Winograd's form can do, and does faster.
bool IsWinograd(const Key &k) {
  bool fits = k[5] == 3 && k[6] == 3 && k[7] == 1 && k[8] == 1 && k[9] == 1 && k[10] == 1 && k[11] == 1;
  return fits && AsWinograd(k).Wins();
}

// A convolution of one pixel is a matrix product for each image, y = w x, in the plain layout: nothing has to be reordered.
struct Pointwise {
  static constexpr int64_t kFewest = 64;  // pixels; where there are fewer, oneDNN's own kernels win
  static bool Is(const Key &k) {
    return k[5] == 1 && k[6] == 1 && k[7] == 1 && k[8] + k[9] + k[10] + k[11] == 0 && k[2] * k[3] >= kFewest;
  }

  explicit Pointwise(const Key &k) : images(k[0]), in(k[1]), out(k[4]), pixels(k[2] * k[3]) {}

  void Forward(const float *x, const float *w, const Addend &addend, float *y) const {
    Images([&](int64_t b, ddpm_ms::ThreadPool *pool) {
      if (addend.Any()) Begin(b, addend, y);
      Multiply('N', 'N', out, pixels, in, w, in, x + b * in * pixels, pixels, addend.Any(), y + b * out * pixels, pixels, pool);
    });
  }

  void BackwardData(const float *w, const float *dy, float *dx) const {
    Images([&](int64_t b, ddpm_ms::ThreadPool *pool) {
      Multiply('T', 'N', in, pixels, out, w, in, dy + b * out * pixels, pixels, false, dx + b * in * pixels, pixels, pool);
    });
  }

  // Each thread adds up its images, and the sums are added in the order of the threads.
  void BackwardWeights(const float *x, const float *dy, float *dw) const {
    int pieces = Pieces();
    auto *parts = static_cast<float *>(Scratch(0, pieces * out * in * sizeof(float)));
    auto piece = [&](int k, ddpm_ms::ThreadPool *pool) {
      for (int64_t first = images * k / pieces, b = first; b < images * (k + 1) / pieces; ++b)
        Multiply('N', 'T', out, in, pixels, dy + b * out * pixels, pixels, x + b * in * pixels, pixels, b > first,
                 parts + k * out * in, in, pool);
    };
    if (pieces == 1) {
      piece(0, &Threads());
    } else {
      Threads().parallel_for(pieces, [&](int k, int) { piece(k, nullptr); });
    }
    check(failed, "matrix product");
    Share(out, [&](int64_t o) {
      for (int64_t c = o * in; c < (o + 1) * in; ++c) {
        dw[c] = parts[c];
        for (int k = 1; k < pieces; ++k) dw[c] += parts[k * out * in + c];
      }
    });
  }

 private:
  int64_t images, in, out, pixels;
  mutable std::atomic<int> failed{0};  // the status of a product that did; the threads that multiply may not throw

  // What the product of an image is added to.
  void Begin(int64_t image, const Addend &addend, float *y) const {
    for (int64_t o = 0; o < out; ++o) {
      int64_t place = (image * out + o) * pixels;
      float constant = addend.Constant(image, o, out);
      for (int64_t p = place; p < place + pixels; ++p) y[p] = constant + (addend.elements ? addend.elements[p] : 0.0f);
    }
  }

  int Pieces() const { return images < Threads().get_num_threads() ? 1 : Threads().get_num_threads(); }

  // `body(image, threads of a product)`: an image each, or where there are few images all threads at one.
  template <typename Body>
  void Images(Body body) const {
    if (Pieces() == 1) {
      for (int64_t b = 0; b < images; ++b) body(b, &Threads());
    } else {
      Share(images, [&](int64_t b) { body(b, nullptr); });
    }
    check(failed, "matrix product");
  }

  template <typename... Rest>
  void Multiply(Rest... rest) const {
    int status = ddpm_ms::Multiply(rest...);
    if (status != 0) failed = status;
  }
};

// MindSpore keeps what it knows of a custom operator under the function's name, so every signature has a name of its own.

// Adds to y what `addend` has of images or elements.
void Increase(const Addend &addend, const int64_t *shape, float *y) {
  int64_t channels = shape[1], pixels = shape[2] * shape[3];
  Share(shape[0] * channels, [&](int64_t i) {
    float *row = y + i * pixels;
    const float *elements = addend.elements + (addend.elements ? i * pixels : 0);
    for (int64_t p = 0; p < pixels; ++p) row[p] += addend.elements ? elements[p] : addend.images[i];
  });
}

// (x, weight, config, then nothing, or a bias, or a bias and what else is added) -> y. That is of each `element`, or of each channel
// of each image.
int Forward(void **params, int64_t **shapes, int added, bool element) {
  return ddpm_ms::Guarded([&] {
    static std::map<Key, std::unique_ptr<Convolution>> cache;
    const Key key = MakeKey(shapes, params[2], added > 0);
    const float *x = Floats(params[0]), *w = Floats(params[1]), *plus = added > 1 ? Floats(params[4]) : nullptr;
    const Addend addend = {added > 0 ? Floats(params[3]) : nullptr, element ? nullptr : plus, element ? plus : nullptr};
    float *y = Floats(params[3 + added]);
    if (Pointwise::Is(key)) {
      Pointwise(key).Forward(x, w, addend, y);
    } else if (IsWinograd(key)) {
      AsWinograd(key).Forward(x, w, addend, y);
    } else {
      auto *conv = Cached(&cache, key, MakeForward);
      if (added) {
        conv->Run({x, w, addend.channels, y});
      } else {
        conv->Run({x, w, y});
      }
      if (plus) Increase(addend, shapes[3 + added], y);
    }
  });
}

int BackwardWeights(void **params, int64_t **shapes, bool has_bias) {
  return ddpm_ms::Guarded([&] {
    static std::map<Key, std::unique_ptr<Convolution>> cache;
    const Key key = MakeKey(shapes, params[2], has_bias);
    const float *x = Floats(params[0]), *dy = Floats(params[3]);
    if (Pointwise::Is(key)) {
      Pointwise(key).BackwardWeights(x, dy, Floats(params[4]));
    } else if (IsWinograd(key)) {
      AsWinograd(key).BackwardWeights(x, dy, Floats(params[4]));
    } else {
      auto *conv = Cached(&cache, key, MakeBackwardWeights);
      if (has_bias) {
        conv->Run({params[0], params[3], params[4], params[5]});
      } else {
        conv->Run({params[0], params[3], params[4]});
      }
      return;
    }
    if (has_bias) BiasGradient(dy, key[0], key[4], key[2] * key[3], Floats(params[5]));
  });
}

}  // namespace

extern "C" {

// (x, weight, config) -> y
int conv2d_forward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return Forward(params, shapes, 0, false);
}

// (x, weight, config, bias) -> y
int conv2d_bias_forward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return Forward(params, shapes, 1, false);
}

// (x, weight, config, bias, plus as y or of its first two axes) -> y
int conv2d_plus_forward(int, void **params, int *ndims, int64_t **shapes, const char **, void *, void *) {
  return Forward(params, shapes, 2, ndims[4] == 4);
}

// (x, weight, {stride, rows, columns of padding}, bias) -> max(y, 0), always in float32
int conv2d_relu_forward(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return ddpm_ms::Guarded([&] {
    static std::map<Key, std::unique_ptr<Convolution>> cache;
    const auto *c = static_cast<const int32_t *>(params[2]);
    Key key = {shapes[0][0], shapes[0][1], shapes[0][2], shapes[0][3], shapes[1][0], shapes[1][2], shapes[1][3],
               c[0],         c[1],         c[2],         c[1],         c[2],         true,         true};
    Cached(&cache, key, MakeForward)->Run({params[0], params[1], params[3], params[4]});
  });
}

// (x, weight, config, dy) -> dx
int conv2d_backward_data(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return ddpm_ms::Guarded([&] {
    static std::map<Key, std::unique_ptr<Convolution>> cache;
    const Key key = MakeKey(shapes, params[2], false);
    if (Pointwise::Is(key)) {
      Pointwise(key).BackwardData(Floats(params[1]), Floats(params[3]), Floats(params[4]));
    } else if (IsWinograd(key)) {
      AsWinograd(key).BackwardData(Floats(params[1]), Floats(params[3]), Floats(params[4]));
    } else {
      Cached(&cache, key, MakeBackwardData)->Run({params[3], params[1], params[4]});
    }
  });
}

// (x, weight, config, dy) -> dweight
int conv2d_backward_weights(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return BackwardWeights(params, shapes, false);
}

// (x, weight, config, dy) -> dweight, dbias
int conv2d_bias_backward_weights(int, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  return BackwardWeights(params, shapes, true);
}

}  // extern "C"
