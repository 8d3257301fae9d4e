// Where the queries are pixels, neighbours sample the same pixels: a block works on one head of a
// tile of queries. A backward kernel lists in shared memory what they add to a pixel, sums each
// list in registers, and adds the sum to global memory once.
#pragma once

#include "cuda/sampling.cuh"

namespace lite_focus {

constexpr int kTileWidth = 8;
constexpr int kTileQueries = 64;
constexpr unsigned kFree = 0xffffffffu;  // one token more than there may be
constexpr unsigned kEnd = 0xffffffffu;

// The queries as the pixels of maps, in tiles of kTileWidth x rows. Queries that are no pixels of
// the problem make one map, which is as wide as a tile; its last row may have places without one.
struct QueryGrid {
  struct Map {
    int32_t height, width;
    int32_t start;  // first query
    uint32_t first_tile;
  };
  Map map[kMaxLevels];
  int32_t maps;
  int32_t rows;
  int32_t queries;
  uint32_t tiles;  // of an image
  bool pixels;

  void add(int height, int width, int64_t start) {
    map[maps++] = {height, width, static_cast<int32_t>(start), tiles};
    tiles += uint32_t((height + rows - 1) / rows) * uint32_t((width + kTileWidth - 1) / kTileWidth);
  }
};

// For at most 2^31 - 64 queries. Compares numbers only: queries that are no pixels after all share
// less, the sums stay right.
inline QueryGrid find_grid(const Problem& problem, int rows) {
  QueryGrid empty{};
  empty.rows = rows;
  empty.queries = static_cast<int32_t>(problem.queries);
  for (int first = 0; first < problem.levels; ++first) {
    QueryGrid grid = empty;
    int64_t queries = 0;
    for (int l = first; l < problem.levels && queries < problem.queries; ++l) {
      const Level& level = problem.level[l];
      grid.add(level.height, level.width, queries);
      queries += int64_t{level.height} * level.width;
    }
    if (queries == problem.queries) {
      grid.pixels = true;
      return grid;
    }
  }
  empty.add(static_cast<int>((problem.queries + kTileWidth - 1) / kTileWidth), kTileWidth, 0);
  return empty;
}

// The queries of a block: their places are numbered row by row.
struct Tile {
  const Problem& problem;
  const QueryGrid& grid;
  int64_t image;
  int head;
  int start, width, height;  // of the map of queries
  int left, top;             // of the tile

  __device__ __forceinline__ Tile(const Problem& given, const QueryGrid& queries)
      : problem(given), grid(queries), image(blockIdx.z), head(blockIdx.y) {
    int own = grid.maps - 1;
    while (blockIdx.x < grid.map[own].first_tile) {
      --own;
    }
    const QueryGrid::Map& map = grid.map[own];
    start = map.start;
    width = map.width;
    height = map.height;
    const unsigned tile = blockIdx.x - map.first_tile;
    const unsigned columns = static_cast<unsigned>(width + kTileWidth - 1) / kTileWidth;
    const unsigned row = tile / columns;
    left = static_cast<int>(tile - row * columns) * kTileWidth;
    top = static_cast<int>(row) * grid.rows;
  }

  // A tile at the border of its map has places without a query.
  __device__ __forceinline__ bool has_query(unsigned place) const {
    const int x = left + static_cast<int>(place % kTileWidth);
    const int y = top + static_cast<int>(place / kTileWidth);
    return x < width && y < height && start + y * width + x < grid.queries;
  }

  __device__ __forceinline__ int query_at(unsigned place) const {
    const int x = min(left + static_cast<int>(place % kTileWidth), width - 1);
    const int y = min(top + static_cast<int>(place / kTileWidth), height - 1);
    return min(start + y * width + x, grid.queries - 1);
  }

  template <typename Traits>
  __device__ __forceinline__ Item<Traits> item_at(unsigned place) const {
    return Item<Traits>(problem, image, query_at(place), head, has_query(place));
  }

  // Of the first query of the tile in a tensor (B, Q, M, D), and of another place from there.
  __device__ __forceinline__ int64_t first_row(int channels) const {
    const int64_t row = image * problem.queries + start + int64_t{top} * width + left;
    return (row * problem.heads + head) * channels;
  }
  __device__ __forceinline__ unsigned row_from_first(unsigned place, unsigned stride) const {
    return (place / kTileWidth * static_cast<unsigned>(width) + place % kTileWidth) * stride;
  }
};

// The corners of a tile by token. A corner links to the next one with the same token; a word holds
// a token and the number of its first corner, of kPoints points of a query at most. The words are
// an open hash table, and without gaps afterwards.
template <int kPoints>
struct CornerLists {
  static constexpr int kCornersOfQuery = kPoints * 4;
  static constexpr int kTileCorners = kTileQueries * kCornersOfQuery;
  static constexpr int kCornerBits = kPoints == 16 ? 12 : 13;
  static constexpr int64_t kMaxTokens = (int64_t{1} << (32 - kCornerBits)) - 1;
  static_assert(kTileCorners == 1 << kCornerBits);

  unsigned* word;  // kTileCorners, in shared memory like the next one
  int* count;      // of words without gaps

  static __device__ __forceinline__ unsigned token_of(unsigned word) { return word >> kCornerBits; }
  static __device__ __forceinline__ unsigned first_of(unsigned word) { return word % kTileCorners; }

  // Tokens that follow each other, as those of a small map do, would fill slots that follow each
  // other, and every search would go through all of them.
  static LITE_FOCUS_INLINE unsigned first_slot(unsigned token) {
    return token * 2654435761u >> (32 - kCornerBits);
  }

  // Returns the corner that was the first one with this token, or kEnd.
  __device__ __forceinline__ unsigned insert(unsigned token, unsigned corner) const {
    const unsigned own = token << kCornerBits | corner;
    for (unsigned slot = first_slot(token);; slot = (slot + 1) % kTileCorners) {
      // Other threads write to it at the same time.
      unsigned seen = *const_cast<volatile unsigned*>(&word[slot]);
      while (seen == kFree || token_of(seen) == token) {
        const unsigned before = atomicCAS(&word[slot], seen, own);
        if (before == seen) {
          return seen == kFree ? kEnd : first_of(seen);
        }
        seen = before;
      }
    }
  }

  // By all kThreads threads of the block. corner_at(i) is the i-th corner, whose token makes room
  // for its link; a query has `corners` of them.
  template <int kThreads, typename CornerAt>
  __device__ __forceinline__ void build(const Tile& tile, unsigned corners,
                                        CornerAt corner_at) const {
    for (unsigned i = threadIdx.x; i < kTileCorners; i += kThreads) {
      word[i] = kFree;
    }
    if (threadIdx.x == 0) {
      *count = 0;
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < kTileCorners; i += kThreads) {
      if (i % kCornersOfQuery >= corners) {
        continue;
      }
      auto& corner = corner_at(i);
      // No traffic where it changes nothing.
      if (tile.has_query(i / kCornersOfQuery) && corner.offset >= 0 && corner.weight != 0) {
        corner.offset = static_cast<int>(insert(corner.offset, i));
      }
    }
    __syncthreads();
    remove_gaps<kThreads>();
  }

  template <int kThreads>
  __device__ __forceinline__ void remove_gaps() const {
    constexpr int kOwn = kTileCorners / kThreads;
    unsigned own[kOwn];
    int used = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      own[i] = word[threadIdx.x + i * kThreads];
      used += own[i] != kFree;
    }
    __syncthreads();
    int target = atomicAdd(count, used);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (own[i] != kFree) {
        word[target++] = own[i];
      }
    }
    __syncthreads();
  }

  // Calls start(), then add(corner), which returns the next corner, for all corners with a token,
  // then store(token), each token in one group.
  template <int kGroups, typename Start, typename Add, typename Store>
  __device__ __forceinline__ void for_lists(unsigned group, Start start, Add add,
                                            Store store) const {
    for (unsigned i = group; i < static_cast<unsigned>(*count); i += kGroups) {
      const unsigned first = word[i];
      start();
      for (unsigned corner = first_of(first); corner != kEnd;) {
        corner = add(corner);
      }
      store(token_of(first));
    }
  }
};

}  // namespace lite_focus
