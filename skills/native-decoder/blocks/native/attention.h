// Attention of one segment and one key head over the paged cache.
//
// Grouped-query: the query heads that share a key head, and the rows of the segment, are taken TILE_ROWS at a time, so that
// every key and value is read once for all of them. Each query's own arithmetic depends on its position alone: scores are
// dot products along the head in order, the softmax runs over its own tokens in chunks of sixteen, values are added in token
// order; tokens that only a later row may see have weight zero, which changes no sum.
#pragma once

#include "model.h"

namespace sartor {

// What one segment of a step looks like to the decoder.
struct Sequence {
    const int32_t* pages;
    int start;      // position of its first row
    int rows;
    int first_row;  // among all rows of the step
};

class Attention {
   public:
    Attention(Weights& weights, Stored* cache, int layer, Private& mine)
        : weights_(weights), cache_(cache), layer_(layer), mine_(mine) {}

    // Normalises and rotates keys, and writes keys and values of all rows of the segment for one key head.
    void write(const Sequence& sequence, int head, const float* qkv) {
        for (int row = 0; row < sequence.rows; ++row) {
            const int position = sequence.start + row;
            const float* from = row_of(qkv, sequence, row) + Q_WIDTH + head * HEAD_DIM;
            float key[HEAD_DIM];
            prepare(from, weights_.k_norm(layer_), position, key);
            const int slot = position % PAGE_TOKENS;
            Stored* keys = page(sequence, position / PAGE_TOKENS, head);
            for (int d = 0; d < HEAD_DIM; ++d)
                keys[(d / PAIR) * PAGE_TOKENS * PAIR + slot * PAIR + d % PAIR] = to_stored(key[d]);
            Stored* values = keys + KEY_PAGE + (slot / PAIR) * HEAD_LANES * PAIR;
            const float* value = from + KV_WIDTH;
            for (int d = 0; d < HEAD_DIM; ++d) {
                values[d * PAIR + slot % PAIR] = to_stored(value[d]);
                // The token beside it may be anything from the page's last owner. It is multiplied by zero, so it must be
                // a number.
                if (PAIR == 2 && slot % 2 == 0) values[d * PAIR + 1] = 0;
            }
        }
    }

    // Attention of the segment's last `outputs` rows; row i of them is written to row `to_row + i` of `attended`, which is
    // laid out for `to_rows` rows.
    void attend(const Sequence& sequence, int head, const float* qkv, int outputs, Active* attended, int to_row,
                int to_rows) {
        const int skipped = sequence.rows - outputs;
        for (int row = skipped; row < sequence.rows; ++row) {
            const float* from = row_of(qkv, sequence, row);
            for (int g = 0; g < GROUP; ++g) {
                float query[HEAD_DIM];
                prepare(from + (head * GROUP + g) * HEAD_DIM, weights_.q_norm(layer_), sequence.start + row, query);
                Active* to = mine_.queries + static_cast<size_t>((row - skipped) * GROUP + g) * QUERY_STRIDE;
                for (int d = 0; d < HEAD_DIM; ++d) to[d] = to_active(query[d]);
            }
        }
        const int queries = outputs * GROUP;
        const int tiles = (queries + TILE_ROWS - 1) / TILE_ROWS;
        for (int tile = 0; tile < tiles; ++tile) {
            const Range range = share(queries, tile, tiles);
            with_rows(range.last - range.first, [&]<int ROWS>() {
                int seen[ROWS];  // tokens that each query sees
                for (int r = 0; r < ROWS; ++r) seen[r] = sequence.start + skipped + (range.first + r) / GROUP + 1;
                float scale[ROWS];
                score<ROWS>(sequence, head, range.first, seen[ROWS - 1]);
                for (int r = 0; r < ROWS; ++r) scale[r] = softmax(scores(r), seen[r], seen[ROWS - 1]);
                gather<ROWS>(sequence, head, seen[ROWS - 1], scale);
                for (int r = 0; r < ROWS; ++r) {
                    const int query = range.first + r;
                    put(attended, to_rows, to_row + query / GROUP, (head * GROUP + query % GROUP) * HEAD_DIM,
                        mine_.attended + r * HEAD_LANES);
                }
            });
        }
    }

   private:
    static const float* row_of(const float* qkv, const Sequence& sequence, int row) {
        return qkv + static_cast<size_t>(sequence.first_row + row) * QKV_PANELS * PANEL;
    }

    // Scores, then weights, of one query of the tile.
    float* scores(int r) const { return mine_.scores + static_cast<size_t>(r) * CONTEXT; }

    Stored* page(const Sequence& sequence, int index, int head) const {
        return cache_ + static_cast<size_t>(sequence.pages[index]) * WHOLE_PAGE + layer_ * LAYER_PAGE + head * HEAD_PAGE;
    }

    // RMSNorm of a head (Qwen3), then the rotary embedding (first half with second half, as Hugging Face lays it out).
    __attribute__((noinline)) void prepare(const float* from, const float* norm, int position, float* to) {
        constexpr int HALF = Weights::HALF_HEAD;
        float normed[HEAD_DIM];
        if constexpr (QK_NORM) {
            float squares[LANES] = {};
            for (int d = 0; d < HEAD_DIM; ++d) squares[d % LANES] += from[d] * from[d];
            const float scale = 1.0f / std::sqrt(sum_of(load(squares)) / HEAD_DIM + RMS_EPS);
            for (int d = 0; d < HEAD_DIM; ++d) normed[d] = from[d] * scale * norm[d];
            from = normed;
        }
        const float* cosine = weights_.cosines() + static_cast<size_t>(position) * HALF;
        const float* sine = weights_.sines() + static_cast<size_t>(position) * HALF;
        for (int d = 0; d < HALF; ++d) {
            to[d] = from[d] * cosine[d] - from[d + HALF] * sine[d];
            to[d + HALF] = from[d + HALF] * cosine[d] + from[d] * sine[d];
        }
    }

    // scores[r][token] = query r · key of token, for the first `count` tokens (and whatever is behind them in the last
    // sixteen).
    template <int ROWS>
    void score(const Sequence& sequence, int head, int first_query, int count) {
        constexpr int VECTORS_A_PAGE = PAGE_TOKENS / LANES;
        const Active* x[ROWS];
        for (int r = 0; r < ROWS; ++r) x[r] = mine_.queries + static_cast<size_t>(first_query + r) * QUERY_STRIDE;
        const int vectors = (count + LANES - 1) / LANES;
        int vector = 0;
        for (; vector + TILE_VECTORS <= vectors; vector += TILE_VECTORS) {
            const Stored* w[TILE_VECTORS];
            for (int j = 0; j < TILE_VECTORS; ++j)
                w[j] = page(sequence, (vector + j) / VECTORS_A_PAGE, head) + (vector + j) % VECTORS_A_PAGE * LANES * PAIR;
            Floats sums[ROWS][TILE_VECTORS] = {};
            multiply_stored<ROWS, TILE_VECTORS>(sums, w, PAGE_TOKENS * PAIR, x, HEAD_DIM / PAIR);
            for (int r = 0; r < ROWS; ++r)
                for (int j = 0; j < TILE_VECTORS; ++j)
                    store(scores(r) + (vector + j) * LANES, sums[r][j]);
        }
        for (; vector < vectors; ++vector) {
            const Stored* w[1] = {page(sequence, vector / VECTORS_A_PAGE, head) + vector % VECTORS_A_PAGE * LANES * PAIR};
            Floats sums[ROWS][1] = {};
            multiply_stored<ROWS, 1>(sums, w, PAGE_TOKENS * PAIR, x, HEAD_DIM / PAIR);
            for (int r = 0; r < ROWS; ++r) store(scores(r) + vector * LANES, sums[r][0]);
        }
    }

    // Turns the scores of one query into weights (as activations, in place) and returns what their weighted sum is to be
    // multiplied by. Weights from `count` up to the end of the tile's last pair are zero.
    static float softmax(float* scores, int count, int tile_count) {
        const Floats scale = broadcast(1.0f / std::sqrt(static_cast<float>(HEAD_DIM)));
        const int whole = round_up(count, LANES);
        for (int i = count; i < whole; ++i) scores[i] = -INFINITY;
        Floats most = broadcast(-INFINITY);
        for (int i = 0; i < whole; i += LANES) most = maximum(most, load(scores + i));
        const Floats top = broadcast(maximum_of(most)) * scale;
        Active* weights = reinterpret_cast<Active*>(scores);  // never ahead of what is still to be read
        Floats total = broadcast(0.0f);
        for (int i = 0; i < whole; i += LANES) {
            const Floats weight = exponential(load(scores + i) * scale - top);
            total = total + weight;
            store_active(weights + i, weight);
        }
        for (int i = whole; i < round_up(tile_count, LANES); i += LANES) store_active(weights + i, broadcast(0.0f));
        return 1.0f / sum_of(total);
    }

    // attended[r] = scale[r] * sum over tokens of weight * value.
    template <int ROWS>
    void gather(const Sequence& sequence, int head, int count, const float* scale) {
        constexpr int VECTORS = HEAD_LANES / LANES;
        int first = 0;
        for (; first + TILE_VECTORS <= VECTORS; first += TILE_VECTORS)
            gather_some<ROWS, TILE_VECTORS>(sequence, head, count, scale, first);
        for (; first < VECTORS; ++first) gather_some<ROWS, 1>(sequence, head, count, scale, first);
    }

    template <int ROWS, int SOME>
    SARTOR_INLINE void gather_some(const Sequence& sequence, int head, int count, const float* scale, int first) {
        Floats sums[ROWS][SOME] = {};
        for (int token = 0; token < count; token += PAGE_TOKENS) {
            const Stored* values = page(sequence, token / PAGE_TOKENS, head) + KEY_PAGE + first * LANES * PAIR;
            const Stored* w[SOME];
            const Active* x[ROWS];
            for (int j = 0; j < SOME; ++j) w[j] = values + j * LANES * PAIR;
            for (int r = 0; r < ROWS; ++r) x[r] = reinterpret_cast<const Active*>(scores(r)) + token;
            const int tokens = count - token < PAGE_TOKENS ? count - token : PAGE_TOKENS;
            multiply_stored<ROWS, SOME>(sums, w, HEAD_LANES * PAIR, x, (tokens + PAIR - 1) / PAIR);
        }
        for (int r = 0; r < ROWS; ++r)
            for (int j = 0; j < SOME; ++j)
                store(mine_.attended + r * HEAD_LANES + (first + j) * LANES, sums[r][j] * broadcast(scale[r]));
    }

    static void put(Active* to, int rows, int row, int column, const float* from) {
        if constexpr (HEAD_DIM % LANES == 0) {
            for (int d = 0; d < HEAD_DIM; d += LANES) store_active(to + active_index(rows, row, column + d), load(from + d));
        } else {
            for (int d = 0; d < HEAD_DIM; ++d) to[active_index(rows, row, column + d)] = to_active(from[d]);
        }
    }

    Weights& weights_;
    Stored* const cache_;
    const int layer_;
    Private& mine_;
};

}  // namespace sartor
