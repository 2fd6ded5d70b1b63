// The C interface that native_decoder.py calls. No exception crosses it; every function that can fail returns a Status.

#include <memory>
#include <system_error>

#include "step.h"

using namespace sartor;

namespace {

struct Decoder {
    Decoder(int kv_pages, int threads) : model(kv_pages, threads), step(model) {}
    Model model;
    Step step;
};

}  // namespace

extern "C" {

// What was compiled: the arithmetic and the instruction set, for logs.
const char* sartor_arithmetic() {
#if SARTOR_FLOAT32_WEIGHTS
#define SARTOR_NUMBERS "float32"
#elif SARTOR_TILES && defined(SARTOR_EMULATE_TILES)
#define SARTOR_NUMBERS "bfloat16 tiles (emulated)"
#elif SARTOR_TILES
#define SARTOR_NUMBERS "bfloat16 tiles"
#elif defined(SARTOR_EMULATE_DPBF16)
#define SARTOR_NUMBERS "bfloat16 dot products (emulated)"
#elif SARTOR_DOT_BF16
#define SARTOR_NUMBERS "bfloat16 dot products"
#else
#define SARTOR_NUMBERS "bfloat16 weights, float32 activations"
#endif
#if defined(__AVX512F__)
    return SARTOR_NUMBERS ", AVX-512";
#elif defined(__AVX2__)
    return SARTOR_NUMBERS ", AVX2";
#elif defined(__ARM_NEON)
    return SARTOR_NUMBERS ", NEON";
#else
    return SARTOR_NUMBERS ", portable";
#endif
}

// Bytes that a decoder will have touched once every page of the cache was used.
uint64_t sartor_memory(int32_t kv_pages, int32_t threads) {
    return (WEIGHT_ELEMENTS + EMBEDDING_ELEMENTS + static_cast<uint64_t>(kv_pages) * WHOLE_PAGE) * sizeof(Stored) +
           static_cast<uint64_t>(threads) * sizeof(Private) + Activations::bytes();
}

int32_t sartor_create(int32_t kv_pages, int32_t threads, void** decoder) {
#if SARTOR_TILES
    if (!may_use_tiles()) return NO_TILES;
#endif
    try {
        *decoder = new Decoder(kv_pages, threads);
        return OK;
    } catch (const std::bad_alloc&) {
        return OUT_OF_MEMORY;
    } catch (const std::system_error&) {
        return NO_THREAD;
    }
}

void sartor_destroy(void* decoder) { delete static_cast<Decoder*>(decoder); }

// A matrix as the checkpoint has it: row-major [outputs][columns] in the stored type. Names follow the checkpoint.
int32_t sartor_load_matrix(void* handle, const char* name, int32_t layer, const void* data, int64_t outputs,
                           int64_t columns) {
    Weights& weights = static_cast<Decoder*>(handle)->model.weights;
    const Stored* from = static_cast<const Stored*>(data);
    struct Entry {
        const char* name;
        Matrix matrix;
        int first, outputs, width, lane, columns;
    };
    static constexpr Entry entries[] = {
        {"q_proj", Matrix::qkv, 0, Q_WIDTH, PANEL, 0, HIDDEN},
        {"k_proj", Matrix::qkv, Q_WIDTH, KV_WIDTH, PANEL, 0, HIDDEN},
        {"v_proj", Matrix::qkv, Q_WIDTH + KV_WIDTH, KV_WIDTH, PANEL, 0, HIDDEN},
        {"o_proj", Matrix::out, 0, HIDDEN, PANEL, 0, Q_WIDTH},
        {"gate_proj", Matrix::gate_up, 0, INTERMEDIATE, HALF_PANEL, 0, HIDDEN},
        {"up_proj", Matrix::gate_up, 0, INTERMEDIATE, HALF_PANEL, HALF_PANEL, HIDDEN},
        {"down_proj", Matrix::down, 0, HIDDEN, PANEL, 0, INTERMEDIATE},
        {"lm_head", Matrix::head, 0, VOCAB, PANEL, 0, HIDDEN},
    };
    if (layer < 0 || layer >= LAYERS) return BAD_TENSOR;
    if (std::strcmp(name, "embed_tokens") == 0) {
        if (TIED_EMBEDDINGS || outputs != VOCAB || columns != HIDDEN) return BAD_TENSOR;
        std::memcpy(weights.embeddings(), from, EMBEDDING_ELEMENTS * sizeof(Stored));
        return OK;
    }
    for (const Entry& entry : entries) {
        if (std::strcmp(name, entry.name) != 0) continue;
        if (outputs != entry.outputs || columns != entry.columns) return BAD_TENSOR;
        weights.pack(entry.matrix, layer, entry.first, entry.outputs, entry.width, entry.lane, from, entry.columns);
        return OK;
    }
    return BAD_TENSOR;
}

// A vector in fp32: norms, biases, and the rotary tables.
int32_t sartor_load_vector(void* handle, const char* name, int32_t layer, const float* data, int64_t count) {
    Weights& weights = static_cast<Decoder*>(handle)->model.weights;
    if (layer < 0 || layer >= LAYERS) return BAD_TENSOR;
    const struct {
        const char* name;
        float* to;
        int64_t count;
    } entries[] = {
        {"input_layernorm", weights.attention_norm(layer), HIDDEN},
        {"post_attention_layernorm", weights.mlp_norm(layer), HIDDEN},
        {"q_norm", weights.q_norm(layer), HEAD_DIM},
        {"k_norm", weights.k_norm(layer), HEAD_DIM},
        {"q_proj.bias", weights.qkv_bias(layer), Q_WIDTH},
        {"k_proj.bias", weights.qkv_bias(layer) + Q_WIDTH, KV_WIDTH},
        {"v_proj.bias", weights.qkv_bias(layer) + Q_WIDTH + KV_WIDTH, KV_WIDTH},
        {"o_proj.bias", weights.out_bias(layer), HIDDEN},
        {"norm", weights.final_norm(), HIDDEN},
        {"cosines", weights.cosines(), static_cast<int64_t>(POSITIONS) * (HEAD_DIM / 2)},
        {"sines", weights.sines(), static_cast<int64_t>(POSITIONS) * (HEAD_DIM / 2)},
    };
    for (const auto& entry : entries) {
        if (std::strcmp(name, entry.name) != 0) continue;
        if (count != entry.count) return BAD_TENSOR;
        std::memcpy(entry.to, data, sizeof(float) * static_cast<size_t>(count));
        return OK;
    }
    return BAD_TENSOR;
}

// `segment` tells which segment was refused.
int32_t sartor_forward(void* handle, const Request* request, int32_t* segment) {
    Decoder& decoder = *static_cast<Decoder*>(handle);
    const Status status = decoder.step.prepare(*request, *segment);
    if (status != OK || request->segments == 0) return status;
    decoder.model.pool.run(decoder.step);
    decoder.step.finish();
    return OK;
}

}  // extern "C"
