// A text of each thread's own, which the C ABI hands out.
#pragma once

#include <pthread.h>

#include <cstdlib>
#include <cstring>

namespace fa {

/// Not a thread_local std::string: the first use of one takes memory for its destructor, and ends
/// the process where there is none.
class ThreadText {
 public:
  ThreadText() noexcept : made_(pthread_key_create(&key_, &ThreadText::release) == 0) {}
  ThreadText(const ThreadText&) = delete;
  ThreadText& operator=(const ThreadText&) = delete;
  ~ThreadText() {
    if (made_) pthread_key_delete(key_);
  }

  /// "" before this thread's first text.
  const char* get() const noexcept {
    const void* text = made_ ? pthread_getspecific(key_) : nullptr;
    return text == nullptr ? "" : static_cast<const char*>(text);
  }

  /// Keeps a copy in place of the text before; false, and then keeps a literal that says so, when
  /// there is no memory for it.
  bool set(const char* text) noexcept {
    char* copy = strdup(text);
    if (!made_) {
      std::free(copy);
      return false;
    }
    void* before = pthread_getspecific(key_);
    // A literal is no more memory; a thread's first text may still need some, and stays "" then.
    if (pthread_setspecific(key_, copy != nullptr ? copy : no_memory) != 0) {
      std::free(copy);
      return false;
    }
    release(before);
    return copy != nullptr;
  }

 private:
  static constexpr char no_memory[] = "out of memory, also for a message";
  static void release(void* text) noexcept {
    if (text != no_memory) std::free(text);
  }

  pthread_key_t key_{};
  bool made_;
};

}  // namespace fa
