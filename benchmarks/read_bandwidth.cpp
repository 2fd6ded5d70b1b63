// How fast the threads of this machine can read a buffer that is larger than the caches, and do nothing else with it: the
// bound of a decode step at one row. Several plain loops are tried, since which one is fastest depends on the processor.

#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

typedef uint64_t Line __attribute__((vector_size(64)));

// Reads [from, to) in `STREAMS` streams side by side, `ahead` bytes of software prefetch (0: none).
template <int STREAMS>
uint64_t read(const char* from, const char* to, size_t ahead) {
    Line sums[STREAMS * 4] = {};
    const size_t part = static_cast<size_t>(to - from) / STREAMS / 256 * 256;
    for (size_t at = 0; at < part; at += 256) {
        for (int s = 0; s < STREAMS; ++s) {
            const char* line = from + s * part + at;
            for (int i = 0; i < 4; ++i) {
                if (ahead != 0) __builtin_prefetch(line + ahead + i * 64);
                sums[s * 4 + i] |= *reinterpret_cast<const Line*>(line + i * 64);
            }
        }
    }
    Line all = {};
    for (const Line& sum : sums) all |= sum;
    return all[0] ^ all[7];
}

uint64_t pass(int kind, const char* from, const char* to) {
    switch (kind) {
        case 0: return read<1>(from, to, 0);
        case 1: return read<1>(from, to, 2048);
        case 2: return read<2>(from, to, 0);
        case 3: return read<4>(from, to, 0);
        case 4: return read<4>(from, to, 1024);
        default: return read<1>(from, to, 512);
    }
}

}  // namespace

extern "C" {

// A buffer of `bytes`, touched, on large pages where the system grants them; null when there is no memory.
char* bandwidth_buffer(uint64_t bytes) {
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return nullptr;
#if defined(MADV_HUGEPAGE)
    madvise(at, bytes, MADV_HUGEPAGE);
#endif
    for (uint64_t i = 0; i < bytes; i += 8) *reinterpret_cast<uint64_t*>(static_cast<char*>(at) + i) = i;
    return static_cast<char*>(at);
}

void bandwidth_release(char* buffer, uint64_t bytes) { munmap(buffer, bytes); }

int bandwidth_kinds() { return 6; }

// Seconds of the fastest of `passes` passes over the buffer, split evenly over `threads`.
double bandwidth_read(const char* buffer, uint64_t bytes, int threads, int kind, int passes) {
    std::atomic<uint64_t> sink{0};
    std::atomic<int> ready{0}, done{0}, turn{0};
    const uint64_t part = bytes / threads / 256 * 256;
    const auto work = [&](int thread) { sink += pass(kind, buffer + thread * part, buffer + (thread + 1) * part); };
    std::vector<std::thread> helpers;
    for (int thread = 1; thread < threads; ++thread)
        helpers.emplace_back([&, thread] {
            for (int i = 1; i <= passes; ++i) {
                ++ready;
                while (turn.load() < i) std::this_thread::yield();
                work(thread);
                ++done;
            }
        });
    double best = 1e9;
    for (int i = 1; i <= passes; ++i) {
        while (ready.load() < (threads - 1) * i) std::this_thread::yield();
        const auto begin = std::chrono::steady_clock::now();
        turn = i;
        work(0);
        while (done.load() < (threads - 1) * i) std::this_thread::yield();
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        if (seconds < best) best = seconds;
    }
    for (auto& helper : helpers) helper.join();
    return best;
}

}  // extern "C"
