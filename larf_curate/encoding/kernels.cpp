// What a block computes beside its matrix products, for one core of a CPU: norms, rotary positions and the MLP's gate,
// each in one pass over memory, and attention of packed rows: they lie end to end, behind a prefix that all of them see.
//
// In attention, the keys of a row are copied into panels of PANEL keys, so that a tile of scores (a few queries by a
// panel) is a sum of products in registers. The scores of CHUNK queries stay in the core's cache until their softmax has
// weighed the values. Keys that a query cannot see are never read.
//
// Compile with -O3: without it the tiles are not unrolled and run at a third of the speed. Not with -ffast-math: states
// that are not finite have to come out as such.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <new>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int SIMD_WIDTH = 16, TILE_VECTORS = 4;  // 24 of 32 registers hold sums
#elif defined(__AVX__)
constexpr int SIMD_WIDTH = 8, TILE_VECTORS = 2;  // 12 of 16
#else
constexpr int SIMD_WIDTH = 4, TILE_VECTORS = 4;
#endif
constexpr int TILE_QUERIES = 6, PANEL = SIMD_WIDTH * TILE_VECTORS;
constexpr int64_t CHUNK = 48;  // queries at once, of all heads that share keys: their scores fit the level-2 cache

using i64 = int64_t;
typedef float vec __attribute__((vector_size(SIMD_WIDTH * 4)));
typedef int32_t ivec __attribute__((vector_size(SIMD_WIDTH * 4)));

inline vec load(const float *from) {
    vec x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
inline void store(float *to, vec x) { std::memcpy(to, &x, sizeof x); }
inline vec broadcast(float x) { return x - vec{}; }

// e^x to float precision; x is clipped to [-87, 88]. With x = n ln 2 + r and |r| <= ln 2 / 2: the Taylor series of e^r
// (its remainder is below 6e-9), and n added to the exponent. NaN stays NaN.
inline vec exponential(vec x) {
    x = x < -87.0f ? broadcast(-87.0f) : x;
    x = x > 88.0f ? broadcast(88.0f) : x;
    vec shifted = x * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 leaves n in the last bits of the sum
    vec power = shifted - 12582912.0f;
    vec rest = (x - power * 0.693145752f) - power * 1.42860677e-6f;  // ln 2 in two parts
    vec sum = broadcast(1.0f / 5040);
    for (float next : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) sum = sum * rest + next;
    return sum * (vec)(((ivec)shifted << 23) + (127 << 23));
}

template <int WIDTH, class Combine> inline float reduce_tree(const float *x, Combine combine) {
    if constexpr (WIDTH == 1) {
        return x[0];
    } else {
        float half[WIDTH / 2];
        for (int l = 0; l < WIDTH / 2; l++) half[l] = combine(x[l], x[l + WIDTH / 2]);
        return reduce_tree<WIDTH / 2>(half, combine);
    }
}
template <class Combine> inline float reduce(vec x, Combine combine) {
    float parts[SIMD_WIDTH];
    store(parts, x);
    return reduce_tree<SIMD_WIDTH>(parts, combine);
}

// Copies keys `first` to `end`, which lie `step` floats apart, into panels [panel][size][PANEL].
void pack(const float *keys, i64 step, i64 size, i64 first, i64 end, float *panels) {
    for (i64 j = first; j < end; j++) {
        float *column = panels + j / PANEL * PANEL * size + j % PANEL;
        for (i64 d = 0; d < size; d++) column[d * PANEL] = keys[(j - first) * step + d];
    }
}

// Scores of N queries with A * SIMD_WIDTH keys of a panel.
struct ScoreTile {
    const float *const *queries;
    const float *panel;
    i64 size;
    float *scores;
    i64 width;

    template <int N, int A> void tile() const {
        vec sum[N][A] = {};
        for (i64 d = 0; d < size; d++)
            for (int i = 0; i < N; i++)
                for (int a = 0; a < A; a++) sum[i][a] += queries[i][d] * load(panel + d * PANEL + a * SIMD_WIDTH);
        for (int i = 0; i < N; i++)
            for (int a = 0; a < A; a++) store(scores + i * width + a * SIMD_WIDTH, sum[i][a]);
    }
};

// Adds values times their softmax weights to the outputs of N queries: A * SIMD_WIDTH dimensions of a head, from d on.
struct ValueTile {
    const float *weights;
    i64 width;
    const float *values;
    i64 step, seen;
    float *const *out;
    i64 d;

    template <int N, int A> void tile() const {
        vec sum[N][A];
        for (int i = 0; i < N; i++)
            for (int a = 0; a < A; a++) sum[i][a] = load(out[i] + d + a * SIMD_WIDTH);
        for (i64 j = 0; j < seen; j++)
            for (int i = 0; i < N; i++)
                for (int a = 0; a < A; a++)
                    sum[i][a] += weights[i * width + j] * load(values + j * step + d + a * SIMD_WIDTH);
        for (int i = 0; i < N; i++)
            for (int a = 0; a < A; a++) store(out[i] + d + a * SIMD_WIDTH, sum[i][a]);
    }
};

// Runs the tile of n <= N queries and a <= A vectors; the loops of every such size are unrolled.
template <int N, int A, class Tile> void run(const Tile &tile, i64 n, i64 a) {
    if constexpr (N > 1)
        if (n < N) return run<N - 1, A>(tile, n, a);
    if constexpr (A > 1)
        if (a < A) return run<N, A - 1>(tile, n, a);
    tile.template tile<N, A>();
}

// Softmax of the first `seen` scores, in place. Zeros from there to `end`, and to the end of the last vector.
void softmax(float *scores, i64 seen, i64 end, float scale) {
    i64 last = (seen - 1) / SIMD_WIDTH * SIMD_WIDTH;
    ivec place = {};
    for (int l = 0; l < SIMD_WIDTH; l++) place[l] = l;
    ivec real = place < (int32_t)(seen - last);
    store(scores + last, real ? load(scores + last) : broadcast(-INFINITY));
    vec tops = broadcast(-INFINITY), sums = {};
    for (i64 j = 0; j <= last; j += SIMD_WIDTH) {
        vec x = load(scores + j);
        tops = x > tops ? x : tops;
    }
    float top = reduce(tops, [](float x, float y) { return x > y ? x : y; });
    for (i64 j = 0; j <= last; j += SIMD_WIDTH) {
        vec x = exponential((load(scores + j) - top) * scale);
        if (j == last) x = real ? x : vec{};
        store(scores + j, x);
        sums += x;
    }
    float part = 1 / reduce(sums, [](float x, float y) { return x + y; });
    for (i64 j = 0; j <= last; j += SIMD_WIDTH) store(scores + j, load(scores + j) * part);
    for (i64 j = last + SIMD_WIDTH; j < end; j += SIMD_WIDTH) store(scores + j, vec{});
}

}  // namespace

extern "C" int larf_simd_width() { return SIMD_WIDTH; }

// Root mean square normalisation of rows `row` to `stop` of states [rows][size].
extern "C" void larf_rms_norm(const float *states, const float *weight, float *out, i64 size, float epsilon, i64 row,
                              i64 stop) {
    for (; row < stop; row++) {
        const float *from = states + row * size;
        vec squares = {};
        for (i64 d = 0; d < size; d += SIMD_WIDTH) squares += load(from + d) * load(from + d);
        float sum = reduce(squares, [](float x, float y) { return x + y; });
        float scale = 1 / std::sqrt(sum / size + epsilon);
        for (i64 d = 0; d < size; d += SIMD_WIDTH)
            store(out + row * size + d, load(from + d) * scale * load(weight + d));
    }
}

// Rotary positions of tokens `token` to `stop`, in place: states [tokens][heads][size]; cosines and sines [tokens][size].
// The halves of a head are the two coordinates.
extern "C" void larf_rotate(float *states, const float *cosines, const float *sines, i64 heads, i64 size, i64 token,
                            i64 stop) {
    i64 half = size / 2;
    for (; token < stop; token++)
        for (i64 h = 0; h < heads; h++) {
            float *first = states + (token * heads + h) * size, *second = first + half;
            const float *cosine = cosines + token * size, *sine = sines + token * size;
            for (i64 d = 0; d < half; d += SIMD_WIDTH) {
                vec x = load(first + d), y = load(second + d);
                store(first + d, x * load(cosine + d) - y * load(sine + d));
                store(second + d, y * load(cosine + half + d) + x * load(sine + half + d));
            }
        }
}

// silu(gate) * up, written to the gate, for rows `row` to `stop` of [rows][size].
extern "C" void larf_silu_mul(float *gate, const float *up, i64 size, i64 row, i64 stop) {
    for (i64 i = row * size; i < stop * size; i += SIMD_WIDTH) {
        vec x = load(gate + i);
        store(gate + i, x / (1.0f + exponential(-x)) * load(up + i));
    }
}

// Causal attention of packed rows: the tokens of row r end at `ends[r]`, and each row sees a prefix and itself. query and
// out [tokens][heads][size], key and value [prefix + tokens][key_heads][size]; `size` is a multiple of SIMD_WIDTH. The
// work is key_heads * rows units, one for each key head and row; units `unit` to `stop` are done, and none depends on
// another. Returns 1 where memory is short.
extern "C" int larf_attend(const float *query, const float *key, const float *value, float *out, const i64 *ends,
                           i64 rows, i64 prefix, i64 heads, i64 key_heads, i64 size, float scale, i64 unit,
                           i64 stop) try {
    i64 longest = 0, groups = heads / key_heads, step = key_heads * size;
    for (i64 r = 0, at = 0; r < rows; at = ends[r++]) longest = ends[r] - at > longest ? ends[r] - at : longest;
    i64 width = (prefix + longest + PANEL - 1) / PANEL * PANEL;
    i64 tokens = CHUNK / groups > 0 ? CHUNK / groups : 1;
    std::vector<float> panels(width * size), scores(width * tokens * groups);
    std::vector<const float *> from(tokens * groups);
    std::vector<float *> to(tokens * groups);
    i64 packed = -1;  // the key head whose prefix lies in the panels
    for (; unit < stop; unit++) {
        i64 h = unit / rows, r = unit % rows, start = r ? ends[r - 1] : 0, own = ends[r] - start;
        const float *values = value + h * size, *own_values = values + (prefix + start) * step;
        if (packed != h) pack(key + h * size, step, size, 0, prefix, panels.data());
        packed = h;
        pack(key + (prefix + start) * step + h * size, step, size, prefix, prefix + own, panels.data());
        for (i64 first = 0; first < own; first += tokens) {
            i64 queries = own - first < tokens ? own - first : tokens, many = queries * groups;
            i64 keys = prefix + first + queries;
            for (i64 i = 0; i < many; i++) {
                i64 place = ((start + first + i / groups) * heads + h * groups + i % groups) * size;
                from[i] = query + place;
                to[i] = out + place;
                std::memset(to[i], 0, size * sizeof(float));
            }
            for (i64 j = 0; j < keys; j += PANEL)
                for (i64 i = 0; i < many; i += TILE_QUERIES) {
                    ScoreTile tile{&from[i], &panels[j * size], size, &scores[i * width + j], width};
                    run<TILE_QUERIES, TILE_VECTORS>(tile, many - i, (keys - j + SIMD_WIDTH - 1) / SIMD_WIDTH);
                }
            for (i64 i = 0; i < many; i++)
                softmax(&scores[i * width], prefix + first + i / groups + 1, keys, scale);
            for (i64 i = 0; i < many; i += TILE_QUERIES) {
                i64 n = many - i < TILE_QUERIES ? many - i : TILE_QUERIES;
                // What the last of these queries sees; the others have zero weights there.
                i64 seen = first + (i + n - 1) / groups + 1;
                const float *weights = &scores[i * width];
                for (i64 d = 0; d < size; d += PANEL) {
                    i64 vectors = (size - d) / SIMD_WIDTH;
                    ValueTile of_prefix{weights, width, values, step, prefix, &to[i], d};
                    ValueTile of_row{weights + prefix, width, own_values, step, seen, &to[i], d};
                    run<TILE_QUERIES, TILE_VECTORS>(of_prefix, n, vectors);
                    run<TILE_QUERIES, TILE_VECTORS>(of_row, n, vectors);
                }
            }
        }
    }
    return 0;
} catch (const std::bad_alloc &) {
    return 1;
}
