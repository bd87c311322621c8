// The threads that all native operators share, and what keeps them from running into each other.

#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace ddpm_ms {

// dnnl::threadpool_interop::threadpool_iface of oneDNN 3.10, whose virtual table this must match.
struct ThreadPoolInterface {
  virtual int get_num_threads() const = 0;
  virtual bool get_in_parallel() const = 0;
  virtual void parallel_for(int n, const std::function<void(int, int)> &fn) = 0;
  virtual uint64_t get_flags() const = 0;
  virtual void wait() = 0;
  virtual ~ThreadPoolInterface() = default;
};

inline thread_local bool in_parallel = false;

// How long a thread that waits goes on asking before it sleeps. The next operator of a graph mostly comes within some tens of
// microseconds, and to wake a thread takes as long again; to go on for longer would be in the way of MindSpore's own threads.
constexpr std::chrono::microseconds kPatience{50};

// Runs closures on the calling thread and on a fixed set of helpers; returns when all are done.
class ThreadPool : public ThreadPoolInterface {
 public:
  explicit ThreadPool(int threads) {
    for (int i = 1; i < threads; ++i) helpers_.emplace_back([this] { Help(); });
  }
  // Never destroyed: the process ends with its threads (see Threads()).
  int get_num_threads() const override { return static_cast<int>(helpers_.size()) + 1; }
  bool get_in_parallel() const override { return in_parallel; }
  uint64_t get_flags() const override { return 0; }
  void wait() override {}

  void parallel_for(int n, const std::function<void(int, int)> &fn) override {
    if (n <= 1 || in_parallel || helpers_.empty()) {
      for (int i = 0; i < n; ++i) fn(i, n);
      return;
    }
    std::unique_lock<std::mutex> lock(mutex_);
    work_ = &fn;
    next_ = 0;
    total_ = n;
    running_ = 0;
    ++submitted_;
    ready_.notify_all();
    in_parallel = true;
    Drain(&lock);
    Await(&lock, &done_, [this] { return running_ == 0; });
    work_ = nullptr;
    in_parallel = false;
  }

 private:
  // Take and run iterations until none is left. The lock is held on entry and on return.
  void Drain(std::unique_lock<std::mutex> *lock) {
    while (work_ != nullptr && next_ < total_) {
      const auto *fn = work_;
      int i = next_++, n = total_;
      ++running_;
      lock->unlock();
      (*fn)(i, n);
      lock->lock();
      if (--running_ == 0) done_.notify_all();
    }
  }

  // Wait until `met()`, which reads atomic values only, and of which `told` is notified. The lock is held on entry and on return.
  template <typename Met>
  static void Await(std::unique_lock<std::mutex> *lock, std::condition_variable *told, Met met) {
    if (!met()) {
      lock->unlock();
      auto end = std::chrono::steady_clock::now() + kPatience;
      while (!met() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
      lock->lock();
    }
    told->wait(*lock, met);
  }

  void Help() {
    in_parallel = true;
    uint64_t seen = 0;
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      Await(&lock, &ready_, [&] { return submitted_ != seen; });
      seen = submitted_;
      Drain(&lock);
    }
  }

  std::vector<std::thread> helpers_;
  std::mutex mutex_;
  std::condition_variable ready_, done_;
  const std::function<void(int, int)> *work_ = nullptr;
  int next_ = 0, total_ = 0;
  std::atomic<int> running_{0};
  std::atomic<uint64_t> submitted_{0};
};

// How many threads to use, to be set before the first operator runs. The environment cannot be asked: MindSpore sets
// OMP_NUM_THREADS to 1 in it.
inline int &NumberOfThreads() {
  static int threads = static_cast<int>(std::thread::hardware_concurrency());
  return threads;
}

inline ThreadPool &Threads() {
  static auto *pool = new ThreadPool(NumberOfThreads());
  return *pool;
}

inline std::mutex &OneAtATime() {
  static std::mutex mutex;
  return mutex;
}

// Run `body` alone: every operator uses all threads. Returns what MindSpore takes as success (0) or failure.
template <typename Body>
int Guarded(Body body) {
  try {
    std::lock_guard<std::mutex> lock(OneAtATime());
    body();
    return 0;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "ddpm_ms native operator: %s\n", error.what());
    return 1;
  }
}

}  // namespace ddpm_ms
