// What is kept in memory: packed weights, the paged cache of keys and values, and the scratch of a step.
#pragma once

#include <sys/mman.h>

#include <cmath>
#include <new>
#include <vector>

#include "product.h"

namespace sartor {

constexpr int Q_WIDTH = HEADS * HEAD_DIM;
constexpr int KV_WIDTH = KV_HEADS * HEAD_DIM;
constexpr int QKV_WIDTH = Q_WIDTH + 2 * KV_WIDTH;
constexpr int GROUP = HEADS / KV_HEADS;           // query heads that share a key head
constexpr int HALF_PANEL = PANEL / 2;
constexpr int INNER = round_up(INTERMEDIATE, HALF_PANEL);  // padded with zero weights

constexpr int QKV_PANELS = round_up(QKV_WIDTH, PANEL) / PANEL;
constexpr int OUT_PANELS = round_up(HIDDEN, PANEL) / PANEL;
constexpr int GATE_UP_PANELS = INNER / HALF_PANEL;  // 32 gates, then the 32 ups they belong to: SwiGLU is an epilogue
constexpr int DOWN_PANELS = OUT_PANELS;
constexpr int HEAD_PANELS = round_up(VOCAB, PANEL) / PANEL;

constexpr int HEAD_LANES = round_up(HEAD_DIM, LANES);  // a value row in the cache, padded
constexpr int HIDDEN_LANES = round_up(HIDDEN, PANEL);

// One page of one layer and key head: keys [HEAD_DIM / PAIR][PAGE_TOKENS][PAIR], then values
// [PAGE_TOKENS / PAIR][HEAD_LANES][PAIR]. Both read like a panel of weights: a vector is sixteen tokens, or sixteen
// dimensions.
constexpr size_t KEY_PAGE = static_cast<size_t>(HEAD_DIM) * PAGE_TOKENS;
constexpr size_t VALUE_PAGE = static_cast<size_t>(HEAD_LANES) * PAGE_TOKENS;
constexpr size_t HEAD_PAGE = KEY_PAGE + VALUE_PAGE;
constexpr size_t LAYER_PAGE = HEAD_PAGE * KV_HEADS;
constexpr size_t WHOLE_PAGE = LAYER_PAGE * LAYERS;

constexpr size_t ELEMENTS_A_LAYER =
    static_cast<size_t>(PANEL) * (static_cast<size_t>(QKV_PANELS + GATE_UP_PANELS) * HIDDEN +
                                  static_cast<size_t>(OUT_PANELS) * Q_WIDTH + static_cast<size_t>(DOWN_PANELS) * INNER);
constexpr size_t HEAD_ELEMENTS = static_cast<size_t>(PANEL) * HEAD_PANELS * HIDDEN;
constexpr size_t EMBEDDING_ELEMENTS = TIED_EMBEDDINGS ? 0 : static_cast<size_t>(VOCAB) * HIDDEN;
constexpr size_t WEIGHT_ELEMENTS = ELEMENTS_A_LAYER * LAYERS + HEAD_ELEMENTS;

// Zeroed memory straight from the system: aligned to pages, and nothing is there before it is touched.
class Memory {
   public:
    explicit Memory(size_t bytes, bool large_pages) : bytes_(bytes == 0 ? 1 : bytes) {
        at_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at_ == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
        if (large_pages) madvise(at_, bytes_, MADV_HUGEPAGE);  // a hint: fewer TLB misses where the system grants it
#else
        (void)large_pages;
#endif
    }
    ~Memory() { munmap(at_, bytes_); }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    template <typename Element>
    Element* as() const {
        return static_cast<Element*>(at_);
    }

   private:
    void* at_;
    size_t bytes_;
};

enum class Matrix { qkv, out, gate_up, down, head };

constexpr int panels_of(Matrix matrix) {
    switch (matrix) {
        case Matrix::qkv: return QKV_PANELS;
        case Matrix::out: return OUT_PANELS;
        case Matrix::gate_up: return GATE_UP_PANELS;
        case Matrix::down: return DOWN_PANELS;
        default: return HEAD_PANELS;
    }
}

constexpr int depth_of(Matrix matrix) {
    switch (matrix) {
        case Matrix::out: return Q_WIDTH;
        case Matrix::down: return INNER;
        default: return HIDDEN;
    }
}

struct Range {
    int first, last;
};

constexpr Range share(int items, int thread, int threads) {
    return {static_cast<int>(static_cast<int64_t>(items) * thread / threads),
            static_cast<int>(static_cast<int64_t>(items) * (thread + 1) / threads)};
}

// Packed weights. Each thread's panels lie behind each other in the order in which it will read them, through all layers
// and the head: a step is one forward walk through memory for every thread.
class Weights {
   public:
    explicit Weights(int threads)
        : memory_(WEIGHT_ELEMENTS * sizeof(Stored), true),
          embeddings_(EMBEDDING_ELEMENTS * sizeof(Stored), true),
          small_(LAYERS * SMALL_A_LAYER + HIDDEN_LANES + 2 * static_cast<size_t>(POSITIONS) * HALF_HEAD) {
        Stored* next = memory_.as<Stored>();
        panels_.resize(static_cast<size_t>(LAYERS) * LAYER_PANELS + HEAD_PANELS);
        for (int thread = 0; thread < threads; ++thread) {
            for (int layer = 0; layer < LAYERS; ++layer)
                for (const Matrix matrix : {Matrix::qkv, Matrix::out, Matrix::gate_up, Matrix::down})
                    next = place(matrix, layer, share(panels_of(matrix), thread, threads), next);
            next = place(Matrix::head, 0, share(HEAD_PANELS, thread, threads), next);
        }
    }

    Stored* panel(Matrix matrix, int layer, int index) const { return panels_[slot(matrix, layer, index)]; }

    // Writes the row-major matrix [outputs][columns] to lanes of panels. Output o goes to lane `lane + o % width` of panel
    // (first + o) / width; padding stays zero.
    void pack(Matrix matrix, int layer, int first, int outputs, int width, int lane, const Stored* from, int columns) {
        for (int o = 0; o < outputs;) {
            const int within = (first + o) % width;
            int run = width - within < outputs - o ? width - within : outputs - o;
            run = run < LANES ? run : LANES;  // as many source rows as one line of the panel takes
            Stored* to = panel(matrix, layer, (first + o) / width) + (lane + within) * PAIR;
            const Stored* rows = from + static_cast<size_t>(o) * columns;
            int k = 0;
            for (; k + PAIR <= columns; k += PAIR, to += PANEL * PAIR)
                for (int i = 0; i < run; ++i)
                    std::memcpy(to + i * PAIR, rows + static_cast<size_t>(i) * columns + k, sizeof(Stored) * PAIR);
            if (k < columns)  // an odd depth: the other half of the last pair stays zero
                for (int i = 0; i < run; ++i) to[i * PAIR] = rows[static_cast<size_t>(i) * columns + k];
            o += run;
        }
    }

    // The embedding of a token as floats. With tied embeddings it is gathered from the packed head: no second copy.
    void embed(int token, float* to) const {
        if constexpr (TIED_EMBEDDINGS) {
            const Stored* at = panel(Matrix::head, 0, token / PANEL) + token % PANEL * PAIR;
            for (int k = 0; k < HIDDEN; ++k) to[k] = widen(at[static_cast<size_t>(k / PAIR) * PANEL * PAIR + k % PAIR]);
        } else {
            const Stored* at = embeddings_.as<Stored>() + static_cast<size_t>(token) * HIDDEN;
            for (int k = 0; k < HIDDEN; ++k) to[k] = widen(at[k]);
        }
    }

    Stored* embeddings() const { return embeddings_.as<Stored>(); }

    // Norms and biases, in fp32, zero until loaded.
    float* attention_norm(int layer) { return layer_small(layer); }
    float* mlp_norm(int layer) { return layer_small(layer) + HIDDEN_LANES; }
    float* qkv_bias(int layer) { return layer_small(layer) + 2 * HIDDEN_LANES; }
    float* out_bias(int layer) { return qkv_bias(layer) + QKV_PANELS * PANEL; }
    float* q_norm(int layer) { return out_bias(layer) + HIDDEN_LANES; }
    float* k_norm(int layer) { return q_norm(layer) + HEAD_DIM; }
    float* final_norm() { return small_.data() + static_cast<size_t>(LAYERS) * SMALL_A_LAYER; }
    float* cosines() { return final_norm() + HIDDEN_LANES; }
    float* sines() { return cosines() + static_cast<size_t>(POSITIONS) * HALF_HEAD; }

    static constexpr int HALF_HEAD = HEAD_DIM / 2;

   private:
    static constexpr int LAYER_PANELS = QKV_PANELS + OUT_PANELS + GATE_UP_PANELS + DOWN_PANELS;
    static constexpr size_t SMALL_A_LAYER = 3 * HIDDEN_LANES + QKV_PANELS * PANEL + 2 * HEAD_DIM;

    static float widen(Stored value) {
        if constexpr (PAIR == 1) {
            return static_cast<float>(value);
        } else {
            return from_bfloat16(static_cast<uint16_t>(value));
        }
    }

    static size_t slot(Matrix matrix, int layer, int index) {
        constexpr int before[] = {0, QKV_PANELS, QKV_PANELS + OUT_PANELS, QKV_PANELS + OUT_PANELS + GATE_UP_PANELS, 0};
        const int base = matrix == Matrix::head ? LAYERS : layer;
        return static_cast<size_t>(base) * LAYER_PANELS + before[static_cast<int>(matrix)] + index;
    }

    Stored* place(Matrix matrix, int layer, Range range, Stored* next) {
        for (int index = range.first; index < range.last; ++index) {
            panels_[slot(matrix, layer, index)] = next;
            next += static_cast<size_t>(PANEL) * depth_of(matrix);
        }
        return next;
    }

    float* layer_small(int layer) { return small_.data() + static_cast<size_t>(layer) * SMALL_A_LAYER; }

    Memory memory_;
    Memory embeddings_;
    std::vector<float> small_;
    std::vector<Stored*> panels_;
};

// Activations of a step, shared by the threads, and what each thread keeps to itself.
constexpr size_t active_elements(int width) { return static_cast<size_t>(STEP_TOKENS) * round_up(width, K_BLOCK); }

constexpr int QUERY_STRIDE = round_up(HEAD_DIM, 32);
constexpr int CONTEXT = round_up(POSITIONS, PAGE_TOKENS);

struct Activations {
    Memory memory;
    float* residual;  // [rows][HIDDEN_LANES]
    float* qkv;       // [rows][QKV_PANELS * PANEL]
    Active* normed;   // laid out as activations of width HIDDEN
    Active* attended; // … Q_WIDTH
    Active* inner;    // … INNER

    Activations() : memory(bytes(), false) {
        char* next = memory.as<char>();
        residual = take<float>(next, static_cast<size_t>(STEP_TOKENS) * HIDDEN_LANES);
        qkv = take<float>(next, static_cast<size_t>(STEP_TOKENS) * QKV_PANELS * PANEL);
        normed = take<Active>(next, active_elements(HIDDEN));
        attended = take<Active>(next, active_elements(Q_WIDTH));
        inner = take<Active>(next, active_elements(INNER));
    }

    static constexpr size_t bytes() {
        return rounded<float>(static_cast<size_t>(STEP_TOKENS) * HIDDEN_LANES) +
               rounded<float>(static_cast<size_t>(STEP_TOKENS) * QKV_PANELS * PANEL) +
               rounded<Active>(active_elements(HIDDEN)) + rounded<Active>(active_elements(Q_WIDTH)) +
               rounded<Active>(active_elements(INNER));
    }

   private:
    template <typename Element>
    static constexpr size_t rounded(size_t count) {
        return (count * sizeof(Element) + 127) / 64 * 64;
    }
    template <typename Element>
    static Element* take(char*& next, size_t count) {
        Element* at = reinterpret_cast<Element*>(next);
        next += rounded<Element>(count);
        return at;
    }
};

constexpr int SUM_ROWS = STEP_TOKENS > MOST_ROWS_OF_SUMS ? STEP_TOKENS : MOST_ROWS_OF_SUMS;

struct Private {
    Scratch scratch;
    alignas(64) float sums[static_cast<size_t>(SUM_ROWS) * PANEL];
    alignas(64) Active queries[static_cast<size_t>(STEP_TOKENS) * GROUP * QUERY_STRIDE];
    alignas(64) float scores[static_cast<size_t>(TILE_ROWS) * CONTEXT];
    alignas(64) float attended[static_cast<size_t>(TILE_ROWS) * HEAD_LANES];
    float best[STEP_TOKENS];
    int32_t best_index[STEP_TOKENS];
};

}  // namespace sartor
