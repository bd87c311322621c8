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
Operator conv2d_forward, conv2d_bias_forward, conv2d_plus_forward, conv2d_backward_data, conv2d_backward_weights;
Operator conv2d_bias_backward_weights;
Operator conv2d_relu_forward, pool;
Operator norm_forward, norm_plus_forward, norm_scaled_forward, norm_backward, norm_scaled_backward;
Operator attention_forward, attention_backward, attention_memory_forward, attention_memory_backward;
Operator linear_attention_forward, linear_attention_backward, linear_attention_memory_forward, linear_attention_memory_backward;
Operator upsample_forward, upsample_backward;
Operator group_norm_forward, group_norm_backward, group_norm_scaled_forward, group_norm_scaled_backward;
Operator square_sum, adam;
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

template <typename Number = int32_t>
void Call(Operator *op, std::vector<Array *> arrays, const std::vector<Number> &config = {}, size_t config_at = 0) {
  std::vector<void *> params;
  std::vector<int> ndims;
  std::vector<int64_t *> shapes;
  std::vector<Number> copy(config);
  int64_t config_shape[1] = {static_cast<int64_t>(config.size())};
  for (size_t i = 0; i < arrays.size(); ++i) {
    if (!config.empty() && i == config_at) {
      params.push_back(copy.data());
      ndims.push_back(1);
      shapes.push_back(config_shape);
    }
    params.push_back(arrays[i]->data.data());
    ndims.push_back(static_cast<int>(arrays[i]->shape.size()));
    shapes.push_back(arrays[i]->shape.data());
  }
  if (op(static_cast<int>(params.size()), params.data(), ndims.data(), shapes.data(), nullptr, nullptr, nullptr) != 0) std::exit(2);
  for (float value : arrays.back()->data)
    if (!std::isfinite(value)) std::exit(3);
}

void Convolution(int64_t n, int64_t c, int64_t h, int64_t w, int64_t o, int64_t k, int32_t stride, int32_t before,
                 int32_t after) {
  int64_t oh = (h + before + after - k) / stride + 1, ow = (w + before + after - k) / stride + 1;
  Array x({n, c, h, w}), weight({o, c, k, k}), bias({o}), y({n, o, oh, ow}), dx(x.shape), dw(weight.shape), db({o});
  Call(conv2d_forward, {&x, &weight, &y}, std::vector<int32_t>{stride, before, after}, 2);
  Call(conv2d_bias_forward, {&x, &weight, &bias, &y}, std::vector<int32_t>{stride, before, after}, 2);
  Array per_image({n, o}), per_element(y.shape);
  Call(conv2d_plus_forward, {&x, &weight, &bias, &per_image, &y}, std::vector<int32_t>{stride, before, after}, 2);
  Call(conv2d_plus_forward, {&x, &weight, &bias, &per_element, &y}, std::vector<int32_t>{stride, before, after}, 2);
  Call(conv2d_backward_data, {&x, &weight, &y, &dx}, std::vector<int32_t>{stride, before, after}, 2);
  Call(conv2d_backward_weights, {&x, &weight, &y, &dw}, std::vector<int32_t>{stride, before, after}, 2);
  Call(conv2d_bias_backward_weights, {&x, &weight, &y, &dw, &db}, std::vector<int32_t>{stride, before, after}, 2);
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
  Array x({n, c, h, w}), gain({c}), scale_shift({n, 2 * c}), y(x.shape), dx(x.shape), dgain({c}), dscale_shift({n, 2 * c});
  const std::vector<int32_t> config = {act};
  Call(norm_forward, {&x, &gain, &y}, config, 2);
  Call(norm_plus_forward, {&x, &gain, &dx, &y}, config, 3);
  Call(norm_scaled_forward, {&x, &gain, &scale_shift, &y}, config, 3);
  Call(norm_backward, {&x, &gain, &y, &dx, &dgain}, config, 2);
  Call(norm_scaled_backward, {&x, &gain, &scale_shift, &y, &dx, &dgain, &dscale_shift}, config, 3);
}

void GroupNorm(int64_t n, int64_t c, int64_t h, int64_t w, float groups, float act) {
  Array x({n, c, h, w}), gamma({c}), beta({c}), scale_shift({n, 2 * c}), y(x.shape);
  Array dx(x.shape), dgamma({c}), dbeta({c}), dscale_shift({n, 2 * c});
  const std::vector<float> config = {groups, 1e-5f, act};
  Call(group_norm_forward, {&x, &gamma, &beta, &y}, config, 3);
  Call(group_norm_scaled_forward, {&x, &gamma, &beta, &scale_shift, &y}, config, 4);
  Call(group_norm_backward, {&x, &gamma, &beta, &y, &dx, &dgamma, &dbeta}, config, 3);
  Call(group_norm_scaled_backward, {&x, &gamma, &beta, &scale_shift, &y, &dx, &dgamma, &dbeta, &dscale_shift}, config, 4);
}

void Attention(int64_t images, int64_t heads, int64_t dim, int64_t h, int64_t w, int64_t memories) {
  Array qkv({images, 3 * heads * dim, h, w}), y({images, heads * dim, h, w}), dqkv(qkv.shape);
  Array memory({2, heads, memories, dim}), dmemory(memory.shape);
  const std::vector<float> config = {static_cast<float>(heads), 0.5f};
  Call(attention_forward, {&qkv, &y}, config, 1);
  Call(attention_backward, {&qkv, &y, &dqkv}, config, 1);
  Call(attention_memory_forward, {&qkv, &memory, &y}, config, 2);
  Call(attention_memory_backward, {&qkv, &memory, &y, &dqkv, &dmemory}, config, 2);
}

void LinearAttention(int64_t images, int64_t channels, int64_t heads, int64_t dim, int64_t h, int64_t w, int64_t memories) {
  Array x({images, channels, h, w}), weight({3 * heads * dim, channels, 1, 1}), y({images, heads * dim, h, w});
  Array memory({2, heads, dim, memories}), dqkv({images, 3 * heads * dim, h, w}), dmemory(memory.shape);
  const std::vector<float> config = {static_cast<float>(heads), 0.5f};
  Call(linear_attention_forward, {&x, &weight, &y}, config, 2);
  Call(linear_attention_backward, {&x, &weight, &y, &dqkv}, config, 2);
  Call(linear_attention_memory_forward, {&x, &weight, &memory, &y}, config, 3);
  Call(linear_attention_memory_backward, {&x, &weight, &memory, &y, &dqkv, &dmemory}, config, 3);
}

void Upsample(int64_t n, int64_t c, int64_t h, int64_t w) {
  Array x({n, c, h, w}), y({n, c, 2 * h, 2 * w});
  Call(upsample_forward, {&x, &y});
  Call(upsample_backward, {&y, &x});
}

void Adam(const std::vector<std::vector<int64_t>> &shapes) {
  std::vector<Array> arrays, scalars(5, Array({}));
  for (int kind = 0; kind < 5; ++kind)
    for (const auto &shape : shapes) arrays.emplace_back(shape);
  Array out({1});
  for (Array &scalar : scalars) scalar.data[0] = 0.5f;
  for (size_t k = 3 * shapes.size(); k < 4 * shapes.size(); ++k)  // second moments
    for (float &value : arrays[k].data) value *= value;
  std::vector<Array *> gradients, all;
  for (size_t k = 0; k < shapes.size(); ++k) gradients.push_back(&arrays[k]);
  gradients.push_back(&out);
  for (Array &scalar : scalars) all.push_back(&scalar);
  for (Array &array : arrays) all.push_back(&array);
  all.push_back(&out);
  Call(square_sum, gradients);
  Call(adam, all, std::vector<float>{0.9f, 0.99f, 1e-8f, 0.1f}, 3);
  for (const Array &array : arrays)
    for (float value : array.data)
      if (!std::isfinite(value)) std::exit(4);
}

void Everything() {
  for (int round = 0; round < 20; ++round) {
    Convolution(1, 3, 9, 7, 5, 7, 1, 3, 3);
    Convolution(2, 16, 8, 6, 8, 2, 2, 0, 0);
    Convolution(3, 5, 9, 9, 4, 4, 2, 1, 1);
    Convolution(2, 8, 5, 3, 12, 1, 1, 0, 0);
    Convolution(2, 33, 7, 7, 17, 3, 2, 1, 1);
    Convolution(2, 6, 8, 10, 9, 3, 2, 0, 1);
    if (round % 10 == 0) {
      Convolution(3, 20, 15, 33, 27, 3, 1, 1, 1);
      Convolution(2, 96, 7, 5, 50, 3, 1, 1, 1);
      Convolution(1, 16, 13, 250, 17, 3, 1, 1, 1);
    }
    Rectified(2, 8, 9, 7, 4, 1, 7, 1, 0, 3);
    Rectified(2, 3, 9, 7, 5, 3, 3, 2, 0, 0);
    Pools(2, 5, 3, 3);
    Pools(3, 2, 9, 16);
    Norm(1, 3, 5, 7, 1);
    Norm(3, 33, 9, 13, 0);
    GroupNorm(1, 3, 5, 7, 3, 1);
    GroupNorm(3, 12, 9, 13, 4, 0);
    GroupNorm(2, 8, 1, 1, 2, 1);
    Attention(3, 2, 5, 3, 7, 4);
    Attention(1, 3, 8, 13, 25, 1);
    LinearAttention(3, 7, 2, 5, 3, 7, 4);
    LinearAttention(1, 4, 3, 8, 13, 25, 1);
    Upsample(3, 5, 7, 3);
    Adam({{}, {1}, {7}, {5, 3, 2}, {64, 33, 3, 3}, {129}, {1, 70001}});
    Adam({{3}});
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
