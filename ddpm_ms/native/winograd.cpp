// 3x3 convolutions by Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, arXiv 1509.09308): two by two pixels of y from a
// tile of four by four pixels of x with 16 multiplications in place of 36,
//
//   y = A^T ((G w G^T) . (B^T x B)) A.
//
// Summed over the channels, each of the 16 places of a tile is a matrix product of its own. A thread takes a block of tiles from
// the plain layout through transform, products and inverse transform while it is in the caches, where oneDNN's convolution first
// brings every tensor into another layout. The products are written out here, because the transforms can leave their operands in
// just the order in which they are read.
//
// A vector holds the same place of 16 tiles, and every tile is computed in the same way wherever it lies.

#include "winograd.h"

#include <vector>

#include "loops.h"
#include "scratch.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define WIDE __attribute__((target("avx512f")))
#else
#define WIDE
#endif

namespace ddpm_ms {
namespace {

constexpr int kPlaces = 16;        // of a tile
constexpr int kLanes = 16;         // tiles in a vector
constexpr int kRows = 8;           // output channels that are computed together
constexpr int kColumns = 3;        // vectors of tiles that are: 8 x 3 sums and what they need fit into 32 registers
constexpr int kBlock = 6 * kLanes; // tiles of a block: the filters are read once for so many

template <int lanes>
struct VectorOf {
  typedef float Type __attribute__((vector_size(lanes * 4)));
  typedef float Anywhere __attribute__((vector_size(lanes * 4), aligned(4), may_alias));
};
using Vector = VectorOf<kLanes>::Type;
using Half = VectorOf<kRows>::Type;

template <typename V = Vector>
INLINE V Load(const float *from) {
  return *reinterpret_cast<const typename VectorOf<sizeof(V) / 4>::Anywhere *>(from);
}
template <typename V>
INLINE void Store(float *to, V v) {
  *reinterpret_cast<typename VectorOf<sizeof(V) / 4>::Anywhere *>(to) = v;
}

#if defined(__clang__)
#define SHUFFLE(Index, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(Index, a, b, ...) __builtin_shuffle(a, b, (Index){__VA_ARGS__})
#endif
typedef int Index16 __attribute__((vector_size(64)));
typedef int Index8 __attribute__((vector_size(32)));

// Every second element of both.
INLINE Vector Even(Vector a, Vector b) {
  return SHUFFLE(Index16, a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
INLINE Vector Odd(Vector a, Vector b) {
  return SHUFFLE(Index16, a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
// The first and the second half of a[0], b[0], a[1], b[1], ...
INLINE Vector Low(Vector a, Vector b) {
  return SHUFFLE(Index16, a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
INLINE Vector High(Vector a, Vector b) {
  return SHUFFLE(Index16, a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
INLINE Half Low(Half a, Half b) { return SHUFFLE(Index8, a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
INLINE Half High(Half a, Half b) { return SHUFFLE(Index8, a, b, 4, 12, 5, 13, 6, 14, 7, 15); }

// One step of transposing n vectors of n lanes; log2(n) of them do it.
template <typename V>
INLINE void Riffle(const V *from, V *to) {
  constexpr int half = sizeof(V) / 8;
#pragma GCC unroll 8
  for (int i = 0; i < half; ++i) {
    to[2 * i] = Low(from[i], from[i + half]);
    to[2 * i + 1] = High(from[i], from[i + half]);
  }
}

// to[k] = from[k] + constant + elements[k] for n numbers, without elements if they are null; as short as a copy.
template <bool with_elements>
INLINE void CopyPlus(float *to, const float *from, float constant, const float *elements, int64_t n) {
  using Four = VectorOf<4>::Type;
  auto copy = [&](auto kind, int64_t k) {
    using V = decltype(kind);
    V v = Load<V>(from + k) + constant;
    Store(to + k, with_elements ? v + Load<V>(elements + k) : v);
  };
  if (n >= kLanes) {
    for (int64_t k = 0; k + kLanes < n; k += kLanes) copy(Vector{}, k);
    copy(Vector{}, n - kLanes);
  } else if (n >= 4) {
    for (int64_t k = 0; k + 4 < n; k += 4) copy(Four{}, k);
    copy(Four{}, n - 4);
  } else {
    for (int64_t k = 0; k < n; ++k) to[k] = from[k] + constant + (with_elements ? elements[k] : 0.0f);
  }
}

// The tiles of all images, row by row: two by two pixels each, the last of an odd side cut off.
struct Images {
  int64_t images, channels, height, width;
  int64_t rows() const { return (height + 1) / 2; }
  int64_t columns() const { return (width + 1) / 2; }
  int64_t tiles() const { return images * rows() * columns(); }
};

// `count` tiles that lie in a row of vectors, the last of which may have lanes to spare.
struct Block {
  int64_t first, count, length;
};

// `body(tiles before, row, column, image, tiles)` for the parts of a block that lie in one row of an image.
template <typename Body>
INLINE void RowByRow(const Images &in, const Block &block, Body body) {
  int64_t columns = in.columns(), rows = in.rows(), column = block.first % columns, row = block.first / columns;
  for (int64_t done = 0; done < block.count; ++row, column = 0) {
    int64_t n = std::min(columns - column, block.count - done);
    body(done, row % rows, column, row / rows, n);
    done += n;
  }
}

// B^T of four numbers, and A of two.
INLINE void Expand4(Vector *d, int step) {
  Vector a = d[0], b = d[step], c = d[2 * step], e = d[3 * step];
  d[0] = a - c;
  d[step] = b + c;
  d[2 * step] = c - b;
  d[3 * step] = b - e;
}
INLINE void Expand2(Vector *d, int step) {
  Vector a = d[0], b = d[step];
  d[step] = a + b;
  d[2 * step] = a - b;
  d[3 * step] = -b;
}

// Where the pixels of 16 tiles lie: two vectors of pixels for each row of the tiles, put together of the rows of images that these
// tiles are in. It is the same for all channels. What is convolved has tiles of `size` 4, which overlap and reach over the border;
// the gradient of its result has tiles of 2.
template <int size>
struct Places {
  struct Piece {
    int64_t place;           // in the first channel, of what would be in the first lane
    uint16_t first, second;  // lanes of the two vectors
  };
  struct Row {
    int pieces = 0;
    Piece piece[kLanes];
    int64_t left = -1, right = -1;  // the pixels beside the 16 tiles, if there are any
  };

  Places(const Images &in, const Block &block, int64_t k) {
    for (int lane = 0; lane < kLanes; ++lane) left[lane] = right[lane] = kNothing;
    Block part{block.first + k, std::min<int64_t>(kLanes, block.count - k), kLanes};
    RowByRow(in, part, [&](int64_t before, int64_t row, int64_t column, int64_t image, int64_t n) {
      uint64_t lanes = ((uint64_t{1} << std::min(2 * n, in.width - 2 * column)) - 1) << 2 * before;
      bool begins = column == 0, ends = column + n == in.columns();
      for (int i = 0; i < size; ++i) {
        int64_t y = 2 * row + i - (size == 4 ? 1 : 0);
        if (y < 0 || y >= in.height) continue;
        int64_t place = (image * in.channels * in.height + y) * in.width + 2 * column;
        rows[i].piece[rows[i].pieces++] = {place - 2 * before, static_cast<uint16_t>(lanes), static_cast<uint16_t>(lanes >> kLanes)};
        if (!begins) rows[i].left = place - 1;
        if (!ends) rows[i].right = place + 2 * n;
      }
      for (int lane = before; lane < before + n; ++lane) left[lane] = lane - 1, right[lane] = lane + 1;
      if (begins || before == 0) left[before] = begins ? kNothing : kBeside;
      if (ends || before + n == kLanes) right[before + n - 1] = ends ? kNothing : kBeside;
    });
  }

  static constexpr int kBeside = kLanes, kNothing = kLanes + 1;  // lanes of a second vector
  Row rows[size];
  int32_t left[kLanes], right[kLanes];  // which lanes hold the pixels to the left and to the right of each tile
};

// As Load, but of some lanes; the others are those of v.
WIDE INLINE Vector LoadSome(Vector v, uint16_t lanes, const float *from) {
#if defined(__x86_64__)
  return _mm512_mask_loadu_ps(v, lanes, from);
#else
  for (int i = 0; i < kLanes; ++i)
    if (lanes >> i & 1) v[i] = from[i];
  return v;
#endif
}

// Lanes of v, or where an index says so of {beside, 0}.
WIDE INLINE Vector Shift(Vector v, const int32_t *index, float beside) {
#if defined(__x86_64__)
  return _mm512_permutex2var_ps(v, _mm512_loadu_si512(index), Vector{beside});
#else
  Vector to;
  for (int i = 0; i < kLanes; ++i) to[i] = index[i] < kLanes ? v[index[i]] : index[i] == kLanes ? beside : 0;
  return to;
#endif
}

// A block's tiles of the channels from `begin` to `end` to v[place][channel][tile], with `stride` floats for a place: B^T x B of
// tiles of `size` 4, A dy A^T of tiles of 2.
template <int size>
WIDE INLINE void Expand(const Images &in, const float *x, const Block &block, int64_t begin, int64_t end, int64_t stride, float *v) {
  std::vector<Places<size>> places;
  places.reserve(block.length / kLanes);
  for (int64_t k = 0; k < block.length; k += kLanes) places.emplace_back(in, block, k);
  for (int64_t c = begin; c < end; ++c, v += block.length) {
    const float *from = x + c * in.height * in.width;
    float *to = v;
    for (const Places<size> &tiles : places) {
      Vector d[kPlaces];
      for (int i = 0; i < size; ++i) {
        const auto &row = tiles.rows[i];
        Vector first = {}, second = {};
        for (int p = 0; p < row.pieces; ++p) {
          first = LoadSome(first, row.piece[p].first, from + row.piece[p].place);
          second = LoadSome(second, row.piece[p].second, from + row.piece[p].place + kLanes);
        }
        Vector *columns = d + 4 * i + (size == 4 ? 1 : 0);
        columns[0] = Even(first, second);
        columns[1] = Odd(first, second);
        if (size == 4) {
          d[4 * i + 3] = Shift(columns[0], tiles.right, row.right < 0 ? 0 : from[row.right]);
          d[4 * i] = Shift(columns[1], tiles.left, row.left < 0 ? 0 : from[row.left]);
        }
      }
      for (int j = 0; j < size; ++j) size == 4 ? Expand4(d + j, 4) : Expand2(d + j, 4);
      for (int i = 0; i < 4; ++i) size == 4 ? Expand4(d + 4 * i, 1) : Expand2(d + 4 * i, 1);
      for (int p = 0; p < kPlaces; ++p) Store(to + p * stride, d[p]);
      to += kLanes;
    }
  }
}

WIDE void ExpandInput(const Images &in, const float *x, const Block &block, int64_t begin, int64_t end, int64_t stride,
                      float *v) {
  Expand<4>(in, x, block, begin, end, stride, v);
}
WIDE void ExpandGradient(const Images &in, const float *dy, const Block &block, int64_t begin, int64_t end, int64_t stride,
                         float *v) {
  Expand<2>(in, dy, block, begin, end, stride, v);
}

// A^T m A, and an addend, for the channels from `begin` to `end`: of these is m.
template <bool with_elements>
WIDE INLINE void ContractPlus(const Images &out, const float *m, const Block &block, int64_t begin, int64_t end, int64_t stride,
                              const Addend &addend, float *y) {
  alignas(64) float lines[2][2 * kBlock];
  for (int64_t c = begin; c < end; ++c) {
    for (int64_t k = 0; k < block.length; k += kLanes) {
      Vector d[kPlaces], rows[2][4];
      for (int p = 0; p < kPlaces; ++p) d[p] = Load(m + p * stride + (c - begin) * block.length + k);
      for (int j = 0; j < 4; ++j) {
        rows[0][j] = d[j] + d[4 + j] + d[8 + j];
        rows[1][j] = d[4 + j] - d[8 + j] - d[12 + j];
      }
      for (int i = 0; i < 2; ++i) {
        Vector left = rows[i][0] + rows[i][1] + rows[i][2], right = rows[i][1] - rows[i][2] - rows[i][3];
        Store(lines[i] + 2 * k, Low(left, right));
        Store(lines[i] + 2 * k + kLanes, High(left, right));
      }
    }
    RowByRow(out, block, [&](int64_t before, int64_t row, int64_t column, int64_t image, int64_t n) {
      int64_t place = ((image * out.channels + c) * out.height + 2 * row) * out.width + 2 * column;
      int64_t pixels = std::min(2 * n, out.width - 2 * column);
      float constant = addend.Constant(image, c, out.channels);
      for (int64_t i = 0; i < std::min<int64_t>(2, out.height - 2 * row); ++i, place += out.width)
        CopyPlus<with_elements>(y + place, lines[i] + 2 * before, constant, addend.elements + (with_elements ? place : 0), pixels);
    });
  }
}

WIDE void Contract(const Images &out, const float *m, const Block &block, int64_t begin, int64_t end, int64_t stride,
                   const Addend &addend, float *y) {
  if (addend.elements) {
    ContractPlus<true>(out, m, block, begin, end, stride, addend, y);
  } else {
    ContractPlus<false>(out, m, block, begin, end, stride, addend, y);
  }
}

// c[row][column] (+)= sum over i of a[i * step + row * apart] * b[i * width + column], for `kRows` rows and some vectors of
// columns; rows of c lie `stride` apart.
template <int vectors>
INLINE void Product(const float *a, int64_t step, int64_t apart, const float *b, int64_t width, int64_t n, bool add, float *c,
                    int64_t stride) {
  Vector sums[kRows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int k = 0; k < vectors; ++k) sums[r][k] = add ? Load(c + r * stride + k * kLanes) : Vector{};
  for (int64_t i = 0; i < n; ++i, a += step, b += width) {
    Vector row[vectors];
#pragma GCC unroll 8
    for (int k = 0; k < vectors; ++k) row[k] = Load(b + k * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int k = 0; k < vectors; ++k) sums[r][k] += a[r * apart] * row[k];
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int k = 0; k < vectors; ++k) Store(c + r * stride + k * kLanes, sums[r][k]);
}

// The same for any number of whole vectors.
WIDE void Products(const float *a, int64_t step, int64_t apart, const float *b, int64_t width, int64_t columns, int64_t n,
                   bool add, float *c, int64_t stride) {
  for (int64_t k = 0; k < columns; k += kColumns * kLanes) {
    int64_t vectors = (columns - k) / kLanes;
    if (vectors >= 3) {
      Product<3>(a, step, apart, b + k, width, n, add, c + k, stride);
    } else if (vectors == 2) {
      Product<2>(a, step, apart, b + k, width, n, add, c + k, stride);
    } else {
      Product<1>(a, step, apart, b + k, width, n, add, c + k, stride);
    }
  }
}

// G w G^T of up to `kRows` filters, to u[place][channel][filter], with `stride` floats for a place. In w filters lie `apart`,
// channels `step` floats from each other. Backwards, the filters are turned by half a turn.
template <bool backwards>
INLINE void Filters(const float *w, int64_t filters, int64_t channels, int64_t apart, int64_t step, int64_t stride, float *u) {
  for (int64_t c = 0; c < channels; ++c) {
    Half g[9] = {}, turned[kRows];
    for (int f = 0; f < kRows; ++f) {
      const float *filter = w + std::min<int64_t>(f, filters - 1) * apart + c * step;
      turned[f] = Load<Half>(filter);
      g[8][f] = filter[8];
    }
    Riffle(turned, g);
    Riffle(g, turned);
    Riffle(turned, g);
    Half rows[4][3];
    for (int j = 0; j < 3; ++j) {
      Half first = g[backwards ? 8 - j : j], second = g[backwards ? 5 - j : 3 + j], third = g[backwards ? 2 - j : 6 + j];
      rows[0][j] = first;
      rows[1][j] = (first + third + second) * 0.5f;
      rows[2][j] = (first + third - second) * 0.5f;
      rows[3][j] = third;
    }
    for (int i = 0; i < 4; ++i) {
      float *to = u + 4 * i * stride + c * kRows;
      Store(to, rows[i][0]);
      Store(to + stride, (rows[i][0] + rows[i][2] + rows[i][1]) * 0.5f);
      Store(to + 2 * stride, (rows[i][0] + rows[i][2] - rows[i][1]) * 0.5f);
      Store(to + 3 * stride, rows[i][2]);
    }
  }
}

WIDE void FiltersForward(const float *w, int64_t filters, int64_t in, int64_t stride, float *u) {
  Filters<false>(w, filters, in, in * 9, 9, stride, u);
}
WIDE void FiltersBackward(const float *w, int64_t filters, int64_t in, int64_t out, int64_t stride, float *u) {
  Filters<true>(w, filters, out, 9, in * 9, stride, u);
}

// Rows of `length` floats become columns.
WIDE void Transpose(const float *from, int64_t rows, int64_t length, float *to, int64_t stride) {
  for (int64_t r = 0; r < rows; r += kLanes)
    for (int64_t k = 0; k < length; k += kLanes) {
      Vector a[kLanes], b[kLanes];
      for (int i = 0; i < kLanes; ++i) a[i] = r + i < rows ? Load(from + (r + i) * length + k) : Vector{};
      for (int turn = 0; turn < 2; ++turn) {
        Riffle(a, b);
        Riffle(b, a);
      }
      for (int i = 0; i < kLanes; ++i) Store(to + (k + i) * stride + r, a[i]);
    }
}

// G^T u G of one filter, where u is the sum of as many arrays as there are `parts`, each `part` floats from the one before.
WIDE void FilterGradient(const float *u, int64_t channels, int64_t stride, int64_t parts, int64_t part, float *dw) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    Vector d[4][4], rows[3][4];
    for (int p = 0; p < kPlaces; ++p) {
      Vector sum = Load(u + p * stride + c);
      for (int64_t k = 1; k < parts; ++k) sum += Load(u + k * part + p * stride + c);
      d[p / 4][p % 4] = sum;
    }
    for (int j = 0; j < 4; ++j) {
      Vector sum = (d[1][j] + d[2][j]) * 0.5f;
      rows[0][j] = d[0][j] + sum;
      rows[1][j] = (d[1][j] - d[2][j]) * 0.5f;
      rows[2][j] = sum + d[3][j];
    }
    alignas(64) float g[9][kLanes];
    for (int i = 0; i < 3; ++i) {
      Vector sum = (rows[i][1] + rows[i][2]) * 0.5f;
      Store(g[3 * i], rows[i][0] + sum);
      Store(g[3 * i + 1], (rows[i][1] - rows[i][2]) * 0.5f);
      Store(g[3 * i + 2], sum + rows[i][3]);
    }
    for (int64_t k = 0; k < std::min<int64_t>(kLanes, channels - c); ++k)
      for (int e = 0; e < 9; ++e) dw[(c + k) * 9 + e] = g[e][k];
  }
}

// All tiles in blocks, and which thread has which.
struct Division {
  explicit Division(int64_t tiles)
      : tiles(tiles), vectors((tiles + kLanes - 1) / kLanes),
        threads(static_cast<int>(std::min<int64_t>(Threads().get_num_threads(), vectors))) {}

  // Whether there are too few to give every thread a block that is worth its filters.
  bool Few() const { return vectors < 2 * Threads().get_num_threads(); }

  // `body(block)` for the part of one of `parts`.
  template <typename Body>
  void Blocks(int64_t part, int64_t parts, Body body) const {
    int64_t begin = vectors * part / parts, end = vectors * (part + 1) / parts, most = kBlock / kLanes;
    int64_t blocks = (end - begin + most - 1) / most;
    for (int64_t k = 0; k < blocks; ++k) {
      int64_t first = begin + (end - begin) * k / blocks, last = begin + (end - begin) * (k + 1) / blocks;
      body(Block{first * kLanes, std::min(last * kLanes, tiles) - first * kLanes, (last - first) * kLanes});
    }
  }

  // All in the blocks of one part.
  std::vector<Block> Blocks() const {
    std::vector<Block> blocks;
    Blocks(0, 1, [&](const Block &block) { blocks.push_back(block); });
    return blocks;
  }

  int64_t tiles, vectors;
  int threads;
};

// Each thread takes some channels of every block.
void ExpandTogether(const Images &in, const float *x, const std::vector<Block> &blocks, int64_t stride, float *v) {
  int64_t threads = Threads().get_num_threads();
  Share(threads, [&](int64_t thread) {
    int64_t begin = in.channels * thread / threads, end = in.channels * (thread + 1) / threads;
    float *to = v;
    for (const Block &block : blocks) {
      ExpandInput(in, x, block, begin, end, stride, to + begin * block.length);
      to += kPlaces * stride;
    }
  });
}

int64_t Panels(int64_t channels) { return (channels + kRows - 1) / kRows; }
int64_t Whole(int64_t channels) { return (channels + kLanes - 1) / kLanes * kLanes; }

// Floats for a place of so many numbers: some more, or all places would fall into the same set of a cache.
int64_t Stride(int64_t numbers) { return numbers + kLanes; }

// With few tiles the filters are most of what is read. The threads then divide the output channels, in groups of panels, and a
// group's transformed filters never leave the caches.
struct Groups {
  explicit Groups(int64_t channels) : panels(Panels(channels)) {
    size = std::min<int64_t>(4, std::max<int64_t>(1, panels / Threads().get_num_threads()));
    count = (panels + size - 1) / size;
    threads = static_cast<int>(std::min<int64_t>(Threads().get_num_threads(), count));
  }
  // `body(thread, first panel, panel after the last)` for each group.
  template <typename Body>
  void Run(Body body) const {
    Threads().parallel_for(threads, [&](int thread, int) {
      for (int64_t g = count * thread / threads; g < count * (thread + 1) / threads; ++g)
        body(thread, g * size, std::min((g + 1) * size, panels));
    });
  }
  int64_t panels, size, count;
  int threads;
};

// x * w, or with `backwards` what comes back through the filters.
class Convolution {
 public:
  Convolution(const Images &from, const Images &to, bool backwards, const float *x, const float *w, const Addend &addend,
              float *y)
      : from_(from), to_(to), backwards_(backwards), x_(x), w_(w), addend_(addend), y_(y), division_(from.tiles()),
        panel_(from.channels * kRows), v_stride_(Stride(from.channels * kBlock)) {}

  void Run() {
    if (division_.Few()) {
      ByChannels();
    } else {
      ByTiles();
    }
  }

 private:
  void ByChannels() {
    const std::vector<Block> blocks = division_.Blocks();
    const Groups groups(to_.channels);
    int64_t u_stride = Stride(groups.size * panel_), m_stride = Stride(groups.size * kRows * kBlock);
    float *v = Floats(Scratch(0, blocks.size() * kPlaces * v_stride_ * sizeof(float)));
    float *work = Floats(Scratch(1, groups.threads * kPlaces * (u_stride + m_stride) * sizeof(float)));
    ExpandTogether(from_, x_, blocks, v_stride_, v);
    groups.Run([&](int thread, int64_t begin, int64_t end) {
      float *u = work + thread * kPlaces * (u_stride + m_stride), *m = u + kPlaces * u_stride;
      for (int64_t k = begin; k < end; ++k) Filters(k, u_stride, u + (k - begin) * panel_);
      for (size_t b = 0; b < blocks.size(); ++b)
        Multiply(blocks[b], begin, end, u, u_stride, v + b * kPlaces * v_stride_, m, m_stride);
    });
  }

  void ByTiles() {
    int64_t panels = Panels(to_.channels), u_stride = Stride(panels * panel_), m_stride = Stride(panels * kRows * kBlock);
    int64_t each = kPlaces * (v_stride_ + m_stride);
    float *u = Floats(Scratch(0, kPlaces * u_stride * sizeof(float)));
    float *work = Floats(Scratch(1, division_.threads * each * sizeof(float)));
    Share(panels, [&](int64_t k) { Filters(k, u_stride, u + k * panel_); });
    Threads().parallel_for(division_.threads, [&](int thread, int) {
      float *v = work + thread * each, *m = v + kPlaces * v_stride_;
      division_.Blocks(thread, division_.threads, [&](const Block &block) {
        ExpandInput(from_, x_, block, 0, from_.channels, v_stride_, v);
        Multiply(block, 0, panels, u, u_stride, v, m, m_stride);
      });
    });
  }

  // The filters of a panel.
  void Filters(int64_t panel, int64_t stride, float *u) const {
    int64_t first = panel * kRows, filters = std::min<int64_t>(kRows, to_.channels - first);
    if (backwards_) {
      FiltersBackward(w_ + first * 9, filters, to_.channels, from_.channels, stride, u);
    } else {
      FiltersForward(w_ + first * from_.channels * 9, filters, from_.channels, stride, u);
    }
  }

  // A block's result for some panels, whose filters begin at u.
  void Multiply(const Block &block, int64_t begin, int64_t end, const float *u, int64_t u_stride, const float *v, float *m,
                int64_t m_stride) const {
    for (int p = 0; p < kPlaces; ++p)
      for (int64_t k = 0; k < end - begin; ++k)
        Products(u + p * u_stride + k * panel_, kRows, 1, v + p * v_stride_, block.length, block.length, from_.channels, false,
                 m + p * m_stride + k * kRows * block.length, block.length);
    Contract(to_, m, block, begin * kRows, std::min(end * kRows, to_.channels), m_stride, addend_, y_);
  }

  const Images from_, to_;
  const bool backwards_;
  const float *x_, *w_;
  const Addend addend_;
  float *y_;
  const Division division_;
  const int64_t panel_, v_stride_;  // floats: of a panel's filters at one place, of a block at one place
};

// The gradient of the filters.
class Gradient {
 public:
  Gradient(const Images &from, const Images &to, const float *x, const float *dy, float *dw)
      : from_(from), to_(to), x_(x), dy_(dy), dw_(dw), division_(from.tiles()), columns_(Whole(from.channels)),
        v_stride_(Stride(from.channels * kBlock)) {}

  void Run() {
    if (division_.Few()) {
      ByChannels();
    } else {
      ByTiles();
    }
  }

 private:
  void ByChannels() {
    const std::vector<Block> blocks = division_.Blocks();
    const Groups groups(to_.channels);
    int64_t u_stride = Stride(groups.size * kRows * columns_), d_stride = Stride(groups.size * kRows * kBlock);
    int64_t turned_stride = Stride(kBlock * columns_);
    float *v = Floats(Scratch(0, blocks.size() * kPlaces * (v_stride_ + turned_stride) * sizeof(float)));
    float *turned = v + blocks.size() * kPlaces * v_stride_;
    float *work = Floats(Scratch(1, groups.threads * kPlaces * (u_stride + d_stride) * sizeof(float)));
    ExpandTogether(from_, x_, blocks, v_stride_, v);
    Share(blocks.size() * kPlaces, [&](int64_t i) {
      Transpose(v + i * v_stride_, from_.channels, blocks[i / kPlaces].length, turned + i * turned_stride, columns_);
    });
    groups.Run([&](int thread, int64_t begin, int64_t end) {
      float *u = work + thread * kPlaces * (u_stride + d_stride), *d = u + kPlaces * u_stride;
      int64_t first = begin * kRows, last = std::min(end * kRows, to_.channels);
      for (size_t b = 0; b < blocks.size(); ++b) {
        ExpandGradient(to_, dy_, blocks[b], first, last, d_stride, d);
        for (int p = 0; p < kPlaces; ++p)
          Multiply(blocks[b], end - begin, d + p * d_stride, turned + (b * kPlaces + p) * turned_stride, b > 0, u + p * u_stride);
      }
      for (int64_t o = first; o < last; ++o) Finish(o, u + (o - first) * columns_, u_stride, 1, 0);
    });
  }

  // Each thread adds up its tiles, and the sums are added in the order of the threads.
  void ByTiles() {
    int64_t panels = Panels(to_.channels);
    int64_t u_stride = Stride(panels * kRows * columns_), d_stride = Stride(panels * kRows * kBlock);
    int64_t each = kPlaces * (u_stride + v_stride_ + d_stride) + kBlock * columns_;
    float *work = Floats(Scratch(1, division_.threads * each * sizeof(float)));
    Threads().parallel_for(division_.threads, [&](int thread, int) {
      float *u = work + thread * each, *v = u + kPlaces * u_stride;
      float *d = v + kPlaces * v_stride_, *turned = d + kPlaces * d_stride;
      bool add = false;
      division_.Blocks(thread, division_.threads, [&](const Block &block) {
        ExpandInput(from_, x_, block, 0, from_.channels, v_stride_, v);
        ExpandGradient(to_, dy_, block, 0, to_.channels, d_stride, d);
        for (int p = 0; p < kPlaces; ++p) {
          Transpose(v + p * v_stride_, from_.channels, block.length, turned, columns_);
          Multiply(block, panels, d + p * d_stride, turned, add, u + p * u_stride);
        }
        add = true;
      });
    });
    Share(to_.channels, [&](int64_t o) { Finish(o, work + o * columns_, u_stride, division_.threads, each); });
  }

  // What a block adds at one place.
  void Multiply(const Block &block, int64_t panels, const float *d, const float *turned, bool add, float *u) const {
    constexpr int64_t some = kColumns * kLanes;
    for (int64_t c = 0; c < columns_; c += some)
      for (int64_t k = 0; k < panels; ++k)
        Products(d + k * kRows * block.length, 1, block.length, turned + c, columns_, std::min(some, columns_ - c), block.length,
                 add, u + k * kRows * columns_ + c, columns_);
  }

  void Finish(int64_t filter, const float *u, int64_t stride, int64_t parts, int64_t part) const {
    FilterGradient(u, from_.channels, stride, parts, part, dw_ + filter * from_.channels * 9);
  }

  const Images from_, to_;
  const float *x_, *dy_;
  float *dw_;
  const Division division_;
  const int64_t columns_, v_stride_;  // input channels in whole vectors; floats of a block at one place
};

}  // namespace

bool Winograd::Wins() const {
#if defined(__x86_64__)
  static const bool wide = __builtin_cpu_supports("avx512f");
  return wide && std::min(in, out) >= 16 && height * width >= 16;
#else
  return false;
#endif
}

void Winograd::Forward(const float *x, const float *w, const Addend &addend, float *y) const {
  Convolution({images, in, height, width}, {images, out, height, width}, false, x, w, addend, y).Run();
}

void Winograd::BackwardData(const float *w, const float *dy, float *dx) const {
  Convolution({images, out, height, width}, {images, in, height, width}, true, dy, w, {}, dx).Run();
}

void Winograd::BackwardWeights(const float *x, const float *dy, float *dw) const {
  Gradient({images, in, height, width}, {images, out, height, width}, x, dy, dw).Run();
}

}  // namespace ddpm_ms
