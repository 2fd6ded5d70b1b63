// One step: every layer, for all rows of all segments.
#pragma once

#include "attention.h"
#include "pool.h"

namespace sartor {

struct Request {
    int32_t segments;
    const int32_t* page_counts;  // [segments]
    const int32_t* starts;
    const int32_t* token_counts;
    const int32_t* outputs;
    const int32_t* wants_logits;
    const int32_t* pages;   // all segments behind each other
    const int32_t* tokens;  // likewise
    int32_t* argmax;        // [sum of outputs]
    float* logits;          // [sum of outputs of segments that want logits][VOCAB]
};

// Codes that native_decoder.py turns into exceptions.
enum Status : int32_t {
    OK = 0,
    TOO_MANY_ROWS = 1,
    BAD_SEGMENT = 2,
    BAD_POSITION = 3,
    BAD_PAGE = 4,
    BAD_TOKEN = 5,
    OUT_OF_MEMORY = 6,
    NO_THREAD = 7,
    BAD_TENSOR = 8,
    TOO_MANY_SEGMENTS = 9,
    NO_TILES = 10,
};

struct Model {
    Model(int kv_pages, int threads)
        : weights(threads),
          cache(static_cast<size_t>(kv_pages) * WHOLE_PAGE * sizeof(Stored), false),
          mine(static_cast<size_t>(threads) * sizeof(Private), false),
          kv_pages(kv_pages),
          pool(threads) {}

    Weights weights;
    Memory cache;
    Memory mine;  // [threads] Private
    Activations activations;
    const int kv_pages;
    Pool pool;
};

class Step {
   public:
    explicit Step(Model& model) : model_(model), weights_(model.weights), shared_(model.activations) {}

    // Checks everything before anything is written: a refused step leaves the cache as it was.
    Status prepare(const Request& request, int32_t& segment) {
        request_ = &request;
        rows_ = kept_ = logit_rows_ = 0;
        if (request.segments < 0 || request.segments > STEP_TOKENS) return TOO_MANY_SEGMENTS;
        const int32_t* pages = request.pages;
        const int32_t* tokens = request.tokens;
        for (segment = 0; segment < request.segments; ++segment) {
            const int start = request.starts[segment], count = request.token_counts[segment];
            const int outputs = request.outputs[segment], page_count = request.page_counts[segment];
            if (count < 1 || outputs < 0 || outputs > count || page_count < 0) return BAD_SEGMENT;
            if (count > STEP_TOKENS - rows_) return TOO_MANY_ROWS;
            if (start < 0 || start > POSITIONS - count) return BAD_POSITION;
            const int needed = (start + count + PAGE_TOKENS - 1) / PAGE_TOKENS;
            if (page_count < needed) return BAD_PAGE;
            for (int i = 0; i < needed; ++i)
                if (pages[i] < 0 || pages[i] >= model_.kv_pages) return BAD_PAGE;
            for (int i = 0; i < count; ++i)
                if (tokens[i] < 0 || tokens[i] >= VOCAB) return BAD_TOKEN;
            sequences_[segment] = {pages, start, count, rows_};
            kept_before_[segment] = kept_;
            for (int i = count - outputs; i < count; ++i) {
                logit_row_[kept_] = request.wants_logits[segment] ? logit_rows_++ : -1;
                kept_row_[kept_++] = rows_ + i;
            }
            pages += page_count;
            tokens += count;
            rows_ += count;
        }
        return OK;
    }

    // Runs on every thread; the same code, each on its share.
    void operator()(int thread) {
        Private& mine = model_.mine.as<Private>()[thread];
#if SARTOR_TILES
        [[maybe_unused]] const DenormalsAreZero denormals;
#endif
        embed(thread);
        model_.pool.barrier();
        for (int layer = 0; layer < LAYERS; ++layer) {
            normalise(thread, weights_.attention_norm(layer), rows_);
            multiply(Matrix::qkv, layer, thread, mine, shared_.normed, rows_, [&](int panel, const float* sums) {
                for (int row = 0; row < rows_; ++row)
                    for (int j = 0; j < PANEL; j += LANES)
                        store(shared_.qkv + static_cast<size_t>(row) * QKV_PANELS * PANEL + panel * PANEL + j,
                              load(sums + row * PANEL + j) + load(weights_.qkv_bias(layer) + panel * PANEL + j));
            });
            model_.pool.barrier();
            const bool last = layer == LAYERS - 1;
            const int rows = last ? kept_ : rows_;  // after the last keys and values only rows with a result matter
            attend(layer, thread, mine, last);
            model_.pool.barrier();
            multiply(Matrix::out, layer, thread, mine, shared_.attended, rows, [&](int panel, const float* sums) {
                // Rows move up in place: row i comes from row kept_row_[i] >= i, and columns belong to one thread.
                for (int row = 0; row < rows; ++row)
                    add(row, last ? kept_row_[row] : row, panel, sums, weights_.out_bias(layer));
            });
            model_.pool.barrier();
            normalise(thread, weights_.mlp_norm(layer), rows);
            multiply(Matrix::gate_up, layer, thread, mine, shared_.normed, rows, [&](int panel, const float* sums) {
                for (int row = 0; row < rows; ++row) activate(row, rows, panel, sums + row * PANEL);
            });
            model_.pool.barrier();
            multiply(Matrix::down, layer, thread, mine, shared_.inner, rows, [&](int panel, const float* sums) {
                for (int row = 0; row < rows; ++row) add(row, row, panel, sums, nullptr);
            });
            model_.pool.barrier();
        }
        if (kept_ > 0) choose(thread, mine);
        mine.scratch.end();
    }

    // After all threads: the best of each thread's part of the vocabulary; the lowest token wins a tie.
    void finish() {
        for (int row = 0; row < kept_; ++row) {
            int32_t best = 0;
            float score = -INFINITY;
            for (int thread = 0; thread < model_.pool.threads(); ++thread) {
                const Private& mine = model_.mine.as<Private>()[thread];
                if (mine.best[row] > score) {
                    score = mine.best[row];
                    best = mine.best_index[row];
                }
            }
            request_->argmax[row] = best;
        }
    }

   private:
    void embed(int thread) {
        const Range range = share(rows_, thread, model_.pool.threads());
        for (int row = range.first; row < range.last; ++row)
            weights_.embed(request_->tokens[row], shared_.residual + static_cast<size_t>(row) * HIDDEN_LANES);
    }

    // RMSNorm of the residual stream into the input of the next product.
    void normalise(int thread, const float* weight, int rows) {
        const Range range = share(rows, thread, model_.pool.threads());
        for (int row = range.first; row < range.last; ++row) normalise_row(row, rows, weight);
        model_.pool.barrier();
    }

    __attribute__((noinline)) void normalise_row(int row, int rows, const float* weight) {
        const float* from = shared_.residual + static_cast<size_t>(row) * HIDDEN_LANES;
        Floats squares[4] = {};
        for (int k = 0; k < HIDDEN_LANES; k += PANEL)
            for (int j = 0; j < PANEL_VECTORS; ++j) {
                const Floats value = load(from + k + j * LANES);
                squares[j] = multiply_add(value, value, squares[j]);
            }
        const float total = sum_of((squares[0] + squares[1]) + (squares[2] + squares[3]));
        const Floats scale = broadcast(1.0f / std::sqrt(total / HIDDEN + RMS_EPS));
        for (int k = 0; k < HIDDEN_LANES; k += LANES)
            store_active(shared_.normed + active_index(rows, row, k), load(from + k) * scale * load(weight + k));
    }

    // The thread's panels of a matrix, each followed by its epilogue while the sums are in the cache.
    template <typename Epilogue>
    SARTOR_INLINE void multiply(Matrix matrix, int layer, int thread, Private& mine, const Active* x, int rows,
                                Epilogue&& epilogue) {
        const Range range = share(panels_of(matrix), thread, model_.pool.threads());
        if (rows == 0 || range.first == range.last) return;
        products(weights_.panel(matrix, layer, range.first), range.last - range.first, depth_of(matrix), x, rows, mine.sums,
                 mine.scratch, [&](int i, const float* sums) { epilogue(range.first + i, sums); });
    }

    // Attention, shared out by (segment, key head); the share of the work, not the number of items, is what is even.
    void attend(int layer, int thread, Private& mine, bool last) {
        int64_t whole = 0;
        for (int s = 0; s < request_->segments; ++s) whole += cost(s);
        const int threads = model_.pool.threads();
        Attention attention(weights_, model_.cache.as<Stored>(), layer, mine);
        int64_t before = 0;
        for (int s = 0; s < request_->segments; ++s) {
            for (int head = 0; head < KV_HEADS; ++head) {
                const int64_t owner = (before * KV_HEADS + cost(s) * head) * threads / (whole * KV_HEADS);
                if (owner != thread) continue;
                const Sequence& sequence = sequences_[s];
                attention.write(sequence, head, shared_.qkv);
                const int outputs = last ? request_->outputs[s] : sequence.rows;
                const int to_row = last ? kept_before_[s] : sequence.first_row;
                attention.attend(sequence, head, shared_.qkv, outputs, shared_.attended, to_row, last ? kept_ : rows_);
            }
            before += cost(s);
        }
    }

    int64_t cost(int segment) const {
        const Sequence& sequence = sequences_[segment];
        return static_cast<int64_t>(sequence.rows) * (sequence.start + sequence.rows + 64);
    }

    void add(int row, int from_row, int panel, const float* sums, const float* bias) {
        float* to = shared_.residual + static_cast<size_t>(row) * HIDDEN_LANES + panel * PANEL;
        const float* from = shared_.residual + static_cast<size_t>(from_row) * HIDDEN_LANES + panel * PANEL;
        for (int j = 0; j < PANEL; j += LANES) {
            Floats value = load(sums + row * PANEL + j);
            if (ATTENTION_BIAS && bias != nullptr) value = value + load(bias + panel * PANEL + j);
            store(to + j, load(from + j) + value);
        }
    }

    // SwiGLU: silu(gate) * up.
    void activate(int row, int rows, int panel, const float* sums) {
        for (int j = 0; j < HALF_PANEL; j += LANES) {
            const Floats gate = load(sums + j);
            const Floats value = gate / (broadcast(1.0f) + exponential(-gate)) * load(sums + HALF_PANEL + j);
            store_active(shared_.inner + active_index(rows, row, panel * HALF_PANEL + j), value);
        }
    }

    void choose(int thread, Private& mine) {
        normalise(thread, weights_.final_norm(), kept_);
        for (int row = 0; row < kept_; ++row) {
            mine.best[row] = -INFINITY;
            mine.best_index[row] = 0;
        }
        multiply(Matrix::head, 0, thread, mine, shared_.normed, kept_, [&](int panel, const float* sums) {
            const int width = VOCAB - panel * PANEL < PANEL ? VOCAB - panel * PANEL : PANEL;
            for (int row = 0; row < kept_; ++row) {
                const float* scores = sums + row * PANEL;
                if (logit_row_[row] >= 0)
                    std::memcpy(request_->logits + static_cast<size_t>(logit_row_[row]) * VOCAB + panel * PANEL, scores,
                                sizeof(float) * width);
                Floats most = broadcast(-INFINITY);
                for (int j = 0; j + LANES <= width; j += LANES) most = maximum(load(scores + j), most);
                float top = maximum_of(most);
                for (int j = width / LANES * LANES; j < width; ++j) top = scores[j] > top ? scores[j] : top;
                if (!(top > mine.best[row])) continue;
                mine.best[row] = top;
                for (int j = 0; j < width; ++j) {
                    if (scores[j] == top) {
                        mine.best_index[row] = panel * PANEL + j;
                        break;
                    }
                }
            }
        });
    }

    Model& model_;
    Weights& weights_;
    Activations& shared_;
    const Request* request_ = nullptr;
    int rows_ = 0;        // of the step
    int kept_ = 0;        // of them, those that want a result
    int logit_rows_ = 0;  // of them, those that want logits
    Sequence sequences_[STEP_TOKENS];
    int kept_before_[STEP_TOKENS];
    int kept_row_[STEP_TOKENS];
    int logit_row_[STEP_TOKENS];
};

}  // namespace sartor
