// The threads that compute one step together.
//
// A step of a small model lasts a few milliseconds and has a hundred barriers, so a waiting thread spins; but it spins for a
// bounded time, then yields, then sleeps on the address: a partner that the system took off its core, or a server without
// requests, costs next to nothing. Between steps the threads are parked in the same way.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

namespace sartor {

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb" ::: "memory");
#endif
}

class Pool {
   public:
    // Throws std::system_error when a thread cannot be started; the ones already started are then ended.
    explicit Pool(int threads) : threads_(threads) {
        try {
            for (int i = 1; i < threads; ++i) helpers_.emplace_back([this, i] { serve(i); });
        } catch (...) {
            stop();
            throw;
        }
    }

    ~Pool() { stop(); }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }

    // Runs task(thread) on every thread, the caller being thread 0, and returns when all are done.
    template <typename Task>
    void run(Task& task) {
        if (threads_ > 1) {
            task_ = &task;
            call_ = [](void* object, int thread) { (*static_cast<Task*>(object))(thread); };
            epoch_.fetch_add(1, std::memory_order_release);
            epoch_.notify_all();
        }
        task(0);
        barrier();
    }

    // Every thread waits here for all the others.
    void barrier() {
        if (threads_ == 1) return;
        const uint32_t before = phase_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            phase_.store(before + 1, std::memory_order_release);
            phase_.notify_all();
        } else {
            await_change(phase_, before, SPINS_IN_STEP);
        }
    }

   private:
    // A pause is 10 to 60 ns: about 0.1 ms inside a step, and between steps about as long as a front end needs.
    static constexpr int SPINS_IN_STEP = 2000;
    static constexpr int SPINS_BETWEEN_STEPS = 2000;
    static constexpr int YIELDS = 16;

    static void await_change(const std::atomic<uint32_t>& value, uint32_t before, int spins) {
        for (int i = 0; i < spins; ++i) {
            if (value.load(std::memory_order_acquire) != before) return;
            relax();
        }
        for (int i = 0; i < YIELDS; ++i) {
            if (value.load(std::memory_order_acquire) != before) return;
            std::this_thread::yield();
        }
        while (value.load(std::memory_order_acquire) == before) value.wait(before, std::memory_order_acquire);
    }

    void serve(int thread) {
        for (uint32_t seen = 0;; ++seen) {
            await_change(epoch_, seen, SPINS_BETWEEN_STEPS);
            if (stopping_.load(std::memory_order_acquire)) return;
            call_(task_, thread);
            barrier();
        }
    }

    void stop() {
        stopping_.store(true, std::memory_order_release);
        epoch_.fetch_add(1, std::memory_order_release);
        epoch_.notify_all();
        for (auto& helper : helpers_) helper.join();
        helpers_.clear();
    }

    const int threads_;
    void* task_ = nullptr;
    void (*call_)(void*, int) = nullptr;
    alignas(64) std::atomic<uint32_t> epoch_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> helpers_;
};

}  // namespace sartor
