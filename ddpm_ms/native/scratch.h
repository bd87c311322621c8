// Memory that operators keep from one call to the next.

#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace ddpm_ms {

// Memory aligned to 64 bytes.
struct Buffer {
  explicit Buffer(size_t bytes) : size(bytes), data(std::aligned_alloc(64, (bytes + 63) / 64 * 64)) {
    if (data == nullptr) throw std::bad_alloc();
  }
  ~Buffer() { std::free(data); }
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  size_t size;
  void *data;
};

// At least `bytes` at one of several places. Operators run one at a time, so that all share them; what is there is valid until
// the operator ends.
inline void *Scratch(size_t place, size_t bytes) {
  static std::vector<std::unique_ptr<Buffer>> places;
  if (places.size() <= place) places.resize(place + 1);
  if (!places[place] || places[place]->size < bytes) {
    places[place].reset();
    places[place].reset(new Buffer(bytes));
  }
  return places[place]->data;
}

}  // namespace ddpm_ms
