// Where the queries are pixels, neighbours sample the same pixels. A block works on one head of a
// square of queries, lists in shared memory what they add to a pixel, sums each list in registers,
// and adds the sum to global memory once.
#pragma once

#include "cuda/dispatch.cuh"
#include "cuda/sampling.cuh"

namespace lite_focus {

constexpr int kTileSide = 8;
constexpr int kTileQueries = kTileSide * kTileSide;
constexpr int kTilePoints = 16;

// Corners of a tile are numbered; number and token share a word.
constexpr int kTileCorners = kTileQueries * kTilePoints * 4;
constexpr int kCornerBits = 12;
constexpr int64_t kMaxTileTokens = (int64_t{1} << (32 - kCornerBits)) - 1;
constexpr unsigned kFree = 0xffffffffu;  // one token more
constexpr int kEnd = -1;
static_assert(kTileCorners == 1 << kCornerBits);

LITE_FOCUS_INLINE int tile_columns(const Level& level) {
  return (level.width + kTileSide - 1) / kTileSide;
}
LITE_FOCUS_INLINE int tile_count(const Level& level) {
  return (level.height + kTileSide - 1) / kTileSide * tile_columns(level);
}

// The queries are the pixels of the levels from `first_level` on.
struct QueryGrid {
  int32_t first_level;
  int32_t tiles;  // of an image; 0: the queries are something else
};

// Compares numbers only: queries that are no pixels after all share less, the sums stay right.
inline QueryGrid find_grid(const Problem& problem) {
  for (int first = 0; first < problem.levels && problem.tokens <= kMaxTileTokens; ++first) {
    int64_t queries = 0;
    int32_t tiles = 0;
    for (int l = first; l < problem.levels && queries < problem.queries; ++l) {
      queries += int64_t{problem.level[l].height} * problem.level[l].width;
      tiles += tile_count(problem.level[l]);
    }
    if (queries == problem.queries) {
      return {first, tiles};
    }
  }
  return {0, 0};
}

// The queries of a block: their places are numbered row by row.
struct Tile {
  const Problem& problem;
  int64_t image;
  int head;
  int level_start;    // the first query of the level
  int width, height;  // of the level
  int left, top;      // of the tile

  __device__ __forceinline__ Tile(const Problem& given, const QueryGrid& grid) : problem(given) {
    const unsigned block = blockIdx.x / problem.heads;
    head = static_cast<int>(blockIdx.x - block * problem.heads);
    image = block / grid.tiles;
    int tile = static_cast<int>(block % grid.tiles);
    const Level* level = problem.level + grid.first_level;
    for (; tile >= tile_count(*level); ++level) {
      tile -= tile_count(*level);
    }
    level_start = level->start - problem.level[grid.first_level].start;
    width = level->width;
    height = level->height;
    left = tile % tile_columns(*level) * kTileSide;
    top = tile / tile_columns(*level) * kTileSide;
  }

  // A tile at the border of its level has places without a query.
  __device__ __forceinline__ bool has_query(int place) const {
    return left + place % kTileSide < width && top + place / kTileSide < height;
  }

  __device__ __forceinline__ int query_at(int place) const {
    return level_start + min(top + place / kTileSide, height - 1) * width +
           min(left + place % kTileSide, width - 1);
  }

  template <typename Traits>
  __device__ __forceinline__ Item<Traits> item_at(int place) const {
    return Item<Traits>(problem, image, query_at(place), head, has_query(place));
  }

  // Of the query of a corner in a tensor (B, Q, M, D), and of a token in one like value.
  template <typename Traits>
  __device__ __forceinline__ int64_t row_offset(int corner) const {
    const int64_t row = image * problem.queries + query_at(corner / (4 * kTilePoints));
    return (row * problem.heads + head) * Traits::kChannels;
  }
  __device__ __forceinline__ int64_t token_offset(int token) const {
    return image * problem.batch_stride + token * problem.token_stride + head * problem.head_stride;
  }
};

// The corners of a tile by token. A corner links to the next one with the same token; a word holds
// a token and its first corner. The words are an open hash table, and without gaps afterwards.
struct CornerLists {
  unsigned word[kTileCorners];
  int count;

  static __device__ __forceinline__ int token_of(unsigned word) { return word >> kCornerBits; }
  static __device__ __forceinline__ int first_of(unsigned word) { return word % kTileCorners; }

  // Returns the corner that was the first one with this token, or kEnd.
  __device__ __forceinline__ int insert(int token, int corner) {
    const unsigned own = static_cast<unsigned>(token) << kCornerBits | corner;
    for (int slot = token % kTileCorners;; slot = (slot + 1) % kTileCorners) {
      unsigned seen = word[slot];
      while (seen == kFree || token_of(seen) == token) {
        const unsigned before = atomicCAS(&word[slot], seen, own);
        if (before == seen) {
          return seen == kFree ? kEnd : first_of(seen);
        }
        seen = before;
      }
    }
  }

  // By all threads of the block. The tokens of `points` make room for links.
  template <typename Traits>
  __device__ __forceinline__ void build(const Tile& tile, Point<Traits>* points) {
    for (int i = threadIdx.x; i < kTileCorners; i += Traits::kThreads) {
      word[i] = kFree;
    }
    count = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < kTileCorners; i += Traits::kThreads) {
      Point<Traits>& point = points[i / 4];
      // Corners outside of the map have no weight: no traffic for them.
      if (tile.has_query(i / (4 * kTilePoints)) && point.weight[i % 4] != 0) {
        point.corner[i % 4] = insert(point.corner[i % 4], i);
      }
    }
    __syncthreads();
    remove_gaps<Traits::kThreads>();
  }

  // Neighbours stay together: their lists are of similar length, as suits the groups of a warp.
  template <int kThreads>
  __device__ __forceinline__ void remove_gaps() {
    constexpr int kOwn = kTileCorners / kThreads;
    unsigned own[kOwn];
    int used = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      own[i] = word[threadIdx.x * kOwn + i];
      used += own[i] != kFree;
    }
    __syncthreads();
    int target = atomicAdd(&count, used);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (own[i] != kFree) {
        word[target++] = own[i];
      }
    }
    __syncthreads();
  }

  // Calls add(sums, corner, weight) for all corners with a token, then store(sums, token), each
  // token in one group.
  template <typename Traits, typename Sums, typename Add, typename Store>
  __device__ __forceinline__ void sum(const Point<Traits>* points, Add add, Store store) const {
    for (int i = threadIdx.x / Traits::kLanes; i < count; i += Traits::kGroups) {
      Sums sums{};
      for (int corner = first_of(word[i]); corner != kEnd;) {
        const Point<Traits>& point = points[corner / 4];
        add(sums, corner, point.weight[corner % 4]);
        corner = point.corner[corner % 4];
      }
      store(sums, token_of(word[i]));
    }
  }
};

// An array with one element per point of a tile.
template <typename Element>
__device__ __forceinline__ Element* tile_array(char*& memory) {
  Element* all = reinterpret_cast<Element*>(memory);
  memory += sizeof(Element) * kTileQueries * kTilePoints;
  return all;
}

// `kernel` keeps `bytes` per point of the tile; the lists take the place of the scratch.
template <typename Traits, typename Scratch, typename Kernel>
cudaError_t launch_tiles(Kernel kernel, size_t bytes, const Problem& problem, const QueryGrid& grid,
                         cudaStream_t stream) {
  const size_t scratch = Scratch::kBytes * kTilePoints * Traits::kGroups;
  const size_t lists = sizeof(CornerLists);
  return launch_kernel(kernel, problem.batch * problem.heads * grid.tiles, Traits::kThreads,
                       bytes * kTileQueries * kTilePoints + (scratch > lists ? scratch : lists),
                       stream, problem, grid);
}

}  // namespace lite_focus
