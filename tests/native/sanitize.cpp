// Calls every native operator with odd shapes, from two threads at once; built by scripts/sanitize_native.sh with a sanitizer,
// which ends the program with an error if memory is misused or two threads touch the same place.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

extern "C" {
typedef int Operator(int, void **, int *, int64_t **, const char **, void *, void *);
void set_number_of_threads(int);
Operator conv2d_forward, conv2d_bias_forward, conv2d_backward_data, conv2d_backward_weights, conv2d_bias_backward_weights;
Operator conv2d_relu_forward, pool;
Operator norm_forward, norm_backward, softmax_down, softmax_down_backward, softmax_along, softmax_along_backward;
Operator upsample_forward, upsample_backward;
}

namespace {

struct Array {
  explicit Array(std::vector<int64_t> dims) : shape(dims) {
    size_t size = 1;
    for (int64_t d : dims) size *= d;
    for (size_t i = 0; i < size; ++i) data.push_back(std::sin(0.7f * i));
  }
  std::vector<int64_t> shape;
  std::vector<float> data;
};

void Call(Operator *op, std::vector<Array *> arrays, const std::vector<int32_t> &config = {}, size_t config_at = 0) {
  std::vector<void *> params;
  std::vector<int64_t *> shapes;
  std::vector<int32_t> copy(config);
  int64_t config_shape[1] = {static_cast<int64_t>(config.size())};
  for (size_t i = 0; i < arrays.size(); ++i) {
    if (!config.empty() && i == config_at) {
      params.push_back(copy.data());
      shapes.push_back(config_shape);
    }
    params.push_back(arrays[i]->data.data());
    shapes.push_back(arrays[i]->shape.data());
  }
  if (op(static_cast<int>(params.size()), params.data(), nullptr, shapes.data(), nullptr, nullptr, nullptr) != 0) std::exit(2);
  for (float value : arrays.back()->data)
    if (!std::isfinite(value)) std::exit(3);
}

void Convolution(int64_t n, int64_t c, int64_t h, int64_t w, int64_t o, int64_t k, int32_t stride, int32_t before,
                 int32_t after) {
  int64_t oh = (h + before + after - k) / stride + 1, ow = (w + before + after - k) / stride + 1;
  Array x({n, c, h, w}), weight({o, c, k, k}), bias({o}), y({n, o, oh, ow}), dx(x.shape), dw(weight.shape), db({o});
  Call(conv2d_forward, {&x, &weight, &y}, {stride, before, after}, 2);
  Call(conv2d_bias_forward, {&x, &weight, &bias, &y}, {stride, before, after}, 2);
  Call(conv2d_backward_data, {&x, &weight, &y, &dx}, {stride, before, after}, 2);
  Call(conv2d_backward_weights, {&x, &weight, &y, &dw}, {stride, before, after}, 2);
  Call(conv2d_bias_backward_weights, {&x, &weight, &y, &dw, &db}, {stride, before, after}, 2);
}

void Rectified(int64_t n, int64_t c, int64_t h, int64_t w, int64_t o, int64_t kh, int64_t kw, int32_t stride, int32_t rows,
               int32_t columns) {
  int64_t oh = (h + 2 * rows - kh) / stride + 1, ow = (w + 2 * columns - kw) / stride + 1;
  Array x({n, c, h, w}), weight({o, c, kh, kw}), bias({o}), y({n, o, oh, ow});
  Call(conv2d_relu_forward, {&x, &weight, &bias, &y}, {stride, rows, columns}, 2);
}

void Pools(int64_t n, int64_t c, int64_t h, int64_t w) {
  Array x({n, c, h, w}), same(x.shape), half({n, c, (h - 3) / 2 + 1, (w - 3) / 2 + 1});
  Call(pool, {&x, &same}, {0}, 1);
  Call(pool, {&x, &same}, {1}, 1);
  Call(pool, {&x, &half}, {2}, 1);
}

void Norm(int64_t n, int64_t c, int64_t h, int64_t w, int32_t act) {
  Array x({n, c, h, w}), gain({n, c}), shift({n, c}), y(x.shape), dx(x.shape), dgain(gain.shape), dshift(gain.shape);
  Call(norm_forward, {&x, &gain, &shift, &y}, {act}, 3);
  Call(norm_backward, {&x, &gain, &shift, &y, &dx, &dgain, &dshift}, {act}, 3);
}

void Softmax(int64_t b, int64_t m, int64_t n) {
  Array x({b, m, n}), y(x.shape), dx(x.shape);
  Call(softmax_down, {&x, &y});
  Call(softmax_down_backward, {&y, &x, &dx});
  Call(softmax_along, {&x, &y});
  Call(softmax_along_backward, {&y, &x, &dx});
}

void Upsample(int64_t n, int64_t c, int64_t h, int64_t w) {
  Array x({n, c, h, w}), y({n, c, 2 * h, 2 * w});
  Call(upsample_forward, {&x, &y});
  Call(upsample_backward, {&y, &x});
}

void Everything() {
  for (int round = 0; round < 20; ++round) {
    Convolution(1, 3, 9, 7, 5, 7, 1, 3, 3);
    Convolution(2, 16, 8, 6, 8, 2, 2, 0, 0);
    Convolution(3, 5, 9, 9, 4, 4, 2, 1, 1);
    Convolution(2, 8, 5, 3, 12, 1, 1, 0, 0);
    Convolution(2, 33, 7, 7, 17, 3, 2, 1, 1);
    Convolution(2, 6, 8, 10, 9, 3, 2, 0, 1);
    Rectified(2, 8, 9, 7, 4, 1, 7, 1, 0, 3);
    Rectified(2, 3, 9, 7, 5, 3, 3, 2, 0, 0);
    Pools(2, 5, 3, 3);
    Pools(3, 2, 9, 16);
    Norm(1, 3, 5, 7, 1);
    Norm(3, 33, 9, 13, 0);
    Softmax(3, 5, 17);
    Softmax(2, 130, 259);
    Upsample(3, 5, 7, 3);
  }
}

}  // namespace

int main() {
  set_number_of_threads(3);
  std::thread other(Everything);
  Everything();
  other.join();
  std::puts("clean");
  std::fflush(stdout);
  std::_Exit(0);  // the pool's threads sleep for ever
}
