// What a block does beside its matrix products, for one core of a CPU: norms, rotary positions, the MLP's gate, each in
// one pass over memory, and attention of conversations that lie end to end behind a beginning that all of them share.
//
// In attention, the keys of a row lie in panels, so that a tile of scores is a sum of products in registers; the scores
// of a few queries stay in the cache until their softmax has weighed the values. Keys that a query cannot see are never
// touched.
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
constexpr int LANES = 16, ACROSS = 4;  // 24 of 32 registers hold sums
#elif defined(__AVX__)
constexpr int LANES = 8, ACROSS = 2;  // 12 of 16
#else
constexpr int LANES = 4, ACROSS = 4;
#endif
constexpr int DOWN = 6, PANEL = LANES * ACROSS;
constexpr int64_t QUERIES = 48;  // at once, heads that share keys together: their scores stay in the second-level cache

using count = int64_t;
typedef float lanes __attribute__((vector_size(LANES * 4)));
typedef int32_t whole __attribute__((vector_size(LANES * 4)));

inline lanes load(const float *at) {
    lanes x;
    std::memcpy(&x, at, sizeof x);
    return x;
}
inline void store(float *at, lanes x) { std::memcpy(at, &x, sizeof x); }
inline lanes all(float x) { return x - lanes{}; }

// e^x to float error, for x of -87 to 88 and the nearest of these beyond: x = n ln 2 + r, Taylor's series of e^r with
// |r| <= ln 2 / 2 (the rest is below 6e-9), and n added to the exponent. NaN stays NaN.
inline lanes exponential(lanes x) {
    x = x < -87.0f ? all(-87.0f) : x;
    x = x > 88.0f ? all(88.0f) : x;
    lanes shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the last bits of the sum are n
    lanes power = shifted - 12582912.0f;
    lanes rest = (x - power * 0.693145752f) - power * 1.42860677e-6f;  // ln 2 in two parts
    lanes sum = all(1.0f / 5040);
    for (float next : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) sum = sum * rest + next;
    return sum * (lanes)(((whole)shifted << 23) + (127 << 23));
}

template <int WIDTH, class Fold> inline float folded(const float *x, Fold fold) {
    if constexpr (WIDTH == 1) {
        return x[0];
    } else {
        float half[WIDTH / 2];
        for (int l = 0; l < WIDTH / 2; l++) half[l] = fold(x[l], x[l + WIDTH / 2]);
        return folded<WIDTH / 2>(half, fold);
    }
}
template <class Fold> inline float across(lanes x, Fold fold) {
    float parts[LANES];
    store(parts, x);
    return folded<LANES>(parts, fold);
}

// Keys from `first` to `end` into panels [panel][size][PANEL].
void pack(const float *keys, count step, count size, count first, count end, float *panels) {
    for (count j = first; j < end; j++) {
        float *column = panels + j / PANEL * PANEL * size + j % PANEL;
        for (count d = 0; d < size; d++) column[d * PANEL] = keys[(j - first) * step + d];
    }
}

// Scores of N queries with the keys of a panel, A vectors of them.
struct Score {
    const float *const *asked;
    const float *panel;
    count size;
    float *scores;
    count width;

    template <int N, int A> void tile() const {
        lanes sum[N][A] = {};
        for (count d = 0; d < size; d++)
            for (int i = 0; i < N; i++)
                for (int a = 0; a < A; a++) sum[i][a] += asked[i][d] * load(panel + d * PANEL + a * LANES);
        for (int i = 0; i < N; i++)
            for (int a = 0; a < A; a++) store(scores + i * width + a * LANES, sum[i][a]);
    }
};

// Adds values, weighed by the shares of N queries, to what these have found: A vectors of a head, from dimension d.
struct Mix {
    const float *shares;
    count width;
    const float *values;
    count step, seen;
    float *const *found;
    count d;

    template <int N, int A> void tile() const {
        lanes sum[N][A];
        for (int i = 0; i < N; i++)
            for (int a = 0; a < A; a++) sum[i][a] = load(found[i] + d + a * LANES);
        for (count j = 0; j < seen; j++)
            for (int i = 0; i < N; i++)
                for (int a = 0; a < A; a++)
                    sum[i][a] += shares[i * width + j] * load(values + j * step + d + a * LANES);
        for (int i = 0; i < N; i++)
            for (int a = 0; a < A; a++) store(found[i] + d + a * LANES, sum[i][a]);
    }
};

// The tile of at most N queries and A vectors.
template <int N, int A, class Tile> void run(const Tile &tile, count n, count a) {
    if constexpr (N > 1)
        if (n < N) return run<N - 1, A>(tile, n, a);
    if constexpr (A > 1)
        if (a < A) return run<N, A - 1>(tile, n, a);
    tile.template tile<N, A>();
}

// Softmax of the first `seen` scores in place; zeros behind them up to `end`, or the vector in which it lies.
void softmax(float *scores, count seen, count end, float scale) {
    count last = (seen - 1) / LANES * LANES;
    whole place = {};
    for (int l = 0; l < LANES; l++) place[l] = l;
    whole real = place < (int32_t)(seen - last);
    store(scores + last, real ? load(scores + last) : all(-INFINITY));
    lanes tops = all(-INFINITY), sums = {};
    for (count j = 0; j <= last; j += LANES) {
        lanes x = load(scores + j);
        tops = x > tops ? x : tops;
    }
    float top = across(tops, [](float x, float y) { return x > y ? x : y; });
    for (count j = 0; j <= last; j += LANES) {
        lanes x = exponential((load(scores + j) - top) * scale);
        if (j == last) x = real ? x : lanes{};
        store(scores + j, x);
        sums += x;
    }
    float part = 1 / across(sums, [](float x, float y) { return x + y; });
    for (count j = 0; j <= last; j += LANES) store(scores + j, load(scores + j) * part);
    for (count j = last + LANES; j < end; j += LANES) store(scores + j, lanes{});
}

}  // namespace

extern "C" int larf_lanes() { return LANES; }

// Root mean square normalisation of the rows from `row` to `stop` of states [rows][size].
extern "C" void larf_norm(const float *states, const float *weight, float *out, count size, float epsilon, count row,
                          count stop) {
    for (; row < stop; row++) {
        const float *from = states + row * size;
        lanes squares = {};
        for (count d = 0; d < size; d += LANES) squares += load(from + d) * load(from + d);
        float sum = across(squares, [](float x, float y) { return x + y; });
        float scale = 1 / std::sqrt(sum / size + epsilon);
        for (count d = 0; d < size; d += LANES) store(out + row * size + d, load(from + d) * scale * load(weight + d));
    }
}

// Rotary positions, in place: states [tokens][heads][size], the halves of a head being the two coordinates; cosines and
// sines [tokens][size].
extern "C" void larf_rotate(float *states, const float *cosines, const float *sines, count heads, count size,
                            count token, count stop) {
    count half = size / 2;
    for (; token < stop; token++)
        for (count h = 0; h < heads; h++) {
            float *first = states + (token * heads + h) * size, *second = first + half;
            const float *cosine = cosines + token * size, *sine = sines + token * size;
            for (count d = 0; d < half; d += LANES) {
                lanes x = load(first + d), y = load(second + d);
                store(first + d, x * load(cosine + d) - y * load(sine + d));
                store(second + d, y * load(cosine + half + d) + x * load(sine + half + d));
            }
        }
}

// SiLU of the gate times `up`, in place, for the rows from `row` to `stop` of [rows][size].
extern "C" void larf_gate(float *gate, const float *up, count size, count row, count stop) {
    for (count i = row * size; i < stop * size; i += LANES) {
        lanes x = load(gate + i);
        store(gate + i, x / (1.0f + exponential(-x)) * load(up + i));
    }
}

// Causal attention of `rows` conversations whose tokens lie end to end, each up to its entry in `ends`, behind `before`
// tokens that all of them see. query, out [tokens][heads][size]; key, value [before + tokens][kept][size]; `size` is a
// multiple of LANES. The work is `kept` times `rows` units, of which those from `unit` to `stop` are done; what a unit
// makes does not depend on the others. Returns 1 where memory is short.
extern "C" int larf_attend(const float *query, const float *key, const float *value, float *out, const count *ends,
                           count rows, count before, count heads, count kept, count size, float scale, count unit,
                           count stop) try {
    count longest = 0, groups = heads / kept, step = kept * size;
    for (count r = 0, at = 0; r < rows; at = ends[r++]) longest = ends[r] - at > longest ? ends[r] - at : longest;
    count width = (before + longest + PANEL - 1) / PANEL * PANEL;
    count tokens = QUERIES / groups > 0 ? QUERIES / groups : 1;
    std::vector<float> panels(width * size), scores(width * tokens * groups);
    std::vector<const float *> from(tokens * groups);
    std::vector<float *> to(tokens * groups);
    count packed = -1;  // the head whose beginning lies in the panels
    for (; unit < stop; unit++) {
        count h = unit / rows, r = unit % rows, start = r ? ends[r - 1] : 0, own = ends[r] - start;
        const float *values = value + h * size, *own_values = values + (before + start) * step;
        if (packed != h) pack(key + h * size, step, size, 0, before, panels.data());
        packed = h;
        pack(key + (before + start) * step + h * size, step, size, before, before + own, panels.data());
        for (count first = 0; first < own; first += tokens) {
            count asked = own - first < tokens ? own - first : tokens, many = asked * groups;
            count keys = before + first + asked;
            for (count i = 0; i < many; i++) {
                count place = ((start + first + i / groups) * heads + h * groups + i % groups) * size;
                from[i] = query + place;
                to[i] = out + place;
                std::memset(to[i], 0, size * sizeof(float));
            }
            for (count j = 0; j < keys; j += PANEL)
                for (count i = 0; i < many; i += DOWN) {
                    Score tile{&from[i], &panels[j * size], size, &scores[i * width + j], width};
                    run<DOWN, ACROSS>(tile, many - i, (keys - j + LANES - 1) / LANES);
                }
            for (count i = 0; i < many; i++)
                softmax(&scores[i * width], before + first + i / groups + 1, keys, scale);
            for (count i = 0; i < many; i += DOWN) {
                count n = many - i < DOWN ? many - i : DOWN;
                count seen = first + (i + n - 1) / groups + 1;  // by the last of them; the others have zeros there
                const float *shares = &scores[i * width];
                for (count d = 0; d < size; d += PANEL) {
                    count vectors = (size - d) / LANES;
                    run<DOWN, ACROSS>(Mix{shares, width, values, step, before, &to[i], d}, n, vectors);
                    run<DOWN, ACROSS>(Mix{shares + before, width, own_values, step, seen, &to[i], d}, n, vectors);
                }
            }
        }
    }
    return 0;
} catch (const std::bad_alloc &) {
    return 1;
}
