// All threads run the same program; a barrier stands where one needs what another has written.
#pragma once
#include <atomic>
#include <functional>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// Looks this often before it sleeps: some tens of microseconds, about the length of one operation.
constexpr int SPINS = 600;

inline void rest() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // yield is over at once
#endif
}

inline void wait_while(std::atomic<uint32_t> &word, uint32_t old) {
  for (int i = 0; i < SPINS; i++) {
    if (word.load(std::memory_order_acquire) != old) return;
    rest();
  }
  while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}

  void wait() {
    if (threads_ == 1) return;
    const uint32_t now = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(now + 1, std::memory_order_release);
      phase_.notify_all();
    } else {
      wait_while(phase_, now);
    }
  }

 private:
  const int threads_;
  std::atomic<int> arrived_{0};
  std::atomic<uint32_t> phase_{0};
};

// `run(work)` calls work(t) on every thread, the caller being thread 0, and returns when all are done.
class Team {
 public:
  explicit Team(int threads) : barrier(threads), threads(threads), done_(threads) {
    for (int t = 1; t < threads; t++) workers_.emplace_back([this, t] { serve(t); });
  }

  ~Team() {
    work_ = nullptr;
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    for (auto &worker : workers_) worker.join();
  }

  void run(const std::function<void(int)> &work) {
    work_ = &work;
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    work(0);
    done_.wait();
  }

  Barrier barrier;
  const int threads;

 private:
  void serve(int t) {
    for (uint32_t seen = 0;; seen++) {
      wait_while(round_, seen);
      if (!work_) return;
      (*work_)(t);
      done_.wait();
    }
  }

  Barrier done_;
  std::vector<std::thread> workers_;
  std::atomic<uint32_t> round_{0};
  const std::function<void(int)> *work_ = nullptr;
};

}  // namespace
